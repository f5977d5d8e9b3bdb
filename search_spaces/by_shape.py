"""A space whose choices change shapes: its networks, and the operations of all of them.

What a block costs depends on up to five choices beside its own: the size of its maps on the resolution and the stride of the stem, its
channels on the width of its stage and, if it is the first, on that of the stage or stem before. So its operations are those of timm's
blocks of every size and pair of widths, under conditions on these labels; they cannot be found by running the space once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from nni.nas.nn.pytorch import LayerChoice
from timm.layers import create_conv2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv
from torch import nn

from nni_proxyless.core.resize import Resize
from nni_proxyless.latency.operation import Conditions, Operation, Shape, describe, other_names, shape_text

from .blocks import SKIP, make_block, norm_act, norm_layer
from .narrow import narrowed

if TYPE_CHECKING:
    from .mobilenetv2 import MobileNetV2Space

__all__ = ["operations_by_shape", "parts_by_shape"]

Size = tuple[int, ...]
"""Height and width."""


def parts_by_shape(space: MobileNetV2Space, sample: Mapping[str, Any]) -> dict[str, Any]:
    """The modules of an architecture that differ from the space's, by name, blocks stage by stage; they share its memory."""
    choices, stem_width = _choices(space), space.shape_in(sample, "stem.width")
    conv, norm = _stem(space, stem_width, space.shape_in(sample, "stem.stride"))
    resolution = space.shape_in(sample, "resolution")
    stages, width = [[_first_block(space, stem_width)]], space.layout["first_width"]
    for s, depth in enumerate(space.layout["depths"], 1):
        stage, out = [], space.shape_in(sample, f"stage{s}.width")
        for i in range(depth):
            name = str(sample[f"stage{s}.{i}"])
            if name != SKIP:
                stage.append(_block(space, choices, s, i, name, width, out))
            width = out
        stages.append(stage)
    return {
        "resize": None if resolution is None else Resize(resolution), "conv_stem": conv, "subsample": None, "bn1": norm,
        "narrow": None, "blocks": stages, "conv_head": _head(space, width),
    }  # fmt: skip


def operations_by_shape(space: MobileNetV2Space, input_shape: Shape) -> list[Operation]:
    """All operations of the space, with the conditions under which a network has them."""
    choices, found = _choices(space), _Found()
    sizes = []
    for resolution, if_resolution in _values(space, "resolution"):
        image = (input_shape[0], *(input_shape[1:] if resolution is None else (resolution, resolution)))
        if image != tuple(input_shape):
            found.module(Resize(resolution), tuple(input_shape), image, if_resolution)
        for stride, if_stride in _values(space, "stem.stride"):
            size, if_size = _halved(image[1:], stride), (*if_resolution, *if_stride)
            sizes.append((size, if_size))
            for width, if_width in _values(space, "stem.width"):
                found.group("Conv", _stem(space, width, stride), image, (width, *size), (*if_size, *if_width))
    layout = space.layout
    for width, if_width in _values(space, "stem.width"):
        for size, if_size in sizes:
            shapes = (width, *size), (layout["first_width"], *size)
            found.module(_first_block(space, width), *shapes, (*if_size, *if_width))
    before: list[tuple[int, Conditions]] = [(layout["first_width"], ())]
    for s, depth in enumerate(layout["depths"], 1):
        now = list(_values(space, f"stage{s}.width"))
        for i in range(depth):
            stride = layout["strides"][s - 1] if i == 0 else 1
            pairs = [(one, two) for one in (before if i == 0 else now) for two in now if i == 0 or one == two]
            names = [name for name in choices[f"stage{s}.{i}"].names if name != SKIP]
            for name, ((width, if_width), (out, if_out)) in itertools.product(names, pairs):
                block, own = _block(space, choices, s, i, name, width, out), (f"stage{s}.{i}", (name,))
                for size, if_size in sizes:
                    conditions = (*dict.fromkeys((*if_size, *if_width, *if_out)), own)
                    found.module(block, (width, *size), (out, *_halved(size, stride)), conditions)
            sizes = [(_halved(size, stride), if_size) for size, if_size in sizes]
        before = now
    features = layout["feature_mix"]
    for size, if_size in sizes:
        for width, if_width in before:
            parts = (_head(space, width), space.bn2)
            found.group("Conv_1", parts, (width, *size), (features, *size), (*if_size, *if_width))
        found.group("Logits", (space.global_pool, space.classifier), (features, *size), (space.num_classes,), if_size)
    return found.operations


class _Found:
    """The operations so far."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def module(self, module: nn.Module, given: Shape, gives: Shape, conditions: Conditions) -> None:
        names = other_names(module, given, gives)
        self.operations.append(Operation(describe(module, given, gives), module, given, conditions, names))

    def group(self, head: str, parts: Sequence[Any], given: Shape, gives: Shape, conditions: Conditions) -> None:
        names: tuple[tuple[str, ...], ...] = ()
        if head == "Logits":  # as a table of once-for-all has it
            pooled = f"1x1x{given[0]}"
            names = (
                (
                    f"AvgPool2D-input:{shape_text(given)}-output:{pooled}",
                    f"{head}-input:{pooled}-output:{shape_text(gives)}",
                ),
            )
        key = f"{head}-input:{shape_text(given)}-output:{shape_text(gives)}"
        self.operations.append(Operation(key, nn.Sequential(*parts), given, conditions, names))


def _values(space: MobileNetV2Space, label: str) -> Iterator[tuple[Any, Conditions]]:
    """Each value of what may be a choice, and when it is the one."""
    some = space.shapes[label]
    for value in some:
        yield value, ((label, (str(value),)),) if len(some) > 1 else ()


def _halved(size: Size, stride: int) -> Size:
    return tuple(math.ceil(side / stride) for side in size)


def _choices(space: MobileNetV2Space) -> dict[str, Any]:
    return {module.label: module for module in space.modules() if isinstance(module, LayerChoice)}


def _stem(space: MobileNetV2Space, width: int, stride: int) -> tuple[nn.Module, nn.Module]:
    with torch.device("meta"):  # no memory, and no random number
        conv, norm = create_conv2d(space.in_channels, width, 3, stride=stride), norm_act(width, inplace=True)
    return narrowed(space.conv_stem, conv), narrowed(space.bn1, norm)


def _first_block(space: MobileNetV2Space, width: int) -> nn.Module:
    with torch.device("meta"):
        fresh = DepthwiseSeparableConv(width, space.layout["first_width"], 3, act_layer=nn.ReLU6, norm_layer=norm_layer)
    return narrowed(cast(Any, space.blocks)[0][0], fresh)


def _block(
    space: MobileNetV2Space, choices: Mapping[str, Any], stage: int, i: int, name: str, width: int, out: int
) -> nn.Module:
    definition = space.definition_in(stage, i, name, out)
    assert definition is not None
    with torch.device("meta"):
        fresh = make_block(definition, width)
    return narrowed(choices[f"stage{stage}.{i}"][name], fresh)


def _head(space: MobileNetV2Space, width: int) -> nn.Module:
    with torch.device("meta"):
        fresh = create_conv2d(width, space.layout["feature_mix"], 1)
    return narrowed(space.conv_head, fresh)
