"""Labels of images as the losses of torch take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["class_of", "vector_of"]


def class_of(label: Any) -> int | None:
    """The class of a label; None if the losses of torch do not accept a batch of such labels."""
    if isinstance(label, bool):
        return None
    if isinstance(label, (int, np.int64)):
        return int(label)
    if isinstance(label, (torch.Tensor, np.ndarray)) and label.ndim == 0 and str(label.dtype).endswith("int64"):
        return None if str(label.dtype).endswith("uint64") else int(label)
    return None


def vector_of(target: Any, n: int, what: str) -> torch.Tensor | str:
    """A target of n numbers as a tensor; else what is wrong with it.

    Parameters
    ----------
    what
        Its numbers, for people: ``values``.
    """
    if not isinstance(target, torch.Tensor) or target.dtype != torch.float32:
        kind = f"{target.dtype} tensor" if isinstance(target, torch.Tensor) else type(target).__name__
        return f"{'an' if kind == 'int' else 'a'} {kind} as {what}; allowed: a tensor of torch.float32 of shape ({n},)"
    if tuple(target.shape) != (n,):
        return f"{what} of shape {tuple(target.shape)}; allowed with num_classes {n}: ({n},)"
    if not bool(target.isfinite().all()):
        return f"{what} that are no numbers; allowed: finite ones"
    return target
