"""The search inside NNI and Lightning: the strategy, module and resumable run that both methods share."""
