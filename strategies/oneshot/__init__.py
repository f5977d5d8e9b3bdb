"""The search inside NNI and Lightning: what every method here has in common as a strategy, a module, and a run that can be resumed."""
