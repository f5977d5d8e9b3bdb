"""Blocks that hold the widest of several widths and run, or freeze, with fewer channels: the first of each layer.

A stage whose width is a choice holds weights for its widest. Behind its first block stands :class:`Narrow`, a candidate of that choice,
which keeps the first channels; so it is behind a stem whose width is one. What follows is told by its input: a block with fewer channels than it was made for uses the first
filters and inputs of its weights, and expands as many channels as it would have been made with. A stage's first block gives the widest
output whatever it is given, and :class:`Narrow` cuts it.

    conv_pw, bn1       w C_in -> w e channels     of a block of expansion e that is given w
    conv_dw, bn2       w e
    se                 the first w e, squeezed to as many as a block of this width has
    conv_pwl, bn3      w again where the block has a residual, else all outputs

So a derived network is the one of these widths, and shares the memory of the supernet (:func:`narrowed`).
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from torch import Tensor, nn
from torch.nn import functional

from .shared_weights import middle_of

__all__ = [
    "ElasticConvBnAct",
    "ElasticDepthwiseSeparableConv",
    "ElasticInvertedResidual",
    "Narrow",
    "make_elastic",
    "narrow_conv",
    "narrow_norm",
    "narrowed",
]


class Narrow(nn.Module):
    """The first ``width`` channels of its input: a candidate of a stage's width."""

    changes_shape = True  # so gates of its choice have no gradient by which candidates could be compared

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    @property
    def treats_images_alone(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.width]

    def extra_repr(self) -> str:
        return str(self.width)


class ElasticInvertedResidual(InvertedResidual):
    """timm's block; given fewer channels than it was made for, the first of all its layers."""

    se_ratio: float  # by input channels

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, w, height, width) with w up to its input channels."""
        width: int = x.shape[1]
        if width == self.conv_pw.in_channels:
            return super().forward(x)
        expansion = self.conv_pw.out_channels // self.conv_pw.in_channels
        out = width if self.has_skip else self.conv_pwl.out_channels
        y = narrow_norm(self.bn1, narrow_conv(self.conv_pw, x, width * expansion))
        y = narrow_norm(self.bn2, narrow_conv(self.conv_dw, y, width * expansion))
        if not isinstance(self.se, nn.Identity):
            y = self._squeezed(y, round(width * expansion * (self.se_ratio / expansion)))  # as timm rounds it
        y = narrow_norm(self.bn3, narrow_conv(self.conv_pwl, y, out))
        return y + x if self.has_skip else y

    def _squeezed(self, y: Tensor, reduced: int) -> Tensor:
        se: Any = self.se
        scale = se.act1(narrow_conv(se.conv_reduce, y.mean((2, 3), keepdim=True), reduced))
        return y * se.gate(narrow_conv(se.conv_expand, scale, y.shape[1]))


class ElasticConvBnAct(ConvBnAct):
    """timm's block without a residual; given fewer channels than it was made for, the first inputs of its convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, w, height, width) with w up to its input channels."""
        if x.shape[1] == self.conv.in_channels:
            return super().forward(x)
        return self.bn1(narrow_conv(self.conv, x, self.conv.out_channels))


class ElasticDepthwiseSeparableConv(DepthwiseSeparableConv):
    """timm's block with stride 1 and no squeeze; given fewer channels than it was made for, the first of its depthwise layer.

    It has a residual where it gives as many channels as it is given.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, w, height, width) with w up to its input channels."""
        width, out = x.shape[1], self.conv_pw.out_channels
        if width == self.conv_dw.in_channels:
            return super().forward(x)
        y = narrow_norm(self.bn1, narrow_conv(self.conv_dw, x, width))
        y = narrow_norm(self.bn2, narrow_conv(self.conv_pw, y, out))
        return y + x if width == out else y


ELASTIC: dict[type, type] = {
    InvertedResidual: ElasticInvertedResidual,
    ConvBnAct: ElasticConvBnAct,
    DepthwiseSeparableConv: ElasticDepthwiseSeparableConv,
}


def make_elastic(block: Any, se_ratio: float) -> Any:
    """The same block, which takes fewer channels too."""
    block.__class__ = ELASTIC[type(block)]
    block.se_ratio = se_ratio
    return block


def narrow_conv(conv: nn.Conv2d, x: Tensor, out: int) -> Tensor:
    """The first ``out`` filters of a convolution on as many inputs as there are; a depthwise one has as many groups."""
    depthwise = conv.groups > 1
    weight = conv.weight[:out] if depthwise else conv.weight[:out, : x.shape[1]]
    bias = None if conv.bias is None else conv.bias[:out]
    padding: Any = conv.padding
    return functional.conv2d(x, weight, bias, conv.stride, padding, conv.dilation, out if depthwise else 1)


def narrow_norm(norm: Any, x: Tensor) -> Tensor:
    """The first channels of timm's batch norm with activation; in training their running statistics move, as in torch's."""
    n = x.shape[1]
    factor = 0.0 if norm.momentum is None else norm.momentum
    moves = norm.training and norm.track_running_stats and norm.num_batches_tracked is not None
    if moves:
        norm.num_batches_tracked.add_(1)
        factor = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    keeps = norm.running_mean is not None and (not norm.training or norm.track_running_stats)
    x = functional.batch_norm(
        x, norm.running_mean[:n] if keeps else None, norm.running_var[:n] if keeps else None, norm.weight[:n], norm.bias[:n],
        norm.training or norm.running_mean is None, factor, norm.eps,
    )  # fmt: skip
    return norm.act(norm.drop(x))


def narrowed(wide: nn.Module, fresh: nn.Module) -> nn.Module:
    """A module with the first channels of another one, whose memory it shares.

    Parameters
    ----------
    wide
        Holds at least what the other does, under the same names.
    fresh
        Of the sizes that are asked for, on the meta device: it gets parameters, statistics and modes.
    """
    theirs = wide.state_dict()
    own = {name: middle_of(theirs[name], tensor.shape) for name, tensor in fresh.state_dict().items()}
    with torch.no_grad():
        fresh.load_state_dict(own, assign=True)
    modes = {name: module.training for name, module in wide.named_modules()}
    for name, module in fresh.named_modules():
        module.training = modes[name]
    for (_, ours), (_, of_wide) in zip(fresh.named_parameters(), wide.named_parameters(), strict=True):
        ours.requires_grad_(of_wide.requires_grad)
    return fresh
