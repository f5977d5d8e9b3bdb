"""Training and evaluation mode, module by module: a module that its owner keeps in evaluation mode stays there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["Modes", "evaluating"]


class Modes:
    """The current mode of every module of a network; ``network.train()`` would set all of them alike."""

    def __init__(self, network: nn.Module):
        self._modes = [(module, module.training) for module in network.modules()]

    def restore(self) -> None:
        """Restore the mode of every module."""
        for module, mode in self._modes:
            module.training = mode


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put the whole network into evaluation mode; restore the mode of every module at the end."""
    modes = Modes(network)
    network.eval()
    try:
        yield
    finally:
        modes.restore()
