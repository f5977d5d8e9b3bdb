"""Widths of stages as choices: the supernet runs, freezes and costs what the network of these widths does."""

from __future__ import annotations

import copy
import itertools
import re
from typing import Any

import pytest
import torch
from nni_proxyless.search_spaces import MobileNetV2Space
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.nni_baselines import DARTS
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from timm.models.efficientnet import EfficientNet
from torch import nn

from nni_proxyless.derive import count_macs, count_parameters, to_timm
from nni_proxyless.latency import (
    DeviceEstimator,
    LatencyProfiler,
    MacsEstimator,
    ParametersEstimator,
    build_lookup_table,
    trace_operations,
)
from nni_proxyless.latency.objectives.budget import fastest, slowest
from nni_proxyless.latency.tables.build import method_for
from nni_proxyless.models.block_diagram import places_of

from .test_mobilenetv2 import architecture, images, trained_a_little
from .test_open_space import TINY, paths_over_all, space_of
from .test_shared_weights import trained

WIDTHS: dict[str, Any] = {
    **TINY, "widths": ([8, 24], 16, [24, 32, 40]), "depths": (2, 2, 2), "strides": (2, 1, 2), "kernels": (3,), "expansions": (1, 3),
    "entry_kernels": (1,), "squeeze_excite": (False, True), "se_ratio": 0.3,
}  # fmt: skip
SHAPE = (1, 16, 16)


def samples_of(space: MobileNetV2Space) -> list[dict[str, Any]]:
    """Every combination of shapes, with the candidates of all blocks in turn."""
    values = {label: list(mutable.values) for label, mutable in space.simplify().items()}
    shapes = [label for label in values if re.fullmatch(r"stage\d+\.\d+", label) is None]
    combinations = itertools.product(*(values[label] for label in shapes))
    paths = itertools.cycle(paths_over_all(space))
    return [{**path, **dict(zip(shapes, one, strict=True))} for path, one in zip(paths, combinations, strict=False)]


def stepped_alone(space: MobileNetV2Space, sample: dict[str, Any], side: int) -> Any:
    """The network of a path, after the same backward pass as the supernet, whose weights and statistics must be its own."""
    strategy = ProxylessNAS(update="reinforce")
    supernet: Any = strategy.mutate_model(space).train()
    alone = copy.deepcopy(supernet.freeze(sample)).train()
    for label, gate in strategy._gates.items():
        gate.open(gate.choices.index(sample[label]))
    x = images(space, side, 8)
    for network in (supernet, alone):
        network(x).square().sum().backward()
    ours, theirs = supernet.freeze(sample).state_dict(), alone.state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)
    return alone


def costs_of_all(space: MobileNetV2Space, profiler: LatencyProfiler) -> tuple[list[float], dict[str, dict[Any, float]]]:
    """Of all networks, whose extremes and mean must be the profiler's; and the uniform probabilities."""
    values = {label: mutable.values for label, mutable in space.simplify().items()}
    costs = [profiler.profile(dict(zip(values, one, strict=True))) for one in itertools.product(*values.values())]
    assert (fastest(profiler)[1], slowest(profiler)[1]) == pytest.approx((min(costs), max(costs)))
    uniform = {label: dict.fromkeys(some, 1 / len(some)) for label, some in values.items()}
    assert float(profiler.expectation(uniform)) == pytest.approx(sum(costs) / len(costs))
    return costs, uniform


@pytest.mark.parametrize("shared", [False, True])
def test_a_path_of_the_supernet_is_the_timm_model_of_its_widths(shared):
    """In evaluation mode to 1e-5, and the names of weights are timm's; freezing draws no random number and takes no memory."""
    space = space_of(**WIDTHS, shared_weights=shared)
    trained_a_little(space, 16)
    strategy = DSNAS()
    supernet: Any = strategy.mutate_model(space).eval()
    x = images(space, 16)
    for sample in samples_of(space):
        for label, gate in strategy._gates.items():
            gate.open(gate.choices.index(sample[label]))
        before = torch.get_rng_state()
        frozen = supernet.freeze(sample)
        assert torch.equal(torch.get_rng_state(), before)
        model: EfficientNet = to_timm(architecture(space, sample, 16), frozen.state_dict()).eval()
        assert list(model.state_dict()) == list(frozen.state_dict())
        assert [type(block) for block in model.blocks.modules()] == [type(block) for block in frozen.blocks.modules()]
        with torch.no_grad():
            expected = supernet(x)
            torch.testing.assert_close(frozen(x), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
        storages = {p.untyped_storage().data_ptr() for p in space.parameters()}
        assert {p.untyped_storage().data_ptr() for p in frozen.parameters()} <= storages
        assert model.conv_head.in_channels == int(sample["stage3.width"])
    assert expected.std() > 1e-3


def test_a_training_step_is_that_of_the_narrow_network():
    """Gradients and running statistics move as the narrow network's would, and nothing else does."""
    space = space_of(**WIDTHS)
    sample = {
        **paths_over_all(space)[1],
        "stage1.width": "8",
        "stage3.width": "32",
        "stage1.1": "k3e3se",
        "stage3.1": "k3e3se",
    }
    before = copy.deepcopy(space.state_dict())
    alone = stepped_alone(space, sample, 16)
    block, of_alone = (
        space.blocks[1][2]["k3e3se"],
        next(b for b in alone.blocks[1] if hasattr(b, "se") and not isinstance(b.se, nn.Identity) and b.has_skip),
    )
    gradient = block.conv_dw.weight.grad
    torch.testing.assert_close(gradient[:24], of_alone.conv_dw.weight.grad, rtol=1e-3, atol=1e-4)
    assert not gradient[24:].any()
    assert torch.equal(block.bn1.running_mean[24:], before["blocks.1.2.k3e3se.bn1.running_mean"][24:])


@pytest.mark.parametrize("estimator", [MacsEstimator, ParametersEstimator])
def test_costs_are_those_of_the_network_whatever_the_widths(estimator):
    """Each network's, the extremes against all networks, and the expectation over independent choices against their mean."""
    count = count_macs if estimator is MacsEstimator else lambda network, _: count_parameters(network)
    space = space_of(**WIDTHS)
    profiler = LatencyProfiler(space, estimator(), SHAPE)
    for sample in samples_of(space):
        assert profiler.profile(sample) * 1e6 == pytest.approx(count(space.freeze(sample), SHAPE))
    small = space_of(
        **{**WIDTHS, "widths": ([8, 24], [16, 32]), "depths": (2, 1), "strides": (2, 2), "squeeze_excite": (False,)}
    )
    costs_of_all(small, LatencyProfiler(small, estimator(), SHAPE))


def test_operations_run_and_equal_keys_are_equal_work():
    space = space_of(**WIDTHS)
    before = copy.deepcopy(space.state_dict())
    works: dict[str, set[str]] = {}
    for op in trace_operations(space, SHAPE):
        works.setdefault(op.key, set()).add(repr(op.module))
        args, kwargs = op.inputs()
        op.module(*args, **kwargs)
    assert all(len(work) == 1 for work in works.values())
    assert {f"Conv_1-input:4x4x{w}-output:4x4x16" for w in (24, 32, 40)} <= set(works)
    assert all(torch.equal(tensor, before[name]) for name, tensor in space.state_dict().items())
    assert places_of({"stage1.0": "k3e1", "stage1.width": "8", "stage1.1": "skip"}) == ["#", "#-"]


def test_its_networks_are_not_timed_inside_of_a_supernet_that_computes_more():
    """So eager torch has a table that is fitted to whole networks."""
    space = space_of(**{**WIDTHS, "widths": ([8, 24], 16), "depths": (1, 1), "strides": (2, 2)})
    estimator = DeviceEstimator(runtime="torch", repeats=2, warmup=1)
    assert method_for(estimator, space_of(**TINY)) == "networks"
    assert build_lookup_table(space, SHAPE, estimator, networks=12).measured["method"] == "fit"
    with pytest.raises(
        ValueError, match=r"choice 'stage1\.width' gives another shape with each candidate.*'fit', 'isolated'"
    ):
        build_lookup_table(space, SHAPE, estimator, method="networks")


@pytest.mark.parametrize("strategy", [DSNAS(warmup_epochs=1, search_epochs=1, fix_gap=1.0), ProxylessNAS(update="reinforce", warmup_epochs=1, arc_update_every=2, reinforce_samples=2)])  # fmt: skip
def test_it_is_searched(strategy):
    layout = {"widths": ([8, 24], [16, 32]), "depths": (1, 2), "strides": (1, 2), "first_width": 16, "num_classes": 4}
    module = trained(strategy, space_of(**{**WIDTHS, **layout}), epochs=3)
    sample = module.export()
    assert {"stage1.width", "stage2.width"} <= set(sample)
    probs = module.export_searched_probs()["stage1.width"]
    assert probs["8"] != probs["24"]
    model = to_timm(architecture(module.model, sample, 8), module.model.freeze(sample).state_dict())
    assert model.conv_head.in_channels == int(sample["stage2.width"])


@pytest.mark.parametrize("strategy", [ProxylessNAS(), ProxylessNAS(update="full"), DARTS()])
def test_strategies_that_compare_candidates_refuse_it(strategy):
    """Outputs of other shapes have no gradient in common."""
    with pytest.raises(
        MisconfigurationException,
        match=r"choice 'stage1\.width' gives another shape with each candidate.*update 'reinforce', DSNAS",
    ):
        strategy.mutate_model(space_of(**WIDTHS))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([[], 16], "widths[0] is []; allowed: a multiple of 8, or a list of different ones"),
        ([[8, 8], 16], "widths[0] is [8, 8]; allowed: a multiple of 8, or a list of different ones"),
        ([[8, 12], 16], "widths[0] is 12; allowed: multiples of 8"),
        ([[8, 16], 16], "widths[0] is [8, 16], behind (8,) with stride 1; allowed: none in common, or one and the same"),
    ],
)  # fmt: skip
def test_wrong_widths_are_named_with_what_is_allowed(widths, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MobileNetV2Space(**{**TINY, "widths": widths})
