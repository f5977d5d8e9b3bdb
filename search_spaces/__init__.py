"""Ready-made model spaces for NNI.

What is named here is imported when it is asked for: NNI, torch and timm take seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .mobilenetv2 import MobileNetV2Space

__all__ = ["MobileNetV2Space"]


def __getattr__(name: str) -> Any:
    if name != "MobileNetV2Space":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .mobilenetv2 import MobileNetV2Space

    return MobileNetV2Space
