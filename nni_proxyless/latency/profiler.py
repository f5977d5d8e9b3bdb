"""Latency of a whole network as an expression over choices: an NNI ``ExpressionProfiler``.

Symbols: p_c, the probability of choice c of a label; F_c, its cost; F_0, the cost of what all networks share.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nni.mutable import Categorical, MutableExpression
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.profiler import ExpressionProfiler
from torch import Tensor

from ..core.nni_compat import expression_expectation
from .calibration import Calibration
from .choices import as_key, as_nni_has_it, check_values, input_sets
from .digits import in_words
from .estimator import LatencyEstimator
from .nested_costs import NestedCosts
from .operation import Conditions, Operation, Shape, trace_operations

if TYPE_CHECKING:
    from .tables.yaml_format import TimedNetwork

__all__ = ["LatencyProfiler"]

CHAIN = 100  # additions, one inside the other


class LatencyProfiler(ExpressionProfiler):
    """Sum of the latencies of a network's operations (ProxylessNAS eq. 6), in milliseconds; or their maximum.

    ``profiler.profile(sample)`` is the latency of one architecture; ``profiler.expression`` is what NNI's own filters,
    penalties and strategies work with. Make it before a strategy has turned the space into a supernet.

    Where the estimator says ``combine = 'max'``, as one of memory does, a network costs what the most expensive of its
    operations costs: max(``fixed_ms``, ``candidate_ms[label][choice]`` of each label, ``nested_ms`` of all conditions that
    hold). A hard limit then holds for a network exactly if it holds for each of these alone, so that whoever looks for
    networks under a budget forbids every candidate above it, and needs no sum.

    Parameters
    ----------
    model_space
        Any NNI ``ModelSpace`` of ``LayerChoice``, ``Repeat``, ``InputChoice`` and arguments of modules.
    estimator
        Where the latencies come from, usually a :class:`~nni_proxyless.latency.LookupTable`.
    input_shape
        Of one sample, (channels, height, width).
    operations
        What :func:`~nni_proxyless.latency.trace_operations` has found of this space and shape; None: it is found now. Of a large space
        that takes seconds, which several profilers need not spend each.

    Attributes
    ----------
    model_space
        The space itself, in which a :class:`~nni_proxyless.latency.LatencyPenalty` finds the logits of a search.
    combine
        ``'sum'`` or ``'max'``, as the estimator says; of a network's operations, and of several under one entry below.
    fixed_ms
        Latency of the part that all networks share.
    conditions
        What the milliseconds hold for, as the estimator says.
    calibration
        Of the table, if the estimator is one that has been calibrated; all milliseconds are with it.
    references
        Of the table, if the estimator is one that was fitted to whole networks: some of them, as they were timed.
    unit
        Of all that is called ``ms`` here, as the estimator says.
    candidate_ms
        Label -> choice -> latency of that candidate, nested choices not included. A skip costs 0. A choice of inputs is
        among them where it makes a difference, as in cells that make their operations for each input.
    nested_ms
        The rest: conditions on several labels -> latency of what runs where all of them hold.

    Raises
    ------
    KeyError
        The estimator lacks an operation.
    ValueError
        The estimator gives what is no latency, or has another ``combine``.
    """

    def __init__(
        self, model_space: ModelSpace, estimator: LatencyEstimator, input_shape: Shape, *, operations: Iterable[Operation] | None = None
    ):  # fmt: skip
        if estimator.combine not in ("sum", "max"):
            raise ValueError(f"{type(estimator).__name__}.combine is {estimator.combine!r}; allowed: 'sum', 'max'")
        self.model_space = model_space
        self.conditions = dict(estimator.conditions)
        self.unit = estimator.unit
        self.combine = estimator.combine
        join: Any = operator.add if self.combine == "sum" else max
        self.calibration: Calibration | None = getattr(estimator, "calibration", None)
        self.references: list[TimedNetwork] = list(getattr(estimator, "references", ()))
        self.fixed_ms = float(estimator.constant_ms)
        mutables = model_space.simplify()
        for label, mutable in mutables.items():
            check_values(label, mutable)
        self.candidate_ms: dict[str, dict[Any, float]] = {
            label: dict.fromkeys(mutable.values, 0.0)
            for label, mutable in mutables.items()
            if isinstance(mutable, Categorical)  # what is chosen as input makes a difference in some cells alone
        }
        self.nested_ms: dict[Conditions, float] = {}
        for operation in trace_operations(model_space, input_shape) if operations is None else operations:
            ms = self._estimate(estimator, operation)
            for label, _ in operation.conditions:
                if label not in self.candidate_ms:
                    self.candidate_ms[label] = dict.fromkeys(input_sets(mutables[label]), 0.0)
            if not operation.conditions:
                self.fixed_ms = join(self.fixed_ms, ms)
            elif len(operation.conditions) == 1 and isinstance(mutables[operation.conditions[0][0]], Categorical):
                ((label, choices),) = operation.conditions
                for choice in choices:
                    self.candidate_ms[label][choice] = join(self.candidate_ms[label][choice], ms)
            else:
                self.nested_ms[operation.conditions] = join(self.nested_ms.get(operation.conditions, 0.0), ms)

        self._assemble(mutables)
        if self.fixed_ms < 0 and self._least() <= 0:
            raise ValueError(
                f"constant and calibration of the table make {in_words(self._least())} {self.unit} of the cheapest network; check the table again"
            )

    def _assemble(self, mutables: Mapping[str, Any]) -> None:
        """What :meth:`profile`, :meth:`expectation` and NNI compute with, from the costs."""
        terms: list[Any] = [self.fixed_ms]
        self._costs = {label: costs for label, costs in sorted(self.candidate_ms.items()) if any(costs.values())}
        terms += [MutableExpression.switch_case(mutables[label], costs) for label, costs in self._costs.items()]
        self._terms = terms
        self._priced = [
            (label, choice, ms) for label, costs in self._costs.items() for choice, ms in costs.items() if ms
        ]
        self._nested = NestedCosts(self.nested_ms, {label: tuple(costs) for label, costs in self.candidate_ms.items()})
        self.expression = self._joined([*terms, *(_term(mutables, *nested) for nested in self.nested_ms.items())])

    def profile(self, sample: Mapping[str, Any]) -> float:
        """Cost of one architecture, label -> choice.

        Raises
        ------
        KeyError
            A label that makes a difference is missing.
        ValueError
            A choice is none of its label.
        """
        found = [self.fixed_ms]
        for label, costs in self._costs.items():
            if label not in sample:
                raise KeyError(f"{label} is not in the architecture")
            choice = as_key(sample[label])
            if choice not in costs:
                raise ValueError(f"choice {label!r} is {sample[label]!r}; allowed: {', '.join(map(repr, costs))}")
            found.append(costs[choice])
        found += self._nested.of(sample)
        return float(sum(found) if self.combine == "sum" else max(found))

    def predicted_ms(self, sample: Mapping[str, Any]) -> float:
        """Latency of one architecture without the calibration of the table, the bare sum of its rows."""
        ms = float(self.profile(dict(sample)))
        return ms if self.calibration is None else self.calibration.undo(ms)

    def expectation(self, sample: Mapping[str, Mapping[Any, Any]]) -> Any:
        """Expected cost of a network whose choices are drawn independently.

        For a sum it is exact: F_0 + sum over labels of sum_c p_c F_c (ProxylessNAS eq. 5, 6). For a maximum it would take
        all networks, 7^15 x 6^6 of the paper's; instead it is the largest expected cost of one label, max(F_0, max over
        labels of sum_c p_c F_c). That is a lower bound, E max >= max E (Jensen), which is met when every choice is decided.

        Parameters
        ----------
        sample
            Label -> choice -> probability, scalar tensors or plain numbers.

        Returns
        -------
        Tensor or float
            Differentiable in the probabilities. Of a maximum, the worst label alone has a gradient; equal ones share it.
        """
        nested: Any = self._nested.expected(sample)
        if self.combine == "sum":
            plain: Any = self._expected_sum(sample)
            if self._nested:
                plain = plain + (nested.sum() if isinstance(nested, Tensor) else float(nested.sum()))
            return plain
        found: list[Any] = [expression_expectation(term, dict(sample)) for term in self._terms]
        found += nested.unbind() if isinstance(nested, Tensor) else nested.tolist()
        tensors = [value for value in found if isinstance(value, Tensor)]
        least = max((value for value in found if not isinstance(value, Tensor)), default=0.0)
        return torch.stack(tensors).amax().clamp_min(least) if tensors else least

    def _expected_sum(self, sample: Mapping[str, Mapping[Any, Any]]) -> Any:
        """F_0 + sum over labels of sum_c p_c F_c, by one product: of a thousand small ones each would be felt."""
        given = [(sample[label][choice], ms) for label, choice, ms in self._priced]
        numbers = self.fixed_ms + sum(p * ms for p, ms in given if not isinstance(p, Tensor))
        tensors = [(p, ms) for p, ms in given if isinstance(p, Tensor)]
        if not tensors:
            return numbers
        probs = torch.stack([p for p, _ in tensors])
        return probs @ probs.new_tensor([ms for _, ms in tensors]) + numbers

    def decided(self, made: Mapping[str, Any]) -> LatencyProfiler:
        """The costs of the networks in which these choices are made, label -> choice; ``profile`` stays as it is."""
        profiler = copy.copy(self)
        join: Any = operator.add if self.combine == "sum" else max

        def left(label: str, choices: Iterable[Any]) -> tuple[Any, ...]:
            return tuple(choice for choice in choices if label not in made or choice == as_key(made[label]))

        profiler.candidate_ms = {
            label: {choice: costs[choice] for choice in left(label, costs)}
            for label, costs in self.candidate_ms.items()
        }
        profiler.nested_ms = {}
        for conditions, ms in self.nested_ms.items():
            some = tuple((label, left(label, choices)) for label, choices in conditions)
            if all(choices for _, choices in some):
                profiler.nested_ms[some] = join(profiler.nested_ms.get(some, 0.0), ms)
        return profiler

    def redrawn(self, error: float, draw: np.random.Generator) -> LatencyProfiler:
        """The costs as they might be, if all of them were off by chance.

        Parameters
        ----------
        error
            Standard deviation of what each cost of a choice is off by, relative, normally distributed; 0.03 is 3 %. No cost falls below 0.
        draw
            Where the errors come from.
        """
        profiler = copy.copy(self)

        def off(ms: float) -> float:
            return ms * max(0.0, 1.0 + error * draw.standard_normal())

        profiler.candidate_ms = {
            label: {choice: off(ms) for choice, ms in costs.items()} for label, costs in self.candidate_ms.items()
        }
        profiler.nested_ms = {conditions: off(ms) for conditions, ms in self.nested_ms.items()}
        profiler._assemble(self.model_space.simplify())
        return profiler

    def bounds(self) -> tuple[float, float]:
        """Cost of the cheapest and of the dearest network, nested choices left out."""
        costs = [list(costs.values()) for costs in self.candidate_ms.values()]
        cheapest, dearest = [self.fixed_ms, *map(min, costs)], [self.fixed_ms, *map(max, costs)]
        return (sum(cheapest), sum(dearest)) if self.combine == "sum" else (max(cheapest), max(dearest))

    def _least(self) -> float:
        """Cost of the cheapest network, nested choices included."""
        if not self.nested_ms:
            return self.bounds()[0]
        from .objectives.extremes import fastest  # it is about profilers

        return fastest(self)[1]

    def _joined(self, terms: list[Any]) -> Any:
        if self.combine == "max":
            return MutableExpression.max(terms) if len(terms) > 1 else terms[0]
        # Sums of sums: NNI adds up by recursion, and a chain of a thousand is too deep for that.
        while len(terms) > CHAIN:
            terms = [functools.reduce(operator.add, terms[i : i + CHAIN]) for i in range(0, len(terms), CHAIN)]
        return functools.reduce(operator.add, terms)

    @staticmethod
    def _estimate(estimator: LatencyEstimator, operation: Operation) -> float:
        ms = float(estimator.estimate(operation))
        if not ms >= 0:
            raise ValueError(f"latency of '{operation.key}' is {ms} ms; allowed: 0 or more")
        return ms


def _term(mutables: Mapping[str, Any], conditions: Conditions, ms: float) -> Any:
    """What it costs where all conditions hold, as an expression of NNI."""
    term: Any = ms
    for label, choices in reversed(conditions):
        mutable = mutables[label]
        if isinstance(mutable, Categorical):
            term = MutableExpression.switch_case(
                mutable, {value: term if value in choices else 0.0 for value in mutable.values}
            )
        else:  # a list of inputs, which is no key
            holds = [MutableExpression.condition(mutable == as_nni_has_it(choice), 1.0, 0.0) for choice in choices]
            term = term * functools.reduce(operator.add, holds)
    return term
