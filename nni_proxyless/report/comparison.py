"""Compare searched networks with random ones and MobileNetV2, under the same budget and after the same training.

    same metric      figures of merit of the same name and kind
    same training    the final trainings have the same settings, but for the seed and what changes no result
    same budget      targets that differ by less than 2 %: every search resolves a share such as 60% with the table that it has
    a group          networks of one strategy, random networks, or one reference network; mean and standard error over its networks

Of the reference networks of several widths the widest within the budget stands for all, or the narrowest if none is: picked by
width and not by figure of merit, so that the test images choose nothing. A reference network has no row in the table of the search, so its
measured milliseconds count; budgets are of the table, and what they are today the other networks say, which have both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.merit import Merit
from .rows import Row
from .runs import Found, settings_in

__all__ = ["Budget", "Group", "Mean", "SameTraining", "compare", "drift", "same_budgets"]

SAME_BUDGET = 0.02
CHANGES_NOTHING = ("seed", "output", "workers", "checkpoint_every")
SAID = ("epochs", "weights", "optimizer", "learning_rate", "batch_size")
SEARCHED = ("search", "derived", "training")


@dataclass(frozen=True)
class Mean:
    """Mean of n values and its standard error, which one value has not."""

    value: float
    error: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Mean | None:
        """Of those that are known; None if none is."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
        return cls(statistics.fmean(known), error, len(known))

    def minus(self, other: Mean) -> Mean:
        """The difference of two independent means."""
        known = self.error is not None and other.error is not None
        error = math.hypot(self.error or 0.0, other.error or 0.0) if known else None
        return Mean(self.value - other.value, error, min(self.n, other.n))


@dataclass(frozen=True)
class Group:
    """Networks that are compared as one group.

    Attributes
    ----------
    figure
        Of merit, on the test images.
    above_random
        That minus the mean of the random networks; of searched networks only. Where lower is better, what is above is worse.
    over_budget
        Set for a reference network that takes longer than the budget.
    """

    what: str
    rows: tuple[Row, ...]
    figure: Mean
    by_table: Mean | None
    measured_ms: Mean | None
    above_random: Mean | None = None
    over_budget: bool = False


@dataclass(frozen=True)
class Budget:
    """All groups under one budget."""

    target: float
    unit: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class SameTraining:
    """All budgets whose networks were trained alike, for the same figure of merit; ``settings`` in words."""

    settings: str
    merit: Merit
    budgets: tuple[Budget, ...]


def compare(found: Sequence[Found], rows: Sequence[Row]) -> list[SameTraining]:
    """All comparisons; empty if no random or reference network was trained as a searched one was."""
    trained: dict[tuple[Merit, str], list[Row]] = {}
    words = {}
    for f, row in zip(found, rows, strict=True):
        if row.final_merit is None:
            continue
        settings = _training(f)
        key = row.merit, repr(sorted(settings.items()))
        words[key] = _in_words(settings)
        trained.setdefault(key, []).append(row)
    today = drift(rows)
    result = []
    for key, alike in trained.items():
        kinds = {row.kind for row in alike}
        if kinds & {"random", "reference"} and kinds & set(SEARCHED):
            budgets = [
                _budget(target, unit, own, alike, today)
                for target, unit, own in same_budgets(alike)
                if any(r.kind in SEARCHED for r in own)
            ]
            result.append(SameTraining(words[key], key[0], tuple(budgets)))
    return [same for same in result if same.budgets]


def same_budgets(rows: Sequence[Row]) -> list[tuple[float, str, list[Row]]]:
    """Rows with a target by metric and target: its mean, its unit and the rows, from the smallest on."""
    with_target = [
        ((row.metric, row.higher_is_better, row.is_share, row.unit), row.target, row)
        for row in rows
        if isinstance(row.target, (int, float))
    ]
    groups: list[list[tuple[tuple[Any, ...], float, Row]]] = []
    for alike, target, row in sorted(with_target, key=lambda item: item[:2]):
        if groups and groups[-1][-1][0] == alike and target <= groups[-1][-1][1] * (1 + SAME_BUDGET):
            groups[-1].append((alike, target, row))
        else:
            groups.append([(alike, target, row)])
    return [(statistics.fmean(t for _, t, _ in group), group[0][2].unit, [r for *_, r in group]) for group in groups]


def drift(rows: Sequence[Row]) -> float | None:
    """Measured milliseconds in terms of the table's, the median over the networks that have both."""
    ratios = [row.measured_ms / row.by_table for row in rows if row.unit == "ms" and row.measured_ms and row.by_table]
    return statistics.median(ratios) if ratios else None


def _budget(target: float, unit: str, own: Sequence[Row], alike: Sequence[Row], today: float | None) -> Budget:
    random = [row for row in own if row.kind == "random"]
    of_random = Mean.of([row.final_merit for row in random])
    groups = []
    searched: dict[str, list[Row]] = {}
    for row in own:
        if row.kind in SEARCHED:
            searched.setdefault(row.what, []).append(row)
    for what in sorted(searched):
        groups.append(_group(searched[what], against=of_random))
    if random:
        groups.append(_group(random))
    if unit == "ms" and today is not None:
        references: dict[str, list[Row]] = {}
        for row in alike:
            if row.kind == "reference" and row.measured_ms is not None:
                references.setdefault(row.what, []).append(row)
        by_speed = sorted(references.values(), key=lambda rows: statistics.fmean(r.measured_ms or 0.0 for r in rows))
        within = [rows for rows in by_speed if all((row.measured_ms or 0.0) <= target * today for row in rows)]
        if by_speed:
            groups.append(_group(within[-1] if within else by_speed[0], over_budget=not within))
    return Budget(target, unit, tuple(groups))


def _group(rows: Sequence[Row], *, against: Mean | None = None, over_budget: bool = False) -> Group:
    figure = Mean.of([row.final_merit for row in rows])
    assert figure is not None
    return Group(
        rows[0].what, tuple(rows), figure, Mean.of([row.by_table for row in rows]),
        Mean.of([row.measured_ms for row in rows]), figure.minus(against) if against is not None else None, over_budget,
    )  # fmt: skip


def _training(f: Found) -> dict[str, Any]:
    """The settings of the final training that matter; of one by the search itself, the search's."""
    assert f.final_folder is not None
    settings = settings_in(f.final_folder / "train.yml")
    if not settings:
        return {"by the search itself": f.strategy, **f.settings.get("training", {})}
    return {key: value for key, value in settings.items() if key not in CHANGES_NOTHING}


def _in_words(settings: dict[str, Any]) -> str:
    own = [f"{key}: {value}" for key, value in settings.items() if key == "by the search itself"]
    return ", ".join(own + [f"{key} {settings[key]}" for key in SAID if key in settings])
