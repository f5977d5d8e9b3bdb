"""Rank correlations between scores and final accuracies: their arithmetic, and the command in its smallest form."""

from __future__ import annotations

import json
import math

import pytest
from nni_proxyless.search_spaces import MobileNetV2Space

from experiments.benchmarks.ranking import run as ranking
from nni_proxyless.data.datasets import DEBIAN_FASHION_MNIST
from nni_proxyless.derive import count_macs


def test_tau_of_known_orders():
    final = [1.0, 2.0, 3.0, 4.0, 5.0]
    same = ranking.tau([10.0, 20.0, 30.0, 40.0, 50.0], final, 50)
    assert [same[name] for name in ("tau", "low", "high")] == pytest.approx([1, 1, 1])
    assert same["p"] == pytest.approx(2 / math.factorial(5))
    assert ranking.tau(final[::-1], final, 50)["tau"] == pytest.approx(-1)
    # One neighboring pair of ten is wrong: (9 - 1) / 10.
    one_wrong = ranking.tau([2.0, 1.0, 3.0, 4.0, 5.0], final, 200)
    assert one_wrong["tau"] == pytest.approx(0.8)
    assert one_wrong["low"] < 0.8 <= one_wrong["high"]


def test_pairs_of_about_equal_cost_alone():
    macs, final = [100.0, 99.0, 50.0, 51.0], [0.9, 0.8, 0.5, 0.6]
    # Right between the two that cost most, wrong between the others; pairs across do not count.
    assert ranking.tau_in_band([0.7, 0.6, 0.5, 0.4], final, macs) == {"tau": 0.0, "pairs": 2}
    assert ranking.tau_in_band([0.7, 0.6, 0.4, 0.5], final, macs) == {"tau": 1.0, "pairs": 2}
    assert ranking.tau_in_band([0.7, 0.7, 0.4, 0.5], final, macs) == {"tau": 0.5, "pairs": 2}, (
        "a tie is neither right nor wrong"
    )
    assert ranking.tau_in_band([1, 2], [0.5, 0.6], [10, 20])["pairs"] == 0


def test_networks_are_spread_over_all_costs():
    chosen = ranking.spread_over_costs(10)
    macs = [cost for _, cost in chosen]
    assert macs == sorted(macs)
    assert macs[-1] > 2 * macs[0]
    for network, cost in (chosen[0], chosen[4], chosen[-1]):
        space = MobileNetV2Space(**ranking.SPACE)
        assert count_macs(space.freeze(network), ranking.SHAPE) == cost
    assert ranking.spread_over_costs(10) == chosen


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_command_searches_trains_and_records(tmp_path, monkeypatch):
    small = {"networks": 3, "images": 80, "validation": 40, "calibration": 32, "test": 40, "batch": 16}
    tiny = ranking.Sizes(**small, epochs=1, warmup=1, search=1, resamples=20)
    monkeypatch.setattr(ranking, "SHORT", tiny)
    file, names = tmp_path / "result.json", ["two-path", "dsnas+shared"]
    assert ranking.main(["--short", "--strategies", *names, "--output", str(file)]) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    assert result["sizes"] == tiny._asdict()
    assert [s["strategy"] for s in result["supernets"]] == names
    for supernet in result["supernets"]:
        assert list(supernet["accuracies"]) == ["after pretraining", "after the search"]
        assert all(len(seen) == 3 and all(0 <= a <= 1 for a in seen) for seen in supernet["accuracies"].values())
    assert all(len(network["final"]) == 2 for network in result["networks"])
