"""Divide the drift of a machine out of timings.

A machine does not keep its speed: clocks change, and neighbors come and go. What is timed within one short run shares
that run's speed. With t_rk the time of key k in run r,

    t_rk = m_k d_r (1 + noise)

and medians, taken in turns over the keys of a run (d_r) and over the runs of a key (m_k), find both; that is Tukey's median
polish, of logarithms. Outliers of a single timing do not matter to it.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Sequence
from typing import TypeVar

__all__ = ["without_drift"]

Key = TypeVar("Key", bound=Hashable)
SWEEPS = 4  # medians settle in two or three


def without_drift(runs: Sequence[Sequence[tuple[Key, float]]]) -> tuple[dict[Key, list[float]], list[float]]:
    """Timings per key, each divided by the drift of its run; and the drifts, whose median is 1.

    Parameters
    ----------
    runs
        (key, milliseconds) of what was timed in each run; milliseconds greater than 0. Runs need not hold the same keys.
    """
    drift = [1.0] * len(runs)
    times: dict[Key, list[float]] = {}
    for _ in range(SWEEPS):
        times = {}
        for run, d in zip(runs, drift, strict=True):
            for key, ms in run:
                times.setdefault(key, []).append(ms / d)
        center = {key: statistics.median(found) for key, found in times.items()}
        drift = [statistics.median(ms / center[key] for key, ms in run) if run else 1.0 for run in runs]
        middle = statistics.median(drift) if drift else 1.0
        drift = [d / middle for d in drift]
    return times, drift
