"""The sampled supernet at its limits: what it refuses, by name, and operations in place around a choice."""

from __future__ import annotations

import nni
import pytest
import torch
from nni.mutable import CategoricalMultiple
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, MutableConv2d, MutableLinear
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.supernet.gate import Gate
from nni_proxyless.strategies.supernet.layers import choices_of
from torch import Tensor, nn

WIDTH = 6


def supernet(space: ModelSpace) -> tuple[ModelSpace, Gate]:
    """The supernet in float64, and the gate of its one choice."""
    torch.manual_seed(0)
    net = ProxylessNAS().mutate_model(space).double()
    return net, net.choice.gate.double()


def images() -> Tensor:
    return torch.randn(5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def curved(y: Tensor) -> Tensor:
    """A loss whose gradient depends on y."""
    return (y**3).sum() + (y**2).sum()


def linears(n: int) -> list[nn.Module]:
    return [nn.Linear(WIDTH, WIDTH) for _ in range(n)]


class Said(nn.Module):
    """Its output is no tensor."""

    def forward(self, x: Tensor) -> str:
        return "nothing"


class Wordy(ModelSpace):
    def __init__(self):
        super().__init__()
        self.choice = LayerChoice([Said(), Said()], label="words")

    def forward(self, x: Tensor) -> Tensor:
        self.choice(x)
        return x


def test_candidates_that_return_no_tensor_are_refused_in_an_architecture_step_only():
    """Such candidates train as usual; where a gate needs a gradient, the message names choice, candidate and output."""
    net, gate = supernet(Wordy())
    assert torch.equal(net(images()), images())
    gate.open(1, (0, 1), gate.probs())
    with pytest.raises(TypeError, match="choice 'words': candidate 1 returns no tensor: 'nothing'"):
        net(images())


class Uneven(nn.Module):
    """One tensor or two."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x * i for i in range(1, self.n + 1)]


class Sizes(ModelSpace):
    def __init__(self):
        super().__init__()
        self.choice = LayerChoice([Uneven(1), Uneven(2)], label="sizes")

    def forward(self, x: Tensor) -> Tensor:
        return sum(self.choice(x))


def test_candidates_that_return_different_numbers_of_tensors_are_refused():
    """dL/dy has one tensor per output of the active candidate, so the others must have as many."""
    net, gate = supernet(Sizes())
    gate.open(0, (0, 1), gate.probs())
    y = net(images())
    with pytest.raises(RuntimeError, match="candidates return 2 tensors and 1 tensors; they must agree"):
        y.sum().backward()


class Unsupported(ModelSpace):
    """A choice that is searched, and something that is not; nothing of it has to run."""

    def __init__(self, kind: str):
        super().__init__()
        self.choice = LayerChoice(linears(2), label="choice")
        if kind == "linear":
            self.other = MutableLinear(WIDTH, nni.choice("width", [WIDTH, 2 * WIDTH]))
        elif kind == "conv":
            self.other = MutableConv2d(3, 4, nni.choice("kernel", [3, 5]))
        elif kind == "number":
            self.add_mutable(nni.uniform("rate", 0.0, 1.0))
        elif kind == "unused":
            self.add_mutable(nni.choice("idle", ["a", "b"]))
        elif kind == "many":
            self.other = InputChoice(20, 10, label="inputs")
        elif kind == "any":
            self.other = InputChoice(9, None, label="inputs")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("linear", "module .other. is a MutableLinear that depends on the choice .width., a value inside it"),
        ("conv", "module .other. is a MutableConv2d that depends on the choice .kernel., a value inside it"),
        (
            "number",
            "ProxylessNAS cannot search Unsupported: choice 'rate' is a Numerical; allowed: the choices of LayerChoice, "
            "InputChoice and Repeat",
        ),
        (
            "unused",
            "ProxylessNAS cannot search Unsupported: no LayerChoice, InputChoice or Repeat uses 'idle', which would stay "
            "untrained",
        ),
        (
            "many",
            r"choice 'inputs' has more than 256 sets of inputs \(20 inputs, n_chosen 10\); allowed: up to 256",
        ),
        ("any", r"choice 'inputs' has more than 256 sets of inputs \(9 inputs, n_chosen None\); allowed: up to 256"),
    ],
)
def test_choices_that_no_gate_controls_are_refused_by_name(kind, message):
    """Such a choice would stay at its first value without a word."""
    with pytest.raises(TypeError, match=message):
        ProxylessNAS().mutate_model(Unsupported(kind))


def test_the_largest_number_of_input_sets_is_accepted():
    """2^8 - 1 = 255 sets of eight inputs, and C(10, 5) = 252, are below the limit of 256."""
    assert len(choices_of("i", CategoricalMultiple(range(8), label="i"))) == 255
    assert len(choices_of("i", CategoricalMultiple(range(10), n_chosen=5, label="i"))) == 252


def test_a_space_without_choices_is_refused():
    class Fixed(ModelSpace):
        pass

    with pytest.raises(ValueError, match="Fixed has no choice: nothing to search"):
        ProxylessNAS().mutate_model(Fixed())


def test_logits_must_fit_the_choices():
    with pytest.raises(ValueError, match=r"gate 'g': 2 choices need alpha of shape \(2,\), not \(3,\)"):
        Gate("g", ["a", "b"], torch.zeros(3), torch.Generator())


class InPlaceAfter(ModelSpace):
    def __init__(self):
        super().__init__()
        self.before = nn.Linear(WIDTH, WIDTH)
        self.choice = LayerChoice(linears(3), label="choice")

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.choice(self.before(x)), inplace=True)


def test_an_in_place_operation_behind_a_choice_works():
    """LayerChoice, then ReLU(inplace=True) is what many spaces do; an architecture step must not fail or go wrong there."""
    net, gate = supernet(InPlaceAfter())
    x = images()
    variables = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    gate.open(1, range(3), variables)
    curved(net(x)).backward()
    h = net.before(x)
    y = net.choice[1](h).detach().requires_grad_()
    (grad_y,) = torch.autograd.grad(curved(torch.relu(y)), y)
    expected = torch.stack([(grad_y * net.choice[j](h)).sum() for j in range(3)]).detach()
    torch.testing.assert_close(variables.grad, expected, rtol=1e-12, atol=0)


class InPlaceCandidate(ModelSpace):
    """A candidate that begins with ReLU(inplace=True), as ReLU-Conv-BN blocks often do."""

    def __init__(self):
        super().__init__()
        self.before = nn.Linear(WIDTH, WIDTH)
        first = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH))
        self.choice = LayerChoice([first, nn.Linear(WIDTH, WIDTH), nn.Identity()], label="choice")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(self.before(x))


@pytest.mark.parametrize("active", [0, 1, 2])
def test_a_candidate_that_changes_its_input_in_place_never_falsifies_a_probe(active):
    """Either the gate gradient is the closed form, measured against the skip, or the step is refused and says why; a
    silent wrong number is the one thing it may not be."""
    net, gate = supernet(InPlaceCandidate())
    x = images()
    variables = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    gate.open(active, (0, 1, 2), variables)
    try:
        y = net(x)
        curved(y).backward()
    except (RuntimeError, TypeError) as error:
        assert "in place" in str(error) or "inplace" in str(error)  # noqa: PT017  (both outcomes are right)
        return
    grad_y = (3 * y**2 + 2 * y).detach()
    expected = torch.stack([(grad_y * net.choice[j](net.before(x))).sum() for j in range(3)]).detach()
    torch.testing.assert_close(variables.grad, expected - expected[2], rtol=1e-10, atol=1e-12)
