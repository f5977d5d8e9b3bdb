"""Blocks of timm's EfficientNets with another kernel, expansion or squeeze-and-excitation, cut out of the weights that they have.

A block of m expanded channels and a kernel of k x k becomes one of n and l x l. What is smaller takes a part: the first n channels,
the middle of the kernel. What is larger holds the block and computes the same: zeros stand around the kernel, and new channels are drawn but
go nowhere, as the projection has zeros for them.

======================================  ===========  ========================================  ======================
timm's class                            notation     kernel                                    expanded channels
======================================  ===========  ========================================  ======================
``InvertedResidual``                    ``ir``       ``conv_dw``                               yes
``EdgeResidual``                        ``er``       ``conv_exp``                              yes
``UniversalInvertedResidual``           ``uir``      ``dw_mid``, else ``dw_start``             yes
``DepthwiseSeparableConv``              ``ds``       ``conv_dw``                               those of its input
``ConvBnAct``                           ``cn``       ``conv``                                  none
======================================  ===========  ========================================  ======================
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.layers import make_divisible
from timm.layers.padding import get_padding
from timm.models._efficientnet_blocks import SqueezeExcite, UniversalInvertedResidual
from torch import nn

from .timm_streams import ANATOMIES, Stream, has_part, like, reorder, set_channels

__all__ = [
    "BlockSize",
    "ends_in_zero",
    "order_channels",
    "problem_of_block",
    "resized",
    "scale_block",
    "size_of",
    "sizes_around",
]

OPEN_GATE = 4.0  # bias of a new squeeze-and-excitation: its gate lets 98 % through, a hard one all


@dataclass(frozen=True)
class BlockSize:
    """What a block may differ by from others in its place, and what they have in common.

    Attributes
    ----------
    kind
        In timm's notation.
    kernel, first, last
        Sides of the kernels: the searched one, and of a ``uir`` that of the depthwise convolution before the expansion and the one
        behind the projection. 0: there is none.
    channels
        Of the input.
    expanded
        Channels between expansion and projection; those of the input where nothing expands them.
    out, stride
        Channels of the output, stride.
    squeezed
        Channels of squeeze-and-excitation; 0: there is none.
    adds_input
        Whether it is a residual.
    """

    kind: str
    kernel: int
    channels: int
    expanded: int
    out: int
    stride: int
    squeezed: int
    adds_input: bool
    first: int = 0
    last: int = 0

    @property
    def is_expanded(self) -> bool:
        return self.kind in ("ir", "er", "uir")

    @property
    def keeps_shape(self) -> bool:
        return self.stride == 1 and self.channels == self.out

    def between(self, channels: int, out: int) -> BlockSize:
        """The same block with other numbers of channels before and behind it."""
        return replace(self, channels=channels, out=out, expanded=self.expanded if self.is_expanded else channels)

    @property
    def name(self) -> str:
        """What a candidate of this size is called among those in its place: ``k5m72se``, with m expanded channels; ``a3k5m96``, ``k3``, ``conv3``.

        Expansions of these models are no whole numbers, and a name has no full stop in it.
        """
        if self.kind == "cn":
            return f"conv{self.kernel}"
        start = f"a{self.first}" if self.first else ""
        expansion = f"m{self.expanded}" if self.is_expanded else ""
        return f"{start}{f'k{self.kernel}' if self.kernel else ''}{expansion}{'se' if self.squeezed else ''}"

    @property
    def definition(self) -> str:
        """In timm's notation, with all digits; what is the same in all candidates, such as the activation, is the model's."""
        words = [self.kind, "r1"]
        if self.first:
            words.append(f"a{self.first}")
        words += [f"k{self.kernel}", f"s{self.stride}"]
        if self.is_expanded:
            words.append(f"e{self.expanded / self.channels!r}")
        words.append(f"c{self.out}")
        if self.squeezed:
            words.append(f"se{self.squeezed / self.channels!r}")
        return "_".join(words)


def problem_of_block(block: nn.Module) -> str | None:
    """Why there is nothing to search in a block of this kind, in words; None: there is."""
    anatomy = ANATOMIES.get(type(block))
    if anatomy is None:
        known = ", ".join(kind.__name__ for kind in ANATOMIES)
        return f"a {type(block).__name__}; allowed: {known}"
    if getattr(block, "conv_s2d", None) is not None:
        return "has a convolution from space to depth; allowed: none"
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.groups not in (1, module.in_channels):
                return f"{name} has {module.groups} groups; allowed: none, or one for each channel"
            if len({*module.kernel_size}) > 1:
                return f"{name} has a kernel of {module.kernel_size}; allowed: squares"
        elif name.rpartition(".")[2] == "aa" and not isinstance(module, nn.Identity):
            return f"{name} is a {type(module).__name__}; allowed: none"
    se = getattr(block, "se", None)
    if se is not None and type(se) not in (nn.Identity, SqueezeExcite):
        return f"se is a {type(se).__name__}; allowed: SqueezeExcite"
    for name in (
        *(one for one in anatomy.between if has_part(block, one)),
        *([anatomy.kernel] if has_part(block, anatomy.kernel) else []),
    ):
        module = block.get_submodule(name)
        if not isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            return f"{name} is a {type(module).__name__}; allowed: convolution and batch norm"
    return None


def size_of(block: nn.Module) -> BlockSize:
    """Of a block without :func:`problem_of_block`."""
    anatomy, some = ANATOMIES[type(block)], [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    end = next(m for name in (anatomy.project, anatomy.kernel) if name and (m := _conv(block, name)) is not None)
    start = _conv(block, anatomy.expand) if anatomy.expand else _conv(block, anatomy.kernel)
    assert start is not None
    searched = _conv(block, _searched(block) or "")
    reduce = getattr(getattr(block, "se", None), "conv_reduce", None)
    of_uir = isinstance(block, UniversalInvertedResidual)
    first, last = (_conv(block, name) if of_uir else None for name in ("dw_start.conv", "dw_end.conv"))
    is_first = of_uir and _searched(block) == "dw_start.conv"
    return BlockSize(
        kind=anatomy.notation,
        kernel=0 if searched is None or is_first else _side(searched),
        channels=start.in_channels,
        expanded=end.in_channels if anatomy.project else start.in_channels,
        out=end.out_channels,
        stride=math.prod(conv.stride[0] for conv in some),
        squeezed=0 if reduce is None else int(reduce.out_channels),
        adds_input=bool(getattr(block, "has_skip", False)),
        first=0 if first is None else _side(first),
        last=0 if last is None else _side(last),
    )


def sizes_around(
    size: BlockSize, kernels: Sequence[int], expansions: Sequence[float], squeeze_excite: Sequence[bool] | None
) -> list[BlockSize]:
    """Those of all candidates in the place of a block, itself the first.

    Parameters
    ----------
    kernels
        Sides. A 1x1 convolution, and a block without a depthwise one, keep theirs.
    expansions
        Shares of the block's expanded channels; multiples of 8 are taken.
    squeeze_excite
        Whether there is any; None: as in the block.
    """
    found = {size: None}
    by_kernel = [size]
    if size.kind != "cn" or size.kernel > 1:
        if size.kernel:
            by_kernel += [replace(size, kernel=kernel) for kernel in kernels]
        elif size.first:
            by_kernel += [replace(size, first=kernel) for kernel in kernels]
    widths = [size.expanded]
    if size.is_expanded:
        widths += [max(8, 8 * round(size.expanded * share / 8)) for share in expansions if share != 1]
    squeezes = [size.squeezed]
    if squeeze_excite is not None and size.kind != "cn":
        squeezes = [(size.squeezed or max(8, size.channels // 4)) if any_ else 0 for any_ in squeeze_excite]
        squeezes = [size.squeezed, *squeezes]
    for one in by_kernel:
        for expanded in widths:
            for squeezed in squeezes:
                found[replace(one, expanded=expanded, squeezed=squeezed)] = None
    return list(found)


@torch.no_grad()
def resized(block: nn.Module, size: BlockSize, squeeze_like: SqueezeExcite | None = None) -> nn.Module:
    """A block of another size, with weights of its own.

    Parameters
    ----------
    block
        Not changed.
    size
        One of :func:`sizes_around` its own.
    squeeze_like
        What a squeeze-and-excitation that the block does not have is like; None: timm's default.
    """
    old = size_of(block)
    copied: Any = copy.deepcopy(block)
    if size.squeezed != old.squeezed:
        copied.se = _squeeze(copied, size.squeezed, squeeze_like) if size.squeezed else nn.Identity()
    if size.expanded != old.expanded:
        set_channels(copied, {"inner": size.expanded})
    if (size.kernel, size.first) != (old.kernel, old.first):
        _with_kernel(copied.get_submodule(_searched(copied) or ""), size.kernel or size.first)
    return copied


@torch.no_grad()
def order_channels(block: nn.Module) -> None:
    """Let the expanded channels that the projection weighs most come first; the block computes the same as before.

    By the sum of the absolute weights of a channel, as Once-for-All orders them (Cai, Gan et al., ICLR 2020, sec. 3.3): a smaller
    expansion, which takes the first channels, loses the least.
    """
    anatomy = ANATOMIES[type(block)]
    if anatomy.expand is None or anatomy.project is None:
        return
    project: Any = block.get_submodule(anatomy.project)
    reorder(block, {"inner": project.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)})


@torch.no_grad()
def scale_block(block: nn.Module, channels: Callable[[int], int]) -> None:
    """Give a block other channels.

    Parameters
    ----------
    channels
        Those of input and output -> other ones. The expansion stays what it is, in multiples of 8 channels; squeeze-and-excitation stays the
        same share.
    """
    size = size_of(block)
    sizes: dict[Stream, int] = {"input": channels(size.channels), "output": channels(size.out)}
    expanded = sizes["input"]
    if size.is_expanded:
        sizes["inner"] = expanded = make_divisible(sizes["input"] * (size.expanded / size.channels))
    if size.squeezed:
        sizes["squeezed"] = max(1, round(expanded * size.squeezed / size.expanded))
    set_channels(block, sizes)


@torch.no_grad()
def ends_in_zero(block: nn.Module) -> None:
    """Let the last batch norm of a residual give zero, so that the block gives what it is given."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[-1].weight.zero_()
    norms[-1].bias.zero_()


# -- layers --------------------------------------------------------------------------------------------------------


def _searched(block: nn.Module) -> str | None:
    """The convolution whose kernel is searched; None where there is none."""
    names = [ANATOMIES[type(block)].kernel]
    if isinstance(block, UniversalInvertedResidual):
        names.append("dw_start.conv")
    return next((name for name in names if has_part(block, name)), None)


def _conv(block: nn.Module, name: str) -> nn.Conv2d | None:
    found = block.get_submodule(name) if name and has_part(block, name) else None
    return found if isinstance(found, nn.Conv2d) else None


def _side(conv: nn.Conv2d) -> int:
    return int(conv.kernel_size[0])


def _with_kernel(conv: Any, side: int) -> None:
    """Leave the middle of a convolution's kernel, or put zeros around it."""
    weight = conv.weight.new_zeros(*conv.weight.shape[:2], side, side)
    conv.weight = like(conv.weight, weight)
    if isinstance(conv.padding, tuple) and any(conv.padding):  # else it pads its input itself, as TensorFlow does
        pad = get_padding(side, conv.stride[0], conv.dilation[0])
        conv.padding = (pad, pad)
    conv.kernel_size = (side, side)


def _squeeze(block: nn.Module, channels: int, like: SqueezeExcite | None) -> SqueezeExcite:
    """A new squeeze-and-excitation, which begins as next to nothing."""
    weight = next(block.parameters())
    made = SqueezeExcite(size_of(block).expanded, rd_channels=channels, device=weight.device, dtype=weight.dtype)
    if like is not None:
        made.act1, made.gate = copy.deepcopy(like.act1), copy.deepcopy(like.gate)
    nn.init.zeros_(made.conv_expand.weight)
    assert made.conv_expand.bias is not None
    nn.init.constant_(made.conv_expand.bias, OPEN_GATE)
    return made
