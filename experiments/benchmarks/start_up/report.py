"""What is made of the seconds of commands: tables, from the recorded result alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..common import record


def bars(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        record.bar(
            f"seconds of `{entry['command']}`", statistics.median(entry["seconds"]), at_most=entry["bar"],
            noise=max(entry["seconds"]) - min(entry["seconds"]),
        )
        for entry in entries
    ]  # fmt: skip


def markdown(result: dict[str, Any]) -> list[str]:
    return [
        *record.head(result),
        "",
        f"From a word to its answer, the median of {result['settings']['repeats']} processes; a Python that does nothing takes "
        f"{statistics.median(result['floor']):.2f} s. The noise is the slowest less the fastest.",
        "",
        *record.bars_table(result["bars"]),
    ]
