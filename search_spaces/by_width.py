"""A space whose stages choose their widths: its networks, and the operations of all of them.

A block's cost depends on up to three choices: the width of its stage, that of the stage before if it is the first, and the block's own. So
its operations are those of timm's blocks of every pair of widths, under conditions on these labels; they cannot be found by running the
space once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from nni.nas.nn.pytorch import LayerChoice
from timm.layers import create_conv2d
from torch import nn

from nni_proxyless.latency.operation import Conditions, Operation, Shape, describe, other_names, shape_text

from .blocks import SKIP, make_block
from .narrow import narrowed

if TYPE_CHECKING:
    from .mobilenetv2 import MobileNetV2Space

__all__ = ["blocks_by_width", "operations_by_width"]


def blocks_by_width(space: MobileNetV2Space, sample: Mapping[str, Any]) -> tuple[list[list[nn.Module]], nn.Module]:
    """The blocks of an architecture, stage by stage, and the convolution behind them; they share the space's memory."""
    blocks: Any = space.blocks
    choices, stages = _choices(space), [list(blocks[0])]
    width = space.layout["first_width"]
    for s, depth in enumerate(space.layout["depths"], 1):
        stage, out = [], space.width_in(sample, s)
        for i in range(depth):
            name = str(sample[f"stage{s}.{i}"])
            if name != SKIP:
                stage.append(_block(space, choices, s, i, name, width, out))
            width = out
        stages.append(stage)
    return stages, _head(space, width)


def operations_by_width(space: MobileNetV2Space, input_shape: Shape) -> list[Operation]:
    """All operations of the space, with the conditions under which a network has them."""
    layout, choices, blocks = space.layout, _choices(space), cast(Any, space.blocks)
    _, *size = input_shape
    found: list[Operation] = []

    def shape(channels: int) -> Shape:
        return (channels, *size)

    def halve(stride: int) -> None:
        size[:] = [math.ceil(side / stride) for side in size]

    def group(head: str, parts: list[Any], given: Shape, gives: Shape, conditions: Conditions = ()) -> None:
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
        found.append(Operation(key, nn.Sequential(*parts), given, conditions, names))

    def block(module: nn.Module, given: Shape, gives: Shape, conditions: Conditions) -> None:
        names = other_names(module, given, gives)
        found.append(Operation(describe(module, given, gives), module, given, conditions, names))

    halve(layout["stem_stride"])
    group("Conv", [space.conv_stem, space.bn1], input_shape, shape(layout["stem_width"]))
    block(blocks[0][0], shape(layout["stem_width"]), shape(layout["first_width"]), ())
    before: list[tuple[int, Conditions]] = [(layout["first_width"], ())]
    for s, depth in enumerate(layout["depths"], 1):
        now = list(_widths(space, s))
        for i in range(depth):
            inputs, given = before if i == 0 else now, tuple(size)
            if i == 0:
                halve(layout["strides"][s - 1])
            pairs = [(one, two) for one in inputs for two in now if i == 0 or one == two]
            for name in choices[f"stage{s}.{i}"].names:
                for (width, if_width), (out, if_out) in pairs if name != SKIP else ():
                    conditions = (*dict.fromkeys((*if_width, *if_out)), (f"stage{s}.{i}", (name,)))
                    module = _block(space, choices, s, i, name, width, out)
                    block(module, (width, *given), shape(out), conditions)
        before = now
    features = layout["feature_mix"]
    for width, if_width in before:
        group("Conv_1", [_head(space, width), space.bn2], shape(width), shape(features), if_width)
    group("Logits", [space.global_pool, space.classifier], shape(features), (space.num_classes,))
    return found


def _widths(space: MobileNetV2Space, stage: int) -> Iterator[tuple[int, Conditions]]:
    """Each width of a stage, and when it is the one."""
    some = space.widths[stage - 1]
    for width in some:
        yield width, ((f"stage{stage}.width", (str(width),)),) if len(some) > 1 else ()


def _choices(space: MobileNetV2Space) -> dict[str, Any]:
    return {module.label: module for module in space.modules() if isinstance(module, LayerChoice)}


def _block(
    space: MobileNetV2Space, choices: Mapping[str, Any], stage: int, i: int, name: str, width: int, out: int
) -> nn.Module:
    definition = space.definition_in(stage, i, name, out)
    assert definition is not None
    with torch.device("meta"):  # no memory, and no random number
        fresh = make_block(definition, width)
    return narrowed(choices[f"stage{stage}.{i}"][name], fresh)


def _head(space: MobileNetV2Space, width: int) -> nn.Module:
    with torch.device("meta"):
        fresh = create_conv2d(width, space.layout["feature_mix"], 1)
    return narrowed(space.conv_head, fresh)
