"""Operations of a space with choices of values: an operation is another one for each combination of the values that change it.

    values of all choices -> space with plain layers of these values -> :class:`.tracing.Trace` -> operations, always as many

An operation depends on the choices that are arguments of its layers, and on others that change what it is given. It is traced with all
combinations of them, as many operations in one run as go together. Where a random network then has another operation than its choices
say, one choice after the other is changed on the way to that network, and the one with which the operation changes is one more that
it depends on; until 16 random networks in a row are as they should be.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, ParametrizedModule
from torch import Tensor, nn

from ..core.nni_compat import freeze_arguments
from .operation import Conditions, Operation, Shape, traced

__all__ = ["is_open", "operations_by_value"]

MOST_COMBINATIONS = 4096
CHECKS = 16

Combination = tuple[tuple[str, Any], ...]
"""(label, value) pairs."""


def operations_by_value(space: ModelSpace, input_shape: Shape) -> list[Operation]:
    """All operations of a space in which arguments of modules are choices; see :func:`.operation.trace_operations`.

    Raises
    ------
    ValueError
        An operation depends on more than 4,096 combinations of values; or which operations a network has depends on its values.
    """
    traces, chance = _Traces(space, input_shape), random.Random(0)
    base = {label: values[0] for label, values in traces.choices.items()}
    depends = [traces.own_labels(op) for op in traces.run(base)]
    found = _all_combinations(traces, base, depends, [{} for _ in depends])
    agreed = 0
    while agreed < CHECKS:
        values = {label: chance.choice(of_label) for label, of_label in traces.choices.items()}
        operations = traces.run(values)
        wrong = [i for i, op in enumerate(operations) if op.key != found[i][_of(values, depends[i])].key]
        agreed = 0 if wrong else agreed + 1
        if wrong:
            _look_closer(traces, {**base, **dict(_of(values, depends[wrong[0]]))}, values, depends)
            found = _all_combinations(traces, base, depends, found)
    return [
        replace(op, conditions=conditions)
        for combinations in found
        for combination, op in combinations.items()
        if (conditions := _both(combination, op.conditions)) is not None
    ]


def _look_closer(traces: _Traces, start: dict[str, Any], end: Mapping[str, Any], depends: list[set[str]]) -> None:
    """Change one choice after the other, and note which operations change with it."""
    before = traces.run(start)
    for label in (label for label in start if start[label] != end[label]):
        start[label] = end[label]
        after = traces.run(start)
        for i, (one, two) in enumerate(zip(before, after, strict=True)):
            if one.key != two.key:
                depends[i].add(label)
        before = after


def _all_combinations(
    traces: _Traces, base: Mapping[str, Any], depends: list[set[str]], known: list[dict[Combination, Operation]]
) -> list[dict[Combination, Operation]]:
    """Each operation with all combinations of its choices; what is known of one whose choices are the same stays."""
    missing: list[dict[Combination, None]] = []
    found: list[dict[Combination, Operation]] = []
    for labels, of_operation in zip(depends, known, strict=True):
        values = [[(label, value) for value in traces.choices[label]] for label in sorted(labels)]
        combinations = dict.fromkeys(itertools.islice(itertools.product(*values), MOST_COMBINATIONS + 1))
        if len(combinations) > MOST_COMBINATIONS:
            raise ValueError(
                f"an operation depends on more than {MOST_COMBINATIONS} combinations of {', '.join(map(repr, sorted(labels)))}, and the "
                "space has no latency here; allowed: fewer values, or fewer choices for one layer"
            )
        same = combinations.keys() == of_operation.keys()
        missing.append({} if same else combinations)
        found.append(of_operation if same else {})
    while any(missing):
        together: dict[str, Any] = {}
        for combinations in missing:
            together.update(next((c for c in combinations if all(together.get(k, v) == v for k, v in c)), ()))
        values_now = {**base, **together}
        for i, op in enumerate(traces.run(values_now)):
            combination = _of(values_now, depends[i])
            if combination in missing[i]:
                del missing[i][combination]
                found[i][combination] = op
    return found


def _of(values: Mapping[str, Any], labels: Iterable[str]) -> Combination:
    return tuple((label, values[label]) for label in sorted(labels))


def _both(combination: Combination, conditions: Conditions) -> Conditions | None:
    """When both hold; None if never: a label may stand for a value and for a candidate."""
    found: dict[str, tuple[Any, ...]] = {label: (value,) for label, value in combination}
    for label, choices in conditions:
        found[label] = tuple(choice for choice in found.get(label, choices) if choice in choices)
    return tuple(found.items()) if all(found.values()) else None


class _Traces:
    """Traces of one space with various values; in the place of its modules with open arguments stand plain ones.

    Attributes
    ----------
    choices
        Label -> values of all choices that are arguments of modules.
    """

    def __init__(self, space: ModelSpace, input_shape: Shape):
        self._space, self._input_shape = space, input_shape
        self._open = {name: m for name, m in space.named_modules() if is_open(m)}
        leaves = {str(k): m for module in self._open.values() for x in module.mutables for k, m in x.simplify().items()}
        self.choices: dict[str, tuple[Any, ...]] = {label: tuple(leaves[label].values) for label in sorted(leaves)}
        self._apart = {m for m in space.modules() if not _is_block(m) and any(map(is_open, m.modules()))}
        self._labels: dict[nn.Module, set[str]] = {}
        self._made: dict[tuple[str, Combination], nn.Module] = {}
        self._n_operations: int | None = None
        self._shared = torch.zeros(0)

    def run(self, values: Mapping[str, Any]) -> list[Operation]:
        """The operations of the networks with these values, label -> value."""
        for name, module in self._open.items():
            parent, _, last = name.rpartition(".")
            setattr(self._space.get_submodule(parent), last, self._with(name, module, values))
        operations = traced(self._space, self._input_shape, self._apart)
        if self._n_operations not in (None, len(operations)):
            raise ValueError(
                f"which operations a network has depends on {dict(values)}, and the space has no latency here"
            )
        self._n_operations = len(operations)
        return [replace(op, module=self._as_it_is(op.module)) for op in operations]

    def own_labels(self, operation: Operation) -> set[str]:
        """Of the choices that are arguments of its layers."""
        return set().union(*(self._labels.get(m, ()) for m in operation.module.modules()))

    def _with(self, name: str, module: Any, values: Mapping[str, Any]) -> nn.Module:
        labels = {str(label) for mutable in module.mutables for label in mutable.simplify()}
        chosen = tuple((label, values[label]) for label in sorted(labels))
        if (name, chosen) not in self._made:
            with torch.device("meta"):
                made = freeze_arguments(module, dict(chosen))
            state = {key: self._like(tensor) for key, tensor in made.state_dict().items()}
            made.load_state_dict(state, assign=True)
            self._made[name, chosen] = made.train(module.training)
            self._labels[made] = labels
        return self._made[name, chosen]

    def _as_it_is(self, module: nn.Module) -> nn.Module:
        """The module; of one that will hold layers of other values in the next run, a copy with those of now."""
        if module in self._labels or not any(m in self._labels for m in module.modules()):
            return module
        copied = copy.copy(module)
        copied._modules = {name: self._as_it_is(child) for name, child in module.named_children()}
        return copied

    def _like(self, tensor: Tensor) -> Tensor:
        """A tensor of that shape in memory that all share: weights of an operation do not matter."""
        if not tensor.is_floating_point():
            return torch.zeros_like(tensor, device="cpu")
        if self._shared.numel() < tensor.numel():
            self._shared = torch.full((2 * tensor.numel(),), 0.01)
        return self._shared[: tensor.numel()].view(tensor.shape)


def is_open(module: Any) -> bool:
    """Whether arguments of a module are choices."""
    return isinstance(module, ParametrizedModule) and bool(module.mutables)


def _is_block(module: nn.Module) -> bool:
    """Whether a module is a sequence of layers with a name of its own, such as a convolution with its norm: one operation."""
    return (
        type(module).forward is nn.Sequential.forward
        and type(module) is not nn.Sequential
        and not any(isinstance(m, LayerChoice) for m in module.modules())
    )
