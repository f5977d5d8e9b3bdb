"""Small spaces of features, and by what their supernets are measured; all in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.supernet.gate import Gate
from torch import Tensor, nn

WIDTH, CLASSES = 6, 3


def linear(index: int = 0) -> nn.Module:
    return nn.Linear(WIDTH, WIDTH)


def bent() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())


class TwoChoices(ModelSpace):
    """One choice of n, and one with a skip; batch norm in the trunk and in candidates."""

    def __init__(self, n: int = 4):
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.first = LayerChoice([linear() for _ in range(n)], label="first")
        self.second = LayerChoice({"a": bent(), "b": bent(), "skip": nn.Identity()}, label="second")
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.tanh(self.first(self.norm(x)))))


class OneChoice(ModelSpace):
    """before -> one of n, the last one a skip if wanted -> last: neither dL/dy nor x is anything special, and no batch norm."""

    def __init__(self, n: int = 5, skip: bool = False):
        super().__init__()
        made: list[nn.Module] = [nn.Sequential(linear(), nn.Tanh()) for _ in range(n - skip)]
        self.before = linear()
        self.choice = LayerChoice([*made, nn.Identity()] if skip else made, label="choice")
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.choice(self.before(x)))


def gate_gradients(space: TwoChoices, path: dict[str, int], x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """(dL/dy * o_j).sum() for every candidate of both choices, from a forward pass without any code under test."""
    first, second = list(space.first), list(space.second)
    normed = nn.functional.batch_norm(x, None, None, space.norm.weight, space.norm.bias, training=True)
    y1 = first[path["first"]](normed).detach().requires_grad_()
    y2 = second[path["second"]](torch.tanh(y1))
    grad1, grad2 = torch.autograd.grad(nn.functional.cross_entropy(space.last(y2), target), (y1, y2))
    return {
        "first": torch.stack([(grad1 * o(normed)).sum() for o in first]).detach(),
        "second": torch.stack([(grad2 * o(torch.tanh(y1))).sum() for o in second]).detach(),
    }


# -- a supernet, one pass of it --------------------------------------------------------------------------------------------


def supernet(space: ModelSpace) -> tuple[Any, dict[str, Gate]]:
    """The space as a supernet, its logits not all alike; in evaluation mode, where a candidate computes the same alone."""
    strategy = ProxylessNAS()
    net = strategy.mutate_model(space).double().eval()
    generator = torch.Generator().manual_seed(0)
    for _, gate in sorted(strategy._gates.items()):
        gate.double()
        gate.alpha.data = torch.randn(len(gate.choices), generator=generator, dtype=torch.float64)
    return net, strategy._gates


def features(n: int = 5) -> Tensor:
    return torch.randn(n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def variables(n: int) -> Tensor:
    """What n gates stand for, to take their gradients."""
    return torch.zeros(n, dtype=torch.float64, requires_grad=True)


def curved(y: Tensor) -> Tensor:
    """A loss whose gradient depends on y."""
    return (y**3).sum() + (y**2).sum()


def given(loss: Callable[[Any], Tensor], y: Tensor | list[Tensor], outputs: list) -> Tensor:
    """(dL/dy * o_j).sum() for every j, summed over the tensors of y that the loss uses, by plain autograd."""
    as_list = [y] if isinstance(y, Tensor) else list(y)
    leaves = [tensor.detach().requires_grad_() for tensor in as_list]
    value = loss(leaves[0] if isinstance(y, Tensor) else leaves)
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    rows = [[o] if isinstance(o, Tensor) else list(o) for o in outputs]
    return torch.stack(
        [sum((g * o).sum() for g, o in zip(grads, row, strict=True) if g is not None) for row in rows]
    ).detach()
