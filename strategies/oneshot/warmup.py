"""The learning rate of the warm-up, where it has one of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .strategy import SampledStrategy

__all__ = ["WarmupSchedule"]


class WarmupSchedule:
    """Cosine from ``warmup_learning_rate`` to 0; the learning rate that the evaluator had set comes back for the
    search.

    The rate is that of the first group of parameters; others keep their ratio to it.
    """

    def __init__(self, options: SampledStrategy):
        self.options = options

    def is_on(self, epoch: int) -> bool:
        """Whether this schedule, and not the evaluator's, sets the learning rate."""
        return self.options.warmup_learning_rate is not None and epoch < self.options.warmup_epochs

    def set(self, groups: list[dict[str, Any]], epoch: int, batch_idx: int, batches: int) -> None:
        """Set the learning rate of an optimizer's groups for one batch of an epoch of ``batches``."""
        rate, epochs = self.options.warmup_learning_rate, self.options.warmup_epochs
        if rate is None or epoch > epochs:
            return
        if epoch < epochs:
            done = (epoch * batches + batch_idx) / (epochs * batches)
            factor = 0.5 * (1 + math.cos(math.pi * done)) * rate
            bases = [group.get("initial_lr", group["lr"]) for group in groups]  # a schedule may begin at 0
            for group, base in zip(groups, bases, strict=True):
                group.setdefault("search_lr", group["lr"])
                group["lr"] = factor * (base / bases[0] if bases[0] else 1.0)
        else:
            for group in groups:
                if "search_lr" in group:
                    group["lr"] = group.pop("search_lr")
