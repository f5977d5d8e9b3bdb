"""Widths of the stages of a model of timm's EfficientNets as choices.

A stage whose width is a choice holds weights for its widest. Behind its first block stands a choice of :class:`.Narrow`, which keeps the first
channels; so the first block of the next stage, and the head, are given fewer than they hold, and run with the first inputs of their weights. Other
blocks of the stage give as many channels as they are given. Inner channels stay as many as they are: a candidate says their number, not a ratio.

    stage 2:  block 0 -> Narrow(24 of 32) -> block 1 -> block 2      stage 3:  block 0 -> ...
              gives 32                       24 -> 24   24 -> 24               24 of 32 inputs

A stage that begins with a block that keeps the shape is as wide as what comes before it, and has no choice of its own; nor has one whose blocks give
different numbers of channels, nor the last one where no convolution stands between it and the classifier.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Conv2dSame, ConvNormAct, pad_same
from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    SqueezeExcite,
    UniversalInvertedResidual,
)
from torch import Tensor, nn

from nni_proxyless.core.own_copy import own_copy

from .narrow import narrow_conv, narrow_norm, narrowed
from .timm_blocks import size_of
from .timm_streams import ANATOMIES, layers_of, reorder, set_channels, with_channels

__all__ = [
    "follow",
    "has_own_width",
    "make_elastic",
    "order_stages",
    "set_widths",
    "ties",
    "widths_around",
    "with_fewer_channels",
]


def ties(model: Any) -> list[bool]:
    """Of each stage, whether it is as wide as what comes before it: its first block keeps the shape."""
    return [size_of(stage[0]).keeps_shape for stage in model.blocks]


def has_own_width(model: Any) -> list[bool]:
    """Of each stage, whether its width can be another one."""
    own, leader = [], 0
    for s, (stage, is_tied) in enumerate(zip(model.blocks, ties(model), strict=True)):
        own.append(not is_tied and is_even(stage))
        leader = leader if is_tied else s
        if is_tied and not is_even(stage):
            own[leader] = False
    if not isinstance(model.conv_head, nn.Conv2d):
        own[leader] = False  # the classifier takes these channels
    return own


def is_even(stage: Any) -> bool:
    """Whether all blocks of a stage give as many channels."""
    return len({size_of(block).out for block in stage}) == 1


def widths_around(model: Any, shares: Sequence[float]) -> list[list[int]]:
    """Of each stage the widths to choose from, its own the first; the only one where there is no choice.

    Parameters
    ----------
    shares
        Of the stage's own channels, taken in multiples of 8.
    """
    found: list[list[int]] = []
    for stage, is_own in zip(model.blocks, has_own_width(model), strict=True):
        own = size_of(stage[-1]).out
        some = [own]
        if is_own:
            some += [max(8, 8 * round(own * share / 8)) for share in shares if share != 1]
        found.append(list(dict.fromkeys(some)))
    return found


def follow(model: Any, widths: Sequence[int]) -> list[int]:
    """The same widths, but stages that are tied have that of the stage before."""
    found: list[int] = []
    for width, is_tied in zip(widths, ties(model), strict=True):
        found.append(found[-1] if is_tied and found else width)
    return found


def set_widths(model: Any, widths: Sequence[int]) -> None:
    """Give the stages of a model other widths, and what follows them as many inputs.

    Parameters
    ----------
    widths
        Of each stage. Of weights that were there the first remain; new filters are drawn, and new inputs weigh nothing, so that with
        :class:`.Narrow` behind each first block the model computes what it did.
    """
    before = model.conv_stem.out_channels
    for stage, width in zip(model.blocks, widths, strict=True):
        as_one = is_even(stage)
        for block in stage:
            out = width if as_one else size_of(block).out
            set_channels(block, {"input": before, "output": out})
            before = out
    if isinstance(model.conv_head, nn.Conv2d):
        with_channels(model.conv_head, channels=before)
        if model.num_features != model.head_hidden_size:  # what is pooled before the convolution of the head
            model.num_features = before
    for level in range(len(model.feature_info)):
        info = model.feature_info[level]
        if stage_of := re.match(r"blocks\.(\d+)", info["module"]):
            info["num_chs"] = size_of(model.blocks[int(stage_of[1])][-1]).out


@torch.no_grad()
def order_stages(model: Any, of: Sequence[bool]) -> None:
    """Let the channels of stages that the layers behind weigh most come first; the model computes the same as before.

    Parameters
    ----------
    of
        Whether this is done to a stage; stages that follow one have its order.
    """
    order: Tensor | None = None
    for s, stage in enumerate(model.blocks):
        before, is_tied = order, size_of(stage[0]).keeps_shape
        if not is_tied:
            order = weighed(model, s).argsort(descending=True, stable=True) if of[s] else None
        for i, block in enumerate(stage):
            orders = {"input": before if i == 0 else order, "output": order}
            reorder(block, {name: one for name, one in orders.items() if one is not None})  # type: ignore[misc]
    if order is not None:
        model.conv_head.weight.copy_(model.conv_head.weight[:, order])


def weighed(model: Any, s: int) -> Tensor:
    """Of each channel that a stage gives, the absolute weights with which layers behind take it in; shape (channels,)."""
    takers: list[nn.Module] = [*model.blocks[s][1:]]
    for stage in model.blocks[s + 1 :]:
        takers.append(stage[0])
        if not size_of(stage[0]).keeps_shape:
            break
        takers += stage[1:]
    else:
        takers.append(model.conv_head)
    total: Any = 0
    for taker in takers:
        conv = taker if isinstance(taker, nn.Conv2d) else next(layers_of(taker)).module
        total = total + conv.weight.abs().sum((1, 2, 3) if conv.groups > 1 else (0, 2, 3))
    return total


class _Elastic(nn.Module):
    """A block that may be given fewer channels than it holds.

    Attributes
    ----------
    held
        Channels of the input that it holds.
    follows
        Whether it gives as many as it is given; else all that it holds.
    """

    held: int
    follows: bool

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, w, height, width), w up to what it holds."""
        if x.shape[1] == self.held:
            return super().forward(x)
        kind = plain_kind(self)
        end = self.get_submodule(ANATOMIES[kind].end)
        y = x
        for name, part in self.named_children():
            if name != "drop_path":
                y = _run(part, y, end, x.shape[1] if self.follows else None)
        this: Any = self
        return this.drop_path(y) + x if this.has_skip else y


class ElasticInvertedResidual(_Elastic, InvertedResidual):
    """As :class:`_Elastic`."""


class ElasticEdgeResidual(_Elastic, EdgeResidual):
    """As :class:`_Elastic`."""


class ElasticUniversalInvertedResidual(_Elastic, UniversalInvertedResidual):
    """As :class:`_Elastic`."""


class ElasticDepthwiseSeparableConv(_Elastic, DepthwiseSeparableConv):
    """As :class:`_Elastic`."""


class ElasticConvBnAct(_Elastic, ConvBnAct):
    """As :class:`_Elastic`."""


class ElasticConv2d(nn.Conv2d):
    """The convolution of a head, which may be given fewer channels than it holds."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[1] == self.in_channels else _conv(self, x, self.out_channels)


class ElasticConv2dSame(Conv2dSame):
    """As :class:`ElasticConv2d`, with TensorFlow's padding."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[1] == self.in_channels else _conv(self, x, self.out_channels)


ELASTIC: dict[type, type] = {
    InvertedResidual: ElasticInvertedResidual,
    EdgeResidual: ElasticEdgeResidual,
    UniversalInvertedResidual: ElasticUniversalInvertedResidual,
    DepthwiseSeparableConv: ElasticDepthwiseSeparableConv,
    ConvBnAct: ElasticConvBnAct,
    nn.Conv2d: ElasticConv2d,
    Conv2dSame: ElasticConv2dSame,
}
PLAIN = {elastic: plain for plain, elastic in ELASTIC.items()}


def plain_kind(module: nn.Module) -> type:
    """timm's class of a module, elastic or not."""
    return PLAIN.get(type(module), type(module))


def make_elastic(module: Any, *, follows: bool = False) -> Any:
    """The same block, or convolution of a head, which takes fewer channels too.

    Parameters
    ----------
    follows
        Whether a block then gives as many as it is given.
    """
    if type(module) is not nn.Conv2d and type(module) is not Conv2dSame:
        module.held, module.follows = size_of(module).channels, follows
    module.__class__ = ELASTIC[type(module)]
    return module


def with_fewer_channels(module: Any, channels: int, out: int | None = None) -> nn.Module:
    """A block, or the convolution of a head, of the first channels of another one, whose memory it shares.

    Where nothing is left out it is the same one. A skip stays what it is.

    Parameters
    ----------
    channels, out
        Of input and output; None: all outputs.
    """
    if isinstance(module, nn.Identity):
        return module
    kind = plain_kind(module)
    fresh: Any = module if type(module) is kind else own_copy(module)
    fresh.__class__ = kind
    size = None if issubclass(kind, nn.Conv2d) else size_of(fresh)
    if channels == (module.in_channels if size is None else size.channels) and out in (None, size and size.out):
        return fresh
    fresh = copy.deepcopy(fresh).to("meta")
    if size is None:
        with_channels(fresh, out, channels)
    else:
        set_channels(fresh, {"input": channels, "output": size.out if out is None else out})
    return narrowed(module, fresh)


# -- layers with the first of their weights -------------------------------------------------------------------------


def _run(part: Any, x: Tensor, end: nn.Module, out: int | None) -> Tensor:
    """A part of a block on as many channels as there are.

    Parameters
    ----------
    end
        The convolution that makes the channels of the block's output.
    out
        How many of those; None: all.
    """
    if isinstance(part, nn.Conv2d):
        gives = x.shape[1] if part.groups > 1 else part.out_channels if part is not end or out is None else out
        return _conv(part, x, gives)
    if isinstance(part, nn.BatchNorm2d):
        return narrow_norm(part, x)
    if isinstance(part, ConvNormAct):
        return _run(part.bn, _run(part.conv, x, end, out), end, out)
    if isinstance(part, SqueezeExcite):
        scale = part.act1(narrow_conv(part.conv_reduce, x.mean((2, 3), keepdim=True), part.conv_reduce.out_channels))
        return x * part.gate(narrow_conv(part.conv_expand, scale, x.shape[1]))
    return part(x)


def _conv(conv: nn.Conv2d, x: Tensor, out: int) -> Tensor:
    if isinstance(conv, Conv2dSame):
        x = pad_same(x, [*conv.kernel_size], [*conv.stride], [*conv.dilation])
    return narrow_conv(conv, x, out)
