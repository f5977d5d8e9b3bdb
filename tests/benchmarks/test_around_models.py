"""Networks around models that were trained: the arithmetic, what each training begins with, table and picture."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.benchmarks.around_models import run as study
from experiments.benchmarks.around_models.report import markdown, picture
from experiments.benchmarks.quality.cell import (
    any_net,
    cut_weights,
    original_path,
    original_weights,
    settings_around_a_model,
    space_of,
)
from nni_proxyless.derive import build_network

GRID = study.grid_of("mobilenetv3_small_050", (0,))


def made_up(model: str, *differences: float) -> dict:
    cells = []
    for seed, difference in enumerate(differences):
        for method, accuracy, seconds in (("two-path", 0.9 + difference, 60.0), ("original", 0.9, 40.0)):
            network = {"test_accuracy": accuracy, "by_mobilenetv2": 0.98 if method == "two-path" else 1.0}
            cells.append({"method": method, "width": 0.7, "seed": seed, "networks": [network], "seconds": seconds})
    return {"model": model, "original": {"test_accuracy": 0.91}, "cells": cells}


def test_means_over_seeds_are_compared_over_models():
    """Means of 2, 3 and 4 points: 3, with a standard error of 1 / sqrt 3."""
    models = [made_up("a", 0.01, 0.03), made_up("b", 0.03, 0.03), made_up("c", 0.05, 0.03)]
    found = study.compared(models)
    assert [round(row["difference"], 9) for row in found["rows"]] == [0.02, 0.03, 0.04]
    assert found["difference"] == pytest.approx(0.03)
    assert found["standard_error"] == pytest.approx(0.01 / 3**0.5)
    assert found["p"] == pytest.approx(0.03508, abs=1e-4)
    assert found["not_worse"] == 3
    assert study.compared([made_up("a", -0.01), made_up("b", 0.0)])["not_worse"] == 1
    assert [row["seconds"] for row in found["rows"]] == [[60.0, 40.0]] * 3


def test_the_table_and_the_picture(tmp_path):
    models = [made_up("a", 0.01, 0.03), made_up("b", 0.03, 0.03)]
    result = {
        "machine": {"cpu": "one", "cores": 2, "system": "Linux"}, "threads": 1, "date": "2026-12-01", "versions": {"Python": "3.11"}, "command": "python -m it",
        "settings": {}, "seconds": 60, "bars": [], "grid": dataclasses.asdict(GRID), "models": models, "compared": study.compared(models),
    }  # fmt: skip
    text = "\n".join(markdown(json.loads(json.dumps(result))))
    assert "| model | width | itself, % | found, % | scaled, % |" in text
    assert "| a | 0.7 | 91.00 | 92.00 | 90.00 | +2.00 ± 1.00 | 0.980 | 2 | 60 / 40 |" in text
    assert "Over 2 models: +2.50 ± 0.50 points" in text
    picture(result, tmp_path / "drawn.svg")
    assert (tmp_path / "drawn.svg").stat().st_size > 1000


def test_what_is_not_searched_trains_for_as_much_compute_and_all_but_one_have_the_teacher(tmp_path):
    by_method = {
        method: settings_around_a_model(GRID, method, tmp_path)
        for method in ("two-path", "untaught", "random", "original")
    }
    assert {method: of.get("epochs", GRID.final_epochs) for method, of in by_method.items()} == {
        "two-path": 10, "untaught": 10, "random": 24, "original": 24,
    }  # fmt: skip
    assert {method for method, of in by_method.items() if of.get("weights") == "inherited"} == {
        "two-path",
        "untaught",
        "random",
    }
    assert by_method["untaught"]["distillation"] == 0
    taught = json.loads(by_method["original"]["distillation"])
    assert taught == {
        "teacher": str(original_path(tmp_path)),
        "weights": str(original_weights(tmp_path)),
        "weight": 0.5,
    }
    assert settings_around_a_model(dataclasses.replace(GRID, original_epochs=0), "random", tmp_path) == {}


def test_random_networks_begin_with_what_a_search_begins_with(tmp_path):
    """Of the model's own choices that is the model."""
    torch.manual_seed(0)
    base = any_net(GRID)
    choices = space_of(base).original
    net = dataclasses.replace(base, choices=choices, network=space_of(base).timm_definition(choices))
    model = build_network(net).eval()
    original_weights(tmp_path).parent.mkdir(parents=True)
    save_file(model.state_dict(), original_weights(tmp_path))
    (tmp_path / "net").mkdir()
    cut_weights(GRID, [net], [tmp_path / "net" / "architecture.json"], tmp_path)
    cut = build_network(net).eval()
    cut.load_state_dict(load_file(tmp_path / "net" / "weights.safetensors"))
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(cut(x), model(x), rtol=0, atol=1e-5)
