"""A network for images that were normalized otherwise than those that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Renormalizing", "renormalizing"]


class Renormalizing(nn.Module):
    """A network behind the way from one normalization to another.

    Parameters
    ----------
    network
        Of images (batch, channels, height, width).
    given, wanted
        Mean and standard deviation per channel, of pixels from 0 to 1: of the images that come, and of those that the network knows.
    """

    mean: Tensor
    std: Tensor
    mean_wanted: Tensor
    std_wanted: Tensor

    def __init__(self, network: nn.Module, given: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]):
        super().__init__()
        self.teacher = network  # by this name checkpoints know its weights
        for name, values in zip(("mean", "std", "mean_wanted", "std_wanted"), (*given, *wanted), strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The network's outputs for images of shape (batch, channels, height, width)."""
        return self.teacher((images * self.std + self.mean - self.mean_wanted) / self.std_wanted)


def renormalizing(network: nn.Module, given: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]) -> nn.Module:
    """The network itself where both are the same, else :class:`Renormalizing`."""
    same = [tuple(values) for values in given] == [tuple(values) for values in wanted]
    return network if same else Renormalizing(network, given, wanted)
