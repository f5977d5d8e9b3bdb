"""The sampled cell: NNI's ``Cell`` whose operations are made for each input that may be chosen, as in DARTS and ENAS.

A cell is a graph of nodes. A node i is a sum of operations; operation k of it is candidate o of choice ``op_i_k``, made for and
run on the state j of choice ``input_i_k``. States are the inputs of the cell and the nodes before i.

There is one module per node, input and candidate, which the operations of a node share (DARTS). Both gates of an operation
stay local: they are probed where it runs, the other one being what it is.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from nni.nas.nn.pytorch import Cell, recursive_freeze
from torch import Tensor, nn

from nni_proxyless.core.nni_compat import create_cell_op_candidates, model_context, preprocess_cell_inputs

from .gate import Gate
from .gate_gradient import versions
from .layers import Removed, SampledModule, n_weights

__all__ = ["SampledCell"]


class SampledCell(SampledModule):
    """A :class:`~nni.nas.nn.pytorch.Cell` with a factory of operations, which runs its sampled operations alone.

    With ``merge_op='loose_end'``, nodes that others have as inputs are 0 in the output, which so has one shape.
    """

    def __init__(self, cell: Cell, gates: Mapping[str, Gate]):
        super().__init__()
        self.num_nodes, self.num_ops_per_node = cell.num_nodes, cell.num_ops_per_node
        self.num_predecessors, self.merge_op, self.concat_dim = cell.num_predecessors, cell.merge_op, cell.concat_dim
        self.label, self.factory = cell.label, cell.op_candidates_factory
        self.preprocessor, self.postprocessor = cell.preprocessor, cell.postprocessor
        self.ops = nn.ModuleList()
        operations = []  # (gate of the candidate, gate of the input) of every operation, by node
        for ops, inputs in zip(cast(Any, cell.ops), cast(Any, cell.inputs), strict=True):
            operations.append([(gates[op.label], gates[chosen.label]) for op, chosen in zip(ops, inputs, strict=True)])
            for choice in (*ops, *inputs):
                self.add_mutable(choice.choice)
        self._set_gates({gate.label: gate for node in operations for both in node for gate in both})
        object.__setattr__(self, "operations", operations)
        for node in range(self.num_nodes):
            self._make_operations(node, cell)

    operations: list[list[tuple[Gate, Gate]]]

    def _make_operations(self, node: int, cell: Cell) -> None:
        index = self.num_predecessors + node
        with cell.label_scope:
            by_input = [nn.ModuleDict(create_cell_op_candidates(self.factory, index, 0, j)[0]) for j in range(index)]
        self.ops.append(nn.ModuleList(by_input))
        names = list(by_input[0])
        skips = [{o for o, op in enumerate(ops.values()) if type(op) is nn.Identity} for ops in by_input]
        sizes = [[n_weights(ops[name]) for name in names] for ops in by_input]
        for op_gate, input_gate in self.operations[node]:
            op_gate.add_layer(
                set.intersection(*skips), [sum(of_candidate) for of_candidate in zip(*sizes, strict=True)]
            )
            input_gate.add_layer(set(), [sum(of_input) for of_input in sizes])

    # -- running ---------------------------------------------------------------------------------------------------------

    def forward(self, *inputs: Any) -> Any:
        given = preprocess_cell_inputs(self.num_predecessors, *inputs)
        states = self.preprocessor(given)
        for node, operations in enumerate(self.operations):
            states.append(sum(self._run(node, *gates, states) for gates in operations))
        return self.postprocessor(self._merge(states), given)

    def _run(self, node: int, op_gate: Gate, input_gate: Gate, states: list[Tensor]) -> Tensor:
        """One operation of a node."""
        o, j = op_gate.take(), input_gate.take()
        x = states[j]
        before = versions(x)
        y = self._operation(node, j, o)(x)
        if op_gate.probing:
            self._check_inputs(op_gate, before, x)
            others = [None if i == o else self._operation(node, j, i) for i in op_gate.probed]
            skips = any(type(op) is nn.Identity for op in self._candidates(node, j))
            y = self._route(op_gate, y, others, (x,), {}, shift=skips and op_gate.shift)
        if input_gate.probing:
            self._check_inputs(input_gate, before, x)
            on_others = [None if i == j else self._on_state(node, i, o) for i in input_gate.probed]
            y = self._route(input_gate, y, on_others, (list(states),), {})
        return y

    def _candidates(self, node: int, j: int) -> list[nn.Module]:
        return list(cast(Any, self.ops[node])[j].values())

    def _operation(self, node: int, j: int, o: int) -> nn.Module:
        return self._candidates(node, j)[o]

    def _on_state(self, node: int, j: int, o: int) -> Callable:
        return lambda states: self._operation(node, j, o)(states[j])

    def _merge(self, states: list[Tensor]) -> Tensor:
        y = self._joined(self._loose(), states)
        if self.merge_op == "loose_end":
            for input_gate in dict.fromkeys(gate for node in self.operations for _, gate in node):
                if input_gate.probing:
                    probed = [self._loose({input_gate: j}) for j in input_gate.probed]
                    outputs: list[Callable | None] = [functools.partial(self._joined, loose) for loose in probed]
                    y = self._route(input_gate, y, outputs, (list(states),), {})
        return y

    def _loose(self, instead: Mapping[Gate, int] | None = None) -> list[int]:
        """Indices of the nodes in the output."""
        nodes = range(self.num_predecessors, self.num_predecessors + self.num_nodes)
        if self.merge_op == "all":
            return list(nodes)
        taken = {gate: gate.current for node in self.operations for _, gate in node} | dict(instead or {})
        return [node for node in nodes if node not in taken.values()]

    def _joined(self, loose: list[int], states: list[Tensor]) -> Tensor:
        nodes = list(enumerate(states))[self.num_predecessors :]
        return torch.cat([x if node in loose else torch.zeros_like(x) for node, x in nodes], self.concat_dim)

    # -- what is left ----------------------------------------------------------------------------------------------------

    def remove_unused_candidates(self) -> None:
        for node, operations in enumerate(self.operations):
            left = {(input_gate.most_probable(), op_gate.most_probable()) for op_gate, input_gate in operations}
            for j, candidates in enumerate(cast(Any, self.ops[node])):
                for o, name in enumerate(candidates):
                    if (j, o) not in left:
                        candidates[name] = Removed(self.label, "others")

    def freeze(self, sample: dict[str, Any]) -> Cell:
        """The cell of NNI with these choices, of the supernet's modules."""
        self.validate(sample)

        def from_supernet(name: str) -> Callable[[int, int, int], nn.Module]:
            return lambda index, _, j: cast(Any, self.ops[index - self.num_predecessors])[j][name]

        names = list(cast(Any, self.ops[0])[0])
        around = [recursive_freeze(module, sample)[0] for module in (self.preprocessor, self.postprocessor)]
        with model_context(sample):
            cell = Cell(
                {name: from_supernet(name) for name in names}, self.num_nodes, self.num_ops_per_node,
                self.num_predecessors, self.merge_op, *around, self.concat_dim, label=self.label,
            )  # fmt: skip
        cell.op_candidates_factory = self.factory
        for ops in cast(Any, cell.ops):
            for k, op in enumerate(list(ops)):
                twice = any(op is other for other in list(ops)[:k])
                ops[k] = recursive_freeze(copy.deepcopy(op) if twice else op, sample)[0]
        return cell

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> SampledCell | None:
        """NNI's mutation hook: replaces a plain ``Cell`` with a factory; one of modules is left to its choices."""
        if type(module) is not Cell or not isinstance(module.op_candidates_factory, (list, dict)):
            return None
        return cls(module, memo)
