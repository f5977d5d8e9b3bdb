"""What ``architecture.json`` says under ``latency``: what a network costs, in which unit, and under which conditions.

Its keys end in ``_ms``, whatever the unit is; ``unit`` stands beside them. All that writes such a record, writes it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..latency import LatencyProfiler

__all__ = ["latency_record", "record_without_table", "unit_of"]


def latency_record(
    profiler: LatencyProfiler, sample: Mapping[str, Any], *, target: float | None, expected: float | None = None,
    measured_ms: float | None = None, table_again_ms: float | None = None,
    measured_conditions: Mapping[str, object] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The record of a network of these choices.

    Parameters
    ----------
    profiler
        What the network costs, and in which unit.
    target
        Of the search, or the budget of a network that was derived or drawn; in the profiler's unit, as ``expected`` is.
    expected
        Over the probabilities at the end of the search; None for a network that no search has ended with.
    measured_ms, table_again_ms
        Timed: the network, and its operations one by one beside it; None where nothing was.
    measured_conditions
        What the timing holds for, or would.
    """
    return {
        "target_ms": target,
        "expected_ms": expected,
        "predicted_ms": profiler.predicted_ms(sample),
        "table_ms": float(profiler.profile(dict(sample))),
        "calibrated": profiler.calibration is not None,
        "unit": profiler.unit,
        "conditions": dict(profiler.conditions),
        "measured_ms": measured_ms,
        "table_again_ms": table_again_ms,
        "measured_conditions": None if measured_conditions is None else dict(measured_conditions),
    }


def record_without_table(unit: str, measured_conditions: Mapping[str, object] | None) -> dict[str, Any]:
    """Of a network that no table knows: what it costs is unknown until it is timed; ``unit`` is that of the search beside it."""
    unknown = dict.fromkeys(("target_ms", "expected_ms", "predicted_ms", "table_ms"))
    return {
        **unknown, "calibrated": False, "unit": unit, "conditions": {}, "measured_ms": None, "table_again_ms": None,
        "measured_conditions": None if measured_conditions is None else dict(measured_conditions),
    }  # fmt: skip


def unit_of(record: Mapping[str, Any]) -> str:
    """Of all numbers of a record but the timed ones, which are milliseconds.

    ``derive`` has not always written a unit; what counts something else than milliseconds says so in its conditions as well.
    """
    return str(record.get("unit") or (record.get("conditions") or {}).get("unit", "ms"))
