"""Images of another size, as a part of a network."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Resize", "ResizingConv2d"]


class Resize(nn.Module):
    """Resizes images to ``side`` pixels in height and width; those of that size stay as they are.

    Bilinear, without antialiasing, pixels as areas (``align_corners=False``): what every runtime computes alike.
    """

    treats_images_alone = True
    changes_shape = True  # as a candidate of a choice

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, channels, side, side), of images of any size."""
        return resized(x, self.side)

    def extra_repr(self) -> str:
        return str(self.side)


class ResizingConv2d(nn.Conv2d):
    """A convolution that resizes its images first, with weights of the same names as without: the stem of a model of timm."""

    treats_images_alone = True
    side: int

    @classmethod
    def of(cls, stem: nn.Conv2d, side: int) -> ResizingConv2d:
        """The same convolution, which resizes from now on."""
        resizing: ResizingConv2d = stem  # type: ignore[assignment]  # from the next line on
        resizing.__class__ = cls
        resizing.side = side
        return resizing

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution, of images of any size."""
        return super().forward(resized(x, self.side))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, side={self.side}"


def resized(x: Tensor, side: int) -> Tensor:
    """Images of ``side`` pixels in height and width."""
    size = (side, side)
    return x if _has(x, size) else functional.interpolate(x, size, mode="bilinear", align_corners=False)


def _has(x: Tensor, size: tuple[int, int]) -> bool:
    if not torch.jit.is_tracing():
        return x.shape[2:] == size
    with warnings.catch_warnings():  # it is traced for images of one size
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return x.shape[2:] == size
