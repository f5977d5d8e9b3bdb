"""What two users get from one supernet by two tables, against a search through everything; and the command in its smallest form."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.benchmarks.nas_bench_macro.space import CHOICES, LABELS, every_network, sample_of
from experiments.benchmarks.nas_bench_macro.table import Table
from experiments.benchmarks.runtime_regret import report, run
from experiments.benchmarks.search_by_runtime.report import EAGER, SHIPPED


def test_the_best_networks_of_all_budgets():
    loss, ms = np.array([3.0, 2.0, 2.5, 1.0, 1.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert run.best_within(loss, ms).tolist() == [0, 1, 3]
    draw = np.random.default_rng(0)
    loss, ms = draw.normal(size=200), draw.integers(1, 60, 200).astype(float)
    of_all = {int(np.flatnonzero(ms <= budget)[loss[ms <= budget].argmin()]) for budget in np.unique(ms)}
    assert set(run.best_within(loss, ms).tolist()) == of_all


def test_both_users_keep_the_target_and_the_first_gets_the_best_network_within_it():
    draw = np.random.default_rng(1)
    ms = {SHIPPED: draw.uniform(1, 10, 500)}
    ms[EAGER] = ms[SHIPPED] * draw.uniform(0.7, 1.4, 500)
    loss = draw.normal(size=500) - 0.2 * ms[SHIPPED]
    for target in (3.0, 5.0, 8.0):
        chosen = run.choose(loss, ms, target)
        inside = np.flatnonzero(ms[SHIPPED] <= target)
        assert chosen[SHIPPED] == inside[loss[inside].argmin()]
        eager = chosen[EAGER]
        assert ms[SHIPPED][eager] <= target
        assert not (loss[ms[EAGER] <= ms[EAGER][eager]] < loss[eager]).any()  # the best within its eager budget
        assert loss[eager] >= loss[chosen[SHIPPED]]
    same = run.choose(loss, {SHIPPED: ms[SHIPPED], EAGER: 2 * ms[SHIPPED]}, 5.0)
    assert same[SHIPPED] == same[EAGER]
    with pytest.raises(ValueError, match=r"no network that is best within a budget of torch takes at most 0\.5 ms"):
        run.choose(loss, ms, 0.5)


def test_sums_are_of_the_choices_of_every_network():
    scores = {label: {choice: 10 * i + j for j, choice in enumerate(CHOICES)} for i, label in enumerate(LABELS)}
    found = run.sums(scores)
    for i in (0, 1, 4321, 6560):
        assert found[i] == sum(scores[label][choice] for label, choice in sample_of(every_network()[i]).items())


def test_chance_within_a_target():
    table, ms = Table.made_up(width=0.125), np.linspace(1, 2, 6561)
    of = run.chance(table, ms, 1.5)
    inside = (ms >= 0.95 * 1.5) & (ms <= 1.5)
    assert of["networks"] == inside.sum()
    assert of["mean"] == pytest.approx(table.accuracy[inside].mean())
    assert of["maximum"] == table.accuracy[ms <= 1.5].max() >= of["best_of_3"] > of["best_of_2"] > of["mean"]


def test_accuracy_is_compared_by_seed_and_latency_by_the_front():
    target_ms, seeds = [1.0, 2.0, 3.0, 4.0], (0, 1, 2)
    fronts = [[80.0 + seed, 84.0 + seed, 86.0 + seed, 87.0 + seed] for seed in seeds]
    networks = [
        {"arm": arm, "seed": seed, "share": 0.3, "accuracy": accuracy + seed, "table_ms": {SHIPPED: ms}}
        for seed in seeds for arm, accuracy, ms in ((SHIPPED, 86.0, 3.0), (EAGER, 84.0, 3.0))
    ]  # fmt: skip
    found = report.compared(networks, fronts, target_ms)
    assert found["accuracy"]["0.3"]["difference"] == found["accuracy"]["all"]["difference"] == 2.0
    assert found["latency"]["0.3"] == {"ratio": 1.5, "interval": pytest.approx([1.5, 1.5], abs=0.76)}
    beyond = [network | ({"accuracy": 99.0} if network["arm"] == EAGER else {}) for network in networks]
    assert report.compared(beyond, fronts, target_ms)["latency"]["0.3"]["ratio"] == 0.0  # none is as accurate


def test_the_short_form(tmp_path, capsys):
    output = tmp_path / "found.json"
    words = [
        "--short",
        "--folder",
        str(tmp_path / "made"),
        "--output",
        str(output),
        "--picture",
        str(tmp_path / "found.svg"),
    ]
    assert run.main(words) == 0
    told, found = capsys.readouterr().out, json.loads(output.read_text())
    assert "by ONNX Runtime" in told
    assert report.markdown(found)[-1] in told
    for network in found["networks"]:
        target = found["chance"][str(network["share"])]["target_ms"]
        assert 0 < network["table_ms"][SHIPPED] <= target
        assert network["measured_ms"] > 0
    made = sorted(path.name for path in (tmp_path / "made" / "runtimes").iterdir())
    assert made == ["onnxruntime.yaml", "torch.yaml"]
