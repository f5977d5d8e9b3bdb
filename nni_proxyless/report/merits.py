"""Figures of merit of runs: which one a run has, and what several runs have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError
from ..core.merit import ACCURACY, Merit

if TYPE_CHECKING:
    from .rows import Row

__all__ = ["common_merit", "merit_of_task", "merit_reported", "merits_of", "names_of"]

# What is reported beside a figure of merit, and may happen to be the same number.
OTHERS = (
    "default", "expected_ms", "table_ms", "measured_ms", "measured_eager_ms", "entropy", "macs", "n_params", "multiplier", "fixed", "seconds",
    "learning_rate", "best",
)  # fmt: skip
OTHER_BEGINNINGS = ("expected_", "derived_", "train_", "validation_", "test_", "best_")


def merit_of_task(name: Any, arguments: Mapping[str, Any]) -> Merit | None:
    """That of a task by its name; None for one that cannot be made here, such as one of a package that is not installed."""
    if not isinstance(name, str):
        return None
    if name == "classification" and not arguments:
        return ACCURACY
    from ..tasks.make import make_task  # with torch, which watching does without

    try:
        return make_task({"name": name, "arguments": arguments}).merit
    except (UserError, AttributeError):
        return None


def merit_reported(metrics: Mapping[str, Any]) -> Merit | None:
    """That of which NNI has been told: beside the score, ``default``, stands what is no accuracy, under its name.

    Whether it is a share does not follow from numbers, so it is taken for none. None without a score.
    """
    score = metrics.get("default")
    if not isinstance(score, (int, float)):
        return None
    for name, value in metrics.items():
        if name in OTHERS or name.startswith(OTHER_BEGINNINGS) or name.endswith("_int8") or name == ACCURACY.name:
            continue
        if isinstance(value, (int, float)) and value in (score, -score):
            return Merit(name, higher_is_better=value == score, is_share=False)
    return ACCURACY


def merits_of(rows: Iterable[Row]) -> list[Merit]:
    """Of which the rows have values, each once; where they have none, of which they would be."""
    rows = list(rows)
    with_value = [row.merit for row in rows if row.search_merit is not None or row.final_merit is not None]
    return list(dict.fromkeys(with_value or [row.merit for row in rows])) or [ACCURACY]


def common_merit(rows: Iterable[Row]) -> Merit | None:
    """That of all rows; None where they have several, which do not compare."""
    merits = merits_of(rows)
    return merits[0] if len(merits) == 1 else None


def names_of(merits: Iterable[Merit]) -> str:
    """Such as ``accuracy, mae``."""
    return ", ".join(merit.name for merit in merits)
