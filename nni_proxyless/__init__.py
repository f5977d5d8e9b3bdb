"""Hardware-aware one-shot architecture search for NNI."""

__version__ = "0.1.0"
