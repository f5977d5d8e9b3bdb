"""The sampled supernet: what a gate's gradient is, what runs, what is kept.

A sampled gate has no derivative that finite differences could see, so its gradient is compared with its closed form,
dL/dg_j = sum(dL/dy * o_j(x)), from a forward pass that uses nothing of the code under test. All in float64.
"""

from __future__ import annotations

import copy

import pytest
import torch
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.supernet.frozen import gradients_off
from nni_proxyless.strategies.supernet.gate import Gate
from nni_proxyless.strategies.supernet.layers import SampledLayer, remove_unused_candidates
from torch import Tensor, nn

from nni_proxyless.core.batch_norm import batch_norm_statistics_kept

WIDTH = 6


def candidates(n: int, skip: bool = False) -> list[nn.Module]:
    """n different small functions of WIDTH features, the last one a skip if wanted."""
    made: list[nn.Module] = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(n - skip)]
    return [*made, nn.Identity()] if skip else made


class OneChoice(ModelSpace):
    """before -> choice -> after, so that neither dL/dy nor x is anything special."""

    def __init__(self, n: int = 4, skip: bool = False):
        super().__init__()
        self.before = nn.Linear(WIDTH, WIDTH)
        self.choice = LayerChoice(candidates(n, skip), label="choice")
        self.after = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.choice(self.before(x)))


class SharedLabel(ModelSpace):
    """Two layers that always take the same candidate."""

    def __init__(self):
        super().__init__()
        self.first = LayerChoice(candidates(3), label="both")
        self.second = LayerChoice(candidates(3), label="both")

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Nested(ModelSpace):
    """A choice as a candidate, and a choice inside a candidate."""

    def __init__(self):
        super().__init__()
        inner = LayerChoice(candidates(2), label="inner")
        deep = nn.Sequential(nn.Linear(WIDTH, WIDTH), LayerChoice(candidates(3), label="deep"))
        self.outer = LayerChoice([nn.Linear(WIDTH, WIDTH), inner, deep], label="outer")

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(x)


def supernet(space: ModelSpace, seed: int = 0) -> tuple[ModelSpace, dict[str, Gate]]:
    """The space as ProxylessNAS turns it into a supernet, in float64, with logits that are not all alike."""
    strategy = ProxylessNAS(seed=seed)
    net = strategy.mutate_model(space).double()
    gates = {module.label: module.gate for module in net.modules() if isinstance(module, SampledLayer)}
    generator = torch.Generator().manual_seed(seed)
    for _, gate in sorted(gates.items()):
        gate.double()
        gate.alpha.data = torch.randn(len(gate.choices), generator=generator, dtype=torch.float64)
    return net, gates


def images(n: int = 5) -> Tensor:
    return torch.randn(n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def curved(y: Tensor) -> Tensor:
    """A loss whose gradient depends on y."""
    return (y**3).sum() + (y**2).sum()


def closed_form(net: OneChoice, x: Tensor, active: int) -> Tensor:
    """dL/dg_j = (dL/dy * o_j).sum() for every j, by plain autograd on plain modules."""
    h = net.before(x)
    outputs = [net.choice[name](h) for name in net.choice.names]
    y = outputs[active].detach().requires_grad_()
    (grad_y,) = torch.autograd.grad(curved(net.after(y)), y)
    return torch.stack([(grad_y * o).sum() for o in outputs]).detach()


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    torch.manual_seed(0)


# -- the gradient of a gate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", range(4))
def test_gate_gradient_is_its_closed_form(active):
    """Property 1: for every j, active or not, dL/dg_j = (dL/dy * o_j).sum()."""
    net, gates = supernet(OneChoice(4))
    variables = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    gates["choice"].open(active, range(4), variables)
    curved(net(images())).backward()
    torch.testing.assert_close(variables.grad, closed_form(net, images(), active), rtol=1e-12, atol=0)


@pytest.mark.parametrize("active", range(4))
def test_gate_gradient_with_a_skip_is_measured_against_the_skip(active):
    """With a skip among the candidates dL/dg_j = (dL/dy * (o_j - x)).sum(); the skip's own is exactly 0 (property 14)."""
    net, gates = supernet(OneChoice(4, skip=True))
    variables = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    gates["choice"].open(active, range(4), variables)
    curved(net(images())).backward()
    expected = closed_form(net, images(), active)
    torch.testing.assert_close(variables.grad, expected - expected[3], rtol=1e-10, atol=1e-13)
    assert variables.grad[3].item() == 0.0


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("active", range(4))
def test_logit_gradient_is_equation_4_and_sums_to_zero(active, skip):
    """Property 2: dL/dalpha_i = p_i (G_i - sum_j p_j G_j), G the closed form, whose sum over i is 0; a common shift of G
    (the skip) has no effect on it."""
    net, gates = supernet(OneChoice(4, skip))
    gate = gates["choice"]
    p = gate.probs()
    gate.open(active, range(4), p)
    curved(net(images())).backward()
    p = p.detach()
    expected = closed_form(net, images(), active)
    torch.testing.assert_close(gate.alpha.grad, p * (expected - (p * expected).sum()), rtol=1e-10, atol=1e-13)
    assert abs(gate.alpha.grad.sum()) < 1e-13 * gate.alpha.grad.abs().sum()


def test_expectation_over_all_paths_is_the_gradient_of_the_mixture():
    """Property 3: for L quadratic in y, sum_k p_k grad(k) equals the gradient of L at y = sum_j p_j o_j (DARTS).

    Enumerated, so the expectation is exact.
    """
    net, gates = supernet(OneChoice(4))
    gate, x = gates["choice"], images()
    expected_over_paths = torch.zeros(4, dtype=torch.float64)
    for k in range(4):
        gate.alpha.grad = None
        p = gate.probs()
        gate.open(k, range(4), p)
        (net(x) ** 2).sum().backward()
        expected_over_paths += p[k].detach() * gate.alpha.grad

    p = gate.probs()
    h = net.before(x)
    mixture = sum(p[j] * net.choice[j](h) for j in range(4))
    (of_mixture,) = torch.autograd.grad((net.after(mixture) ** 2).sum(), gate.alpha)
    torch.testing.assert_close(expected_over_paths, of_mixture, rtol=1e-10, atol=1e-13)


def test_the_gate_leaves_the_gradient_of_everything_else_alone():
    """The layer is y = o_k(x): gradients of the trunk equal those of the same network without a gate."""
    net, gates = supernet(OneChoice(4))
    gates["choice"].open(2, range(4), gates["choice"].probs())
    curved(net(images())).backward()
    plain = curved(net.after(net.choice[2](net.before(images()))))
    for got, expected in zip(
        (net.before.weight.grad, net.choice[2][0].weight.grad),
        torch.autograd.grad(plain, (net.before.weight, net.choice[2][0].weight)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)
    assert net.choice[0][0].weight.grad is None, "a probe must leave no gradient in the candidate it runs"


def test_layers_of_one_label_share_the_gate():
    """Both layers take the same candidate; the gate's gradient is the sum of what the two layers give it."""
    net, gates = supernet(SharedLabel())
    assert net.first.gate is net.second.gate
    x, k = images(), 1
    variables = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    gates["both"].open(k, range(3), variables)
    curved(net(x)).backward()

    middle = net.first[k](x).detach().requires_grad_()
    y = net.second[k](middle).detach().requires_grad_()
    (grad_y,) = torch.autograd.grad(curved(y), y)
    (grad_middle,) = torch.autograd.grad(curved(net.second[k](middle)), middle)
    expected = [
        ((grad_middle * net.first[j](x)).sum() + (grad_y * net.second[j](middle)).sum()).item() for j in range(3)
    ]
    torch.testing.assert_close(variables.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


# -- what runs, and what is kept ---------------------------------------------------------------------------------------


def saved_numbers(space: ModelSpace, naive: bool = False) -> int:
    """How many numbers one architecture step's forward pass keeps for its backward pass."""
    net, gates = supernet(space)
    gate = gates["choice"]
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with gradients_off(list(net.parameters())), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if naive:
            p = gate.probs()
            h = net.before(images())
            net.after(sum(p[j] * net.choice[j](h) for j in range(len(p))))
        else:
            gate.open(0, (0, 1), torch.softmax(gate.alpha[[0, 1]], dim=0))
            net(images())
    return kept


def test_what_an_architecture_step_keeps_does_not_grow_with_the_candidates():
    """Property 13: saved tensors are the same for 2 and for 12 candidates; with every output kept (naive) they grow."""
    assert saved_numbers(OneChoice(12)) == saved_numbers(OneChoice(2)) > 0
    assert saved_numbers(OneChoice(12), naive=True) > 3 * saved_numbers(OneChoice(2), naive=True)


def test_a_gate_without_a_sampled_path_runs_the_most_probable_candidate():
    """Between steps the supernet is its own argmax, the first one among equals."""
    net, gates = supernet(OneChoice(4))
    gate = gates["choice"]
    gate.alpha.data = torch.tensor([0.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    assert torch.equal(net(images()), net.after(net.choice[1](net.before(images()))))
    gate.open(3)
    assert torch.equal(net(images()), net.after(net.choice[3](net.before(images()))))
    gate.reset()
    assert torch.equal(net(images()), net.after(net.choice[1](net.before(images()))))


def test_a_removed_candidate_says_which_choice_was_fixed_to_what():
    net, gates = supernet(OneChoice(4))
    gates["choice"].fix(2)
    remove_unused_candidates(net)
    assert torch.equal(net(images()), net.after(net.choice[2](net.before(images()))))
    with pytest.raises(RuntimeError, match=r"candidate was removed: choice 'choice' is fixed to '?2'?"):
        net.choice[1](images())


@pytest.mark.parametrize("outer", range(3))
def test_nested_choices_run_and_learn(outer):
    """A gate inside the active candidate gets its closed-form gradient; one inside an inactive candidate gets none."""
    net, gates = supernet(Nested())
    assert sorted(gates) == ["deep", "inner", "outer"]
    for label, gate in gates.items():
        gate.open(outer if label == "outer" else 1, range(len(gate.choices)), gate.probs())
    x = images()
    y = net(x)
    inner = net.outer[1]
    deep = net.outer[2]
    plain = (net.outer[0](x), inner[1](x), deep[1][1](deep[0](x)))[outer]
    assert torch.equal(y, plain)
    curved(y).backward()

    grad_y = (3 * y**2 + 2 * y).detach()
    at = {"inner": [inner[j](x) for j in range(2)], "deep": [deep[1][j](deep[0](x)) for j in range(3)]}
    at["outer"] = [net.outer[0](x), at["inner"][1], at["deep"][1]]
    for label, gate in gates.items():
        if label != "outer" and label != {1: "inner", 2: "deep"}.get(outer):
            assert gate.alpha.grad is None
            continue
        given = torch.stack([(grad_y * o).sum() for o in at[label]]).detach()
        p = gate.probs().detach()
        torch.testing.assert_close(gate.alpha.grad, p * (given - (p * given).sum()), rtol=1e-10, atol=1e-12)


def test_a_supernet_can_be_copied():
    """A deep copy has gates and weights of its own, keeps layers of one label on one gate, and gives the same output."""
    net, gates = supernet(SharedLabel())
    copied = copy.deepcopy(net)
    assert copied.first.gate is copied.second.gate is not gates["both"]
    assert torch.equal(copied(images()), net(images()))
    copied.first.gate.alpha.data = -copied.first.gate.alpha.data
    assert copied.first.gate.most_probable() != gates["both"].most_probable()
    assert not torch.equal(copied(images()), net(images()))


def test_a_supernet_keeps_the_names_of_the_space():
    """``state_dict`` of the supernet is that of the space: no gate, no wrapper in a name."""
    names = list(OneChoice(3).state_dict())
    assert list(supernet(OneChoice(3))[0].state_dict()) == names
    assert not any("alpha" in name for name, _ in supernet(OneChoice(3))[0].named_parameters())


def test_a_path_is_drawn_from_the_probabilities():
    """Frequencies of :meth:`Gate.sample_path` match p within 5 standard errors each."""
    p = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    gate = Gate("g", ["a", "b", "c"], p.log(), torch.Generator().manual_seed(0))
    n = 5000
    counts = torch.bincount(torch.tensor([gate.sample_path() for _ in range(n)]), minlength=3)
    assert ((counts / n - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()  # 3 * 6e-7 if the seed were not fixed


@pytest.mark.parametrize(
    ("size_bias", "expected"), [(0.0, [1, 2, 7]), (1.0, [1 * 2, 2 * 2, 7 * 6]), (0.5, [2**0.5, 2 * 2**0.5, 7 * 6**0.5])]
)
def test_a_large_candidate_is_drawn_more_often(size_bias, expected):
    """In proportion to p_j s_j^size_bias; a skip, the first here, counts as the smallest that has weights."""
    gate = Gate("g", ["skip", "b", "c"], torch.tensor([0.1, 0.2, 0.7]).log(), torch.Generator().manual_seed(0))
    gate.add_layer({0}, [0, 2, 6])
    q = torch.tensor(expected) / sum(expected)
    n = 5000
    counts = torch.bincount(torch.tensor([gate.sample_path(size_bias) for _ in range(n)]), minlength=3)
    assert ((counts / n - q).abs() < 5 * (q * (1 - q) / n).sqrt()).all()
    assert gate.choices[gate.active] in ("skip", "b", "c")


def test_a_gate_without_sizes_and_one_with_a_choice_made_draw_as_they_are():
    same = [Gate("g", [1, 2, 3], torch.zeros(3), torch.Generator().manual_seed(0)) for _ in range(2)]
    assert [same[0].sample_path(1.0) for _ in range(50)] == [same[1].sample_path() for _ in range(50)]
    same[0].add_layer(set(), [1, 1, 1000])
    same[0].fix(0)
    assert {same[0].sample_path(1.0) for _ in range(50)} == {0}


def test_sizes_are_numbers_of_weights():
    """Of all layers of a label, of all blocks of a depth, with everything that lies inside; what has no weights has size 0."""
    one = WIDTH * WIDTH + WIDTH  # a linear layer
    assert supernet(OneChoice(3, skip=True))[1]["choice"].sizes == [one, one, 0]
    assert supernet(SharedLabel())[1]["both"].sizes == [2 * one] * 3
    gates = supernet(Nested())[1]
    assert gates["outer"].sizes == [one, 2 * one, 4 * one]
    assert copy.deepcopy(gates["outer"]).sizes == gates["outer"].sizes

    class Depth(ModelSpace):
        def __init__(self):
            super().__init__()
            self.repeat = Repeat(lambda i: nn.Linear(WIDTH, WIDTH, bias=i > 0), (0, 2), label="depth")
            self.inputs = InputChoice(2, 1, label="inputs")

        def forward(self, x: Tensor) -> Tensor:
            return self.inputs([x, self.repeat(x)])

    strategy = ProxylessNAS()
    strategy.mutate_model(Depth())
    assert strategy._gates["depth"].sizes == [0, WIDTH**2, WIDTH**2 + one]
    assert strategy._gates["inputs"].sizes == [0, 0]


# -- what an architecture step leaves alone ------------------------------------------------------------------------------


def test_gradients_are_off_inside_and_as_before_afterwards():
    """Parameters that had been frozen stay frozen, and an error inside restores all the same."""
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), gradients_off(list(layer.parameters())):  # noqa: PT012  (looks, then fails)
        assert not layer.weight.requires_grad
        raise ZeroDivisionError
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_normalises_by_the_batch_and_forgets_it(momentum):
    """Output as in training mode; running mean, variance and count bitwise as before, also of a cumulative average."""
    norm = nn.BatchNorm1d(WIDTH, momentum=momentum).double()
    norm(images(4))
    before = copy.deepcopy(norm.state_dict())
    with batch_norm_statistics_kept([nn.ReLU(), norm]):
        y = norm(images(7) * 3 + 1)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(WIDTH, dtype=torch.float64), rtol=0, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    norm(images(7))
    assert not torch.equal(norm.running_mean, before["running_mean"]), "tracking is on again"
