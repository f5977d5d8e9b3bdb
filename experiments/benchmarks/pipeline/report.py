"""What is made of seconds and MiB: tables, from the recorded result alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from nni_proxyless.training.pipeline import balanced, bubble, step_seconds

from ..common import record

MORE = (2, 4, 8)  # stages that are computed


def stage_seconds(entry: dict[str, Any]) -> list[float]:
    """Of each stage with a micro-batch, by its layers alone."""
    begins, layers = entry["begins"], entry["layer_seconds"]
    return [sum(layers[a:b]) for a, b in zip(begins, [*begins[1:], len(layers)], strict=True)]


def expected(entry: dict[str, Any]) -> float:
    """Seconds of a step with a device for each stage that sends in no time."""
    return step_seconds(stage_seconds(entry), entry["micro_batches"])


def waiting(layers: Sequence[float], n_stages: int, n_micro_batches: int) -> float:
    """The share of a step in which a process waits, with layers that are cut as they can be."""
    begins = balanced(layers, n_stages)
    stages = stage_seconds({"begins": list(begins), "layer_seconds": layers})
    return 1 - n_micro_batches * sum(stages) / (n_stages * step_seconds(stages, n_micro_batches))


def bars(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by = {(e["processes"], e["micro_batches"], e["schedule"], e["rematerialize"]): e for e in entries}
    most = max(e["micro_batches"] for e in entries)
    if (2, most, "gpipe", False) not in by or (1, most, "gpipe", False) not in by:
        return []
    one, two, again = (by[n, most, "gpipe", remade] for n, remade in ((1, False), (2, False), (2, True)))
    low, middle, high = statistics.quantiles(two["seconds"], n=4, method="inclusive")
    return [
        record.bar("two processes, re-materialized: MiB of the larger by one process", max(again["peak_mib"]) / max(one["peak_mib"]), at_most=0.5),
        record.bar("two processes: a step by what its stages take", middle / expected(two), at_most=1.3, noise=(high - low) / expected(two)),
    ]  # fmt: skip


def markdown(result: dict[str, Any]) -> list[str]:
    entries, settings = result["entries"], result["settings"]
    rows = [
        (
            e["processes"], e["micro_batches"], e["schedule"], "yes" if e["rematerialize"] else "",
            f"{1000 * statistics.median(e['seconds']):.0f}",
            "" if e["rematerialize"] or e["schedule"] != "gpipe" else f"{1000 * expected(e):.0f}",
            ", ".join(f"{peak:.0f}" for peak in e["peak_mib"]),
        )
        for e in entries
    ]  # fmt: skip
    alone = {e["micro_batches"]: e["layer_seconds"] for e in entries if e["processes"] == 1}
    computed = [
        (n, m, f"{100 * waiting(layers, n, m):.0f} %", f"{100 * bubble(n, m):.0f} %")
        for n in MORE
        for m, layers in alone.items()
        if n <= len(layers)
    ]
    return [
        *record.head(result), "",
        f"{settings['network']}, {settings['batch']} images of {settings['side']} pixels; a process has one thread. Expected: by its layers alone, with a device "
        "for each stage.", "",
        *record.table(("processes", "micro-batches", "schedule", "re-materialized", "ms per step", "expected", "MiB of each"), rows), "",
        "Share of a step in which a process waits: by the measured layers, cut as well as they can be, and if all stages took the same time.", "",
        *record.table(("stages", "micro-batches", "by layers", "(K - 1) / (M + K - 1)"), computed), "",
        *record.bars_table(result["bars"]),
    ]  # fmt: skip
