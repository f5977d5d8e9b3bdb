"""Latency: operations, where their milliseconds come from, and the sum over a network as an expression of its choices.

operation.py      a module with its input shape, and its key
estimator.py      the interface: operation -> milliseconds
device.py         an estimator that times on this machine
lookup_table.py   an estimator that reads a YAML file; building such a file
macs.py           an estimator that counts multiply-adds, in millions, in place of milliseconds
profiler.py       the latency of a network, as an NNI ``ExpressionProfiler``
penalty.py        the latency term of the loss, as an NNI ``ExpectationProfilerPenalty``
multiplier.py     its automatic weight
reward.py         accuracy and latency of one network as one number
budget.py         the most probable network under a hard budget; program.py, the integer program behind it
"""

from .budget import BudgetError, best_under_budget
from .device import DeviceEstimator, Measurement
from .estimator import LatencyEstimator
from .lookup_table import LookupTable, TableError, build_lookup_table
from .macs import MacsEstimator, count_macs
from .operation import Operation, describe, trace_operations
from .penalty import LatencyPenalty
from .profiler import LatencyProfiler
from .reward import LatencyReward

__all__ = [
    "BudgetError",
    "DeviceEstimator",
    "LatencyEstimator",
    "LatencyPenalty",
    "LatencyProfiler",
    "LatencyReward",
    "LookupTable",
    "MacsEstimator",
    "Measurement",
    "Operation",
    "TableError",
    "best_under_budget",
    "build_lookup_table",
    "count_macs",
    "describe",
    "trace_operations",
]
