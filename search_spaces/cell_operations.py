"""The operations of all networks of NNI's spaces of cells (``NDS``), and when a network has them.

An operation of a node is made for its input, so it hangs on two choices. What else differs from network to network is where a cell
takes its inputs: ``pre0``, ``pre1`` and the classifier follow the last cells that the depth has left, and have as many input channels
as those cells have loose ends. A loose end is a node that no later one has chosen. So what a loose end adds to a convolution behind it
is an operation of its own, under the condition that none of these inputs is that node. The last node always is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from nni.mutable import Mutable
from torch import nn

from nni_proxyless.core.nni_compat import FactorizedReduce, ReLUConvBN
from nni_proxyless.latency.choices import InputSet
from nni_proxyless.latency.operation import Conditions, Operation, Shape, describe, floating_type, is_free

__all__ = ["operations_of_cells"]

Size = tuple[int, ...]
"""Height and width."""

Place = tuple[int, int]
"""Stage, and cell in it."""


@dataclass(frozen=True)
class _Output:
    """What a cell gives, so many channels per node; or a stem, whose ``cell`` is None."""

    width: int
    size: Size
    cell: str | None = None


def operations_of_cells(space: Any, input_shape: Shape) -> list[Operation]:
    """All operations of an ``NDS`` whose width is a number, with the conditions under which a network has them."""
    with torch.random.fork_rng(devices=[]):
        return list(_Cells(space, input_shape).operations())


class _Cells:
    """Where the cells of a space stand, what they are given, and what follows them."""

    def __init__(self, space: Any, input_shape: Shape):
        self.space, self.input_shape = space, input_shape
        self.cells = {cell.label: cell for stage in space.stages for cell in stage.blocks}
        depth = space.num_cells
        self.depths: list[Any] = list(depth.values) if isinstance(depth, Mutable) else [depth]
        self.stems = list(self._stems())
        self._made: dict[tuple[Any, ...], nn.Module] = {}

    def operations(self) -> Iterator[Operation]:
        for stem, shape, output in self.stems:
            yield self._operation(stem, shape, (output.width, *output.size), ())
        for s, stage in enumerate(self.space.stages):
            for i in range(len(stage.blocks)):
                yield from self._nodes((s, i))
        for (layer, width, output, _), depths in self._followers().items():
            yield from self._behind(layer, width, output, self._at(depths))

    # -- places ----------------------------------------------------------------------------------------------------------

    def _stems(self) -> Iterator[tuple[nn.Module, Shape, _Output]]:
        _, *size = self.input_shape
        if self.space.dataset == "cifar":
            yield self.space.stem, self.input_shape, _Output(self.space.stem[0].out_channels, tuple(size))
            return
        first, second = self.space.stem0, self.space.stem1
        middle = _Output(first[3].out_channels, _halved(_halved(tuple(size))))
        yield first, self.input_shape, middle
        yield second, (middle.width, *middle.size), _Output(second[1].out_channels, _halved(middle.size))

    def _places(self, depth: Any) -> list[Place]:
        """The cells of a network of that depth."""
        counts = [stage.depth_choice for stage in self.space.stages]
        counts = [count.freeze({"depth": depth}) if isinstance(count, Mutable) else count for count in counts]
        return [(s, i) for s, count in enumerate(counts) for i in range(count)]

    def _output(self, place: Place) -> _Output:
        s, i = place
        size = self.stems[-1][2].size
        for _ in range(s):
            size = _halved(size)
        return _Output(self.space.width * 2**s, size, "reduce" if s > 0 and i == 0 else "normal")

    def _at(self, depths: list[Any]) -> Conditions:
        return () if len(depths) == len(self.depths) else (("depth", tuple(depths)),)

    # -- cells -----------------------------------------------------------------------------------------------------------

    def _nodes(self, place: Place) -> Iterator[Operation]:
        """The operations of the nodes of a cell."""
        output = self._output(place)
        cell: Any = self.cells[output.cell]
        reached = self._at([depth for depth in self.depths if place in self._places(depth)])
        reduces = output.cell == "reduce"
        given = self._output((place[0] - 1, 0)).size if reduces else output.size
        for node, (ops, inputs) in enumerate(zip(cell.ops, cell.inputs, strict=True), cell.num_predecessors):
            for op, chosen in zip(ops, inputs, strict=True):
                for name in op.names:
                    for j in range(node):
                        from_outside = j < cell.num_predecessors
                        size = given if from_outside else output.size
                        key = (output.width, reduces and from_outside, name)
                        if key not in self._made:
                            made = self.space.stages[place[0]].blocks[place[1]].op_candidates_factory
                            self._made[key] = made[name](node, 0, j)
                        module = self._made[key]
                        conditions = (*reached, (op.label, (name,)), (chosen.label, (InputSet((j,)),)))
                        if not is_free(module):
                            yield self._operation(
                                module, (output.width, *size), (output.width, *output.size), conditions
                            )

    def _loose(self, label: str, node: int) -> Conditions:
        """When a node, the first being 0, is in the output of a cell."""
        cell = self.cells[label]
        index = node + cell.num_predecessors
        later: Any = list(enumerate(cell.inputs, cell.num_predecessors))[node + 1 :]
        return tuple(
            (chosen.label, tuple(InputSet((j,)) for j in range(i) if j != index))
            for i, inputs in later
            for chosen in inputs
        )

    # -- what follows a cell -----------------------------------------------------------------------------------------------

    def _followers(self) -> dict[tuple[str, int, _Output, tuple[int, ...]], list[Any]]:
        """What follows which output where, with how many channels of its own -> in networks of which depths."""
        found: dict[tuple[str, int, _Output, tuple[int, ...]], list[Any]] = {}
        stems = [self.stems[0][2], self.stems[-1][2]]
        for depth in self.depths:
            places = self._places(depth)
            chain = [*stems, *map(self._output, places)]
            for place, older, newer in zip(places, chain, chain[1:], strict=False):
                width = self._output(place).width
                halves = newer.cell == "reduce" or (newer.cell is None and len(self.stems) > 1)
                found.setdefault(("halve" if halves else "keep", width, older, (*place, 0)), []).append(depth)
                found.setdefault(("keep", width, newer, (*place, 1)), []).append(depth)
            found.setdefault(("classify", self.space.num_labels, chain[-1], ()), []).append(depth)
        return found

    def _behind(self, layer: str, width: int, output: _Output, conditions: Conditions) -> Iterator[Operation]:
        n_nodes = self.space.num_nodes_per_cell
        loose = output.cell is not None and self.space.merge_op == "loose_end"
        channels = output.width * (1 if loose or output.cell is None else n_nodes)
        whole, parts = _layers(layer, channels, width)
        gives = (
            (width,) if layer == "classify" else (width, *(output.size if layer == "keep" else _halved(output.size)))
        )
        yield self._operation(whole, (channels, *output.size), gives, conditions)
        if not loose:
            return
        for node in range(n_nodes - 1):
            for part in parts:
                shape = (channels,) if layer == "classify" else (channels, *output.size)
                out = (width // len(parts), *gives[1:])
                yield self._operation(part, shape, out, (*conditions, *self._loose(output.cell or "", node)))

    def _operation(self, module: nn.Module, given: Shape, gives: Shape, conditions: Conditions) -> Operation:
        device, dtype = floating_type(self.space)
        module = module.to(device, dtype).train(self.space.training)
        return Operation(describe(module, given, gives), module, given, conditions)


def _layers(layer: str, channels: int, width: int) -> tuple[nn.Module, list[nn.Module]]:
    """A layer behind a cell, and what it computes more for so many channels more."""
    if layer == "classify":
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, width))
        return pool, [nn.Linear(channels, width, bias=False)]
    if layer == "halve":
        half = nn.Conv2d(channels, width // 2, 1, stride=2, bias=False)
        return FactorizedReduce(channels, width), [half, half]
    return ReLUConvBN(channels, width, 1, 1, 0), [nn.Conv2d(channels, width, 1, bias=False)]


def _halved(size: Size) -> Size:
    return tuple((side + 1) // 2 for side in size)
