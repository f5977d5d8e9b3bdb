"""What runtimes themselves say of the parts of a network, and tables that make use of it."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import Tensor, nn

from nni_proxyless.latency import DeviceEstimator, build_lookup_table, trace_operations
from nni_proxyless.latency.runtimes.onnx_file import module_of
from nni_proxyless.latency.tables.profiled import owners, per_operation
from nni_proxyless.latency.tables.timed_networks import random_samples

from .test_fitting import SHAPE, Known, Space, errors


class Says(Known):
    """A target that says of every layer what it costs, and half as much again, as looking takes time."""

    profiles = True

    def time_in_turns(self, operations, *, profiled, **arguments):
        for i, (network, _) in enumerate(operations):
            layers = {n: m for n, m in network.named_modules() if not list(m.children())}
            profiled(i, {"": 0.3, **{name: 1.5 * self.cost(layer) for name, layer in layers.items()}})
        return super().time_in_turns(operations, **arguments)


def test_a_profile_makes_up_for_networks(tmp_path):
    """Of costs that nothing but the profile tells, ten networks are too few to fit to. A build that goes on has it still."""
    said, fitted = [], []
    for seed in range(2):
        partial = tmp_path / f"{seed}.partial"
        table, again = (
            build_lookup_table(Space(), SHAPE, Says(seed), method="profile", networks=10, partial=partial)  # type: ignore[arg-type]
            for _ in range(2)
        )
        assert again.rows == table.rows
        assert (table.measured["method"], table.measured["profiled"]) == ("profile", len(table.rows))
        said += errors(table, Known(seed))
        fit = build_lookup_table(Space(), SHAPE, Known(seed), method="fit", networks=10)  # type: ignore[arg-type]
        fitted += errors(fit, Known(seed))
    assert 2 * statistics.mean(said) < statistics.mean(fitted)


@pytest.mark.parametrize(("space", "shape"), [(Space(), SHAPE), (MobileNetV2Space(preset="small"), (3, 16, 16))])
def test_modules_of_networks_are_known_by_their_operations(space, shape):
    """Also where blocks are left out, and what comes after them is numbered anew."""
    operations = trace_operations(space, shape)
    for sample in random_samples(space, 10, seed=0):
        network = space.freeze(sample)
        found = owners(operations, network, shape, sample)
        assert Counter(found.values()) == Counter(op.key for op in operations if op.conditions and op.runs_in(sample))
        modules = dict(network.named_modules())
        kept = {op.key: type(op.module) for op in operations}
        assert all(type(modules[name]) is kept[key] for name, key in found.items())


def test_nodes_are_of_modules_and_modules_of_operations():
    of = {"blocks.1.0": "a", "blocks.1.1": "a", "head": "b"}
    nodes = {
        "/blocks/blocks.1/blocks.1.0/conv/Conv_output_0_nchwc": 1.0,
        "/blocks/blocks.1/blocks.1.1/conv/act.1/Clip": 2.0,
        "/head/Gemm/WithoutBiases": 4.0,
        "/head_1/Gemm": 8.0,
        "/stem/head/Conv": 16.0,
        "ReorderOutput_token_3": 32.0,
    }
    names = ["blocks.1.0.conv", "blocks.1.1.conv.act.1", "head.Gemm", "head_1", "stem.head", ""]
    assert [module_of(node) for node in nodes] == names
    assert per_operation(dict(zip(names, nodes.values(), strict=True)), of) == {"a": 1.5, "b": 12.0}


class Image(ModelSpace):
    """An activation that a runtime merges with the choice before it."""

    def __init__(self):
        super().__init__()
        self.one = LayerChoice({"small": nn.Conv2d(3, 64, 1), "wide": nn.Conv2d(3, 64, 3, padding=1)}, label="one")
        self.two = LayerChoice({"large": nn.Conv2d(64, 64, 5, padding=2), "skip": nn.Identity()}, label="two")

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu()).mean((2, 3))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtimes_say_what_operations_take(runtime):
    pytest.importorskip(runtime)
    estimator = DeviceEstimator(runtime=runtime, warmup=0, repeats=2)
    table = build_lookup_table(Image(), (3, 16, 16), estimator, method="profile")
    assert table.measured["profiled"] == len(table.rows) == 3
    ms = {op.conditions[0][1][0]: table.rows[op.key].median_ms for op in trace_operations(Image(), (3, 16, 16))}
    assert ms["large"] > ms["small"]


def test_a_runtime_that_says_nothing_is_refused_by_name():
    for estimator in (DeviceEstimator(runtime="torch"), Known()):
        name = getattr(estimator, "runtime", "known 0")
        with pytest.raises(ValueError, match=f"runtime {name}.* does not say what the parts of a network take"):
            build_lookup_table(Space(), SHAPE, estimator, method="profile")  # type: ignore[arg-type]
