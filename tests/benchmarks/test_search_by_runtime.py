"""The benchmarks of searches and networks by runtime: their arithmetic, and which network is taken. ``make bench`` runs them."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from experiments.benchmarks.runtime_networks import report as networks_report
from experiments.benchmarks.runtime_networks import run as networks
from experiments.benchmarks.search_by_runtime import report
from experiments.benchmarks.search_by_runtime import run as search
from nni_proxyless.latency.objectives.budget import log_probability


def a_network(arm: str, seed: int, accuracy: float, ms: float) -> dict:
    return {
        "arm": arm, "seed": seed, "test_accuracy": accuracy, "measured_ms": {report.SHIPPED: ms, report.EAGER: 3.0},
        "table_ms": {report.SHIPPED: ms, report.EAGER: 3.0}, "macs": 1e6, "n_params": 1000, "choices": {"a": "skip", "b": "k3e1"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict:
    """By the shipped runtime 0.80 at 1 ms and 0.78 at 0.8 ms; by eager 0.79 at 1 ms, less 0.002 in the second of four seeds."""
    made = []
    for seed in range(4):
        made += [
            a_network(report.SHIPPED, seed, 0.80 + 0.01 * seed, 1.0),
            a_network(f"{report.SHIPPED}, 80%", seed, 0.78 + 0.01 * seed, 0.8),
        ]
        made.append(a_network(report.EAGER, seed, 0.79 + 0.01 * seed - 0.002 * (seed == 1), 1.0))
    return {"networks": made, "compared": report.compared(made, 0.8)}


def test_searches_are_compared_seed_by_seed(found):
    accuracy = found["compared"]["accuracy"]
    d = [0.01, 0.012, 0.01, 0.01]
    assert accuracy["difference"] == pytest.approx(np.mean(d))
    assert accuracy["p"] == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    # With 3 degrees of freedom: 3.182 and 0.978 standard errors.
    assert accuracy["detectable"] == pytest.approx((3.182 + 0.978) * accuracy["standard_error"], rel=1e-3)
    assert found["compared"]["smaller"]["difference"] == pytest.approx(-0.01 + 0.0005)


def test_at_equal_accuracy_the_eager_network_takes_longer(found):
    """0.02 points are log(1 / 0.8), 0.0105 of them 0.525 of that."""
    latency = found["compared"]["latency"]
    assert latency["ratio"] == pytest.approx(0.8**-0.525, rel=1e-3)
    low, high = latency["interval"]
    assert low <= latency["ratio"] <= high


def test_both_are_told_and_drawn(found, tmp_path):
    result = found | {
        "machine": {"cpu": "a CPU", "cores": 2}, "threads": 1, "date": "2026-11-29", "versions": {"torch": "2.14"}, "command": "python x",
        "seconds": 60, "bars": [], "targets": {report.SHIPPED: 1.0, report.EAGER: 3.0}, "runtimes": dict.fromkeys(report.ARMS, "x 1"),
        "setting": {"grid": {"images": 10, "n_more_test": 0, "seeds": [0, 1, 2, 3], "search_epochs": 2, "warmup_epochs": 1, "final_epochs": 1}},
    }  # fmt: skip
    assert any(
        line.startswith("| by ONNX Runtime, less by eager PyTorch | +1.05 |") for line in report.markdown(result)
    )
    report.picture(result, tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 1000


def test_of_an_eager_search_the_largest_network_that_meets_the_target_is_taken():
    costs = {report.EAGER: {"a": 1.0, "b": 2.0, "c": 3.0}, report.SHIPPED: {"a": 1.0, "b": 0.9, "c": 1.5}}

    shipped = SimpleNamespace(profile=lambda sample: costs[report.SHIPPED][sample["label"]])

    def best(budget: float) -> dict:
        return {"label": max(c for c, ms in costs[report.EAGER].items() if ms <= budget)}

    found = search.networks_of(best, report.EAGER, (1.0, 3.0), shipped, 1.2)
    assert found == {report.EAGER: {"label": "a"}}
    with pytest.raises(ValueError, match=r"no network of the search by torch takes at most 0\.5 ms"):
        search.networks_of(best, report.EAGER, (1.0, 3.0), shipped, 0.5)
    by_shipped = search.networks_of(lambda budget: {"within": budget}, report.SHIPPED, (1.0, 3.0), shipped, 1.0)
    assert by_shipped == {report.SHIPPED: {"within": 1.0}, f"{report.SHIPPED}, 80%": {"within": 0.8}}


def test_more_judged_networks_predict_the_others_better(tmp_path):
    """Log-losses that are a sum over choices, and noise."""
    draw = random.Random(0)
    adds = {f"stage{i}": {choice: draw.gauss(0, 1) for choice in "abcd"} for i in range(6)}
    rows = ["log_loss,accuracy,selected," + ",".join(adds)]
    for _ in range(200):
        sample = {label: draw.choice("abcd") for label in adds}
        loss = sum(adds[label][choice] for label, choice in sample.items()) + draw.gauss(0, 0.5)
        rows.append(f"{loss},0.5,0," + ",".join(sample.values()))
    (tmp_path / "judged.csv").write_text("\n".join(rows) + "\n")
    found = search.left_out(tmp_path / "judged.csv")
    assert list(found) == [16, 32, 64, 128]
    assert found[16] < found[32] < found[64] < found[128]
    assert found[128] > 0.9


def test_the_score_is_what_candidates_add_to_the_loss():
    draw = random.Random(0)
    adds = {f"label{i}": {choice: draw.uniform(0, 1) for choice in "abc"} for i in range(4)}
    every = [dict(zip(adds, choices, strict=True)) for choices in itertools.product("abc", repeat=4)]
    losses = [sum(adds[label][choice] for label, choice in sample.items()) for sample in every]
    given = [{"choices": sample, "loss": loss} for sample, loss in zip(every, losses, strict=True)]
    probs, worth = networks.additive(given, {label: list("abc") for label in adds})
    assert worth["spearman"] > 0.99
    scores = [log_probability(probs, sample) for sample in every]
    assert stats.spearmanr(scores, losses).statistic < -0.999


def test_the_own_network_must_be_the_fastest_beyond_the_scatter_of_copies():
    def network(a: float, b: float, choice: str) -> dict:
        return {"choices": {"x": choice}, "measured": {"torch": [a, a, 1.02 * a, 0.98 * a], "ncnn": [b] * 4}}

    found = networks_report.bars({"torch": network(0.9, 2.0, "u"), "ncnn": network(1.0, 2.1, "v")})
    assert [b["verdict"] for b in found] == ["met", "met", "missed"]
    (same,) = (
        b
        for b in networks_report.bars({"torch": network(1.0, 1.0, "u"), "ncnn": network(1.0, 1.0, "u")})
        if "differ" in b["bar"]
    )
    assert same["verdict"] == "missed"
