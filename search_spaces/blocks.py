"""Candidates of :class:`.MobileNetV2Space` by name: their definitions in timm's notation, and the blocks that timm makes of these.

=============  ============================  ==================================================================
``k5e3``       ``ir_r1_k5_s1_e3_c24``        an inverted residual: depthwise 5x5 kernel, expansion 3
``k5e3se``     ``ir_r1_k5_s1_e3_c24_se0.25`` with squeeze-and-excitation, a share of the block's input channels wide
``k5e3hs``     ``ir_r1_k5_s1_e3_c24_nhs``    with another activation than ReLU6: ``re``, ``hs``, ``sw`` or ``mi``
``conv1``      ``cn_r1_k1_s2_c24``           a bare convolution, here 1x1, with batch norm and activation
``skip``                                     the block is left out
=============  ============================  ==================================================================

A name says all that a block differs by from others in its place, so it means the same in every space.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

from timm.layers import get_norm_act_layer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import EfficientNetBuilder, decode_arch_def
from torch import nn

from .layout import ACTIVATIONS

__all__ = [
    "BN_EPS",
    "SKIP",
    "bare_convolutions",
    "definition_of",
    "inverted_residuals",
    "make_block",
    "norm_act",
    "norm_layer",
]

BN_EPS = 1e-3  # of the official search code, search/imagenet_arch_search.py
SKIP = "skip"
_NAME = re.compile(r"(?:k(?P<kernel>\d+)e(?P<expansion>\d+)(?P<se>se)?|conv(?P<bare>\d+))(?P<activation>re|hs|sw|mi)?")

norm_layer = functools.partial(nn.BatchNorm2d, eps=BN_EPS)
norm_act = get_norm_act_layer(norm_layer, nn.ReLU6)


def inverted_residuals(
    kernels: Sequence[int], expansions: Sequence[int], squeeze_excite: Sequence[bool], activations: Sequence[str]
) -> list[str]:
    """Names of all of them."""
    kinds = itertools.product(kernels, expansions, squeeze_excite, activations)
    return [f"k{k}e{e}{'se' if se else ''}{ACTIVATIONS[activation]}" for k, e, se, activation in kinds]


def bare_convolutions(kernels: Sequence[int], activations: Sequence[str]) -> list[str]:
    """Names of all of them."""
    return [f"conv{k}{ACTIVATIONS[activation]}" for k, activation in itertools.product(kernels, activations)]


def definition_of(name: str, *, stride: int, width: int, se_ratio: float) -> str | None:
    """A candidate in timm's notation; None for a skip.

    Parameters
    ----------
    stride, width
        Of the block, and its output channels.
    se_ratio
        Channels of squeeze-and-excitation by input channels of the block, where there is one.

    Raises
    ------
    ValueError
        No candidate has such a name.
    """
    if name == SKIP:
        return None
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"candidate {name!r}; allowed: names such as k5e3, k5e3se, k5e3hs, conv1, {SKIP}")
    activation = f"_n{found['activation']}" if found["activation"] else ""
    if found["bare"]:
        return f"cn_r1_k{found['bare']}_s{stride}_c{width}{activation}"
    se = f"_se{se_ratio:g}" if found["se"] else ""
    return f"ir_r1_k{found['kernel']}_s{stride}_e{found['expansion']}_c{width}{se}{activation}"


def make_block(definition: str, in_width: int) -> nn.Module:
    """The block that timm's ``EfficientNet`` has for a definition, with fresh weights."""
    builder = EfficientNetBuilder(
        round_chs_fn=_as_given, act_layer=nn.ReLU6, norm_layer=norm_layer,
        se_layer=SqueezeExcite if "_se" in definition else None,  # the builder tries it, which draws random numbers
    )  # fmt: skip
    ((block,),) = builder(in_width, decode_arch_def([[definition]]))
    return block


def _as_given(channels: int) -> int:
    return channels
