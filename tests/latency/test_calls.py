"""Whatever a module is given and gives: the profile of a network is what its frozen network costs, or the call is refused by name."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace, Repeat
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nni_proxyless.latency import (
    DeviceEstimator,
    LatencyProfiler,
    MacsEstimator,
    build_lookup_table,
    count_macs,
    trace_operations,
)
from nni_proxyless.latency.calls import Call, TensorSpec
from nni_proxyless.latency.estimators.counts import ActivationsEstimator, ParametersEstimator
from nni_proxyless.latency.tables.timed_networks import random_samples

CHANNELS, SIDE = 4, 6
SHAPE = (CHANNELS, SIDE, SIDE)
numbers = itertools.count()


def label() -> str:
    return f"choice{next(numbers)}"


def conv(kernel: int = 1, channels: int = CHANNELS) -> nn.Conv2d:
    return nn.Conv2d(channels, CHANNELS, kernel, padding=kernel // 2)


def choice(draw: random.Random, name: str | None = None) -> LayerChoice:
    kernels = draw.sample([1, 3, 5], 2)
    return LayerChoice({**{f"k{k}": conv(k) for k in kernels}, "skip": nn.Identity()}, label=name or label())


# -- ways to be called: each a part of a network that keeps the shape ------------------------------------------------------


class Two(nn.Module):
    """Several positional inputs."""

    def __init__(self, kernel: int):
        super().__init__()
        self.one, self.two = conv(kernel), conv(1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.one(x) + self.two(y)


class Named(nn.Module):
    """Inputs by name, None, and a plain number that changes the work."""

    def __init__(self):
        super().__init__()
        self.conv = conv(3)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, times: int = 1, other: Tensor) -> Tensor:
        for _ in range(times):
            x = self.conv(x)
        return x + other


class Listed(nn.Module):
    """A list in, a dict out, which holds a tuple, a number and None."""

    def __init__(self, kernel: int):
        super().__init__()
        self.kernel, self.one, self.two = kernel, conv(kernel), conv(1)

    def forward(self, xs: list[Tensor]) -> dict:
        return {"both": (self.one(xs[0]), self.two(xs[1])), "kernel": self.kernel, "none": None}


class Indexed(nn.Module):
    """Integers beside a tensor, in a tuple."""

    def __init__(self, kernel: int):
        super().__init__()
        self.table, self.conv = nn.Embedding(SIDE, SIDE), conv(kernel)

    def forward(self, given: tuple[Tensor, Tensor]) -> Tensor:
        x, index = given
        return self.conv(x + self.table(index))


class Part(nn.Module):
    """Holds a choice, so that it is taken apart like a space."""

    def __init__(self, draw: random.Random):
        super().__init__()
        self.first = choice(draw)
        self.build(draw)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.first(x))


class Several(Part):
    def build(self, draw: random.Random) -> None:
        self.fixed = Two(3)
        self.either = LayerChoice([Two(1), Two(5)], label=label())

    def run(self, x: Tensor) -> Tensor:
        return self.either(self.fixed(x, x), x)


class ByName(Part):
    def build(self, draw: random.Random) -> None:
        self.named, self.times = Named(), draw.randint(1, 3)

    def run(self, x: Tensor) -> Tensor:
        return self.named(self.named(x, None, other=x), times=self.times, other=x)


class Structures(Part):
    def build(self, draw: random.Random) -> None:
        self.either = LayerChoice({"a": Listed(1), "b": Listed(5)}, label=label())
        self.fixed = Listed(3)

    def run(self, x: Tensor) -> Tensor:
        one, two = self.either([x, x])["both"]
        return sum(self.fixed([one, two])["both"])


class Integers(Part):
    def build(self, draw: random.Random) -> None:
        self.either = LayerChoice({"a": Indexed(1), "b": Indexed(3)}, label=label())
        self.fixed, self.row = Indexed(1), draw.randint(0, SIDE - 1)

    def run(self, x: Tensor) -> Tensor:
        index = torch.arange(SIDE)
        return self.either((self.fixed((x, index.flip(0))), torch.full((SIDE,), self.row)))


class Again(Part):
    """One module on two shapes, and a choice that runs twice."""

    def build(self, draw: random.Random) -> None:
        self.conv = conv(draw.choice([1, 3]))
        self.either = choice(draw)

    def run(self, x: Tensor) -> Tensor:
        small = self.either(self.conv(F.avg_pool2d(x, 2)))
        return self.either(self.conv(x)) + F.interpolate(small, size=SIDE)


class SharedBy(Part):
    """A module that belongs to two, one that somebody calls who does not own it, and lists that nobody calls."""

    def build(self, draw: random.Random) -> None:
        shared = conv(3)
        self.one, self.two = nn.Sequential(shared, nn.ReLU()), nn.Sequential(nn.ReLU(), shared)
        self.block = Two(draw.choice([1, 3]))
        self.list, self.dict = nn.ModuleList([conv(1), conv(3)]), nn.ModuleDict({"a": conv(1), "never": conv(5)})

    def run(self, x: Tensor) -> Tensor:
        x = self.block.one(self.two(self.one(x)))
        return self.block(x, self.dict["a"](self.list[1](self.list[0](x))))


class Nested(Part):
    def build(self, draw: random.Random) -> None:
        inner = nn.Sequential(conv(1), choice(draw), nn.ReLU(), LayerChoice([choice(draw), conv(3)], label=label()))
        self.outer = LayerChoice({"deep": inner, "flat": conv(1)}, label=label())

    def run(self, x: Tensor) -> Tensor:
        return self.outer(x)


class Repeated(Part):
    def build(self, draw: random.Random) -> None:
        name = label()
        least = draw.randint(0, 1)
        self.body = Repeat(lambda i: choice(draw, name if i == 1 else None), (least, 3), label=label())
        self.fixed = Repeat(conv(1), 2)

    def run(self, x: Tensor) -> Tensor:
        return self.fixed(self.body(x))


class Inputs(Part):
    def build(self, draw: random.Random) -> None:
        self.one, self.two = conv(1), conv(3)
        self.which = InputChoice(3, draw.choice([1, 2]), label=label())

    def run(self, x: Tensor) -> Tensor:
        return self.which([x, self.one(x), self.two(x)])


def halve(module: nn.Module, args: tuple) -> tuple:
    return (F.avg_pool2d(args[0], 2),)


def enlarge(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return F.interpolate(output, size=SIDE)


class Hooked(Part):
    """Hooks that change what goes in and comes out."""

    def build(self, draw: random.Random) -> None:
        self.fixed, other = conv(3), conv(5)
        for module in (self.fixed, other):
            module.register_forward_pre_hook(halve)
            module.register_forward_hook(enlarge)
        self.either = LayerChoice([other, conv(1)], label=label())

    def run(self, x: Tensor) -> Tensor:
        return self.either(self.fixed(x))


class ByItself(Part):
    """Products that no module is called for: with a parameter, with the weight of a module, and of two activations."""

    def build(self, draw: random.Random) -> None:
        self.kernel = nn.Parameter(torch.randn(CHANNELS, CHANNELS, 3, 3))
        self.conv, self.called = conv(1), conv(1)

    def run(self, x: Tensor) -> Tensor:
        x = F.conv2d(F.conv2d(x, self.kernel, padding=1), self.conv.weight)
        return x @ F.conv2d(self.called(x), self.called.weight).transpose(2, 3)


class Folded(Part):
    """Rows that are no batch: every channel by itself, and a batch that comes second."""

    def build(self, draw: random.Random) -> None:
        self.line = nn.Linear(SIDE * SIDE, SIDE * SIDE)
        self.either = LayerChoice([nn.Linear(SIDE, SIDE), nn.Identity()], label=label())
        self.attention = nn.MultiheadAttention(CHANNELS, 2)

    def run(self, x: Tensor) -> Tensor:
        x = self.line(x.reshape(-1, SIDE * SIDE)).reshape(-1, SIDE, SIDE)
        x = self.either(x).reshape(-1, CHANNELS, SIDE * SIDE).permute(2, 0, 1)
        x, _ = self.attention(x, x, x)
        return x.permute(1, 2, 0).reshape(-1, *SHAPE)


class Cells(Part):
    """NNI's ``Cell`` of modules, with a module before it that takes and gives a list."""

    def build(self, draw: random.Random) -> None:
        self.cell = Cell({"a": conv(1), "b": conv(3), "skip": nn.Identity()}, 2, draw.randint(1, 2), 2,
                         preprocessor=Pair(), label=label())  # fmt: skip
        self.last = conv(1, 2 * CHANNELS)

    def run(self, x: Tensor) -> Tensor:
        return self.last(self.cell([x, x]))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = conv(1), conv(1)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [self.one(xs[0]), self.two(xs[1])]


WAYS = (
    Several, ByName, Structures, Integers, Again, SharedBy, Nested, Repeated, Inputs, Hooked, ByItself, Folded, Cells,
)  # fmt: skip


class Space(ModelSpace):
    """Two or three parts one after the other; one of them may be a candidate itself, and a label may stand twice."""

    def __init__(self, seed: int):
        super().__init__()
        draw = random.Random(seed)
        ways = [WAYS[seed % len(WAYS)], *draw.sample(WAYS, draw.randint(1, 2))]
        parts: list[nn.Module] = [way(draw) for way in ways]
        if draw.random() < 0.5:
            parts[0] = LayerChoice({"part": parts[0], "conv": conv(3)}, label="outermost")
        twice = label()
        self.parts = nn.ModuleList([choice(random.Random(seed), twice), *parts, choice(random.Random(seed), twice)])
        self.scale = nn.Parameter(torch.ones(1, CHANNELS, 1, 1))
        self.last = nn.Linear(CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return self.last((self.scale * x).mean((2, 3)))


def macs_of(network: nn.Module, dtype: torch.dtype = torch.float32) -> int:
    """By torch's own counter, with gradients: attention then runs product by product."""
    counter = FlopCounterMode(display=False)
    with counter:
        network.eval()(torch.randn(1, *SHAPE, dtype=dtype))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("seed", range(26))
def test_the_profile_of_a_network_is_what_its_frozen_network_counts(seed):
    """Multiply-adds of two random networks of each space."""
    torch.manual_seed(seed)
    space = Space(seed)
    profiler = LatencyProfiler(space, MacsEstimator(), SHAPE)
    for sample in random_samples(space, 2, seed):
        expected = macs_of(space.freeze(sample))
        assert round(1e6 * profiler.profile(sample)) == expected > 0, sample
        assert count_macs(space.freeze(sample), SHAPE) == expected


# -- other costs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [Several, ByName, Structures, Integers, Nested, Inputs, Cells, ByItself])
def test_the_parameters_of_a_network_are_those_that_its_forward_uses(way):
    """Of parts whose modules are called once, or are counted once by the estimator's own rule; own parameters included."""
    space = Alone(way)
    profiler = LatencyProfiler(space, ParametersEstimator(), SHAPE)
    for sample in random_samples(space, 3, 0):
        network = space.freeze(sample)
        expected = sum(p.numel() for p in network.parameters())
        if way is ByName:  # 'named' runs twice
            expected += sum(p.numel() for p in network.part.named.parameters())
        if way is ByItself:  # the weight of this one is used, its bias is not
            expected -= network.part.conv.bias.numel()
        assert round(1e6 * profiler.profile(sample)) == expected


class Alone(ModelSpace):
    """One part of its kind."""

    def __init__(self, way: type[Part], seed: int = 0):
        super().__init__()
        self.part, self.last = way(random.Random(seed)), nn.Linear(CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.part(x).mean((2, 3)))


def test_activations_of_several_inputs_are_kept_until_they_are_read():
    """Beside the first convolution the other input waits; beside the second it is its own."""
    (operation,) = [
        op for op in trace_operations(Alone(Several), SHAPE) if isinstance(op.module, Two) and not op.conditions
    ]
    n = CHANNELS * SIDE * SIDE
    assert ActivationsEstimator().estimate(operation) * 2**20 / 4 == 2 * n + n


@pytest.mark.parametrize("way", [way for way in WAYS if way is not ByItself], ids=lambda way: way.__name__)
def test_every_way_is_timed_inside_networks_and_alone(way):
    """A row for every operation, with a batch of three; the rows make up every network."""
    space = Alone(way)
    estimator = DeviceEstimator(runtime="torch", repeats=1, warmup=0, batch=3)
    operations = trace_operations(space, SHAPE)
    for method in ("networks", "isolated"):
        table = build_lookup_table(space, SHAPE, estimator, method=method)
        assert set(table.rows) == {op.key for op in operations if not op.in_constant}
        assert all(row.median_ms > 0 for row in table.rows.values())
        table = table.replace(constant=None)  # of one run on a busy machine: no more than noise
        profiler = LatencyProfiler(space, table, SHAPE)
        for sample in random_samples(space, 2, 0):
            expected = sum(
                table.rows[op.key].median_ms for op in operations if op.runs_in(sample) and not op.in_constant
            )
            assert profiler.profile(sample) == pytest.approx(expected)


def test_what_runs_beside_modules_is_counted_timed_alone_and_else_in_the_constant():
    space = Alone(ByItself)
    (beside,) = [op for op in trace_operations(space, SHAPE) if op.is_beside]
    assert beside.key.startswith("ByItself.forward-4-")
    n = CHANNELS * SIDE * SIDE
    assert MacsEstimator().estimate(beside) * 1e6 == pytest.approx(n * 9 * CHANNELS + 2 * n * CHANNELS + n * SIDE)
    assert ParametersEstimator().estimate(beside) * 1e6 == CHANNELS * CHANNELS * 9 + CHANNELS * CHANNELS
    alone = build_lookup_table(space, SHAPE, DeviceEstimator(runtime="torch", repeats=1, warmup=0), method="isolated")
    assert alone.rows[beside.key].median_ms > 0
    inside = build_lookup_table(space, SHAPE, DeviceEstimator(runtime="torch", repeats=1, warmup=0))
    assert beside.key not in inside.rows
    LatencyProfiler(space, inside.replace(constant=None), SHAPE)


class Inside(ModelSpace):
    """A candidate that holds a choice and multiplies by itself."""

    def __init__(self):
        super().__init__()
        self.either = LayerChoice({"itself": ByItself(random.Random(0)), "conv": conv(1)}, label="either")

    def forward(self, x: Tensor) -> Tensor:
        return self.either(x)


def test_what_hangs_on_a_choice_and_is_no_module_is_refused_where_networks_are_timed():
    said = r"'ByItself.forward-.*', when either is 'itself': the products .*; allowed: method isolated, or a module"
    with pytest.raises(ValueError, match=said):
        build_lookup_table(Inside(), SHAPE, DeviceEstimator(runtime="torch", repeats=1, warmup=0))
    table = build_lookup_table(
        Inside(), SHAPE, DeviceEstimator(runtime="torch", repeats=1, warmup=0), method="isolated"
    )
    assert any(key.startswith("ByItself.forward-") for key in table.rows)
    del table.rows[next(key for key in table.rows if key.startswith("ByItself.forward-"))]
    with pytest.raises(KeyError, match="no row 'ByItself"):
        LatencyProfiler(Inside(), table, SHAPE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_space_of_another_type_is_profiled_and_timed(dtype):
    """Its counts are those of float32; timing casts to its own precision and says so."""
    space, single = Alone(Structures), Alone(Structures)
    space = space.to(dtype)
    sample = random_samples(single, 1, 0)[0]
    expected = LatencyProfiler(single, MacsEstimator(), SHAPE).profile(sample)
    labels = dict(zip(single.simplify(), space.simplify(), strict=True))
    translated = {labels[name]: value for name, value in sample.items()}
    assert LatencyProfiler(space, MacsEstimator(), SHAPE).profile(translated) == expected
    assert count_macs(space.freeze(translated), SHAPE) == round(1e6 * expected)
    assert [op.key for op in trace_operations(space, SHAPE)] == [op.key for op in trace_operations(single, SHAPE)]
    for method in ("networks", "isolated"):
        table = build_lookup_table(
            space, SHAPE, DeviceEstimator(runtime="torch", repeats=1, warmup=0, precision="bfloat16"), method=method
        )
        assert table.conditions["precision"] == "bfloat16"
    assert all(p.dtype == dtype for p in space.parameters())


# -- by hand, where torch's own counter says nothing -----------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        self.vector = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.vector


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.bilinear = nn.Bilinear(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bilinear(x, x)


@pytest.mark.parametrize(
    ("module", "macs"),
    [
        (Attention(), 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16),
        (nn.LSTM(8, 6, batch_first=True), 5 * 4 * 6 * (8 + 6)),
        (nn.GRU(8, 6, batch_first=True), 5 * 3 * 6 * (8 + 6)),
        (Vector(), 5 * 8),
        (Bilinear(), 5 * 3 * (8 * 8 + 8)),
    ],
    ids=["attention", "transformer", "lstm", "gru", "vector", "bilinear"],
)
def test_products_that_hide_in_a_larger_function_are_counted(module, macs):
    """Five rows of eight features; in evaluation mode without gradients torch has one function for the whole of some layers."""
    assert count_macs(module, (5, 8)) == macs


def test_what_grows_otherwise_than_the_batch_is_not_taken_for_it():
    """From a call with one sample and one with two: a dimension that is twice as large grows with the batch."""

    def call(*sizes: int) -> Call:
        return Call((TensorSpec(sizes, torch.float32),))

    assert call(1, 4).with_batch_dims(call(2, 4)).args[0].batch_dims == (0,)
    assert call(3, 4).with_batch_dims(call(6, 8)).args[0].batch_dims == (0, 1)
    for other in (call(3, 4), call(2, 4, 1), Call(())):
        with pytest.raises(ValueError, match="the two calls differ in more than the batch"):
            call(1, 4).with_batch_dims(other)


# -- refused by name -------------------------------------------------------------------------------------------------------


class Wide(ModelSpace):
    """Candidates that keep or halve the picture, and what follows."""

    def __init__(self, follows: nn.Module):
        super().__init__()
        self.first = LayerChoice({"keep": conv(1), "halve": nn.Conv2d(CHANNELS, CHANNELS, 1, stride=2)}, label="size")
        self.follows = follows

    def forward(self, x: Tensor) -> Tensor:
        return self.follows(self.first(x))


class WithModule(ModelSpace):
    def __init__(self):
        super().__init__()
        self.one, self.two = conv(1), Takes()
        self.either = LayerChoice([conv(1), nn.Identity()], label="c")

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.either(x), self.one)


class Takes(nn.Module):
    def forward(self, x: Tensor, module: nn.Module) -> Tensor:
        return module(x)


class LooseCell(ModelSpace):
    def __init__(self, **arguments):
        super().__init__()
        self.cell = Cell(**{"op_candidates": [conv(1), conv(3)], "num_nodes": 2, "label": "cell", **arguments})

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)


class WideInputs(ModelSpace):
    def __init__(self):
        super().__init__()
        self.small, self.last = nn.MaxPool2d(2), conv(3)
        self.which = InputChoice(2, 1, label="which")

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.which([x, self.small(x)]))


class WideRepeat(ModelSpace):
    def __init__(self):
        super().__init__()
        self.body = Repeat(lambda i: nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1), (1, 2), label="depth")
        self.last = conv(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (lambda: Wide(conv(3)), r"choice 'size' gives differs in shape, 6x6x4 and 3x3x4, and what follows \(follows\) costs something else"),
        (lambda: Wide(nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIDE * SIDE, 2))), r"choice 'size' gives .* does not run: .*shapes"),
        (WideInputs, r"choice 'which' gives differs in shape, 6x6x4 and 3x3x4, and what follows \(last\) costs"),
        (WideRepeat, r"choice 'depth' gives differs in shape, 2x2x4 and 3x3x4, and what follows \(last\) costs"),
        (WithModule, r"two: this Takes is called with a Conv2d, and has no latency here; allowed: tensors, numbers, texts and None"),
        (lambda: LooseCell(merge_op="loose_end"), r"cell: a Cell with merge_op 'loose_end' .*; allowed: merge_op 'all'"),
        (lambda: LooseCell(op_candidates=[lambda *a: conv(1), lambda *a: nn.Conv2d(CHANNELS, 2, 1)]), r"operations of node 1 give 6x6x4, 6x6x2; allowed"),
    ],
)  # fmt: skip
def test_what_would_be_wrong_is_refused_by_name(space, message):
    with pytest.raises(ValueError, match=message):
        LatencyProfiler(space(), MacsEstimator(), SHAPE)


class Averaged(Wide):
    def __init__(self, follows: nn.Module):
        super().__init__(follows)

    def forward(self, x: Tensor) -> Tensor:
        return self.follows(self.first(x)).mean((2, 3))


def test_shapes_that_make_no_difference_may_differ():
    with pytest.raises(ValueError, match=r"what follows \(follows\) costs"):
        LatencyProfiler(Averaged(nn.AdaptiveAvgPool2d(1)), MacsEstimator(), SHAPE)
    profiler = LatencyProfiler(Averaged(nn.Identity()), MacsEstimator(), SHAPE)
    n = CHANNELS * SIDE * SIDE
    assert [profiler.profile({"size": name}) * 1e6 for name in ("keep", "halve")] == [n * CHANNELS, n * CHANNELS / 4]
