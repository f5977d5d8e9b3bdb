"""Searches in the space of trees: by every update, at the cost of the sampled paths, and from a file to a trained network."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from nni.nas.evaluator.pytorch import DataLoader
from nni.nas.nn.pytorch import LayerChoice
from nni_proxyless.search_spaces import PyramidTreeSpace
from torch.utils.data import TensorDataset

import nni_proxyless.timm_models  # noqa: F401  (registers the models)
from nni_proxyless.cli.main import main
from nni_proxyless.derive import Architecture, build_network, count_macs, load_weights

from ..strategies.nni_spaces import UPDATES, Row
from ..strategies.searches import OF_EXPERIMENTS, Task, searched
from ..strategies.test_nni_spaces import assert_searched
from .test_hub import assert_derives

pytestmark = OF_EXPERIMENTS

LAYOUT: dict[str, Any] = {"depths": (1, 1), "stem_width": 4, "final_width": 6}
TREES = Row("trees", lambda: PyramidTreeSpace("small", **LAYOUT, num_classes=3, in_channels=2), (2, 8, 8))
N_EDGES, N_OPERATIONS = 24, 7


@pytest.mark.parametrize("update", UPDATES)
def test_every_update_searches_trees(update):
    assert_searched(TREES, update)


@pytest.mark.parametrize(
    ("update", "per_architecture_step"), [("two-path", 2), ("full", N_OPERATIONS), ("reinforce", 4), ("loss", 0)]
)
def test_a_step_runs_the_sampled_operations_alone(update, per_architecture_step):
    """A weight step one operation of each edge; an architecture step of two-path two of them, of the full update all, of REINFORCE one for
    each of four samples; DSNAS by its loss has no other steps than those of the weights, here two epochs of them."""
    ran: Counter[int] = Counter()
    space = TREES.make()
    for choice in [module for module in space.modules() if isinstance(module, LayerChoice)]:
        for name in choice.names:
            choice[name].register_forward_hook(lambda module, args, output: ran.update(["all"]))
    n_steps = 3
    x, y = torch.randn(4 * n_steps, 2, 8, 8), torch.arange(4 * n_steps) % 3
    data = DataLoader(TensorDataset(x, y), batch_size=4)
    strategy = TREES.strategy(update)

    class Judged(Task):
        def architecture_accuracy(self, batch: Any, batch_idx: int) -> float:
            return -float(self.training_step(batch, batch_idx))

    epochs = 2 if update == "loss" else 1
    searched(strategy, Judged(), space, epochs=epochs, train_dataloaders=data, val_dataloaders=data)
    assert ran["all"] == N_EDGES * n_steps * epochs * (1 + per_architecture_step)


SEARCH = """
space: {name: pyramid-tree, preset: small, depths: [1, 1], stem_width: 4, final_width: 6}
data: {name: digits, image_size: 8, batch_size: 64}
latency: {target_ms: 60%, estimator: {name: macs}}
training: {epochs: 1, learning_rate: 0.05}
search: {select: probabilities}
trainer: {accelerator: cpu, threads: 1}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    (folder / "search.yml").write_text(SEARCH)
    words = ["strategy={name: proxyless, arc_update_every: 1}", f"output={folder / 'run'}"]
    assert main(["search", str(folder / "search.yml"), *words]) == 0
    return folder / "run"


def test_a_search_leaves_a_model_of_timm_within_its_target(run):
    """Of the weights that the supernet has for it, and drawn; the space was told the images' classes and channels."""
    architecture, weights = Architecture.read(run / "architecture.json"), load_weights(run / "weights.safetensors")
    assert architecture.space["arguments"] == {
        "preset": "small", "depths": [1, 1], "stem_width": 4, "final_width": 6, "num_classes": 10, "in_channels": 1,
    }  # fmt: skip
    model = timm.create_model("proxyless_derived", architecture=str(run / "architecture.json"), pretrained=True).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model(x), build_network(architecture, weights).eval()(x))
    assert architecture.latency["table_ms"] * 1e6 == pytest.approx(count_macs(model, (1, 8, 8)))
    assert architecture.latency["table_ms"] <= architecture.latency["target_ms"]
    assert_derives(run, architecture, weights)
    assert "net0-tree2-11-" in (run / "network.svg").read_text()


def test_further_networks_are_derived_trained_and_reported(run, tmp_path, capsys):
    """Under an exact budget, from the weights of the supernet."""
    budget = 0.8 * Architecture.read(run / "architecture.json").latency["table_ms"]
    assert main(["derive", str(run), "--budget-ms", str(budget), "--output", str(tmp_path / "less")]) == 0
    path = tmp_path / "less" / "architecture.json"
    assert 0 < Architecture.read(path).latency["table_ms"] <= budget
    assert main(["train", str(path), "epochs=2", "batch_size=32", "device=cpu"]) == 0
    result = json.loads((tmp_path / "less" / "final" / "result.json").read_text())
    assert result["accuracy"] > 0.2, "twice that of a guess"
    capsys.readouterr()
    assert main(["report", str(run), "--html", str(tmp_path / "page.html")]) == 0
    assert "net0-tree1-0-" in (tmp_path / "page.html").read_text()
