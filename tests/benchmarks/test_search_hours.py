"""Hours of a search of ImageNet: the arithmetic on known costs, and the command on small images."""

from __future__ import annotations

import json

import pytest

from experiments.benchmarks.search_hours import run as search_hours
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig

from ..conftest import ROOT

STEPS = ["floor again", "weight step", "two-path step", "DSNAS search", "DSNAS child"]


def test_stages_cost_their_epochs_times_their_batches():
    """With steps that cost what a plain one costs, a search costs its epochs; the architecture rests in one of them."""
    rows = {name: {"ratio": 1.0, "noise": 0.03} for name in STEPS}
    rows["DSNAS search"] = {"ratio": 2.0, "noise": 0.03}

    def trainings(name: str) -> dict[str, float]:
        config = read_config(SearchConfig, ROOT / search_hours.FILES[name])
        return {s["stage"]: s["trainings"] for s in search_hours.by_stages(rows, config)}

    assert trainings("proxyless") == pytest.approx(
        {"warm-up": 40 * 0.951 / 300, "search": (120 + 119 / 5) * 0.951 / 300}
    )
    assert trainings("dsnas") == pytest.approx(
        {"warm-up": 15 * 0.99 / 300, "search": 2 * 65 * 0.99 / 300, "child": 160 * 0.99 / 300}
    )


def test_search_hours_runs_and_records_everything(tmp_path):
    file = tmp_path / "hours.json"
    words = ["--pixels", "32", "--batch", "2", "--rounds", "1"]
    code = search_hours.main([*words, "--output", str(file)])
    result = json.loads(file.read_text(encoding="utf-8"))
    missed = [bar["bar"] for bar in result["bars"] if bar["verdict"] == "missed"]
    assert code == (1 if missed else 0)
    assert [row["name"] for row in result["entries"]] == STEPS
    plain = result["plain_images_per_second"]
    for name, total in result["totals"].items():
        of = [s for s in result["stages"] if s["strategy"] == name]
        assert total["epochs"] == sum(s["epochs"] for s in of) == {"proxyless": 160, "dsnas": 240}[name]
        hours = total["trainings"] * 300 * 1_281_167 / plain / 3600
        assert total["hours_here"] == pytest.approx(hours)
        assert total["plain_images_per_second_for_these"] * total["published_gpu_hours"] == pytest.approx(hours * plain)


def test_hours_of_a_file_are_those_of_its_own_search(capsys):
    """On noise of as many classes as there are images for; a search refuses a network with other outputs."""
    small = ["space.widths=[8, 16]", "space.depths=[1, 1]", "space.strides=[2, 2]", "data.image_size=16"]
    words = ["--batches", "10", "--images", "1000", "--classes", "20"]
    assert search_hours.main([str(ROOT / "experiments" / "search.yml"), *small, *words]) == 0
    assert "hours" in capsys.readouterr().out
