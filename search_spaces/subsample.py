"""The stride of the stem as a choice: every second row and column of what a stem of the smaller stride gives."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Subsample"]


class Subsample(nn.Module):
    """Every ``step``-th row and column of its input, from the first on: a candidate of the stem's stride.

    Behind a convolution of stride s and before its batch norm, it gives what the convolution with stride s * step does.
    """

    changes_shape = True  # so gates of its choice have no gradient by which candidates could be compared
    treats_images_alone = True

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, channels, ceil(height / step), ceil(width / step))."""
        return x[:, :, :: self.step, :: self.step]

    def extra_repr(self) -> str:
        return str(self.step)
