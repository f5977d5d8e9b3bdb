"""The benchmark of tables: its bars, from what is recorded. What it measures takes minutes."""

from __future__ import annotations

import copy
import json

import pytest

from experiments.benchmarks.latency_truth import report

from ..conftest import ROOT

RECORD = ROOT / "experiments" / "benchmarks" / "latency_truth" / "records" / "latency_truth.json"


@pytest.fixture
def run() -> dict:
    runs = json.loads(RECORD.read_text(encoding="utf-8"))["runs"]
    return next(r for r in runs if r["method"] == "networks")


def test_bars_are_of_the_worst_run_by_the_default_method(run):
    worse = copy.deepcopy(run) | {"build_seconds": 200.0}
    worse["after"] |= {"mean_error": 0.05, "spearman": [0.9, 0.88, 0.95]}
    isolated = copy.deepcopy(worse) | {"method": "isolated", "build_seconds": 1000.0}
    bars = {b["bar"]: b for b in report.bars([run, worse, isolated], short=False)}
    assert {name: b["value"] for name, b in bars.items()} == {
        "build, seconds": 200.0, "mean error": 0.05, "worst error": run["after"]["worst_error"], "Spearman": 0.9,
    }  # fmt: skip
    assert [b["verdict"] for b in bars.values()] == ["missed", "missed", "met", "missed"]
    assert bars["Spearman"]["noise"] == pytest.approx(0.02), "the lower half of its interval"
    assert "build, seconds" not in {b["bar"] for b in report.bars([worse], short=True)}


def test_noise_is_that_of_the_networks_of_the_run(run):
    run["networks"] = [{"calibrated_ms": 10 * (1 + e), "measured_ms": 10.0} for e in (0.01, -0.01, 0.03, -0.05)]
    assert report.noise(run, "worst_error") == pytest.approx(0.02)
    deviation = (sum((e - 0.025) ** 2 for e in (0.01, 0.01, 0.03, 0.05)) / 3) ** 0.5
    assert report.noise(run, "mean_error") == pytest.approx(2 * deviation / 2)
