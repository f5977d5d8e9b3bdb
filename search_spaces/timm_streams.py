"""The channels between and within the layers of a block of timm's EfficientNets: how many there are, and in which order.

    input -> expand -> inner -> squeeze-and-excitation on the way -> project -> output

What comes before the expansion has the channels of the input, what comes behind the projection those of the output. A block that expands nothing has
no inner ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    UniversalInvertedResidual,
)
from torch import Tensor, nn

from .shared_weights import middle_of

__all__ = [
    "ANATOMIES",
    "Anatomy",
    "Layer",
    "Stream",
    "has_part",
    "layers_of",
    "like",
    "reorder",
    "set_channels",
    "with_channels",
]

Stream = Literal["input", "inner", "squeezed", "output"]


@dataclass(frozen=True)
class Anatomy:
    """Where the layers of a block are.

    Attributes
    ----------
    notation
        timm's, of the kind of block.
    kernel
        The convolution whose kernel is searched.
    expand, project
        What makes the inner channels, and what takes them in; None where there are none.
    between
        What they go through: batch norms and depthwise convolutions.
    """

    notation: str
    kernel: str
    expand: str | None = None
    between: tuple[str, ...] = ()
    project: str | None = None

    @property
    def end(self) -> str:
        """The convolution that makes the channels of the output."""
        return self.project or self.kernel


ANATOMIES: dict[type, Anatomy] = {
    InvertedResidual: Anatomy("ir", "conv_dw", "conv_pw", ("bn1", "conv_dw", "bn2"), "conv_pwl"),
    EdgeResidual: Anatomy("er", "conv_exp", "conv_exp", ("bn1",), "conv_pwl"),
    UniversalInvertedResidual: Anatomy(
        "uir", "dw_mid.conv", "pw_exp.conv", ("pw_exp.bn", "dw_mid.conv", "dw_mid.bn"), "pw_proj.conv"
    ),
    DepthwiseSeparableConv: Anatomy("ds", "conv_dw", project="conv_pw"),
    ConvBnAct: Anatomy("cn", "conv"),
}


class Layer(NamedTuple):
    """A layer, and the streams that it takes and gives."""

    module: Any
    takes: Stream
    gives: Stream


def layers_of(block: nn.Module) -> Iterator[Layer]:
    """Convolutions and batch norms of a block, in the order in which they run."""
    anatomy = ANATOMIES[type(block)]
    middle: Stream = "inner" if anatomy.expand else "input"
    here: Stream = "input"
    for name, module in block.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            continue
        if name == "se.conv_reduce":
            yield Layer(module, middle, "squeezed")
        elif name == "se.conv_expand":
            yield Layer(module, "squeezed", middle)
        else:
            before, here = here, "output" if name == anatomy.end else "inner" if name == anatomy.expand else here
            yield Layer(module, before, here)


@torch.no_grad()
def set_channels(block: nn.Module, sizes: Mapping[Stream, int]) -> None:
    """Give streams of a block other numbers of channels; those that are not named keep theirs. The tensors of its layers are new."""
    for layer in layers_of(block):
        if layer.takes in sizes or layer.gives in sizes:
            with_channels(layer.module, sizes.get(layer.gives), sizes.get(layer.takes))


@torch.no_grad()
def reorder(block: nn.Module, orders: Mapping[Stream, Tensor]) -> None:
    """Put the channels of streams of a block into another order: channel i is the one that was ``order[i]``."""
    for module, takes, gives in layers_of(block):
        if (order := orders.get(gives)) is not None:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.dim():
                    tensor.copy_(tensor[order])
        if (order := orders.get(takes)) is not None and isinstance(module, nn.Conv2d) and module.groups == 1:
            module.weight.copy_(module.weight[:, order])


def has_part(block: nn.Module, name: str) -> bool:
    """Whether a block has a layer of this name, with full stops between the names of modules."""
    *path, last = name.split(".")
    for part in path:
        block = getattr(block, part, nn.Identity())
    return hasattr(block, last)


@torch.no_grad()
def with_channels(layer: Any, out: int | None = None, channels: int | None = None) -> None:
    """Give a convolution or batch norm so many outputs and inputs; None: as many as it has. Its tensors are new.

    Of weights that were there the first remain; new filters are drawn, and new inputs weigh nothing.
    """
    if isinstance(layer, nn.Conv2d):
        _conv_with_channels(layer, out, channels)
        return
    if out is None:
        return
    layer.num_features, fills = out, {"weight": 1.0, "running_var": 1.0}
    for tensors in (layer._parameters, layer._buffers):
        for name, tensor in tensors.items():
            if tensor is not None and tensor.dim():
                tensors[name] = like(tensor, tensor.new_full((out,), fills.get(name, 0.0)))


def _conv_with_channels(layer: Any, out: int | None, channels: int | None) -> None:
    depthwise = layer.groups > 1
    out = layer.out_channels if out is None else out
    channels = out if depthwise else layer.in_channels if channels is None else channels
    groups = out if depthwise else 1
    weight = layer.weight.new_zeros(out, channels // groups, *layer.kernel_size)
    weight[layer.out_channels :].normal_(0, math.sqrt(2 * groups / (out * math.prod(layer.kernel_size))))
    layer.weight = like(layer.weight, weight)
    if layer.bias is not None:
        layer.bias = like(layer.bias, layer.bias.new_zeros(out))
    layer.out_channels, layer.in_channels, layer.groups = out, channels, groups


def like(old: Any, new: Any) -> Any:
    """The new tensor with what it has in common with the old one, a parameter where that is one."""
    common = [min(sizes) for sizes in zip(old.shape, new.shape, strict=True)]
    middle_of(new, common).copy_(middle_of(old, common))
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
