"""Turn the supernet into its child: the chosen network, whose weights go on training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from nni_proxyless.core.batch_norm import moving_norms

from ..supernet.layers import remove_unused_candidates

__all__ = ["FreshStatistics", "remove_from_optimizers"]


def remove_from_optimizers(supernet: nn.Module, optimizers: Iterable[Any]) -> None:
    """Remove all candidates but the chosen ones from a supernet, and their weights and states from its optimizers."""
    before = set(supernet.parameters())
    remove_unused_candidates(supernet)
    gone = before - set(supernet.parameters())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p not in gone]
        for p in gone & optimizer.state.keys():
            del optimizer.state[p]


class FreshStatistics:
    """Batch-norm statistics that are estimated anew in one epoch: the plain mean over all its batches.

    A moving mean would begin at 0 and 1.
    """

    def __init__(self) -> None:
        self._momenta: dict[nn.modules.batchnorm._BatchNorm, float | None] = {}

    def begin(self, norms: Sequence[nn.Module]) -> None:
        for norm in moving_norms(norms):
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.reset_running_stats()
                self._momenta[norm], norm.momentum = norm.momentum, None

    def end(self) -> None:
        """Let the statistics move again as they did."""
        for norm, momentum in self._momenta.items():
            norm.momentum = momentum
        self._momenta = {}
