"""Resolution, stride and width of the stem as choices: the supernet runs, freezes and costs what the network of these shapes does."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from nni_proxyless.search_spaces import MobileNetV2Space
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.nni_baselines import DARTS
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from timm.models.efficientnet import EfficientNet

from nni_proxyless.derive import count_macs, count_parameters, to_timm
from nni_proxyless.latency import (
    DeviceEstimator,
    LatencyProfiler,
    MacsEstimator,
    ParametersEstimator,
    build_lookup_table,
    trace_operations,
)
from nni_proxyless.latency.objectives.budget import best_under_budget
from nni_proxyless.latency.operation import operations_of
from nni_proxyless.models.block_diagram import diagram_of_definition, places_of
from nni_proxyless.search.mobilenetv2_baseline import reference_networks

from .test_mobilenetv2 import architecture, images, trained_a_little
from .test_open_space import TINY, paths_over_all, space_of
from .test_shared_weights import trained
from .test_widths import costs_of_all, samples_of, stepped_alone

SHAPES: dict[str, Any] = {
    **TINY, "resolution": [12, 16, 20], "stem_width": [8, 16], "stem_stride": [1, 2], "widths": ([8, 24], 16), "depths": (2, 2),
    "strides": (2, 1), "kernels": (3,), "expansions": (1, 3), "entry_kernels": (1,), "squeeze_excite": (False, True),
}  # fmt: skip
SIDE = 16
SHAPE = (1, SIDE, SIDE)
OPEN = ("resolution", "stem.stride", "stem.width", "stage1.width")


def timm_model(space: MobileNetV2Space, sample: dict[str, Any], weights: dict[str, torch.Tensor]) -> EfficientNet:
    """In double precision, built from nothing but the definition."""
    model = to_timm(architecture(space, sample, SIDE)).double()
    model.load_state_dict(weights)
    return model.eval()


@pytest.mark.parametrize("more", [{}, {"shared_weights": True}, {"stem_width": 8, "stem_stride": 2}, {"resolution": None, "stem_width": 16}])  # fmt: skip
def test_a_path_of_the_supernet_is_the_timm_model_of_its_shapes(more):
    """In double precision to 1e-9, every combination; freezing draws no random number and takes no memory."""
    space = space_of(**{**SHAPES, **more})
    trained_a_little(space, SIDE)
    space.double()
    strategy = DSNAS()
    supernet: Any = strategy.mutate_model(space).eval()
    x = images(space, SIDE).double()
    samples, storages = samples_of(space), {p.untyped_storage().data_ptr() for p in space.parameters()}
    for sample in samples:
        for label, gate in strategy._gates.items():
            gate.open(gate.choices.index(sample[label]))
        before = torch.get_rng_state()
        frozen = supernet.freeze(sample)
        assert torch.equal(torch.get_rng_state(), before)
        model = timm_model(space, sample, frozen.state_dict())
        assert list(model.state_dict()) == list(frozen.state_dict())
        with torch.no_grad():
            expected = supernet(x)
            torch.testing.assert_close(frozen(x), expected, rtol=0, atol=1e-9)
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-9)
        assert {p.untyped_storage().data_ptr() for p in frozen.parameters()} <= storages
        stem: Any = model.conv_stem
        assert (stem.out_channels, stem.stride[0]) == tuple(
            space.shape_in(sample, f"stem.{of}") for of in ("width", "stride")
        )
        assert getattr(stem, "side", None) == space.shape_in(sample, "resolution")
    assert len(samples) >= 4
    assert expected.std() > 1e-4


def test_a_training_step_is_that_of_the_network():
    """Gradients and running statistics move as the network's would, in the stem and the first block too."""
    space = space_of(**SHAPES)
    sample = {
        **paths_over_all(space)[1],
        "resolution": "12",
        "stem.stride": "2",
        "stem.width": "8",
        "stage1.width": "8",
    }
    before = copy.deepcopy(space.state_dict())
    alone = stepped_alone(space, sample, SIDE)
    for wide, narrow in ((space.conv_stem, alone.conv_stem), (space.blocks[0][0].conv_dw, alone.blocks[0][0].conv_dw)):
        torch.testing.assert_close(wide.weight.grad[:8], narrow.weight.grad, rtol=1e-3, atol=1e-4)
        assert not wide.weight.grad[8:].any()
    name = "blocks.0.0.bn1.running_mean"
    assert torch.equal(space.state_dict()[name][8:], before[name][8:])
    assert not torch.equal(space.state_dict()[name][:8], before[name][:8])


@pytest.mark.parametrize("estimator", [MacsEstimator, ParametersEstimator])
def test_costs_are_those_of_the_network_whatever_its_shapes(estimator):
    """Each network's by timm's model, whose layers are counted alone; extremes and expectation against all networks."""
    count = count_macs if estimator is MacsEstimator else lambda network, _: count_parameters(network)
    space = space_of(**SHAPES)
    profiler = LatencyProfiler(space, estimator(), SHAPE)
    for sample in samples_of(space):
        model = to_timm(architecture(space, sample, SIDE))
        assert profiler.profile(sample) * 1e6 == pytest.approx(count(model, SHAPE))
    small = space_of(
        **{**SHAPES, "resolution": [12, 16], "depths": (1, 1), "squeeze_excite": (False,), "strides": (2, 2)}
    )
    profiler = LatencyProfiler(small, estimator(), SHAPE)
    costs, uniform = costs_of_all(small, profiler)
    for budget in sorted(costs)[1 : -1 : len(costs) // 5]:
        found = best_under_budget(uniform, profiler, budget, at_least_ms=0.999999 * budget)
        assert profiler.profile(found) == pytest.approx(budget, rel=1e-5)


def test_operations_are_those_that_tracing_the_network_finds():
    """Of every combination: the same keys, as often, each of the same work."""
    space = space_of(**SHAPES)
    operations = trace_operations(space, SHAPE)
    works: dict[str, set[str]] = {}
    for op in operations:
        works.setdefault(op.key, set()).add(repr(op.module))
        args, kwargs = op.inputs()
        assert op.key.rpartition("output:")[2].startswith(shape_of(op.module.eval()(*args, **kwargs)))
    assert all(len(work) == 1 for work in works.values())
    for sample in samples_of(space):
        traced = operations_of(space.freeze(sample).eval(), SHAPE)
        resizes = sample["resolution"] != str(SIDE)
        kept = [op.key for op in traced if resizes or not op.key.startswith("Resize")]
        assert sorted(op.key for op in operations if op.runs_in(sample)) == sorted(kept)
        assert sum(key.startswith("Resize") for key in kept) == resizes


def shape_of(output: torch.Tensor) -> str:
    _, *shape = output.shape
    return "x".join(map(str, (*shape[1:], shape[0])))


def test_a_resolution_alone_is_a_part_of_every_network():
    space = space_of(**{**TINY, "resolution": 12})
    assert not {*OPEN} & set(space.simplify())
    sample = paths_over_all(space)[0]
    model = timm_model(space, sample, space.double().freeze(sample).eval().state_dict())
    assert space.timm_definition(sample)["resolution"] == 12
    x = images(space, SIDE).double()
    with torch.no_grad():
        torch.testing.assert_close(space.freeze(sample).eval()(x), model(x), rtol=0, atol=1e-9)
    profiler = LatencyProfiler(space, MacsEstimator(), SHAPE)
    assert profiler.profile(sample) * 1e6 == pytest.approx(count_macs(model, SHAPE))
    assert profiler.profile(sample) < LatencyProfiler(space_of(**TINY), MacsEstimator(), SHAPE).profile(sample)


def test_what_is_not_asked_for_leaves_no_trace():
    space = space_of(**TINY)
    assert "resolution" not in space.timm_definition(paths_over_all(space)[0])
    assert [name for name, _ in space.named_children()][:3] == ["conv_stem", "bn1", "blocks"]
    assert space.own_operations(SHAPE) is None


# -- tables ----------------------------------------------------------------------------------------------------------------


def test_a_table_is_fitted_to_networks_of_all_shapes():
    """The networks of a supernet that computes more than they do are not timed inside of it."""
    space = space_of(**{**SHAPES, "resolution": [12, 16], "depths": (1, 1), "squeeze_excite": (False,)})
    estimator = DeviceEstimator(runtime="torch", repeats=2, warmup=1)
    table = build_lookup_table(space, SHAPE, estimator, networks=16)
    assert table.measured["method"] == "fit"
    profiler = LatencyProfiler(space, table, SHAPE)
    assert all(profiler.profile(sample) > 0 for sample in samples_of(space))
    assert any(key.startswith("Resize-input:16x16x1-output:12x12x1") for key in table.rows)
    isolated = build_lookup_table(space, SHAPE, estimator, method="isolated")
    assert {op.key for op in trace_operations(space, SHAPE)} == set(isolated.rows)
    with pytest.raises(
        ValueError,
        match=r"choice 'resolution' gives another shape with each candidate.*allowed: methods 'fit', 'isolated'",
    ):
        build_lookup_table(space, SHAPE, estimator, method="networks")


# -- searching -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [DSNAS(warmup_epochs=1, search_epochs=1, fix_gap=1.0), ProxylessNAS(update="reinforce", warmup_epochs=1, arc_update_every=2, reinforce_samples=2)])  # fmt: skip
def test_it_is_searched(strategy):
    module = trained(strategy, space_of(**SHAPES), epochs=3)
    sample = module.export()
    assert {*OPEN} <= set(sample)
    probs = module.export_searched_probs()
    assert all(len(set(probs[label].values())) > 1 for label in OPEN)
    model = to_timm(architecture(module.model, sample, 8), module.model.freeze(sample).state_dict())
    assert model.conv_stem.out_channels == int(sample["stem.width"])


@pytest.mark.parametrize("strategy", [ProxylessNAS(), ProxylessNAS(update="full"), DARTS()])
@pytest.mark.parametrize(("label", "arguments"), [("resolution", {"resolution": [8, 16]}), ("stem.stride", {"stem_stride": [1, 2]}), ("stem.width", {"stem_width": [8, 16]})])  # fmt: skip
def test_strategies_that_compare_candidates_refuse_it(strategy, label, arguments):
    with pytest.raises(
        MisconfigurationException,
        match=rf"choice '{re.escape(label)}' gives another shape with each candidate.*update 'reinforce', DSNAS",
    ):
        strategy.mutate_model(space_of(**{**TINY, **arguments}))


# -- around it -------------------------------------------------------------------------------------------------------------


def test_a_picture_has_the_sizes_of_the_maps():
    space = space_of(**SHAPES)
    sample = {**paths_over_all(space)[0], "resolution": "20", "stem.stride": "2"}
    diagram = diagram_of_definition("n", space.timm_definition(sample), SHAPE, places=places_of(sample))
    assert diagram.source == "1×16×16\nto 20×20"
    assert [stage.notes[0] for stage in diagram.stages[:3]] == ["10×10", "10×10", "5×5"]
    assert places_of({**sample, "stage2.1": "skip"}) == ["#", "##", "#-"]


def test_reference_networks_have_the_largest_of_what_is_chosen():
    space = space_of(**SHAPES)
    searched = architecture(space, paths_over_all(space)[0], SIDE)
    searched.space["arguments"] = {**SHAPES}
    (network,) = reference_networks(searched, [1.0])
    assert network.network is not None
    assert {key: network.network[key] for key in ("resolution", "stem_size", "stem_stride")} == {
        "resolution": 20, "stem_size": 16, "stem_stride": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": []}, "resolution is []; allowed: a whole number, or a list of different ones"),
        ({"resolution": [16, 16]}, "resolution is [16, 16]; allowed: a whole number, or a list of different ones"),
        ({"resolution": [16, 0]}, "resolution is 0; allowed: whole numbers of 1 or more"),
        ({"resolution": "16"}, "resolution is '16'; allowed: whole numbers of 1 or more"),
        ({"stem_width": [8, 12]}, "stem_width is 12; allowed: multiples of 8"),
        ({"stem_width": [8, 8]}, "stem_width is [8, 8]; allowed: a multiple of 8, or a list of different ones"),
        ({"stem_stride": [1, 3]}, "stem_stride is 3; allowed: 1, 2"),
        ({"stem_stride": []}, "stem_stride is []; allowed: 1, 2, or a list of different ones"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_named_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MobileNetV2Space(**{**TINY, **arguments})
