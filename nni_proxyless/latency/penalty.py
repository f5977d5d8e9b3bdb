"""The latency term of the loss."""

from __future__ import annotations

from typing import Literal

from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from nni.nas.profiler import ExpressionProfiler

__all__ = ["LatencyPenalty"]


class LatencyPenalty(ExpectationProfilerPenalty):
    """L + weight * (E - target) / target, with E the expected latency (ProxylessNAS eq. 7; ``add#linear`` in the code).

    An ``ExpectationProfilerPenalty`` of NNI, named in the field's terms. NNI's own strategies hand it probabilities as
    Python floats, so nothing of it reaches their logits; those of this project hand it live tensors.

    Parameters
    ----------
    profiler
        Any NNI ``ExpressionProfiler``: a :class:`~nni_proxyless.latency.LatencyProfiler`, FLOPs, parameters.
    target_ms
        Latency at which the term is 0 (in the profiler's unit).
    weight
        lambda, in units of the loss: 1 means that twice the target costs as much as 1 nat of cross entropy.
    nonlinear
        ``'linear'``: always pulls down, as in the paper. ``'positive'``: only above the target. ``'absolute'``: towards
        the target from both sides.

    Raises
    ------
    ValueError
        A target that is not positive, or a negative weight.
    """

    def __init__(
        self,
        profiler: ExpressionProfiler,
        target_ms: float,
        weight: float = 1.0,
        *,
        nonlinear: Literal["linear", "positive", "absolute"] = "linear",
    ):
        if not target_ms > 0:
            raise ValueError(f"target_ms is {target_ms}; allowed: greater than 0")
        if not weight >= 0:
            raise ValueError(f"weight is {weight}; allowed: 0 or more")
        if nonlinear not in ("linear", "positive", "absolute"):
            raise ValueError(f"nonlinear is {nonlinear!r}; allowed: 'linear', 'positive', 'absolute'")
        super().__init__(profiler, target_ms, weight, nonlinear=nonlinear, aggregate="add")
