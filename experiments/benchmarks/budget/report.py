"""What is made of the seconds of derivations: tables, from the recorded result alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..common import record

FASTER = 10.0  # bar: times as fast as looking at 100,842 networks, of a space a trillionth of the paper's


def bars(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for entry in entries:
        if "exhaustive_by_budget" in entry:
            ratios = entry.get("all_ratios", [])
            noise = (max(ratios) - min(ratios)) / 2 if ratios else 0.0
            name = f"{entry['name']}: all networks one by one, times as long"
            found.append(record.bar(name, entry["exhaustive_by_budget"], at_least=FASTER, noise=noise))
        if "worse_by" in entry:
            name = f"{entry['name']}: log-probability less than that of the best of all networks"
            found.append(record.bar(name, entry["worse_by"], at_most=1e-9))
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    rows = [
        (e["name"], f"{e['networks']:.2g}", f"{1e3 * e['median_seconds']:.1f}", f"{1e3 * e['worst_seconds']:.1f}",
         f"{e['exhaustive_by_budget']:.0f} times as long" if "exhaustive_by_budget" in e else "")
        for e in result["entries"]
    ]  # fmt: skip
    return [
        *record.head(result),
        "",
        *record.table(("space", "networks", "median ms", "worst ms", "all networks one by one"), rows),
        "",
        *record.bars_table(result["bars"]),
        "",
        f"{result['settings']['budgets']} budgets in each large space, {result['settings']['rounds']} beside an exhaustive search. Costs that blocks of a stage "
        "share, as in a real table, make networks of equal cost and take longer.",
    ]  # fmt: skip
