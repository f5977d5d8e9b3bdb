"""How much networks differ by the noise of their trainings: its arithmetic, and the command in its smallest form."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from experiments.benchmarks.gate import run as gate


def test_deviation_between_networks_by_the_noise_of_a_training():
    """By hand: means 1, 3, 5 with variance 4; within each network the variance is 2; F is 2 * 4 / 2 = 4, the ratio sqrt(3 / 2)."""
    found = gate.compared([[0, 2], [2, 4], [4, 6]])
    assert found["noise"] == pytest.approx(2**0.5)
    assert found["ratio"] == pytest.approx(1.5**0.5)
    assert found["between"] == pytest.approx(3**0.5)  # the variance of the means less half of that of a training
    assert found["p"] == pytest.approx(stats.f_oneway([0, 2], [2, 4], [4, 6]).pvalue)


def test_the_interval_holds_the_ratio_as_often_as_it_says():
    draw, inside = np.random.default_rng(0), 0
    for _ in range(400):
        a = draw.normal(scale=3.0, size=(24, 1)) + draw.normal(size=(24, 2))
        found = gate.compared(a)
        inside += found["low"] <= 3 <= found["high"]
    assert abs(inside / 400 - 0.95) < 5 * (0.95 * 0.05 / 400) ** 0.5  # 6e-7
    assert gate.compared(draw.normal(size=(24, 2)) / 10 + 1)["low"] == 0


def test_the_command_trains_networks_of_equal_cost_twice(tmp_path):
    file = tmp_path / "result.json"
    code = gate.main(
        ["--short", "--folder", str(tmp_path), "--output", str(file), "--picture", str(tmp_path / "drawn.svg")]
    )
    result = json.loads(file.read_text())
    assert code == 0
    (found,) = result["spaces"].values()
    macs = [network["macs"] for network in found["networks"]]
    assert max(macs) - min(macs) <= 0.06 * max(macs)
    assert len({repr(network["choices"]) for network in found["networks"]}) == 2
    assert all(len(network["accuracies"]) == 2 for network in found["networks"])
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/*/final/result.json")}
    assert len(made) == 4
    assert gate.main(["--short", "--folder", str(tmp_path), "--output", str(file)]) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
