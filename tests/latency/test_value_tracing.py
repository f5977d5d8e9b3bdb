"""Costs of spaces in which arguments of modules are choices: every network costs what it costs when it is counted as a whole."""

from __future__ import annotations

import random
from typing import Any

import nni
import pytest
import torch
from nni.nas.hub.pytorch import AutoFormer, MobileNetV3Space
from nni.nas.nn.pytorch import ModelSpace, MutableConv2d, MutableLinear
from nni_proxyless.strategies import DSNAS
from nni_proxyless.strategies.supernet.layers import choices_of
from torch import Tensor, nn

from nni_proxyless.latency import LatencyPenalty, LatencyProfiler, MacsEstimator, ParametersEstimator, trace_operations
from nni_proxyless.latency.choices import as_nni_has_it
from nni_proxyless.latency.estimators.macs import count_macs

from ..strategies.searches import CLASSES, FEATURES, OF_EXPERIMENTS, Task, searched
from ..strategies.value_spaces import SPACES, RepeatNet

pytestmark = OF_EXPERIMENTS


def auto_former() -> ModelSpace:
    """Depths, heads, ratios, a width for all; positions and a token that are parameters, products without a module."""
    return AutoFormer(
        search_embed_dim=(8, 16), search_num_heads=(1, 2), search_depth=(1, 2), search_mlp_ratio=(1.0, 2.0), img_size=8, patch_size=4,
        num_labels=4,
    )  # fmt: skip


def mobile_net() -> ModelSpace:
    """Widths rounded to eights, so that two choices act together where neither does alone; squeezes that are candidates."""
    return MobileNetV3Space(
        num_labels=4, base_widths=(8, 8, 8, 16, 16), width_multipliers=(0.5, 2.0), expand_ratios=(1.0, 1.5), depth_range=(1, 2),
        squeeze_excite=("none", "optional"), stride=(2, 1, 2, 1, 1), activation=("relu",) * 5,
    )  # fmt: skip


def networks(space: ModelSpace, n: int) -> list[dict[str, Any]]:
    chance = random.Random(1)
    mutables = space.simplify()
    return [
        {label: as_nni_has_it(chance.choice(choices_of(label, mutable))) for label, mutable in mutables.items()}
        for _ in range(n)
    ]


@pytest.mark.parametrize(
    ("make", "shape"), [*((make, (FEATURES,)) for make in SPACES), (auto_former, (3, 8, 8)), (mobile_net, (3, 8, 8))]
)
def test_a_network_costs_what_it_costs_as_a_whole(make, shape):
    """Multiply-adds of 12 random networks, and their expectation where each is certain; every operation runs."""
    space = make()
    before = {name: id(module) for name, module in space.named_modules()}
    profiler = LatencyProfiler(space, MacsEstimator(), shape)
    assert {name: id(module) for name, module in space.named_modules()} == before
    for sample in networks(space, 12):
        expected = count_macs(make().freeze(sample), shape) / 1e6
        assert profiler.profile(sample) == pytest.approx(expected, rel=1e-9)
        certain = {
            label: {c: float(as_nni_has_it(c) == sample[label]) for c in choices_of(label, mutable)}
            for label, mutable in space.simplify().items()
        }
        assert float(profiler.expectation(certain)) == pytest.approx(expected, rel=1e-9)


def test_an_operation_hangs_on_the_choices_that_change_it():
    """A layer behind a module that is taken apart depends on the width of its input too, which no argument of it says."""

    class Behind(ModelSpace):
        def __init__(self):
            super().__init__()
            self.wide = MutableConv2d(1, nni.choice("width", [2, 4]), 1)
            self.act = nn.PReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.wide(x))

    operations = trace_operations(Behind(), (1, 2, 2))
    assert [(op.key.split("-output")[0], op.conditions) for op in operations] == [
        ("Conv2d-input:2x2x1", (("width", (2,)),)), ("Conv2d-input:2x2x1", (("width", (4,)),)),
        ("PReLU-input:2x2x2", (("width", (2,)),)), ("PReLU-input:2x2x4", (("width", (4,)),)),
    ]  # fmt: skip


def test_parameters_of_a_network_too():
    space = RepeatNet()
    profiler = LatencyProfiler(space, ParametersEstimator(), (FEATURES,))
    for sample in networks(space, 8):
        held = sum(p.numel() for p in RepeatNet().freeze(sample).parameters()) / 1e6
        assert profiler.profile(sample) == pytest.approx(held)


def test_a_search_leaves_a_network_within_its_target():
    torch.manual_seed(0)
    space = RepeatNet()
    profiler = LatencyProfiler(space, MacsEstimator(), (FEATURES,))
    costs = [profiler.profile(sample) for sample in networks(space, 50)]
    target = (min(costs) + max(costs)) / 2
    strategy = DSNAS(penalty=LatencyPenalty(profiler, target, weight="auto"), arc_learning_rate=0.05)
    (found,) = searched(strategy, Task(), space, images=32).list_models()
    assert profiler.profile(found.sample) <= target


def test_too_many_combinations_for_one_layer_are_refused():
    class Wide(ModelSpace):
        def __init__(self):
            super().__init__()
            inputs, outputs = (nni.choice(name, list(range(1, 66))) for name in ("in", "out"))
            self.first, self.second = MutableLinear(FEATURES, inputs), MutableLinear(inputs, outputs)
            self.last = MutableLinear(outputs, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.first(x)))

    with pytest.raises(
        ValueError, match="an operation depends on more than 4096 combinations of 'in', 'out', and the space has no"
    ):
        LatencyProfiler(Wide(), MacsEstimator(), (FEATURES,))
