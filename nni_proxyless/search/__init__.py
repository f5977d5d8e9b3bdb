"""One search, from its configuration to the derived network: its folder, NNI trials, networks taken from it, baselines."""
