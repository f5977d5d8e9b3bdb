"""Images: data sets, their parts, their checks, and the accuracy of a network on them.

What is named here is imported when it is asked for: torchvision takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .datasets import TensorImages, cifar10, cifar100, digits, fashion_mnist, folder, synthetic
    from .image_parts import ImageData, Parts, loader, split

__all__ = [
    "ImageData", "Parts", "TensorImages", "cifar10", "cifar100", "digits", "fashion_mnist", "folder", "loader", "split", "synthetic",
]  # fmt: skip

_OF_IMAGE_PARTS = ("ImageData", "Parts", "loader", "split")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".image_parts" if name in _OF_IMAGE_PARTS else ".datasets", __name__), name)
