"""How searches whose planted choices are known are told, from the recorded result alone."""

from __future__ import annotations

import statistics
from typing import Any

from ..common import record


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it: a row per plant and update, and every search that has missed something."""
    rows, missed = [], []
    for plant, update in dict.fromkeys((found["plant"], found["update"]) for found in result["searches"]):
        of = [found for found in result["searches"] if (found["plant"], found["update"]) == (plant, update)]
        whole = [found for found in of if found["choices_found"] == found["choices"]]
        missed += [found for found in of if found not in whole]
        rows.append((
            plant, update, of[0]["steps"], f"{len(whole)} of {len(of)}",
            f"{sum(found['choices_found'] for found in of)} of {sum(found['choices'] for found in of)}",
            f"{min(found['least_probability'] for found in of):.2f}",
            f"{statistics.median(found['loss'] for found in of):.4f}",
            f"{statistics.mean(found['seconds'] for found in of):.1f}",
        ))  # fmt: skip
    lines = [
        *record.head(result), "", *record.bars_table(result["bars"]), "",
        *record.table(
            ("planted", "update", "steps of the weights", "seeds with all found", "choices found", "least probability of a choice made",
             "loss of the network that is left, median", "CPU s"), rows
        ),
        "", "Targets have a mean square of 1.",
    ]  # fmt: skip
    if missed:
        lines += ["", "Searches that have missed something:", "", *record.table(
            ("planted", "update", "seed", "planted choices", "choices made"),
            [(found["plant"], found["update"], found["seed"], in_words(found["best"]), in_words(found["found"])) for found in missed],
        )]  # fmt: skip
    return lines


def in_words(choices: dict[str, Any]) -> str:
    return ", ".join(f"{label} {value[0] if isinstance(value, list) else value}" for label, value in choices.items())
