"""Training and evaluation mode, module by module: what an owner keeps in evaluation mode stays there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["Modes", "evaluating"]


class Modes:
    """The mode of every module of a network, as it is now. ``network.train()`` would give all of them one."""

    def __init__(self, network: nn.Module):
        self._modes = [(module, module.training) for module in network.modules()]

    def restore(self) -> None:
        """Give every module its mode back."""
        for module, mode in self._modes:
            module.training = mode


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The whole network in evaluation mode inside, and every module in its own afterwards."""
    modes = Modes(network)
    network.eval()
    try:
        yield
    finally:
        modes.restore()
