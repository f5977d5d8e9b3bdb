"""AutoFormer's and MobileNetV3's spaces by the commands, with their files in ``experiments/`` shortened: a table of milliseconds, a search
to a target, its report, another network within a budget, a training, files for a runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from nni_proxyless.cli.main import main
from nni_proxyless.config.read import file_and_overrides, read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.derive import Architecture, build_network, count_macs, load_weights
from nni_proxyless.latency import LatencyProfiler, LookupTable
from nni_proxyless.latency.objectives.extremes import fastest, slowest
from nni_proxyless.models.space import make_searchable_space

from ..conftest import ROOT

SHAPE = (1, 8, 8)
SHORT = ("data.batch_size=128", "training.epochs=2", "latency.estimator.repeats=3", "latency.estimator.warmup=1")
OWN = {
    "autoformer": (
        "space.patch_size=4", "space.search_embed_dim=[16, 32]", "space.search_mlp_ratio=[1.0, 2.0]", "space.search_depth=[1, 2]",
        "strategy={name: dsnas, warmup_epochs: 0, search_epochs: 1, arc_learning_rate: 0.05}",
    ),
    "mobilenetv3": (
        "space.base_widths=[8, 8, 16, 16, 16]", "space.stride=[1, 2, 2, 1, 1]", "space.activation=[hswish, relu, relu, relu, hswish]",
        "space.squeeze_excite=[none, optional]",
        "strategy={name: proxyless, update: reinforce, warmup_epochs: 0, arc_update_every: 4, reinforce_samples: 2}",
    ),
}  # fmt: skip


def built_table(file: Path, words: tuple[str, ...]) -> Path:
    """``latency build`` for the space of a search; where the search looks for the table."""
    _, overrides = file_and_overrides(list(words))
    space = read_config(SearchConfig, file, overrides).space
    given = [f"{name}={json.dumps(value)}" for name, value in space.arguments.items()]
    output = file.parent / "table.yaml"
    command = ["latency", "build", "--space", space.name, *given, "num_labels=10", "in_channels=1"]
    images = ["--resolution", "8", "--channels", "1", "--runtime", "onnxruntime"]
    short = ["--networks", "16", "--repeats", "3", "--warmup", "1", "--output", str(output)]
    assert main([*command, *images, *short]) == 0
    return output


@pytest.mark.parametrize("name", OWN)
def test_from_a_table_of_milliseconds_to_a_file_of_the_network(name: str, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "search.yml"
    file.write_text((ROOT / "experiments" / f"search_{name}.yml").read_text(encoding="utf-8"))
    words = (*SHORT, *OWN[name])
    path = built_table(file, words)
    table = LookupTable.read(path)
    assert table.measured["method"] == "fit"
    assert table.conditions["runtime"].startswith("onnxruntime")

    assert table.space is not None
    profiler = LatencyProfiler(make_searchable_space(table.space["name"], table.space["arguments"]), table, SHAPE)
    low, high = fastest(profiler)[1], slowest(profiler)[1]
    target = low + (high - low) / 3  # between the fastest network and the middle

    run = tmp_path / "run"
    given = (f"latency.target_ms={target}", f"latency.table={path}", f"output={run}")
    assert main(["search", str(file), *words, *given]) == 0
    architecture = Architecture.read(run / "architecture.json")
    latency = architecture.latency
    assert low <= latency["table_ms"] <= latency["target_ms"] == pytest.approx(target)
    assert latency["table_ms"] == pytest.approx(profiler.profile(architecture.choices))
    assert latency["measured_ms"] > 0
    network = build_network(architecture, load_weights(run / "weights.safetensors")).eval()
    assert architecture.network is None, "no model of timm"
    assert architecture.macs == count_macs(network, SHAPE)

    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert f"{latency['table_ms']:.3g}" in capsys.readouterr().out

    budget = low + (high - low) / 6
    assert main(["derive", str(run), "--budget-ms", str(budget), "--output", str(tmp_path / "budget")]) == 0
    derived = Architecture.read(tmp_path / "budget" / "architecture.json")
    assert derived.latency["table_ms"] <= budget
    is_dsnas = architecture.search["strategy"] == "dsnas"
    assert ("has no supernet.safetensors: its strategy kept the chosen" in capsys.readouterr().err) == is_dsnas
    assert derived.search["weights"] == ("fresh" if is_dsnas else "supernet")

    quick = ["epochs=1", "batch_size=128", "threads=1", "weights=inherited"]
    assert main(["train", str(run / "architecture.json"), *quick]) == 0
    assert 0 < json.loads((run / "final" / "result.json").read_text())["accuracy"] <= 1

    formats = ["--formats", "onnx", "torchscript", "--repeats", "2", "--test-images", "5"]
    assert main(["export", str(run / "architecture.json"), *formats]) == 0
    trained = build_network(architecture, load_weights(run / "final" / "weights.safetensors")).eval()
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    image = torch.rand(1, *SHAPE)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert logits == pytest.approx(trained(image).detach().numpy(), abs=1e-4)
