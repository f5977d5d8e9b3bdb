"""A search among resolutions, strides and widths, from its file to the network, its pictures and its exported files."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from nni_proxyless.cli.main import main
from nni_proxyless.derive import Architecture, build_network, count_macs, count_parameters, load_weights

from ..runs import MACS, search

SPACE = (
    "space.resolution=[6, 8]",
    "space.stem_stride=[1, 2]",
    "space.stem_width=[8, 16]",
    "space.widths=[[8, 16], 24]",
    "space.kernels=[3]",
)
STRATEGIES = {
    "dsnas": "strategy={name: dsnas, warmup_epochs: 1, search_epochs: 1, arc_learning_rate: 0.05}",
    "reinforce": "strategy={name: proxyless, update: reinforce, warmup_epochs: 1, reinforce_samples: 2}",
}
LABELS = {"resolution", "stem.stride", "stem.width", "stage1.width"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_among_shapes_leaves_the_network_that_it_says(strategy, tmp_path: Path):
    words = (*SPACE, *MACS, STRATEGIES[strategy], "latency.target_ms=60%", "search={select: supernet, judged: 6}")
    run = search(tmp_path, *words)
    architecture = Architecture.read(run / "architecture.json")
    assert set(architecture.choices) > LABELS
    assert architecture.network is not None
    for label, key in (("resolution", "resolution"), ("stem.stride", "stem_stride"), ("stem.width", "stem_size")):
        assert architecture.network[key] == int(architecture.choices[label])
    network = build_network(architecture, load_weights(run / "weights.safetensors"))
    macs = count_macs(network, (1, 8, 8))
    assert architecture.macs == macs
    assert architecture.latency["table_ms"] * 1e6 == pytest.approx(macs)
    assert macs <= 1e6 * architecture.latency["target_ms"]
    assert architecture.n_params == count_parameters(network)
    side = architecture.choices["resolution"]
    assert f"to {side}×{side}" in (run / "network.svg").read_text(encoding="utf-8")
    assert (
        main(["export", str(run / "architecture.json"), "--formats", "onnx", "--repeats", "2", "--test-images", "5"])
        == 0
    )
    graph = onnx.load(run / "model.onnx").graph
    assert [n.dim_value for n in graph.input[0].type.tensor_type.shape.dim] == [1, 1, 8, 8]
    assert [node.op_type for node in graph.node].count("Resize") == (side != "8")
    assert json.loads((run / "export.json").read_text())["files"]["onnx"]["largest_difference"] <= 1e-4
