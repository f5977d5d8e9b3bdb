"""Three spaces and data of which it is known which network is best: the one whose outputs the targets are.

Weights are trained from scratch. Inputs and targets are drawn so that what a network cannot compute has a known share of the targets'
variance, whatever its weights: its least loss, :meth:`Plant.least_loss`.

=========  =========================================================================================================
``width``  A bottleneck of width w between linear layers computes a matrix of rank w at most. The targets are a product with a matrix
           of rank r whose singular values are all alike, and inputs are white: below r a share of 1 - w/r is missing (Eckart and
           Young, 1936). From r on nothing is, and multiply-adds have a price: the narrowest of these is best.
``depth``  A block sees one pixel further. The targets are sums of white pixels at the distances 1 to d: a stack of fewer blocks
           misses those that it does not see, in equal parts; a higher one costs more.
``cell``   A node is W f(x), a wave f on one of its inputs. Waves of different frequency or phase, and waves of different inputs, are
           orthogonal and have no mean: one that is planted and not chosen is missing, and no other makes up for it. All cost alike,
           there is no price. The second node may have the first one as its input.
=========  =========================================================================================================

In ``width`` and ``depth`` one setting of the shared weights is best for all networks at once (the first channels hold the first
directions, each block has its own distance), so that a supernet can say of all networks what each is worth.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nni
import torch
from nni.nas.nn.pytorch import Cell, ModelSpace, MutableLinear, Repeat
from torch import Tensor, nn

SAMPLES = 2048  # of the training data, and as many held out
BATCHES = 8


@dataclass(frozen=True)
class Plant:
    """A space, its best network, data, and what every network of the space can reach on them.

    Attributes
    ----------
    best
        Label -> choice.
    training, held_out
        Inputs and targets; the mean square of the targets is 1.
    least_loss
        Label -> choice to the mean squared error below which the network does not come. 0 for the best one.
    price
        Of a network's multiply-adds as a share of the largest network's, in units of the loss. 0: none.
    """

    space: ModelSpace
    best: dict[str, Any]
    training: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    least_loss: Callable[[dict[str, Any]], float]
    price: float = 0.0

    def choices_found(self, sample: dict[str, Any]) -> int:
        """How many choices of a network are the planted ones."""
        return sum(sample[label] == choice for label, choice in self.best.items())


def drawn(values: tuple[Any, ...], draw: torch.Generator) -> Any:
    return values[int(torch.randint(len(values), (), generator=draw))]


def orthonormal(rows: int, columns: int, draw: torch.Generator) -> Tensor:
    """A matrix of orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=draw))[0]


def missing(sample: dict[str, Any], best: dict[str, int]) -> float:
    """Least loss where every choice is a number, of which each one up to the planted one explains as much of its own targets."""
    return sum(max(0.0, 1 - sample[label] / number) for label, number in best.items()) / len(best)


# -- width -----------------------------------------------------------------------------------------------------------------

FEATURES, TARGETS, WIDTHS = 16, 8, (2, 4, 6, 8)


class Widths(ModelSpace):
    """Two bottlenecks side by side, each to targets of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for i in range(2):
            width = nni.choice(f"width{i}", list(WIDTHS))
            first, last = MutableLinear(FEATURES, width, bias=False), MutableLinear(width, TARGETS, bias=False)
            self.branches.append(nn.Sequential(first, last))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def planted_width(seed: int) -> Plant:
    draw = torch.Generator().manual_seed(seed)
    best = {f"width{i}": drawn(WIDTHS, draw) for i in range(2)}
    matrices = [
        math.sqrt(TARGETS / rank) * orthonormal(TARGETS, rank, draw) @ orthonormal(FEATURES, rank, draw).T
        for rank in best.values()
    ]

    def data() -> tuple[Tensor, Tensor]:
        x = math.sqrt(SAMPLES) * orthonormal(SAMPLES, FEATURES, draw)
        return x, x @ torch.cat(matrices).T

    return Plant(Widths(), best, data(), data(), lambda sample: missing(sample, best), price=0.3)


# -- depth -----------------------------------------------------------------------------------------------------------------

PIXELS, CHANNELS, DEPTHS = 12, 4, (1, 2, 3, 4, 5)
PIXEL_SAMPLES = SAMPLES // 2  # each has several targets


class Block(nn.Module):
    """Sees one pixel further to each side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="circular", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Depths(ModelSpace):
    """Two stacks of blocks side by side, each to targets of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stacks = nn.ModuleList()
        for i in range(2):
            blocks = Repeat(lambda _: Block(), nni.choice(f"depth{i}", list(DEPTHS)))
            first, last = nn.Conv1d(1, CHANNELS, 1, bias=False), nn.Conv1d(CHANNELS, 1, 1, bias=False)
            self.stacks.append(nn.Sequential(first, blocks, last))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([stack(x) for stack in self.stacks], dim=1)


def planted_depth(seed: int) -> Plant:
    draw = torch.Generator().manual_seed(seed)
    best = {f"depth{i}": drawn(DEPTHS, draw) for i in range(2)}

    def data() -> tuple[Tensor, Tensor]:
        x = torch.randn(PIXEL_SAMPLES, 1, PIXELS, generator=draw)
        sums = [sum(x.roll(distance, 2) for distance in range(1, d + 1)) / math.sqrt(d) for d in best.values()]
        return x, torch.cat(sums, dim=1)  # type: ignore[arg-type]  # of sums that are no tensors if they are empty

    return Plant(Depths(), best, data(), data(), lambda sample: missing(sample, best), price=0.3)


# -- cell ------------------------------------------------------------------------------------------------------------------

WIDTH, PREDECESSORS, NODES = 8, 2, (2, 3)
CELL_SAMPLES = 2 * SAMPLES  # the normalization of a batch blurs waves, of a larger one less
PERIOD = 2 * math.sqrt(3)  # the interval on which a uniform variable has a variance of 1
WAVES: dict[str, Callable[[Tensor], Tensor]] = {
    f"{name}{n}": functools.partial(lambda x, wave, n: wave(2 * math.pi * n / PERIOD * x), wave=wave, n=n)
    for n in (1, 2) for name, wave in (("sin", torch.sin), ("cos", torch.cos))
}  # fmt: skip


def normalized(x: Tensor) -> Tensor:
    return nn.functional.batch_norm(x, None, None, training=True)


class Wave(nn.Module):
    """Normalizes first, as operations of cells do: else a wave of a node is also one of half its length, of a node half as large."""

    def __init__(self, name: str):
        super().__init__()
        self.wave, self.linear = WAVES[name], nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.wave(normalized(x)))


class OneCell(ModelSpace):
    """A cell of two nodes, whose outputs are those of both."""

    def __init__(self) -> None:
        super().__init__()
        made = {name: lambda node, k, chosen, name=name: Wave(name) for name in WAVES}
        self.cell = Cell(made, len(NODES), 1, PREDECESSORS, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(*x.chunk(PREDECESSORS, dim=1))


def node_made(node: int, wave: str, state: int) -> dict[str, Any]:
    """The two choices of a node: which wave, of which state."""
    return {f"cell/op_{node}_0": wave, f"cell/input_{node}_0": [state]}


def wave_of(sample: dict[str, Any], node: int, states: list[Tensor]) -> Tensor:
    """What a node has to be a linear function of."""
    return WAVES[sample[f"cell/op_{node}_0"]](normalized(states[sample[f"cell/input_{node}_0"][0]]))


def planted_cell(seed: int) -> Plant:
    draw, best = torch.Generator().manual_seed(seed), dict[str, Any]()
    for node in NODES:
        best |= node_made(node, *drawn(tuple(itertools.product(WAVES, range(node))), draw))
    weights = {node: orthonormal(WIDTH, WIDTH, draw) for node in NODES}

    def data() -> tuple[Tensor, Tensor]:
        x = normalized(torch.rand(CELL_SAMPLES, PREDECESSORS * WIDTH, generator=draw))
        states = list(x.chunk(PREDECESSORS, dim=1))
        for node in NODES:
            y = wave_of(best, node, states) @ weights[node]
            states.append(y / y.square().mean().sqrt())
        return x, torch.cat(states[PREDECESSORS:], dim=1)

    training, held_out = data(), data()
    return Plant(OneCell(), best, training, held_out, functools.partial(_missing_in_cell, *held_out))


def _missing_in_cell(x: Tensor, targets: Tensor, sample: dict[str, Any]) -> float:
    """By least squares on the data, the first node being as the targets have it where it is an input.

    What a network could gain at the second node by spoiling the first one is not counted.
    """
    states, lost = [*x.chunk(PREDECESSORS, dim=1), *targets.chunk(len(NODES), dim=1)], 0.0
    for node in NODES:
        wave, y = wave_of(sample, node, states), states[node]
        lost += float((y - wave @ torch.linalg.lstsq(wave, y).solution).square().mean()) / len(NODES)
    return lost


PLANTS: dict[str, Callable[[int], Plant]] = {"width": planted_width, "depth": planted_depth, "cell": planted_cell}
