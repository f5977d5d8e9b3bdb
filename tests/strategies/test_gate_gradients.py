"""What a gate's gradient is, for every kind of choice.

A sampled gate has no derivative that finite differences could see, so its gradient is compared with its closed form,
dL/dg_j = sum(dL/dy * o_j(x)), from a forward pass that uses nothing of the code under test. All in float64.
"""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.supernet.frozen import gradients_off
from nni_proxyless.strategies.supernet.gate import Gate
from torch import Tensor, nn

from . import kinds
from .spaces import WIDTH, OneChoice, curved, features, given, linear, supernet, variables

# -- one of several layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("active", range(4))
def test_a_layer(active, skip):
    """Property 1: for every j, active or not, dL/dg_j = (dL/dy * o_j).sum(); with a skip among the candidates it is measured
    against the skip, whose own is exactly 0 (14). Property 2: dL/dalpha_i = p_i (G_i - sum_j p_j G_j), which sums to 0, and
    on which a common shift of G has no effect."""
    net, gates = supernet(OneChoice(4, skip))
    gate, x, probe = gates["choice"], features(), variables(4)
    h = net.before(x)
    outputs = [net.choice[name](h) for name in net.choice.names]
    expected = given(lambda y: curved(net.last(y)), outputs[active], outputs)

    gate.open(active, range(4), probe)
    curved(net(x)).backward()
    torch.testing.assert_close(probe.grad, expected - expected[3] if skip else expected, rtol=1e-10, atol=1e-13)
    assert not skip or probe.grad[3].item() == 0.0

    gate.open(active, range(4), gate.probs())
    curved(net(x)).backward()
    p = gate.probs().detach()
    torch.testing.assert_close(gate.alpha.grad, p * (expected - (p * expected).sum()), rtol=1e-10, atol=1e-13)
    assert abs(gate.alpha.grad.sum()) < 1e-13 * gate.alpha.grad.abs().sum()


def test_the_gate_leaves_the_gradient_of_everything_else_alone():
    """The layer is y = o_k(x): gradients of the trunk equal those of the same network without a gate."""
    net, gates = supernet(OneChoice(4))
    gates["choice"].open(2, range(4), gates["choice"].probs())
    curved(net(features())).backward()
    plain = curved(net.last(net.choice[2](net.before(features()))))
    weights = (net.before.weight, net.choice[2][0].weight)
    for weight, expected in zip(weights, torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(weight.grad, expected, rtol=1e-13, atol=0)
    assert net.choice[0][0].weight.grad is None, "a probe must leave no gradient in the candidate it runs"


def test_layers_of_one_label():
    """All take the same candidate; the gate's gradient is the sum over their calls, of which one layer has two."""
    net, gates = supernet(kinds.SharedLabel())
    assert net.first.gate is net.second.gate
    probe, k = variables(2), 1
    gates["both"].open(k, range(2), probe)
    curved(net(features())).backward()
    expected, x = torch.zeros(2, dtype=torch.float64), features()
    layers = [net.first, net.second, net.first]
    for i, layer in enumerate(layers):

        def rest(y: Tensor, behind: list = layers[i + 1 :]) -> Tensor:
            for after in behind:
                y = after[k](torch.relu(y))
            return curved(net.last(y))

        expected += given(rest, layer[k](x), [layer[j](x) for j in range(2)])
        x = torch.relu(layer[k](x))
    torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("outer", range(3))
def test_nested_choices(outer):
    """A gate inside the active candidate gets its closed-form gradient; one inside an inactive candidate gets none."""
    net, gates = supernet(kinds.Nested())
    for label, gate in gates.items():
        gate.open(outer if label == "outer" else 1, range(len(gate.choices)), gate.probs())
    x = features()
    inner, deep = net.outer[1], net.outer[2]
    at = {"inner": [inner[j](x) for j in range(2)], "deep": [deep[1][j](deep[0](x)) for j in range(3)]}
    at["outer"] = [net.outer[0](x), at["inner"][1], at["deep"][1]]
    y = net(x)
    assert torch.equal(y, net.last(at["outer"][outer]))
    curved(y).backward()
    for label, gate in gates.items():
        if label != "outer" and label != {1: "inner", 2: "deep"}.get(outer):
            assert gate.alpha.grad is None
            continue
        expected = given(lambda y: curved(net.last(y)), at["outer"][outer], at[label])
        p = gate.probs().detach()
        torch.testing.assert_close(gate.alpha.grad, p * (expected - (p * expected).sum()), rtol=1e-10, atol=1e-12)


# -- inputs and depths -------------------------------------------------------------------------------------------------


def reduced(reduction: str, inputs: list[Tensor]) -> Tensor:
    if reduction == "concat":
        return torch.cat(inputs, dim=1)
    return sum(inputs) / (len(inputs) if reduction == "mean" else 1)


class InputsAlone(ModelSpace):
    """The choice itself."""

    def __init__(self, n_chosen: int | None, reduction: str):
        super().__init__()
        self.pick = InputChoice(4, n_chosen, reduction, label="pick")

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return self.pick(inputs)


@pytest.mark.parametrize(
    ("n_chosen", "reduction"),
    [(1, "sum"), (2, "sum"), (2, "mean"), (3, "mean"), (2, "concat"), (None, "sum"), (None, "mean")],
)
def test_gate_gradient_of_chosen_inputs(n_chosen, reduction):
    """Property 1: dL/dg_j = (dL/dy * r(inputs of set j)).sum() for every set j, active or not.

    Inputs outside the active set receive no gradient; those inside receive that of the reduction.
    """
    net, gates = supernet(InputsAlone(n_chosen, reduction))
    gate, sets = gates["pick"], gates["pick"].choices
    for active, chosen in enumerate(sets):
        leaves = [torch.randn(5, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(4)]
        probe = variables(len(sets))
        gate.open(active, range(len(sets)), probe)
        y = net(leaves)
        assert torch.equal(y, reduced(reduction, [leaves[i] for i in chosen]))
        curved(y).backward()
        outputs = [reduced(reduction, [leaves[i] for i in s]) for s in sets]
        torch.testing.assert_close(probe.grad, given(curved, y, outputs), rtol=1e-12, atol=1e-12)
        plain = torch.autograd.grad(
            curved(reduced(reduction, [leaves[i] for i in chosen])), [leaves[i] for i in chosen]
        )
        for i, leaf in enumerate(leaves):
            if i in chosen:
                torch.testing.assert_close(leaf.grad, plain[chosen.index(i)], rtol=1e-12, atol=1e-12)
            else:
                assert leaf.grad is None or not leaf.grad.any()


def count_blocks(net: ModelSpace) -> list[int]:
    """How often each block of ``net.blocks`` has run since."""
    runs = [0] * len(net.blocks)
    for i, block in enumerate(net.blocks.blocks):

        def count(*_, i=i):
            runs[i] += 1

        block.register_forward_hook(count)
    return runs


def at_depth(net: ModelSpace, depth: int, x: Tensor) -> Tensor:
    """The first blocks, one after the other, by hand."""
    for i in range(depth):
        x = net.blocks.blocks[i](x)
    return x


@pytest.mark.parametrize(
    ("make", "depths"),
    [
        (kinds.Deep, [1, 2, 3]),
        (kinds.DepthFromZero, [0, 1, 2]),
        (kinds.DepthOfChoice, [1, 3]),
        (kinds.DepthOfExpression, [2, 4]),
    ],
)
def test_gate_gradient_of_a_depth(make, depths):
    """Property 1: dL/dg_d = (dL/dy * o_d).sum() for shallower and deeper d, 0 included; forward runs the active depth only.

    In backward a deeper network goes on from y, so each of its further blocks runs once per probe and no other.
    """
    net, gates = supernet(make())
    gate, x = gates["depth"], features()
    for active, depth in enumerate(depths):
        probe = variables(len(depths))
        gate.open(active, range(len(depths)), probe)
        expected = given(lambda y: curved(net.last(y)), at_depth(net, depth, x), [at_depth(net, d, x) for d in depths])
        runs = count_blocks(net)
        y = net(x)
        assert runs == [int(i < depth) for i in range(len(runs))]
        curved(y).backward()
        in_backward = [sum(i < d and (i >= depth or d < depth) for d in depths if d != depth) for i in range(len(runs))]
        assert runs == [int(i < depth) + in_backward[i] for i in range(len(runs))]
        torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-13)


def test_gate_gradients_of_a_depth_that_is_a_sum():
    """Each label of ``more + most`` is measured with the other one as it is: dL/dg_(more=m) = (dL/dy * o_(m + most)).sum()."""
    net, gates = supernet(kinds.DepthOfTwoLabels())
    more, most, x = gates["more"], gates["most"], features()
    for i, m in enumerate(more.choices):
        for j, n in enumerate(most.choices):
            probes = variables(2), variables(2)
            more.open(i, range(2), probes[0])
            most.open(j, range(2), probes[1])
            curved(net(x)).backward()
            y = at_depth(net, m + n, x)
            for probe, depths in ((probes[0], [0 + n, 1 + n]), (probes[1], [m + 1, m + 2])):
                expected = given(lambda y: curved(net.last(y)), y, [at_depth(net, d, x) for d in depths])
                torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gate_gradients_of_choices_inside_a_depth(depth):
    """Inside the active depth a choice has its closed form, measured where it stands; beyond it there is no gradient.

    A deeper probe runs the candidates that are active there.
    """
    net, gates = supernet(kinds.DepthOfChoices())
    x, active = features(), {"block0": 1, "block1": 0, "block2": 1}
    probes = {label: variables(len(gate.choices)) for label, gate in gates.items()}
    for label, gate in gates.items():
        gate.open(depth - 1 if label == "depth" else active[label], range(len(gate.choices)), probes[label])
    curved(net(x)).backward()

    blocks = [[net.blocks.blocks[i][j] for j in range(2)] for i in range(3)]

    def run(start: int, end: int, x: Tensor) -> Tensor:
        for i in range(start, end):
            x = blocks[i][active[f"block{i}"]](x)
        return x

    expected = given(lambda y: curved(net.last(y)), run(0, depth, x), [run(0, d, x) for d in (1, 2, 3)])
    torch.testing.assert_close(probes["depth"].grad, expected, rtol=1e-10, atol=1e-13)
    for i in range(3):
        probe = probes[f"block{i}"]
        if i >= depth:
            assert probe.grad is None
            continue
        before = run(0, i, x)
        expected = given(
            lambda y, i=i: curved(net.last(run(i + 1, depth, y))),
            blocks[i][active[f"block{i}"]](before),
            [candidate(before) for candidate in blocks[i]],
        )
        torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-13)


# -- arguments and outputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [0, 1])
def test_gate_gradient_of_several_arguments(active):
    """Property 1 for positional and keyword arguments: every candidate is measured on the same ones."""
    net, gates = supernet(kinds.Arguments())
    x, probe = features(), variables(2)
    gates["two"].open(0)
    gates["named"].open(active, (0, 1), probe)
    curved(net(x)).backward()
    middle = torch.relu(net.two[0](x, -x))
    outputs = [net.named[j](a=x, share=0.25, b=middle) for j in range(2)]
    expected = given(lambda y: curved(net.last(y)), outputs[active], outputs)
    torch.testing.assert_close(probe.grad, expected, rtol=1e-12, atol=0)


class TwoTensors(ModelSpace):
    """Two tensors of different shapes through a choice with a skip."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.long, self.short = linear(), nn.Linear(1, 1)

        def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.long(pair[0]), self.short(pair[1])

    def __init__(self, skip: bool):
        super().__init__()
        self.choice = LayerChoice([self.Both(), self.Both(), nn.Identity() if skip else self.Both()], label="choice")

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.choice(pair)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("active", [0, 1, 2])
def test_gate_gradient_of_several_outputs(active, skip):
    """dL/dg_j = sum over all tensors t of y of (dL/dy_t * o_jt).sum(), against the skip's where there is one, which then has
    exactly 0; an output that the loss does not use adds nothing."""
    net, gates = supernet(TwoTensors(skip))
    pair = (features(), features()[:, :1])
    outputs = [net.choice[j](pair) for j in range(3)]
    for loss in (lambda y: curved(y[0]) + (y[1] ** 3).sum(), lambda y: curved(y[1])):
        probe = variables(3)
        gates["choice"].open(active, range(3), probe)
        loss(net(pair)).backward()
        expected = given(loss, outputs[active], outputs)
        torch.testing.assert_close(probe.grad, expected - expected[2] if skip else expected, rtol=1e-10, atol=1e-10)
        assert not skip or probe.grad[2].item() == 0.0


class Indices(nn.Module):
    """A tensor, and integers that have no gradient."""

    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        y = self.linear(x)
        return OrderedDict(y=y, index=y.argmax(dim=1))


class WithIndices(ModelSpace):
    def __init__(self):
        super().__init__()
        self.choice = LayerChoice([Indices(), Indices()], label="choice")

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.choice(x)


def test_outputs_without_a_gradient_pass_through():
    """Integers among the outputs come out as they are, in the type that the candidate returned, and add nothing to dL/dg."""
    net, gates = supernet(WithIndices())
    x, probe = features(), variables(2)
    outputs = [net.choice[j](x) for j in range(2)]
    gates["choice"].open(0, (0, 1), probe)
    out = net(x)
    assert type(out) is OrderedDict
    assert list(out) == ["y", "index"]
    assert torch.equal(out["index"], outputs[0]["index"])
    curved(out["y"]).backward()
    torch.testing.assert_close(
        probe.grad, given(curved, outputs[0]["y"], [o["y"] for o in outputs]), rtol=1e-12, atol=0
    )


# -- operations in place, and copies for them --------------------------------------------------------------------------


class Bare(ModelSpace):
    """A choice whose output goes straight into the loss."""

    def __init__(self, in_place: bool):
        super().__init__()
        self.before = linear()
        self.choice = LayerChoice([linear() for _ in range(3)], label="choice")
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.choice(self.before(x))
        return nn.functional.relu(y, inplace=True) if self.in_place else y


def kept_activations(net: ModelSpace, gate: Gate, x: Tensor) -> tuple[int, Tensor]:
    """How many different activations one architecture step's forward pass keeps, and what the gates received."""
    kept, probe = [], variables(len(gate.choices))

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.detach())
        return tensor

    with gradients_off(list(net.parameters())), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gate.open(1, range(len(gate.choices)), probe)
        y = net(x)
        loss = (y**3).sum()
    storages = {tensor.untyped_storage().data_ptr() for tensor in kept if tensor.shape == x.shape}
    loss.backward()
    return len(storages), probe.grad


@pytest.mark.parametrize(("in_place", "kept"), [(False, [3, 2, 2]), (True, [3, 3, 3])])
def test_a_choice_copies_its_output_as_long_as_something_behind_it_may_work_in_place(in_place, kept):
    """The first step keeps x, y and a copy of y, which the cube needs. Where nothing works in place the cube is given y itself
    from the second on; a ReLU that does changes the copy. Every step's gradient is the closed form."""
    net, gates = supernet(Bare(in_place))
    x = features()
    outputs = [net.choice[j](net.before(x)) for j in range(3)]
    expected = given(lambda y: ((torch.relu(y) if in_place else y) ** 3).sum(), outputs[1], outputs)
    steps = [kept_activations(net, gates["choice"], x) for _ in range(3)]
    assert [n for n, _ in steps] == kept
    for _, found in steps:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


class TwiceInPlace(ModelSpace):
    """One choice called twice: behind the first call a ReLU works in place, behind the second nothing does."""

    def __init__(self):
        super().__init__()
        self.choice = LayerChoice([linear() for _ in range(3)], label="choice")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(nn.functional.relu(self.choice(x), inplace=True))


def test_one_call_without_anything_in_place_says_nothing_about_the_others():
    """Whether a copy is needed can differ from call to call: no step may fail, and each one's gradient is the closed form,
    the sum over both calls."""
    net, gates = supernet(TwiceInPlace())
    x, gate = features(), gates["choice"]
    inner = net.choice[1](x)
    middle = torch.relu(inner)
    expected = given(lambda y: curved(net.choice[1](torch.relu(y))), inner, [net.choice[j](x) for j in range(3)])
    expected += given(curved, net.choice[1](middle), [net.choice[j](middle) for j in range(3)])
    for _ in range(4):
        probe = variables(3)
        gate.open(1, range(3), probe)
        curved(net(x)).backward()
        torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-12)


class InPlaceCandidate(ModelSpace):
    """A candidate that begins with ReLU(inplace=True), as ReLU-Conv-BN blocks often do; beside it a skip."""

    def __init__(self):
        super().__init__()
        self.before, self.last = linear(), nn.Identity()
        self.choice = LayerChoice(
            [nn.Sequential(nn.ReLU(inplace=True), linear()), linear(), nn.Identity()], label="one"
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(self.before(x))

    def outputs(self, x: Tensor) -> list[Tensor]:
        return [self.choice[j](self.before(x)) for j in range(3)]


class InPlaceBlocks(ModelSpace):
    """Blocks that begin with ReLU(inplace=True), as in pre-activation networks."""

    def __init__(self):
        super().__init__()
        self.before, self.last = linear(), linear()
        self.blocks = Repeat(lambda index: nn.Sequential(nn.ReLU(inplace=index > 0), linear()), (1, 3), label="depth")

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.before(x)))

    def outputs(self, x: Tensor) -> list[Tensor]:
        return [at_depth(self, depth, self.before(x)).clone() for depth in (1, 2, 3)]


@pytest.mark.parametrize("active", range(3))
@pytest.mark.parametrize("make", [InPlaceCandidate, InPlaceBlocks])
def test_what_changes_its_input_in_place_never_falsifies_a_probe(make, active):
    """Either the gate gradient is the closed form, against the skip where there is one, or the step is refused and says why; a
    silent wrong number is the one thing it may not be."""
    net, gates = supernet(make())
    ((_, gate),) = gates.items()
    x, probe = features(), variables(3)
    gate.open(active, range(3), probe)
    try:
        curved(net(x)).backward()
    except (RuntimeError, TypeError) as error:
        assert "in place" in str(error) or "inplace" in str(error)  # noqa: PT017  (both outcomes are right)
        return
    outputs = net.outputs(x)
    expected = given(lambda y: curved(net.last(y)), outputs[active], outputs)
    if make is InPlaceCandidate:
        expected = expected - expected[2]
    torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-12)


# -- mixed precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Bare(in_place=False), kinds.Deep], ids=["layer", "depth"])
def test_gate_gradients_under_autocast(make):
    """In bfloat16 the gate gradients are summed in float32 and near the float32 ones; a probed candidate runs under the
    autocast that forward had, although backward is called outside of it."""
    torch.manual_seed(0)
    strategy = ProxylessNAS()
    net = strategy.mutate_model(make()).eval()
    ((_, gate),) = strategy._gates.items()
    x, n = torch.randn(64, WIDTH), len(gate.choices)
    dtypes = []
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, args, y: dtypes.append(y.dtype))

    def gradients(enabled: bool) -> Tensor:
        probe = torch.zeros(n, requires_grad=True)
        gate.open(0, range(n), probe)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = net(x)
        curved(y.float()).backward()
        assert probe.grad.dtype is torch.float32
        return probe.grad

    exact = gradients(False)
    assert set(dtypes) == {torch.float32}
    dtypes.clear()
    half = gradients(True)
    assert set(dtypes) == {torch.bfloat16}, "in forward and in backward"
    assert len(dtypes) > n
    assert not torch.equal(exact, half)
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.02 * exact.abs().max().item())
