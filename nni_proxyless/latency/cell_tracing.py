"""Cells whose operations are made for each input: one module that runs all of them, for a trace.

Of NNI's ``Cell`` with a factory, the operations that a network has hang on the inputs that are chosen, and no run of the space shows
them. In a run of :class:`OpenCell`, each node tries each operation on each input that it may have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from nni.nas.nn.pytorch import Cell, MutableModule
from torch import Tensor, nn

from ..core.nni_compat import create_cell_op_candidates, preprocess_cell_inputs
from .calls import shape_text
from .choices import InputSet
from .operation import Conditions

__all__ = ["OpenCell", "open_cells"]


class OpenCell(MutableModule):
    """A :class:`~nni.nas.nn.pytorch.Cell` with all operations of its nodes, each made for its input.

    Raises
    ------
    ValueError
        When it runs: operations of a node differ in the shape of what they give.
    """

    def __init__(self, cell: Any):
        super().__init__()
        self.label, self.concat_dim, self.num_predecessors = cell.label, cell.concat_dim, cell.num_predecessors
        self.preprocessor, self.postprocessor = cell.preprocessor, cell.postprocessor
        self.nodes = nn.ModuleList()
        self._conditions: dict[nn.Module, list[Conditions]] = {}
        for node, (ops, inputs) in enumerate(zip(cell.ops, cell.inputs, strict=True), self.num_predecessors):
            for choice in (*ops, *inputs):
                self.add_mutable(choice.choice)
            by_input = nn.ModuleList()
            for j in range(node):
                with cell.label_scope:
                    made, _ = create_cell_op_candidates(cell.op_candidates_factory, node, 0, j)
                by_input.append(nn.ModuleDict(made))
                for name, operation in made.items():
                    self._conditions[operation] = [
                        ((op.label, (name,)), (chosen.label, (InputSet((j,)),)))
                        for op, chosen in zip(ops, inputs, strict=True)
                    ]
            self.nodes.append(by_input)

    def conditions_of(self, module: nn.Module) -> list[Conditions]:
        """When a module that the cell calls is part of a network: once for each operation of its node."""
        return self._conditions.get(module, [()])

    def forward(self, *inputs: Any) -> Any:
        given = preprocess_cell_inputs(self.num_predecessors, *inputs)
        states = self.preprocessor(given)
        first = len(states)
        for by_input in cast(Any, self.nodes):
            found = [op(x) for x, operations in zip(states, by_input, strict=True) for op in operations.values()]
            states.append(self._of_one_shape(found, len(states)))
        return self.postprocessor(torch.cat(states[first:], self.concat_dim), given)

    def _of_one_shape(self, found: list[Tensor], node: int) -> Tensor:
        shapes = dict.fromkeys(shape_text(tuple(y.shape[1:])) for y in found)
        if len(shapes) > 1:
            raise ValueError(
                f"cell {self.label!r}: operations of node {node} give {', '.join(shapes)}; allowed: the same shape"
            )
        return found[0]


@contextmanager
def open_cells(space: nn.Module) -> Iterator[None]:
    """Inside, an :class:`OpenCell` stands in the place of every cell whose operations are made for each input."""
    opened: dict[Any, OpenCell] = {}
    replaced = []
    with torch.random.fork_rng(devices=[]):  # the weights of operations do not matter
        for parent in list(space.modules()):
            children: dict[str, Any] = parent._modules
            for name, cell in children.items():
                if type(cell) is Cell and isinstance(cell.op_candidates_factory, (list, dict)):
                    if cell not in opened:
                        opened[cell] = OpenCell(cell).train(cell.training)
                    replaced.append((parent, name, cell))
    for parent, name, cell in replaced:
        parent._modules[name] = opened[cell]
    try:
        yield
    finally:
        for parent, name, cell in replaced:
            parent._modules[name] = cell
