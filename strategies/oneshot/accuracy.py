"""Accuracy of a network on a batch, as a reward."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor

__all__ = ["accuracy_of"]


def accuracy_of(module: LightningModule, batch: Any, batch_idx: int) -> float:
    """Share of right answers of the sampled path on a batch.

    The module's own ``architecture_accuracy(batch, batch_idx)`` if it has one; else the batch must be (inputs, class
    indices) and the module's output logits, as with NNI's ``Classification``.
    """
    own = getattr(module, "architecture_accuracy", None)
    if own is not None:
        return float(own(batch, batch_idx))
    if isinstance(batch, (list, tuple)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        inputs, targets = batch
        network: Any = module if type(module).forward is not LightningModule.forward else module.model
        logits = network(inputs)
        if isinstance(logits, Tensor) and logits.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point():
            return float((logits.argmax(dim=1) == targets).float().mean())
    raise TypeError(
        f"update='reinforce' cannot see an accuracy in {type(module).__name__}: its batches are not "
        "(inputs, class indices), or its output is not logits; give it a method architecture_accuracy(batch, batch_idx)"
    )
