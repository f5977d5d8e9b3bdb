"""Ready-made model spaces for NNI."""

from .mobilenetv2 import MobileNetV2Space

__all__ = ["MobileNetV2Space"]
