"""Latency: operations, where their milliseconds come from, and the sum over a network as an expression of its choices.

operation.py      a module with what it is given, and its key
calls.py          what modules are given and give in a run, and inputs like those
tracing.py        a space's run taken apart into operations; products.py, what runs there without a module
layers.py         the layers inside an operation, which features and costs are computed from
estimator.py      the interface: operation -> milliseconds
profiler.py       the latency of a network, as an NNI ``ExpressionProfiler``
calibration.py    what makes whole networks of sums of rows
runtimes/         what runs a network while it is timed: torch, ONNX Runtime and others, or a user's program
estimators/       device.py times here, on timing.py and idle_machine.py; nn_meter.py; macs.py and counts.py, which count in place of timing
tables/           lookup_table.py, an estimator that reads a YAML file (yaml_format.py); build.py, check.py, predict.py; time_in_chunks.py
                  and fit_networks.py make rows of whole networks;
                  export.py for a target that has torch only, where measure_on_target.py runs
objectives/       penalty.py, the latency term of the loss, an NNI ``ExpectationProfilerPenalty``, with its multiplier.py, and several
                  at once, penalty_sum.py; reward.py; budget.py, the most probable network under a hard budget

What is named here is imported when it is asked for. Most of it needs NNI, which takes seconds, and who only counts or times
a network needs none of that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibration import Calibration
    from .estimator import LatencyEstimator
    from .estimators.counts import ActivationsEstimator, ParametersEstimator
    from .estimators.device import DeviceEstimator, Measurement
    from .estimators.macs import MacsEstimator, count_macs
    from .objectives.budget import BudgetError, best_under_budget, least_under_budget
    from .objectives.penalty import LatencyPenalty
    from .objectives.penalty_sum import Penalties
    from .objectives.reward import LatencyReward
    from .operation import Operation, describe, trace_operations
    from .profiler import LatencyProfiler
    from .runtimes.runtime import Runtime, TimingError
    from .tables.build import build_lookup_table
    from .tables.check import Check, check_table
    from .tables.lookup_table import LookupTable, TableError, TableOnly
    from .tables.predict import CrossValidation, Prediction, predict_missing

__all__ = [
    "ActivationsEstimator",
    "BudgetError",
    "Calibration",
    "Check",
    "CrossValidation",
    "DeviceEstimator",
    "LatencyEstimator",
    "LatencyPenalty",
    "LatencyProfiler",
    "LatencyReward",
    "LookupTable",
    "MacsEstimator",
    "Measurement",
    "Operation",
    "ParametersEstimator",
    "Penalties",
    "Prediction",
    "Runtime",
    "TableError",
    "TableOnly",
    "TimingError",
    "best_under_budget",
    "build_lookup_table",
    "check_table",
    "count_macs",
    "describe",
    "least_under_budget",
    "predict_missing",
    "trace_operations",
]

_HOMES = {
    "objectives.budget": ("BudgetError", "best_under_budget", "least_under_budget"),
    "tables.build": ("build_lookup_table",),
    "calibration": ("Calibration",),
    "tables.check": ("Check", "check_table"),
    "estimators.counts": ("ActivationsEstimator", "ParametersEstimator"),
    "estimators.device": ("DeviceEstimator", "Measurement"),
    "estimator": ("LatencyEstimator",),
    "tables.lookup_table": ("LookupTable", "TableError", "TableOnly"),
    "estimators.macs": ("MacsEstimator", "count_macs"),
    "operation": ("Operation", "describe", "trace_operations"),
    "objectives.penalty_sum": ("Penalties",),
    "objectives.penalty": ("LatencyPenalty",),
    "tables.predict": ("CrossValidation", "Prediction", "predict_missing"),
    "profiler": ("LatencyProfiler",),
    "objectives.reward": ("LatencyReward",),
    "runtimes.runtime": ("Runtime", "TimingError"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
