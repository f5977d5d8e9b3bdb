"""Overhead of a search: the command on a few small images, and what is made of its figures. What it times is not checked."""

from __future__ import annotations

import json

import pytest

from experiments.benchmarks.search_overhead import run as search_overhead

# Ten batches or more in an epoch, or Lightning warns that its loggers would see none.
SMALL = [
    "data.image_size=8", "data.batch_size=80", "training.calibration_images=64", "space.widths=[8, 16]", "space.depths=[1, 1]",
    "space.strides=[2, 2]", "space.stem_width=8", "space.feature_mix=32",
]  # fmt: skip


def test_search_overhead_runs_beside_the_same_steps_and_records_everything(tmp_path):
    """That its plain loop comes to the same weights and logits to the bit, the script itself checks."""
    file = tmp_path / "overhead.json"
    code = search_overhead.main(["--short", "--epochs", "3", "--set", *SMALL, "--output", str(file)])
    result = json.loads(file.read_text(encoding="utf-8"))
    missed = [bar["bar"] for bar in result["bars"] if bar["verdict"] == "missed"]
    assert code == (1 if missed else 0)
    assert [bar["bar"] for bar in result["bars"]] == [
        f"{name} on digits, a whole search by its steps" for name in ("ProxylessNAS", "DSNAS")
    ]
    for entry in result["entries"]:
        assert len(entry["ratios_of_epochs"]) == entry["epochs"] == 3
        assert entry["ratio"] == pytest.approx(entry["search_seconds"] / entry["floor_seconds"])
        assert sum(entry["cpu_by_floor"].values()) == pytest.approx(entry["cpu_ratio"])


def test_another_step_is_noticed(monkeypatch):
    """A plain loop that leaves one step out is no floor."""
    step = search_overhead.PlainLoop._weight_step
    monkeypatch.setattr(
        search_overhead.PlainLoop, "_weight_step", lambda self, batch, epoch, learning: epoch == 1 or step(self, batch, epoch, learning)
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="proxyless on digits: the plain loop has taken other steps than the search"):
        search_overhead.main(["--short", "--epochs", "2", "--strategies", "proxyless", "--set", *SMALL])


def test_a_bar_is_the_median_of_its_rounds():
    def entry(strategy: str, ratio: float, noise: float = 0.01) -> dict:
        return {"strategy": strategy, "data": "digits", "ratio": ratio, "noise": noise}

    found = search_overhead.bars([entry("proxyless", r) for r in (1.2, 1.4, 1.25)] + [entry("dsnas", 1.32, 0.05)])
    assert [(bar["value"], bar["at_most"], bar["verdict"]) for bar in found] == [
        (1.25, 1.3, "met"), (1.32, 1.3, "within noise")
    ]  # fmt: skip
    assert search_overhead.noise([1.2] * 8) == 0
    assert search_overhead.noise([1.1, 1.3]) == pytest.approx(0.2)
