"""The sampled supernet: modules that run one candidate out of many, by the gate of their label.

===========================  ============================================================================
:class:`SampledLayer`        ``LayerChoice``: one of N modules
:class:`SampledInput`        ``InputChoice``: one of N sets of inputs
:class:`SampledRepeat`       ``Repeat``: one of N depths
:class:`.cells.SampledCell`  ``Cell`` whose operations are made for each input
===========================  ============================================================================

Symbols as in :mod:`..estimators`. Candidates keep their names, so the supernet's ``state_dict`` names every weight as
the model space does. Gates are deliberately no submodules: their logits must never reach the optimizer of the weights.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nni.mutable import Categorical, CategoricalMultiple, Mutable
from nni.nas.nn.pytorch import InputChoice, LayerChoice, Repeat
from torch import nn

from nni_proxyless.core.nni_compat import BaseSuperNetModule, ChosenInputs
from nni_proxyless.latency.choices import check_values, input_sets

from .gate import Gate
from .gate_gradient import route_gate_gradients, tensors_in, versions

__all__ = [
    "Removed",
    "SampledInput",
    "SampledLayer",
    "SampledModule",
    "SampledRepeat",
    "choices_of",
    "n_weights",
    "remove_unused_candidates",
]

MOST_INPUT_SETS = 256


def choices_of(label: str, mutable: Any) -> list[Any]:
    """The N choices behind one label: values of a ``Categorical``, each an :class:`InputSet` of a
    ``CategoricalMultiple``.

    Raises
    ------
    TypeError
        Neither of the two, values that cannot be told apart, or more than 256 sets of inputs.
    """
    check_values(label, mutable)
    if isinstance(mutable, Categorical):  # ValueChoice is one
        return list(mutable.values)
    if type(mutable) is CategoricalMultiple:
        values = mutable.values
        sets = list(itertools.islice(input_sets(mutable), MOST_INPUT_SETS + 1))
        if len(sets) > MOST_INPUT_SETS:
            raise TypeError(
                f"choice {label!r} has more than {MOST_INPUT_SETS} sets of inputs ({len(values)} inputs, n_chosen "
                f"{mutable.n_chosen}); allowed: up to {MOST_INPUT_SETS}"
            )
        return sets
    raise TypeError(
        f"choice {label!r} is a {type(mutable).__name__}; allowed: the choices of LayerChoice, InputChoice and Repeat"
    )


class SampledModule(BaseSuperNetModule):
    """What the sampled modules share: their gates, by label, and NNI's questions about them."""

    def _set_gates(self, gates: Mapping[str, Gate]) -> None:
        object.__setattr__(self, "gates", dict(gates))
        # Until an architecture step has shown that nothing works in place behind any call of this module.
        self._copy, self._changed = True, False

    gates: dict[str, Gate]

    @property
    def gate(self) -> Gate:
        """The gate of a module with one label."""
        (gate,) = self.gates.values()
        return gate

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        for label, gate in self.gates.items():
            if label not in memo:
                gate.sample_path()
        return {label: gate.value(gate.current) for label, gate in self.gates.items()}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        return {label: gate.value(gate.most_probable()) for label, gate in self.gates.items()}

    def export_probs(self, memo: dict[str, Any]) -> dict[str, dict[Any, float]]:
        return {
            label: dict(zip(gate.choices, gate.probs().tolist(), strict=True)) for label, gate in self.gates.items()
        }

    def remove_unused_candidates(self) -> None:
        """Remove everything that the fixed choice does not need."""

    def _route(
        self,
        gate: Gate,
        y: Any,
        outputs: Sequence[Callable | None],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        shift: bool = False,
    ) -> Any:
        if not tensors_in(y):
            raise TypeError(f"choice {gate.label!r}: candidate {gate.choices[gate.current]!r} returns no tensor: {y!r}")
        assert gate.variables is not None
        return route_gate_gradients(
            gate.variables, y, outputs, args, kwargs, shift=shift, copy=self._copy, report=self._report
        )

    def _report(self, changed: bool) -> None:
        self._changed = self._changed or changed
        self._copy = self._changed

    def _check_inputs(self, gate: Gate, before: list[int], *values: Any) -> None:
        if versions(values) != before:
            raise TypeError(
                f"choice {gate.label!r}: candidate {gate.choices[gate.current]!r} changes its input in place, which falsifies "
                "what the others are measured on; use inplace=False in its first layer"
            )


def n_weights(module: nn.Module) -> int:
    """Number of weights of a module, those of its candidates among them."""
    return sum(p.numel() for p in module.parameters())


class Removed(nn.Module):
    """Takes the place of a candidate that was removed because its choice is fixed to another one."""

    def __init__(self, label: str, fixed_to: Any):
        super().__init__()
        self.label, self.fixed_to = label, fixed_to

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"candidate was removed: choice {self.label!r} is fixed to {self.fixed_to!r}")


def remove_unused_candidates(supernet: nn.Module) -> None:
    """Remove all candidates that no fixed choice needs, and nothing else."""
    for module in list(supernet.modules()):
        if isinstance(module, SampledModule) and all(gate.fixed for gate in module.gates.values()):
            module.remove_unused_candidates()


class SampledLayer(LayerChoice, SampledModule):
    """A :class:`~nni.nas.nn.pytorch.LayerChoice` that runs only its active candidate.

    Candidates may take any arguments, and return a tensor or tensors in lists, tuples and dicts.
    """

    def __init__(self, candidates: dict[str, nn.Module] | list[nn.Module], gate: Gate, label: str):
        super().__init__(candidates, label=label)
        self._set_gates({label: gate})
        skips = {j for j, name in enumerate(self.names) if type(self[name]) is nn.Identity}
        # Where a skip is among the candidates, all gate gradients are taken against it (see route_gate_gradients).
        self._has_skip = bool(skips)
        gate.add_layer(skips, [n_weights(self[name]) for name in self.names])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        gate = self.gate
        active = gate.take()
        before = versions((args, kwargs))
        y = self._candidate(active)(*args, **kwargs)
        if not gate.probing:
            return y
        self._check_inputs(gate, before, args, kwargs)
        outputs: list[Callable | None] = [None if j == active else self._candidate(j) for j in gate.probed]
        return self._route(gate, y, outputs, args, kwargs, shift=self._has_skip and gate.shift)

    def remove_unused_candidates(self) -> None:
        fixed = self.gate.most_probable()
        for j, name in enumerate(self.names):
            if j != fixed:
                self[name] = Removed(self.label, self.gate.choices[fixed])

    def _candidate(self, index: int) -> nn.Module:
        return self[self.names[index]]

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> SampledLayer | None:
        """NNI's mutation hook: replaces a plain ``LayerChoice``, leaves everything else to the next hook."""
        if type(module) is not LayerChoice:
            return None
        choice: Any = module
        return cls(choice.candidates, memo[choice.label], choice.label)


class SampledInput(InputChoice, SampledModule):
    """An :class:`~nni.nas.nn.pytorch.InputChoice` that takes only its active set of inputs.

    A candidate is a *set* of ``n_chosen`` inputs, so that choosing two out of four is a choice among six, exactly.
    """

    def __init__(self, n_candidates: int, n_chosen: int | None, reduction: Any, gate: Gate, label: str):
        super().__init__(n_candidates, n_chosen=n_chosen, reduction=reduction, label=label)
        self._set_gates({label: gate})
        gate.add_layer(set())

    def forward(self, candidate_inputs: Any) -> Any:
        gate = self.gate
        if len(candidate_inputs) != self.n_candidates:
            raise ValueError(
                f"choice {gate.label!r}: {self.n_candidates} inputs expected, {len(candidate_inputs)} given"
            )
        active = gate.take()
        y = self._reduce(active, candidate_inputs)
        if not gate.probing:
            return y
        outputs: list[Callable | None] = [
            None if j == active else functools.partial(self._reduce, j) for j in gate.probed
        ]
        return self._route(gate, y, outputs, (candidate_inputs,), {})

    def _reduce(self, index: int, inputs: Any) -> Any:
        return ChosenInputs._tensor_reduction(self.reduction, [inputs[i] for i in self.gate.choices[index]])

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> SampledInput | None:
        """NNI's mutation hook: replaces a plain ``InputChoice``."""
        if type(module) is not InputChoice:
            return None
        choice: Any = module
        return cls(choice.n_candidates, choice.n_chosen, choice.reduction, memo[choice.label], choice.label)


class SampledRepeat(Repeat, SampledModule):
    """A :class:`~nni.nas.nn.pytorch.Repeat` that runs only the first blocks, as many as its active depth.

    The depth may be an expression over several labels; each label's gate is probed with the others as they are.
    """

    def __init__(self, blocks: list[nn.Module], depth: Any, gates: Mapping[str, Gate]):
        super().__init__(blocks, depth)
        self._set_gates(gates)
        for gate in gates.values():
            if len(gates) > 1:  # then no value of this label says by itself what the depth is
                gate.add_layer(set())
                continue
            depths = [depth.freeze({gate.label: value}) for value in gate.choices]
            gate.add_layer(
                {j for j, d in enumerate(depths) if d == 0},
                [sum(n_weights(b) for b in self.blocks[:d]) for d in depths],
            )

    def forward(self, x: Any) -> Any:
        for gate in self.gates.values():
            gate.take()
        depth = self._depth({})
        before = versions(x)
        last = self._run(0, depth, x)
        y = self._finish(depth, last)
        probing = [gate for gate in self.gates.values() if gate.probing]
        for gate in probing:
            self._check_inputs(gate, before, x)
            depths = [self._depth({gate.label: gate.choices[j]}) for j in gate.probed]
            outputs: list[Callable | None] = [
                None if d == depth else functools.partial(self._probe, d, depth) for d in depths
            ]
            y = self._route(gate, y, outputs, (x, last), {})
        return y

    def remove_unused_candidates(self) -> None:
        depth = self.depth_choice.freeze(self.export({}))
        for i in range(depth, len(self.blocks)):
            self.blocks[i] = Removed(", ".join(self.gates), depth)

    def _depth(self, instead: dict[str, Any]) -> int:
        chosen = {label: gate.choices[gate.current] for label, gate in self.gates.items()}
        return self.depth_choice.freeze({**chosen, **instead})

    def _run(self, start: int, end: int, x: Any) -> Any:
        for block in itertools.islice(self.blocks, start, end):
            x = block(x)
        return x

    def _finish(self, depth: int, last: Any) -> Any:
        """What comes out after so many blocks."""
        return last

    def _probe(self, depth: int, active: int, x: Any, last: Any) -> Any:
        return self._finish(depth, self._run(active, depth, last) if depth > active else self._run(0, depth, x))

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> SampledRepeat | None:
        """NNI's mutation hook: replaces a plain ``Repeat`` whose depth is open."""
        if type(module) is not Repeat or not isinstance(module.depth_choice, Mutable):
            return None
        repeat: Any = module
        return cls(
            list(repeat.blocks), repeat.depth_choice, {label: memo[label] for label in repeat.depth_choice.simplify()}
        )
