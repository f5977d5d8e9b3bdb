"""Detect a diverged training (NaN, infinity) before a result or a checkpoint is written."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .errors import UserError

__all__ = ["DivergedError", "is_finite", "require_finite"]


class DivergedError(UserError, ValueError):
    """A training has diverged; the message says what is not finite, in which epoch, and what to do."""

    def __init__(self, what: str, epoch: int | None = None):
        when = "" if epoch is None else f" in epoch {epoch + 1}"
        super().__init__(f"training: {what}{when}: the training diverged. Use a smaller training.learning_rate.")


@torch.no_grad()
def is_finite(module: nn.Module) -> bool:
    """Whether all trained parameters, logits included, and all running statistics are finite. Synchronizes the device."""
    trained: list[torch.Tensor] = []
    for m in module.modules():  # once: it is asked after every epoch, of thousands of modules
        trained += [p for p in m._parameters.values() if p is not None and p.requires_grad]
        if isinstance(m, _NormBase):
            trained += [b for b in (m.running_mean, m.running_var) if b is not None]
    alike: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for tensor in trained:
        if tensor.numel():
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    # The largest magnitude of each is infinite or no number where one of its elements is; a sum could overflow.
    return all(bool(torch.stack(torch._foreach_norm(some, math.inf)).isfinite().all()) for some in alike.values())


def require_finite(module: nn.Module, epoch: int) -> None:
    """End a training that has diverged.

    Raises
    ------
    DivergedError
        A trained parameter is not finite.
    """
    if not is_finite(module):
        raise DivergedError("the weights are no numbers", epoch)
