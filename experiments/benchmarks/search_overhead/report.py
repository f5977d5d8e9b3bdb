"""What is made of searches beside their plain loops: tables, from the recorded result alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..common import record

TITLES = {"proxyless": "ProxylessNAS", "dsnas": "DSNAS"}
LIMIT = 1.3
PARTS = ("steps", "reading", "end of epochs", "end")


def bars(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A whole search by its steps: the median of the rounds."""
    found = []
    for (strategy, data), of in by_case(entries).items():
        found.append(
            record.bar(
                f"{TITLES[strategy]} on {data}, a whole search by its steps",
                statistics.median(e["ratio"] for e in of), at_most=LIMIT, noise=max(e["noise"] for e in of),
            )
        )  # fmt: skip
    return found


def by_case(entries: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        found.setdefault((entry["strategy"], entry["data"]), []).append(entry)
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    rows = []
    for (strategy, data), of in by_case(result["entries"]).items():
        middle = {
            key: statistics.median(e[key] for e in of)
            for key in ("floor_seconds", "search_seconds", "ratio", "cpu_ratio")
        }
        parts = [statistics.median(e["cpu_by_floor"][name] for e in of) for name in PARTS]
        rows.append((
            TITLES[strategy], data, of[0]["epochs"], f"{middle['floor_seconds']:.1f}", f"{middle['search_seconds']:.1f}",
            f"{middle['ratio']:.3f}", f"{middle['cpu_ratio']:.3f}", *(f"{part:.3f}" for part in parts),
        ))  # fmt: skip
    return [
        *record.head(result),
        "",
        "From a search's first epoch to its end, by the same steps in a plain loop on batches in memory, epoch by epoch beside it.",
        "",
        *record.table(
            ("search", "images", "epochs", "plain loop, s", "search, s", "ratio", "CPU time", *(f"{name}, CPU" for name in PARTS)),
            rows,
        ),
        "",
        "The last four columns are what the CPU time is made of, by that of the plain loop: the steps as the search takes them, reading "
        "(and augmenting) images between them, the ends of epochs (judging, checkpoint, curves, pictures), and what is left at the end. "
        "Weights and logits of search and plain loop were the same to the last bit.",
        "",
        *record.bars_table(result["bars"]),
    ]  # fmt: skip
