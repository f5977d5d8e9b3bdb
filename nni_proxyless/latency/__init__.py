"""Latency: operations, where their milliseconds come from, and the sum over a network as an expression of its choices.

operation.py      a module with what it is given, and its key
calls.py          what modules are given and give in a run, and inputs like those
tracing.py        a space's run taken apart into operations; products.py, what runs there without a module
estimator.py      the interface: operation -> milliseconds
device.py         an estimator that times on this machine
lookup_table.py   an estimator that reads a YAML file
table_file.py     that file; digits.py, its numbers
building.py       how a table is measured
networks.py       whole networks of a space, timed with all their operations
checking.py       a table against whole networks
calibration.py    what makes whole networks of sums of rows
drift.py          a machine's changes of speed, divided out of timings
exporting.py      a space as files for a target that has torch only; measure.py runs there, with timing.py, drift.py, checksum.py, digits.py
nn_meter.py       nn-Meter's predictors as an estimator
macs.py           an estimator that counts multiply-adds, in millions, in place of milliseconds
costs.py          parameters, and the memory of activations, in place of milliseconds
layers.py         the layers inside an operation, which features and costs are computed from
prediction.py     milliseconds of operations that a table lacks
profiler.py       the latency of a network, as an NNI ``ExpressionProfiler``
penalty.py        the latency term of the loss, as an NNI ``ExpectationProfilerPenalty``
multiplier.py     its automatic weight
penalties.py      several of them at once
reward.py         accuracy and latency of one network as one number
budget.py         the most probable network under a hard budget; program.py, the integer program behind it

What is named here is imported when it is asked for. Most of it needs NNI, which takes seconds, and who only counts or times
a network needs none of that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budget import BudgetError, best_under_budget
    from .building import build_lookup_table
    from .calibration import Calibration
    from .checking import Check, check_table
    from .costs import ActivationsEstimator, ParametersEstimator
    from .device import DeviceEstimator, Measurement
    from .estimator import LatencyEstimator
    from .lookup_table import LookupTable, TableError, TableOnly
    from .macs import MacsEstimator, count_macs
    from .operation import Operation, describe, trace_operations
    from .penalties import Penalties
    from .penalty import LatencyPenalty
    from .prediction import CrossValidation, Prediction, predict_missing
    from .profiler import LatencyProfiler
    from .reward import LatencyReward

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
    "TableError",
    "TableOnly",
    "best_under_budget",
    "build_lookup_table",
    "check_table",
    "count_macs",
    "describe",
    "predict_missing",
    "trace_operations",
]

_HOMES = {
    "budget": ("BudgetError", "best_under_budget"),
    "building": ("build_lookup_table",),
    "calibration": ("Calibration",),
    "checking": ("Check", "check_table"),
    "costs": ("ActivationsEstimator", "ParametersEstimator"),
    "device": ("DeviceEstimator", "Measurement"),
    "estimator": ("LatencyEstimator",),
    "lookup_table": ("LookupTable", "TableError", "TableOnly"),
    "macs": ("MacsEstimator", "count_macs"),
    "operation": ("Operation", "describe", "trace_operations"),
    "penalties": ("Penalties",),
    "penalty": ("LatencyPenalty",),
    "prediction": ("CrossValidation", "Prediction", "predict_missing"),
    "profiler": ("LatencyProfiler",),
    "reward": ("LatencyReward",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
