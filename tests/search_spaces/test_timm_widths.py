"""Spaces around models of timm whose stages have several widths."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice
from nni_proxyless.search_spaces import TimmSpace
from nni_proxyless.search_spaces.narrow import Narrow
from nni_proxyless.search_spaces.timm_network import build_timm_network
from nni_proxyless.search_spaces.timm_widths import order_stages, weighed, widths_around
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from nni_proxyless.core.freezing import freeze_children
from nni_proxyless.derive import count_macs, count_parameters
from nni_proxyless.latency import LatencyProfiler, MacsEstimator, ParametersEstimator, trace_operations
from nni_proxyless.latency.operation import operations_of

from .test_shared_weights import trained
from .test_timm_space import SMALL, close, drawn, images, labels, made

# Blocks of every kind, TensorFlow's padding, stages that begin with a residual, one whose blocks give different numbers, no convolution in the head.
MODELS = (
    SMALL,
    "tf_efficientnet_lite0",
    "mobilenet_edgetpu_100",
    "mobilenetv4_conv_small_035",
    "mnasnet_small",
    "mobilenetv1_100",
)
SHAPE = (3, 32, 32)


def wide(name: str = SMALL, **options: Any) -> TimmSpace:
    torch.manual_seed(0)
    return TimmSpace(
        name, **{"num_classes": 4, "expansions": [0.5], "kernels": [3], "widths": [0.5, 1, 1.5], **options}
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_one_of_the_networks_and_each_is_a_path(name, tmp_path):
    """The model with its weights to 1e-5; of other networks the path through the supernet, the frozen one and the one that is built again agree."""
    model = made(name, num_classes=4)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    space = wide(name, weights=str(tmp_path / "weights.pth"), extra_depth=1)
    owned, x = {p.untyped_storage().data_ptr() for p in space.parameters()}, images()
    seen = set()
    with torch.no_grad():
        assert close(space.freeze(space.original).eval()(x), model(x), 1e-5)
        for seed in range(3):
            sample = drawn(space, seed)
            frozen = space.freeze(sample).eval()
            path = freeze_children(space.network, sample, share=True).eval()
            assert close(frozen(x), path(x), 1e-5)
            network = build_timm_network(json.loads(json.dumps(space.timm_definition(sample))))
            network.load_state_dict(frozen.state_dict())
            assert torch.equal(network.eval()(x), frozen(x))
            assert {p.untyped_storage().data_ptr() for p in frozen.parameters()} <= owned
            channels = [info["num_chs"] for info in network.feature_info]
            assert [m.shape[1] for m in network.forward_intermediates(images(64), intermediates_only=True)] == channels
            seen.add(tuple(channels))
    assert len(seen) == 3
    assert type(network) is type(model)


def test_what_has_a_width_of_its_own():
    found = {name: widths_around(made(name), [0.5]) for name in MODELS}
    assert found[SMALL] == [[8], [16, 8], [24, 16], [24], [48, 24], [288, 144]], "the fourth begins with a residual"
    assert found["mobilenetv4_conv_small_035"][1] == [24], "its blocks give different numbers of channels"
    assert len(found["mobilenetv1_100"][-1]) == 1, "the classifier takes what it gives"
    assert "stage3.width" not in wide().original
    assert wide().original["stage2.width"] == "24"
    assert labels(wide())["stage2.width"] == ["24", "16", "32"], "36 is as near to 40, and Python rounds halves to even"
    assert not any(isinstance(module, Narrow) for module in wide(widths=[1]).modules())
    assert wide(widths=[1]).own_operations(SHAPE) is None


def test_channels_that_weigh_most_come_first():
    model = made(SMALL).double()
    ordered, x = copy.deepcopy(model), images(64).double()
    order_stages(ordered, [len(some) > 1 for some in widths_around(model, [0.5])])
    with torch.no_grad():
        assert close(ordered(x), model(x), 1e-12)
    for s in (1, 2, 4, 5):
        assert torch.equal(weighed(ordered, s), weighed(model, s).sort(descending=True).values)
        assert not torch.equal(weighed(ordered, s), weighed(model, s))


def test_a_training_step_is_that_of_the_network():
    """Gradients and running statistics of the first channels move as the network's would; others do not."""
    space = wide(shared_weights=True).double()
    sample = {**space.original, "stage1.width": "8", "stage2.width": "16"}
    path = copy.deepcopy(freeze_children(space.network, sample, share=True)).train()
    alone = copy.deepcopy(space.freeze(sample)).train()
    x, y = images(n=8).double(), torch.tensor([0, 1, 2, 3] * 2)
    for network in (path, alone):
        nn.functional.cross_entropy(network(x), y).backward()
    held, own = path.blocks[1][2], alone.blocks[1][1]
    assert held.conv_pwl.out_channels == 24
    assert own.conv_pwl.out_channels == 8
    torch.testing.assert_close(held.conv_pwl.weight.grad[:8], own.conv_pwl.weight.grad)
    assert not held.conv_pwl.weight.grad[8:].any()
    torch.testing.assert_close(held.bn3.running_mean[:8], own.bn3.running_mean)
    assert not held.bn3.running_mean[8:].any()
    first = path.blocks[2][0].conv_pw.weight.grad
    torch.testing.assert_close(first[:, :8], alone.blocks[2][0].conv_pw.weight.grad)
    assert not first[:, 8:].any()


@pytest.mark.parametrize("name", MODELS[:4])
def test_operations_are_those_that_tracing_the_network_finds(name):
    space = wide(name)
    operations = trace_operations(space, SHAPE)
    assert len({(op.key, op.conditions) for op in operations}) == len(operations)
    for seed in range(3):
        sample = drawn(space, seed)
        traced = operations_of(space.freeze(sample).eval(), SHAPE)
        assert sorted(op.key for op in operations if op.runs_in(sample)) == sorted(op.key for op in traced)


@pytest.mark.parametrize("estimator", [MacsEstimator, ParametersEstimator])
def test_costs_are_those_of_the_network(estimator):
    space = wide()
    profiler = LatencyProfiler(space, estimator(), SHAPE)
    for seed in range(3):
        sample = drawn(space, seed)
        network = build_timm_network(space.timm_definition(sample))
        expected = count_macs(network, SHAPE) if estimator is MacsEstimator else count_parameters(network)
        assert profiler.profile(sample) * 1e6 == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (SMALL, {"kernels": [], "expansions": []}),  # most blocks have no choice, but whether they are there
        ("mobilenetv2_035", {"kernels": [], "expansions": [], "skip": False}),  # no block has one
        ("mobilenetv3_large_075", {"kernels": [3], "expansions": [1], "skip": False}),  # two of equal size have none
    ],
)
def test_blocks_without_a_choice_count_as_often_as_they_are_there(name, options):
    space = wide(name, widths=[0.5, 1], **options)
    for estimator, count in ((MacsEstimator(), count_macs), (ParametersEstimator(), lambda net, _: count_parameters(net))):  # fmt: skip
        profiler = LatencyProfiler(space, estimator, SHAPE)
        for seed in range(3):
            sample = drawn(space, seed)
            network = build_timm_network(space.timm_definition(sample))
            assert profiler.profile(sample) * 1e6 == pytest.approx(count(network, SHAPE))


def test_expanded_channels_are_ordered_by_what_was_trained(tmp_path):
    """Not by the channels that a stage has got more."""
    torch.save(made(SMALL, num_classes=4).state_dict(), tmp_path / "weights.pth")
    space = wide(weights=str(tmp_path / "weights.pth"), widths=[1, 2])
    n = 0
    for choice in space.modules():
        if isinstance(choice, LayerChoice) and not choice.label.endswith(".width"):
            block = choice[space.original[choice.label]]
            if hasattr(block, "conv_pwl"):
                own = space.widths[int(choice.label[5])][0]
                weighs = block.conv_pwl.weight[:own].detach().abs().sum((0, 2, 3))
                assert block.conv_pwl.out_channels > own
                assert torch.equal(weighs, weighs.sort(descending=True).values)
                n += 1
    assert n >= 5


STRATEGIES = [
    DSNAS(warmup_epochs=1, search_epochs=1, fix_gap=1.0),
    ProxylessNAS(update="reinforce", warmup_epochs=1, arc_update_every=2, reinforce_samples=2),
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_is_searched(strategy):
    module = trained(strategy, wide(in_channels=1, shared_weights=True), epochs=3)
    sample = module.export()
    open_ = [label for label in sample if label.endswith(".width")]
    assert len(open_) == 5
    probs = module.export_searched_probs()
    assert all(len(set(probs[label].values())) > 1 for label in open_)
    network = build_timm_network(module.model.timm_definition(sample))
    network.load_state_dict(module.model.freeze(sample).state_dict())


@pytest.mark.parametrize("strategy", [ProxylessNAS(), ProxylessNAS(update="full")])
def test_strategies_that_compare_candidates_refuse_it(strategy):
    with pytest.raises(
        MisconfigurationException,
        match=r"choice 'stage0.width' gives another shape with each candidate.*update 'reinforce', DSNAS",
    ):
        strategy.mutate_model(wide())


@pytest.mark.parametrize("widths", [[0], [0.5, 0.5], 2, ["a"], [True], [float("nan")], [17]])
def test_wrong_widths(widths):
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"widths is {widths!r}; allowed: a list of different ones out of numbers greater than 0, up to 16"
        ),
    ):
        wide(widths=widths)


def test_choices_of_width_stand_behind_the_first_block_of_a_stage():
    for stage in wide().network.blocks:
        at = [
            i
            for i, block in enumerate(stage)
            if isinstance(block, LayerChoice) and isinstance(block[block.names[0]], Narrow)
        ]
        assert at in ([], [1])
