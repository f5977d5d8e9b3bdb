"""Ready-made model spaces for NNI.

What is named here is imported when it is asked for: NNI, torch and timm take seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detection import DetectionSpace
    from .eeea_net import EeeaNetSpace
    from .mobilenetv2 import MobileNetV2Space
    from .pyramid_tree import PyramidTreeSpace
    from .segmentation import SegmentationSpace
    from .timm_space import TimmSpace

__all__ = ["DetectionSpace", "EeeaNetSpace", "MobileNetV2Space", "PyramidTreeSpace", "SegmentationSpace", "TimmSpace"]

_HOMES = {
    "DetectionSpace": ".detection",
    "EeeaNetSpace": ".eeea_net",
    "MobileNetV2Space": ".mobilenetv2",
    "PyramidTreeSpace": ".pyramid_tree",
    "SegmentationSpace": ".segmentation",
    "TimmSpace": ".timm_space",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
