"""NNI's tutorials hello_nas and darts, as ``experiments/tutorials`` has them: the first trial, shortened, under nnictl to the end."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nni_proxyless.derive import Architecture, build_network, count_macs, load_weights

from ..conftest import ROOT
from .test_experiment import Ended, run_to_the_end

TUTORIALS = ROOT / "experiments" / "tutorials"
SHORT = {
    "hello_nas": "space.image_size=8 data.image_size=8 data.batch_size=128 training.epochs=2 latency.estimator.repeats=3 "
    "strategies.dsnas.warmup_epochs=0 strategies.dsnas.search_epochs=1 latency.target_ms=95%",  # timed in a hurry
    "darts": "space.num_cells=3 data.image_size=8 data.batch_size=128 training.epochs=2 strategies.proxyless.warmup_epochs=0 "
    "latency.estimator.name=macs",
}


def run_shortened(name: str, command: Any, folder: Path) -> Ended:
    """The tutorial's experiment, copied as a user would, with the overrides above."""
    copied = shutil.copytree(TUTORIALS / name, folder / name, ignore=shutil.ignore_patterns("tables", "__pycache__"))
    content = yaml.safe_load((copied / "experiment.yml").read_text(encoding="utf-8"))
    content["trialCommand"] += f" {SHORT[name]}"
    content["maxTrialNumber"] = 1
    (copied / "experiment.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return run_to_the_end(command, copied, "experiment.yml", {"HOME": str(folder)})


@pytest.fixture
def lenet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module of the user's own can be imported, as in its folder."""
    monkeypatch.syspath_prepend(TUTORIALS / "hello_nas")
    yield
    sys.modules.pop("lenet", None)


@pytest.mark.parametrize(
    ("name", "labels"),
    [("hello_nas", {"convolution", "dropout", "width"}), ("darts", {"normal/op_2_0", "reduce/input_5_1"})],
)
def test_a_tutorial_leaves_the_network_that_it_reports(
    name: str, labels: set[str], command: Any, tmp_path: Path, lenet: None
) -> None:
    """Accuracy as NNI has it, choices of the space, weights that fit, and a cost within the target."""
    ended = run_shortened(name, command, tmp_path)
    assert ended.watched.returncode == 0, ended.watched.stdout + ended.watched.stderr
    (trial,) = ended.trials
    assert trial["status"] == "SUCCEEDED"
    (run,) = tmp_path.glob(f"nni-experiments/{ended.id}/environments/*/trials/{trial['trialJobId']}")
    final = json.loads(json.loads(trial["finalMetricData"][0]["data"]))
    architecture = Architecture.read(run / "architecture.json")
    assert final["default"] == architecture.search["accuracy"]
    assert labels <= architecture.choices.keys()
    assert architecture.latency["table_ms"] <= architecture.latency["target_ms"]
    network: Any = build_network(architecture, load_weights(run / "weights.safetensors")).eval()
    assert network(torch.rand(2, *architecture.input_shape)).shape == (2, 10)
    assert count_macs(network, architecture.input_shape) == architecture.macs
    if name == "hello_nas":
        assert network.dropout_of_maps.p == architecture.choices["dropout"]
        assert network.hidden.out_features == network.classifier.in_features == architecture.choices["width"]
        assert final["measured_ms"] > 0
