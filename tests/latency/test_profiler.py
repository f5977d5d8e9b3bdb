"""The latency of a network as an expression of its choices."""

from __future__ import annotations

import itertools

import nni
import pytest
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, MutableModule, Repeat
from nni.nas.oneshot.pytorch.profiler import RangeProfilerFilter
from torch import Tensor, nn

from nni_proxyless.latency import LatencyEstimator, LatencyProfiler, describe, trace_operations

from .spaces import Small, table


class Nested(ModelSpace):
    """A candidate that holds a choice, and a part that is there whatever the inner choice."""

    def __init__(self):
        super().__init__()
        inner = LayerChoice([nn.Linear(8, 8), nn.Tanh()], label="inner")
        self.outer = LayerChoice([nn.Linear(8, 8, bias=False), nn.Sequential(nn.ReLU(), inner)], label="outer")

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(x)


class Shared(ModelSpace):
    def __init__(self):
        super().__init__()
        self.one, self.two = Small.block("both"), Small.block("both")

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


class WithRepeat(ModelSpace):
    """One to three blocks with a choice each; the choice of the third has the label of the first."""

    def __init__(self):
        super().__init__()
        self.body = Repeat(lambda i: Small.block(f"block{i % 2}"), (1, 3), label="depth")

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class WithInputs(ModelSpace):
    """Two layers, both always computed, and a choice between what they give."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 3)
        self.pad = nn.Linear(3, 8)
        self.which = InputChoice(2, 1, label="which")

    def forward(self, x: Tensor) -> Tensor:
        return self.which([self.one(x), self.pad(self.two(x))])


class Own(MutableModule):
    """A module with a choice that is no argument."""

    def __init__(self):
        super().__init__()
        self.add_mutable(nni.choice("scale", [1, 2]))

    def forward(self, x: Tensor) -> Tensor:
        return x


class OfOwn(ModelSpace):
    def __init__(self):
        super().__init__()
        self.body = Own()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


WIDE = describe(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)), (8,), (8,))
NARROW, LAST = describe(nn.Linear(8, 8), (8,), (8,)), describe(nn.Linear(8, 3), (8,), (3,))
COSTS = {WIDE: 4.0, NARROW: 1.0, LAST: 0.5}


@pytest.fixture
def profiler() -> LatencyProfiler:
    return LatencyProfiler(Small(), table(COSTS), (8,))


# -- operations ----------------------------------------------------------------------------------------------------------


def test_operations_of_a_space_and_their_keys():
    """Equal work has equal keys, different work different ones; a skip is no operation; the space is left as it is."""
    space = Small().train()
    found = {(op.key, op.conditions) for op in trace_operations(space, (8,))}
    assert found == {
        (LAST, ()),
        *((key, ((f"block{i}", (name,)),)) for i in range(2) for key, name in ((WIDE, "wide"), (NARROW, "narrow"))),
    }
    assert len({WIDE, NARROW, LAST}) == 3
    assert LAST.startswith("Linear-input:8-output:3-")
    assert all(module.training for module in space.modules())
    assert not any(module._forward_hooks for module in space.modules())


def test_a_key_depends_on_structure_and_shape_and_not_on_weights():
    assert describe(nn.Linear(8, 8), (8,), (8,)) == describe(nn.Linear(8, 8), (8,), (8,))
    assert describe(nn.Linear(8, 8), (8,), (8,)) != describe(nn.Linear(8, 8, bias=False), (8,), (8,))
    convolution = nn.Conv2d(3, 4, 3, stride=2)
    assert describe(convolution, (3, 32, 16), (4, 15, 7)).startswith("Conv2d-input:32x16x3-output:15x7x4-")
    assert describe(convolution, (3, 32, 16), (4, 15, 7)) != describe(convolution, (3, 64, 16), (4, 31, 7))


def test_nested_choices_are_taken_apart():
    """The inner candidates belong to (outer, 1) and their own choice, the part beside them to (outer, 1) alone."""
    found = {(type(op.module).__name__, op.conditions) for op in trace_operations(Nested(), (8,))}
    within = ("outer", (1,))
    assert found == {
        ("Linear", (("outer", (0,)),)),
        ("ReLU", (within,)),
        ("Linear", (within, ("inner", (0,)))),
        ("Tanh", (within, ("inner", (1,)))),
    }


def test_a_wrong_input_shape_is_named():
    with pytest.raises(ValueError, match=r"Small on input \(9,\): .*mat1 and mat2 shapes cannot be multiplied"):
        trace_operations(Small(), (9,))


def test_a_choice_of_another_kind_is_refused_by_name():
    """Its latency would be missing without a word."""
    said = "body: a Own with choices of its own has no latency here; allowed: LayerChoice, Repeat, InputChoice, arguments of modules"
    with pytest.raises(ValueError, match=said):
        trace_operations(OfOwn(), (8,))


def test_a_block_of_a_repeat_is_paid_where_the_depth_reaches_it():
    """All 27 networks; the shapes of the deeper blocks are known though the space itself would run one only."""
    profiler = LatencyProfiler(WithRepeat(), table(COSTS), (8,))
    cost = {"wide": 4.0, "narrow": 1.0, "skip": 0.0}
    for depth, zero, one in itertools.product((1, 2, 3), cost, cost):
        expected = cost[zero] + (depth > 1) * cost[one] + (depth > 2) * cost[zero]
        assert profiler.profile({"depth": depth, "block0": zero, "block1": one}) == pytest.approx(expected, abs=1e-12)
    operations = trace_operations(WithRepeat(), (8,))
    assert {op.conditions for op in operations if op.conditions[-1][0] == "block0"} == {
        (("block0", (name,)),) for name in ("wide", "narrow")
    } | {(("depth", (3,)), ("block0", (name,))) for name in ("wide", "narrow")}


def test_all_that_an_input_choice_may_choose_from_is_paid():
    """NNI computes every input, whichever is taken."""
    profiler = LatencyProfiler(WithInputs(), table({describe(m, (a,), (b,)): 1.0 for m, a, b in (
        (nn.Linear(8, 8), 8, 8), (nn.Linear(8, 3), 8, 3), (nn.Linear(3, 8), 3, 8))}), (8,))  # fmt: skip
    assert profiler.profile({"which": [0]}) == profiler.profile({"which": [1]}) == 3.0


# -- the sum -------------------------------------------------------------------------------------------------------------


def test_the_latency_of_a_network_is_the_sum_of_its_rows(profiler):
    """ProxylessNAS eq. 6, for all nine networks; a skip costs 0."""
    cost = {"wide": 4.0, "narrow": 1.0, "skip": 0.0}
    assert profiler.fixed_ms == 0.5
    assert profiler.candidate_ms == {"block0": cost, "block1": cost}
    for one, two in itertools.product(cost, cost):
        assert profiler.profile({"block0": one, "block1": two}) == pytest.approx(0.5 + cost[one] + cost[two], abs=1e-12)


def test_layers_that_share_a_label_are_both_paid():
    profiler = LatencyProfiler(Shared(), table(COSTS), (8,))
    assert profiler.profile({"both": "wide"}) == pytest.approx(8.0)


def test_the_latency_of_nested_choices():
    """An inner candidate is paid only where the candidate that holds it is chosen; its part of its own, always there."""
    costs = {op.key: 2.0**i for i, op in enumerate(trace_operations(Nested(), (8,)))}
    by_name = {(op.conditions, type(op.module).__name__): costs[op.key] for op in trace_operations(Nested(), (8,))}
    profiler = LatencyProfiler(Nested(), table(costs), (8,))
    for inner in (0, 1):
        assert profiler.profile({"outer": 0, "inner": inner}) == pytest.approx(by_name[(("outer", (0,)),), "Linear"])
    relu = by_name[(("outer", (1,)),), "ReLU"]
    for inner, name in ((0, "Linear"), (1, "Tanh")):
        expected = relu + by_name[(("outer", (1,)), ("inner", (inner,))), name]
        assert profiler.profile({"outer": 1, "inner": inner}) == pytest.approx(expected)


class Broken(LatencyEstimator):
    """An estimator of somebody else that gives what no latency is."""

    def __init__(self, ms: float):
        self.ms = ms

    @property
    def conditions(self):
        return {}

    def estimate(self, operation):
        return self.ms


@pytest.mark.parametrize("ms", [-1.0, float("nan")])
def test_what_is_no_latency_is_refused(ms):
    with pytest.raises(ValueError, match=f"latency of '.*' is {ms} ms; allowed: 0 or more"):
        LatencyProfiler(Small(), Broken(ms), (8,))


def test_nni_filters_networks_by_latency(profiler):
    """NNI's own ``RangeProfilerFilter`` takes the profiler as it is."""
    fits = RangeProfilerFilter(profiler, min=1.0, max=5.0)
    passed = {
        (one, two)
        for one, two in itertools.product(("wide", "narrow", "skip"), repeat=2)
        if fits({"block0": one, "block1": two})
    }
    assert passed == {("wide", "skip"), ("skip", "wide"), ("narrow", "narrow"), ("narrow", "skip"), ("skip", "narrow")}


class Twice(ModelSpace):
    """One convolution that runs twice, and a choice that runs twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.choice = LayerChoice({"conv": nn.Conv2d(2, 2, 1), "skip": nn.Identity()}, label="c")

    def forward(self, x):
        return self.choice(self.conv(self.choice(self.conv(x))))


def test_what_runs_twice_costs_twice():
    operations = trace_operations(Twice(), (2, 4, 4))
    assert [(op.conditions, type(op.module)) for op in operations] == [((), nn.Conv2d)] * 2 + [
        ((("c", ("conv",)),), nn.Conv2d)
    ] * 2
    costs = {op.key: ms for op, ms in zip(operations, (1.0, 1.0, 0.25, 0.25), strict=True)}
    profiler = LatencyProfiler(Twice(), table(costs), (2, 4, 4))
    assert profiler.profile({"c": "conv"}) == 2.5
    assert profiler.profile({"c": "skip"}) == 2.0
