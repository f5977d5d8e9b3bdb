"""What is learned from images: a loss, a figure of merit, what a target is, and how a space becomes one of the task's networks.

What is named here is imported when it is asked for: torch takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.merit import Merit
    from .boxes import Boxes
    from .classification import Classification
    from .detection import Detection
    from .multi_label import MultiLabel
    from .regression import Regression
    from .segmentation import Segmentation
    from .task import Task

__all__ = ["Boxes", "Classification", "Detection", "Merit", "MultiLabel", "Regression", "Segmentation", "Task"]

_HOMES = {
    "Boxes": ".boxes",
    "Classification": ".classification",
    "Detection": ".detection",
    "Merit": "..core.merit",
    "MultiLabel": ".multi_label",
    "Regression": ".regression",
    "Segmentation": ".segmentation",
    "Task": ".task",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
