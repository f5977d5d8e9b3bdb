"""Images: data sets, their parts, their checks, and the accuracy of a network on them.

What is named here is imported when it is asked for: torchvision takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .box_folder import boxes
    from .csv_file import csv
    from .datasets import TensorImages, cifar10, cifar100, digits, fashion_mnist, folder, synthetic
    from .huggingface_sets import huggingface
    from .image_parts import ImageData, Parts, loader, split
    from .mask_folder import masks
    from .torchvision_sets import torchvision

__all__ = [
    "ImageData", "Parts", "TensorImages", "boxes", "cifar10", "cifar100", "csv", "digits", "fashion_mnist", "folder", "huggingface", "loader", "masks",
    "split", "synthetic", "torchvision",
]  # fmt: skip

_MODULES = {
    "ImageData": ".image_parts",
    "Parts": ".image_parts",
    "boxes": ".box_folder",
    "csv": ".csv_file",
    "huggingface": ".huggingface_sets",
    "loader": ".image_parts",
    "masks": ".mask_folder",
    "split": ".image_parts",
    "torchvision": ".torchvision_sets",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, ".datasets"), __name__), name)
