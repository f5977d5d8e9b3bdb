"""A whole path in 8 bits: table, search, derived networks, final training, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nni_proxyless import data
from nni_proxyless.cli.main import main
from nni_proxyless.data.image_parts import loader, split
from nni_proxyless.derive import Architecture, build_network, load_weights
from nni_proxyless.latency import LookupTable
from nni_proxyless.models.export.int8_accuracy import int8_merit

from ..runs import TINY, search

INT8 = (
    TINY.replace("depths: [2, 2]", "depths: [1, 1], kernels: [3]")
    .replace("target_ms: 90%", "target_ms: 100%")
    .replace("runtime: torch", "runtime: onnxruntime, precision: int8")
    .replace("repeats: 15", "repeats: 3")
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return search(tmp_path_factory.mktemp("int8"), "training.epochs=2", text=INT8)


def content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def in_int8(architecture: Path, validation: bool) -> float | None:
    """The accuracy of the network with the weights beside it, by the images that it is to be judged by."""
    sets = data.digits(image_size=8)
    parts = split(sets, alphas=0.2, validation=0.2)
    weights = architecture.parent / ("weights.safetensors" if validation else "final/weights.safetensors")
    network = build_network(Architecture.read(architecture), load_weights(weights))
    training, judged = (parts.weights_plain, parts.validation) if validation else (sets.train_plain, sets.test)
    return int8_merit(network, training, loader(judged, 64), sets.task)


def test_table_and_network_are_timed_in_int8(run):
    table = LookupTable.read(run / "latencies.yaml")
    assert (table.conditions["precision"], table.measured["method"]) == ("int8", "fit")
    found = content(run / "architecture.json")["latency"]
    assert found["measured_ms"] > 0
    assert found["conditions"]["precision"] == found["measured_conditions"]["precision"] == "int8"


def test_accuracy_in_int8_stands_beside_that_in_float(run, capsys):
    found = content(run / "architecture.json")["search"]
    assert found["accuracy_int8"] == in_int8(run / "architecture.json", validation=True)
    assert found["accuracy_int8"] == pytest.approx(found["accuracy"], abs=0.1)

    assert main(["derive", str(run), "--budget-ms", "9"]) == 0
    derived = content(run / "budget-9.000" / "architecture.json")["search"]
    assert derived["accuracy_int8"] == in_int8(run / "budget-9.000" / "architecture.json", validation=True)
    assert (
        f"{derived['accuracy']:.4f} on the validation part, {derived['accuracy_int8']:.4f} in int8"
        in capsys.readouterr().out
    )

    assert main(["train", str(run / "architecture.json"), "epochs=1"]) == 0
    result = content(run / "final" / "result.json")
    assert result["accuracy_int8"] == in_int8(run / "architecture.json", validation=False)
    assert f"test accuracy: {result['accuracy']:.4f}; in int8: {result['accuracy_int8']:.4f}" in capsys.readouterr().out

    assert main(["report", str(run)]) == 0
    head, line = capsys.readouterr().out.splitlines()[:2]
    assert head.split()[-8:] == ["search", "acc", "search", "int8", "final", "acc", "final", "int8"]
    shown = [found["accuracy"], found["accuracy_int8"], result["accuracy"], result["accuracy_int8"]]
    assert line.split()[-4:] == [f"{value:.4f}" for value in shown]
