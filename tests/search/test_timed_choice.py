"""``derive --time``: of several networks the best one that is within a budget by the clock.

The machine is as fast as a test wants (:mod:`.made_up_machine`).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import nn

from nni_proxyless.cli.main import main
from nni_proxyless.derive import Architecture
from nni_proxyless.latency import DeviceEstimator, LatencyProfiler, MacsEstimator
from nni_proxyless.latency.estimators.whole_networks import NetworkMeasurement, time_networks
from nni_proxyless.latency.objectives.budget import fastest, log_probability, slowest
from nni_proxyless.search.finished_search import FinishedSearch
from nni_proxyless.search.measured_network import measure_in_turns
from nni_proxyless.search.timed_choice import TimedChoice

from ..runs import MACS, search
from .made_up_machine import machine_in, settings


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Path:
    return machine_in(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def searched(machine, tmp_path_factory) -> FinishedSearch:
    text = settings(machine).replace("depths: [1, 1], kernels: [3]", "depths: [1, 2], kernels: [3, 5]")
    return FinishedSearch.read(search(tmp_path_factory.mktemp("searched"), text=text))


@pytest.fixture(scope="module")
def budget(searched) -> float:
    return (fastest(searched.profiler)[1] + 2 * slowest(searched.profiler)[1]) / 3


@pytest.fixture(autouse=True)
def as_it_was(machine):
    (machine / "speed").write_text("1")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    with (folder / "timed.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_best_within_the_budget_is_left(searched, budget, machine, tmp_path, capsys):
    """On a slower machine, networks drop out: the one that is left is the most probable of those that do not."""
    words = ["derive", str(searched.folder), "--budget-ms", repr(budget), "--time", "6", "--output", str(tmp_path)]
    left = {}
    for speed in ("1", "1.02"):
        (machine / "speed").write_text(speed)
        assert main(words) == 0
        said = capsys.readouterr().out
        rows, architecture = rows_of(tmp_path), Architecture.read(tmp_path / "architecture.json")
        within = [float(row["measured_ms"]) <= budget for row in rows]
        assert within == [row["within_budget"] == "1" for row in rows]
        (chosen,) = (i for i, row in enumerate(rows) if row["selected"] == "1")
        assert chosen == within.index(True)
        assert architecture.choices == {label: rows[chosen][label] for label in architecture.choices}
        assert architecture.latency["measured_ms"] == pytest.approx(float(rows[chosen]["measured_ms"]), rel=1e-3)
        assert architecture.search["timed"] == {"networks": len(rows), "within_budget": sum(within)}
        assert f"timed:         of {len(rows)} networks {sum(within)} are within the budget" in said
        nets = [{label: row[label] for label in architecture.choices} for row in rows]
        probable = [log_probability(searched.probs, net) for net in nets]
        assert probable == sorted(probable, reverse=True)
        assert searched.best(budget) in nets
        assert 2 <= len({repr(net) for net in nets}) == len(nets) <= 6
        left[speed] = within
    assert sum(left["1.02"]) < sum(left["1"])


def test_networks_are_timed_as_tables_have_them(monkeypatch):
    """A supernet that judges has its weights with channels last, networks of a table have them as torch makes them."""
    weights = []

    def seen(estimator, networks, beside=()):
        weights.extend(network.weight for network, _ in (*networks, *beside))
        return time_networks(estimator, networks, beside)

    monkeypatch.setattr("nni_proxyless.search.measured_network.time_networks", seen)
    network = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    estimator, space = DeviceEstimator(runtime="torch", repeats=2, warmup=0), MobileNetV2Space(preset="small")
    profiler = LatencyProfiler(space, MacsEstimator(), (3, 32, 32))
    ((timed,), _) = measure_in_turns(profiler, estimator, [network], (3, 32, 32), space)
    assert timed.median_ms > 0
    assert [weight.is_contiguous() for weight in weights] == [True]
    assert not network.weight.is_contiguous(), "what is timed is a copy"


def test_of_the_best_by_the_supernet(searched, budget, tmp_path):
    """The networks that are timed are those that it selects; without the clock the first of them is left."""
    words = ["derive", str(searched.folder), "--budget-ms", repr(budget), "--judge", "8", "--output"]
    assert main([*words, str(tmp_path / "judged")]) == 0
    assert main([*words, str(tmp_path / "timed"), "--time", "3"]) == 0
    rows = rows_of(tmp_path / "timed")
    assert len(rows) == 3
    first = Architecture.read(tmp_path / "judged" / "architecture.json").choices
    assert {label: rows[0][label] for label in first} == first
    architecture = Architecture.read(tmp_path / "timed" / "architecture.json")
    (chosen,) = (row for row in rows if row["selected"] == "1")
    assert architecture.choices == {label: chosen[label] for label in first}
    with (tmp_path / "timed" / "judged.csv").open(encoding="utf-8", newline="") as file:
        judged = list(csv.DictReader(file))
    (selected,) = (row for row in judged if row["selected"] == "1")
    assert {label: selected[label] for label in first} == architecture.choices
    # A network that is chosen otherwise leaves nothing of that behind.
    assert main(["derive", str(searched.folder), "--budget-ms", repr(budget), "--output", str(tmp_path / "timed")]) == 0
    assert not (tmp_path / "timed" / "timed.csv").exists()


def test_what_cannot_be_chosen_by_the_clock_is_a_users_mistake(searched, budget, machine, tmp_path, refused):
    counted = search(tmp_path, *MACS, "training.epochs=1", "strategy.warmup_epochs=0")
    mine = ["derive", searched.folder, "--budget-ms", repr(budget)]
    said = refused("derive", counted, "--budget-ms", "0.1", "--time")
    assert "--time: " in said
    assert (
        "has its latencies of estimator 'macs', which times nothing; allowed: after a search with estimator 'device'"
        in said
    )
    assert "--time: 0 is not allowed here; allowed: 1 or more networks" in refused(*mine, "--time", "0")
    assert "--time: not with --evolve; allowed: one of them" in refused(*mine, "--evolve", "4", "--time")
    assert "--time: not with --front" in refused("derive", searched.folder, "--front", "3", "--time")
    (machine / "speed").write_text("3")
    said = refused(*mine, "--time", "3", "--output", tmp_path / "slow")
    assert "networks that were timed none is within" in said
    assert "networks of the table timed beside it take 3.0" in said
    assert "Allowed: a larger budget" in said
    assert not (tmp_path / "slow").exists()
    (machine / "speed").write_text("0")
    said = refused(*mine, "--time", "3")
    assert "--time: runtime command failed" in said
    assert "the command printed 0 for milliseconds" in said
    (machine / "bench.sh").chmod(0o644)
    try:
        assert "latency.estimator: command: " in (said := refused(*mine))
        assert "may not be executed: chmod +x" in said
    finally:
        (machine / "bench.sh").chmod(0o755)


def test_the_first_within_the_budget_is_chosen(tmp_path):
    timed = [NetworkMeasurement(ms, ms, 3, scatter=0.01) for ms in (3.1, 2.9, 3.0, 1.0)]
    choice = TimedChoice([{"a": name} for name in "wxyz"], [3.0, 3.0, 2.9, 1.0], timed, 3.0, "ms")
    assert choice.within == [1, 2, 3]
    assert choice.choices == {"a": "x"}
    choice.write(tmp_path)
    assert [row["selected"] for row in rows_of(tmp_path)] == ["0", "1", "0", "0"]
