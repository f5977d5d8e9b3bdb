"""The operations of a :class:`.TimmSpace` whose stages have several widths.

What a block costs depends on the width of its stage, and if it is the first, on that of the stage before. So the space is traced at widths of which every
pair of neighbors is one: stages take turns with two of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nni.nas.nn.pytorch import LayerChoice
from torch import nn

from nni_proxyless.core.own_copy import own_copy
from nni_proxyless.latency.operation import Conditions, Operation, Shape, traced

from .narrow import Narrow

if TYPE_CHECKING:
    from .timm_space import TimmSpace

__all__ = ["operations_by_width"]


def operations_by_width(space: TimmSpace, input_shape: Shape) -> list[Operation]:
    """All operations of the space, with the conditions under which a network has them."""
    found: dict[tuple[str, Conditions], list[Operation]] = {}
    most = max(map(len, space.widths))
    for pair in itertools.product(range(most), repeat=2):
        sample = {}
        turns = itertools.cycle(pair)
        for s, some in enumerate(space.widths):
            if len(some) > 1:
                sample[f"stage{s}.width"] = str(some[next(turns) % len(some)])
        closed = _at_widths(space, sample)
        of_stage = _conditions(space, closed, sample)
        here: dict[tuple[str, Conditions], list[Operation]] = {}
        # Down to the blocks, of which some or all may have no choice but that of the width.
        apart = [closed.network, closed.network.blocks, *closed.network.blocks]
        for operation in traced(closed, input_shape, apart):
            conditions = (*of_stage.get(id(operation.module), ()), *operation.conditions)
            here.setdefault((operation.key, conditions), []).append(replace(operation, conditions=conditions))
        for which, operations in here.items():  # equal blocks without choices count as often as they are there
            found[which] = max(found.get(which, []), operations, key=len)
    return [operation for operations in found.values() for operation in operations]


def _at_widths(space: TimmSpace, sample: Mapping[str, str]) -> Any:
    """The space with these widths alone, whose memory it shares; its choices are those of the blocks."""
    closed: Any = own_copy(space)
    network: Any = own_copy(closed.network)
    stages = [[block for block in stage if not _is_width(block)] for stage in network.blocks]
    space.narrow(network, stages, sample)
    network.blocks = nn.Sequential(*(nn.Sequential(*stage) for stage in stages))
    closed.network = network
    return closed


def _is_width(block: Any) -> bool:
    return isinstance(block, LayerChoice) and isinstance(block[block.names[0]], Narrow)


def _conditions(space: TimmSpace, closed: Any, sample: Mapping[str, str]) -> dict[int, Conditions]:
    """The widths on which a module's cost depends, by the module's id."""
    found: dict[int, Conditions] = {}
    now: Conditions = ()
    stages: Any = closed.network.blocks
    for s, stage in enumerate(stages):
        before, label = now, f"stage{s}.width"
        if not space.ties[s]:
            now = ((label, (sample[label],)),) if label in sample else ()
        for i, block in enumerate(stage):
            conditions = tuple(dict.fromkeys((*before, *now))) if i == 0 else now
            found.update((id(module), conditions) for module in block.modules())
    for name, part in closed.network.named_children():
        if name not in ("conv_stem", "bn1", "blocks"):
            found.update((id(module), now) for module in part.modules())
    return found
