"""Evolution within bounds: what its figures are, and the command in its smallest form."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.benchmarks.evolution import run as study
from experiments.benchmarks.evolution.searches import (
    DRAWS,
    EARLY_EXIT,
    REGULARIZED,
    SELECTION,
    UNBOUNDED,
    Method,
    best,
    front,
    hypervolume,
    search,
)
from experiments.benchmarks.nas_bench_macro.table import Table


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.made_up()


def test_a_hypervolume_is_the_area_that_the_networks_dominate(table):
    """By hand, of the networks within the bound: columns of the staircase between two costs."""
    bound = 0.5 * table.macs.max() / 1e6
    within = np.flatnonzero(table.macs / 1e6 <= bound)
    worst = (100 - table.accuracy)[within].max()

    def area(rows: np.ndarray) -> float:
        order = rows[np.argsort(table.macs[rows])]
        macs = [*(table.macs[order] / 1e6), bound]
        least = np.minimum.accumulate(100 - table.accuracy[order])
        return sum((macs[i + 1] - macs[i]) * (worst - least[i]) for i in range(len(order)))

    rows = within[::97]
    assert hypervolume(table, rows, bound) == pytest.approx(area(rows) / area(within))
    assert hypervolume(table, within, bound) == 1
    above = np.flatnonzero(table.macs / 1e6 > bound)
    assert hypervolume(table, above, bound) == 0
    assert best(table, rows.tolist(), bound) == table.accuracy[rows].max()
    assert best(table, above.tolist(), bound) is None


def test_of_what_is_known_alone_are_front_and_hypervolume(table):
    """Rows whose error is not known count for nothing, those that others dominate for nothing either."""
    error, bound = np.full(len(table.macs), np.nan), float(table.macs.max()) / 1e6
    known = np.flatnonzero(table.macs < 0.6 * table.macs.max())[::50]
    error[known] = np.random.default_rng(0).random(len(known))
    of = front(table, known, error)
    dominated = [
        any(error[j] <= error[i] and table.macs[j] <= table.macs[i] and (error[j], table.macs[j]) != (error[i], table.macs[i]) for j in known)
        for i in known
    ]  # fmt: skip
    assert sorted(of) == [i for i, one in zip(known, dominated, strict=True) if not one]
    assert hypervolume(table, of, bound, error) == pytest.approx(1)
    assert hypervolume(table, of[1:], bound, error) < 1


@pytest.mark.parametrize("kind", [EARLY_EXIT, UNBOUNDED, DRAWS, REGULARIZED, SELECTION])
def test_every_method_trains_as_many_networks_within_the_bound(table, kind):
    bound = 0.5 * table.macs.max() / 1e6
    method = Method(kind, 10, drawn=0.5)
    found = search(method, table, bound, 35, seed=1)
    assert len(set(found["judged"])) == 35
    assert (max(table.macs[found["judged"]]) / 1e6 <= bound) == (kind != UNBOUNDED)
    if kind == DRAWS:
        assert found["drawn"] - found["over"] == 35
    assert found == search(method, table, bound, 35, seed=1)
    assert found["judged"] != search(method, table, bound, 35, seed=2)["judged"]


def test_the_study_of_evolution(tmp_path, capsys):
    file = tmp_path / "result.json"
    assert study.main(["--short", "--output", str(file), "--picture", str(tmp_path / "drawn.svg")]) == 0
    result = json.loads(file.read_text())
    assert len(result["searches"]) == len(result["methods"]) * 2
    assert all(0 < share <= 1 for one in result["searches"] for share in one["hypervolume"])
    assert result["saved"]["0.5"]["mean"] == pytest.approx(1 - result["bounds"]["0.5"]["share"], abs=0.2)
    assert "| 50% | 40 | random draws within the bound |" in capsys.readouterr().out
