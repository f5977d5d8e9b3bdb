"""Latency of a whole network as an expression over choices: an NNI ``ExpressionProfiler``."""

from __future__ import annotations

from typing import Any

from nni.mutable import Categorical, MutableExpression
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.profiler import ExpressionProfiler

from .estimator import LatencyEstimator
from .operation import Conditions, Operation, Shape, trace_operations

__all__ = ["LatencyProfiler"]


class LatencyProfiler(ExpressionProfiler):
    """Sum of the latencies of a network's operations (ProxylessNAS eq. 6), in milliseconds.

    ``profiler.profile(sample)`` is the latency of one architecture; ``profiler.expression`` is what NNI's own filters,
    penalties and strategies work with. Make it before a strategy has turned the space into a supernet.

    Parameters
    ----------
    model_space
        Any NNI ``ModelSpace`` of ``LayerChoice``, ``Repeat`` and ``InputChoice``.
    estimator
        Where the latencies come from, usually a :class:`~nni_proxyless.latency.LookupTable`.
    input_shape
        Of one sample, (channels, height, width).

    Attributes
    ----------
    model_space
        The space itself, in which a :class:`~nni_proxyless.latency.LatencyPenalty` finds the logits of a search.
    fixed_ms
        Latency of the part that all networks share.
    conditions
        What the milliseconds hold for, as the estimator says.
    unit
        Of all that is called ``ms`` here, as the estimator says.
    candidate_ms
        Label -> choice -> latency of that candidate, nested choices not included. A skip costs 0.
    nested_ms
        The rest: conditions on several labels -> latency of what runs where all of them hold.

    Raises
    ------
    KeyError
        The estimator lacks an operation.
    """

    def __init__(self, model_space: ModelSpace, estimator: LatencyEstimator, input_shape: Shape):
        self.model_space = model_space
        self.conditions = dict(estimator.conditions)
        self.unit = estimator.unit
        self.fixed_ms = float(estimator.constant_ms)
        mutables = model_space.simplify()
        self.candidate_ms: dict[str, dict[Any, float]] = {
            label: dict.fromkeys(mutable.values, 0.0)
            for label, mutable in mutables.items()
            if isinstance(mutable, Categorical)  # what an InputChoice has makes no difference
        }
        self.nested_ms: dict[Conditions, float] = {}
        for operation in trace_operations(model_space, input_shape):
            ms = self._estimate(estimator, operation)
            if not operation.conditions:
                self.fixed_ms += ms
            elif len(operation.conditions) == 1:
                ((label, choices),) = operation.conditions
                for choice in choices:
                    self.candidate_ms[label][choice] += ms
            else:
                self.nested_ms[operation.conditions] = self.nested_ms.get(operation.conditions, 0.0) + ms

        expression: Any = self.fixed_ms
        for label, costs in sorted(self.candidate_ms.items()):
            if any(costs.values()):
                expression = expression + MutableExpression.switch_case(mutables[label], costs)
        for conditions, ms in self.nested_ms.items():
            term: Any = ms
            for label, choices in reversed(conditions):
                term = MutableExpression.switch_case(
                    mutables[label], {value: term if value in choices else 0.0 for value in mutables[label].values}
                )
            expression = expression + term
        self.expression = expression

    @staticmethod
    def _estimate(estimator: LatencyEstimator, operation: Operation) -> float:
        ms = float(estimator.estimate(operation))
        if not ms >= 0:
            raise ValueError(f"latency of '{operation.key}' is {ms} ms; allowed: 0 or more")
        return ms
