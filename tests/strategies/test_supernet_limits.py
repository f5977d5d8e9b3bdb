"""The sampled supernet at its limits: what it refuses, by name, and operations in place around a choice."""

from __future__ import annotations

import pytest
import torch
from nni.mutable import Categorical
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, MutableLinear, Repeat
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.supernet import Gate
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


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x * scale


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Awkward(ModelSpace):
    """A choice called with a keyword argument, or one that returns two tensors."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.choice = LayerChoice([Scaled(), Scaled()] if kind == "keyword" else [Pair(), Pair()], label="awkward")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(x, scale=2.0) if self.kind == "keyword" else self.choice(x)[0]


@pytest.mark.parametrize(
    ("kind", "got"), [("keyword", r"keyword arguments \['scale'\]"), ("tuple", "output of type tuple")]
)
def test_candidates_that_cannot_be_probed_are_refused_in_an_architecture_step_only(kind, got):
    """Such candidates train as usual; where a probe would need them, the message names the choice and what it got."""
    net, gate = supernet(Awkward(kind))
    assert net(images()).shape == images().shape
    gate.open(0, (0, 1), gate.probs())
    expected = "choice 'awkward': an architecture step needs candidates that take positional arguments and return one tensor; got "
    with pytest.raises(TypeError, match=expected + got):
        net(images())


class Unsupported(ModelSpace):
    def __init__(self, kind: str):
        super().__init__()
        self.choice = LayerChoice(linears(2), label="choice")
        self.other = {
            "input": lambda: InputChoice(2, 1, label="inputs"),
            "repeat": lambda: Repeat(lambda i: nn.Linear(WIDTH, WIDTH), (1, 3), label="depth"),
            "value": lambda: MutableLinear(WIDTH, Categorical([WIDTH, 2 * WIDTH], label="width")),
        }[kind]()

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("input", "choice 'inputs' is a CategoricalMultiple; ProxylessNAS searches LayerChoice only"),
        ("repeat", "Module `other` of type `Repeat` has dangling mutables and is not supported"),
        ("value", "Module `other` of type `MutableLinear` has dangling mutables and is not supported"),
    ],
)
def test_other_choices_than_layer_choice_are_refused_by_name(kind, message):
    """A choice that no gate controls would stay at its first value without a word."""
    with pytest.raises(TypeError, match=message):
        ProxylessNAS().mutate_model(Unsupported(kind))


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
