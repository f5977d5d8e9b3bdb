"""What is made of steps per second: tables, from the recorded result alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from ..common import record

POLICIES = {"passive": "PASSIVE", "OpenMP's own": None}
CORES = 2


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """Of two medians, and two standard errors of it."""
    medians = [max(statistics.median(found), 1e-6) for found in (above, below)]  # no step at all: not to divide by 0
    value = medians[0] / medians[1]
    return value, 2 * value * math.hypot(*(_error(f) / m for f, m in zip((above, below), medians, strict=True)))


def _error(values: Sequence[float]) -> float:
    """Standard error of the median, from the spread between quartiles, as of a normal distribution."""
    if len(values) < 3:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return 1.25 * 0.74 * (high - low) / math.sqrt(len(values))


def bars(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by = {(e["work"], e["threads"], e["busy"], e["waiting"]): e["steps_per_second"] for e in entries}
    passive, own = POLICIES
    found = []
    for work, threads in dict.fromkeys((e["work"], e["threads"]) for e in entries):
        many = f"{threads} thread{'s' if threads > 1 else ''}"
        value, noise = ratio(by[work, threads, 0, passive], by[work, threads, 0, own])
        found.append(record.bar(f"{work}, {many}, alone: passive by OpenMP's own", value, at_least=0.95, noise=noise))
        if threads == CORES:
            value, noise = ratio(by[work, threads, 1, passive], by[work, threads, 0, passive])
            name = f"{work}, {many}, passive: beside one busy process by alone"
            found.append(record.bar(name, value, at_least=0.4, noise=noise))
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    by = {(e["work"], e["threads"], e["busy"], e["waiting"]): e for e in result["entries"]}
    rows = []
    for work, threads, n in dict.fromkeys(key[:3] for key in by):
        row = [work, threads, n or "none"]
        for policy in POLICIES:
            e, alone = by[work, threads, n, policy], by[work, threads, 0, policy]
            share = f" ({100 * e['median'] / alone['median']:.0f} %)" if n and alone["median"] else ""
            cut = f", {e['cut_off']} of {len(e['steps_per_second'])} cut off" if e["cut_off"] else ""
            row.append(f"{e['median']:.3g}{share}{cut}")
        rows.append(row)
    return [
        *record.head(result), "",
        f"Steps per second on {CORES} cores, medians; in brackets the share of the speed alone. Cut off: not done with its step after "
        "twice the time.", "",
        *record.table(("", "threads", "busy processes", *POLICIES), rows), "",
        *record.bars_table(result["bars"]),
    ]  # fmt: skip
