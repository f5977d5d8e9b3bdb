"""What is made of accuracies of deployed networks and of the same from scratch: tables, from the recorded result alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..common import record


def difference(runs: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Mean of deployed less from scratch, and its standard error; NaN of one seed."""
    gaps = [run["deployed"] - run["scratch"] for run in runs]
    return statistics.mean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")


def bars(runs: Sequence[dict[str, Any]], *, short: bool) -> list[dict[str, Any]]:
    """None in the short form: a few epochs train neither network, and one seed has no noise."""
    if short or len(runs) < 2:
        return []
    mean, error = difference(runs)
    return [record.bar("deployed less from scratch", mean, at_least=0.0, noise=2 * error)]


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    runs = result["runs"]
    rows = [
        (r["seed"], f"{r['deployed']:.4f}", f"{r['scratch']:.4f}", f"{r['deployed'] - r['scratch']:+.4f}",
         f"{r['macs'] / 1e6:.3f} ({r['target_macs'] / 1e6:.3f})")
        for r in runs
    ]  # fmt: skip
    mean, error = difference(runs)
    means = [f"{statistics.mean(r[name] for r in runs):.4f}" for name in ("deployed", "scratch")]
    lines = [
        *record.head(result),
        "",
        *record.table(("seed", "deployed", "from scratch", "difference", "M MACs (target)"), [*rows, ("mean", *means, f"{mean:+.4f}", "")]),
        "",
        f"{result['task']}: difference {mean:+.4f}, "
        + (f"standard error {error:.4f} over {len(runs)} seeds; the noise of the bar is twice that. " if len(runs) > 1 else "one seed. ")
        + "Both networks had as many epochs; the search has spent its first ones on all candidates.",
    ]  # fmt: skip
    return [*lines, "", *record.bars_table(result["bars"])] if result["bars"] else lines
