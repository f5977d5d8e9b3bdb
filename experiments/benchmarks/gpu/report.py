"""What is made of tables on a GPU: tables, from the recorded result alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..common import record
from ..latency_truth.report import figures, noise

BAR = 0.03  # mean error, calibrated, as on a CPU


def named(entry: Mapping[str, Any]) -> str:
    return f"{entry['space']}, batch {entry['batch']}, {entry['runtime']}"


def bars(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        record.bar(f"{named(e)}: mean error", e["after"]["mean_error"], at_most=BAR, noise=noise(e, "mean_error"))
        for e in entries
    ]


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    rows = []
    for e in result["entries"]:
        found = figures({"build_seconds": 0.0, **e})
        rows.append((
            e["space"], e["batch"], e["conditions"]["runtime"], e["measured"]["method"], f"{e['mean_ms']:.3g}", f"{found['mean_error']:.1%}",
            f"{found['worst_error']:.1%}", f"{found['spearman']:.3f}", len(e["networks"]), f"{e['seconds']:.0f}",
        ))  # fmt: skip
    head = (
        "space",
        "batch",
        "runtime",
        "method",
        "mean ms",
        "mean error",
        "worst",
        "Spearman",
        "networks",
        "build and check, s",
    )
    lines = [*record.head(result), ""]
    if result["entries"]:
        lines += [f"On {result['entries'][0]['conditions']['device']}.", "", *record.table(head, rows), ""]
    if result["ranks"]:
        alike = [
            (r["space"], r["batch"], " and ".join(r["runtimes"]), r["networks"], f"{r['spearman']:.3f}")
            for r in result["ranks"]
        ]
        lines += [
            *record.table(("space", "batch", "runtimes", "networks", "Spearman of their milliseconds"), alike),
            "",
        ]
    lines += [f"Not run: {named(case)}: {case['why'].rstrip('.')}." for case in result["not_run"]]
    return [*lines, "", *record.bars_table(result["bars"])]
