"""A model space of every kind that NNI has, from features to logits."""

from __future__ import annotations

from typing import Any

import nni
import torch
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace, Repeat
from torch import Tensor, nn

from .spaces import CLASSES, WIDTH, bent, linear


class Small(ModelSpace):
    """Features -> body -> logits."""

    def __init__(self):
        super().__init__()
        self.build()
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


class Simple(Small):
    """Two choices, one of names and one with a skip."""

    def build(self):
        self.named = LayerChoice({"straight": linear(), "bent": bent()}, label="named")
        self.listed = LayerChoice([linear(), bent(), nn.Identity()], label="listed")

    def body(self, x):
        return self.listed(torch.relu(self.named(x)))


class Nested(Small):
    """A choice as a candidate, and a choice inside a candidate."""

    def build(self):
        inner = LayerChoice([linear(), bent()], label="inner")
        deep = nn.Sequential(linear(), LayerChoice([linear(), bent(), nn.Identity()], label="deep"))
        self.outer = LayerChoice([bent(), inner, deep], label="outer")

    def body(self, x):
        return self.outer(x)


class SharedLabel(Small):
    """Two layers of one label, and one of them called twice."""

    def build(self):
        self.first = LayerChoice([linear(), bent()], label="both")
        self.second = LayerChoice([linear(), bent()], label="both")

    def body(self, x):
        return self.first(torch.relu(self.second(torch.relu(self.first(x)))))


class Inputs(Small):
    """Some of four inputs; with ``concat`` their number of features grows, so what follows must fit."""

    n_chosen: int | None = 1
    reduction = "sum"

    def build(self):
        self.parts = nn.ModuleList(linear() for _ in range(4))
        self.pick = InputChoice(4, self.n_chosen, self.reduction, label="pick")
        self.join = nn.Linear(WIDTH * (self.n_chosen or 1 if self.reduction == "concat" else 1), WIDTH)

    def body(self, x):
        return self.join(self.pick([torch.relu(part(x)) for part in self.parts]))


class TwoInputs(Inputs):
    n_chosen = 2


class MeanOfThreeInputs(Inputs):
    n_chosen, reduction = 3, "mean"


class ConcatenatedInputs(Inputs):
    n_chosen, reduction = 2, "concat"


class AnyInputs(Inputs):
    n_chosen, reduction = None, "mean"


class Deep(Small):
    """Some of the first blocks."""

    def build(self):
        self.blocks = Repeat(lambda index: bent(), (1, 3), label="depth")

    def body(self, x):
        return self.blocks(x)


class DepthFromZero(Deep):
    def build(self):
        self.blocks = Repeat(bent(), (0, 2), label="depth")


class DepthOfChoice(Deep):
    def build(self):
        self.blocks = Repeat([linear(), bent(), linear()], nni.choice("depth", [1, 3]))


class DepthOfExpression(Deep):
    def build(self):
        self.blocks = Repeat(lambda index: bent(), nni.choice("depth", [1, 2]) * 2)


class DepthOfTwoLabels(Deep):
    def build(self):
        self.blocks = Repeat(lambda index: bent(), nni.choice("more", [0, 1]) + nni.choice("most", [1, 2]))


class DepthOfOneChoice(Deep):
    """Deep copies of one choice: all blocks take the same candidate."""

    def build(self):
        self.blocks = Repeat(LayerChoice([linear(), bent()], label="block"), (1, 3), label="depth")


class DepthOfChoices(Deep):
    """A choice of its own in every block."""

    def build(self):
        self.blocks = Repeat(
            lambda index: LayerChoice([linear(), bent()], label=f"block{index}"), (1, 3), label="depth"
        )


class FixedDepthOfChoices(Deep):
    """Nothing to choose in the depth itself."""

    def build(self):
        self.blocks = Repeat(lambda index: LayerChoice([linear(), bent()], label=f"block{index}"), 2)


class Weighed(nn.Module):
    """Two tensors and a number in, one by keyword."""

    def __init__(self, bias: bool):
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, WIDTH, bias), nn.Linear(WIDTH, WIDTH, bias)

    def forward(self, a: Tensor, b: Tensor, *, share: float = 0.5) -> Tensor:
        return share * self.left(a) + (1 - share) * self.right(b)


class Arguments(Small):
    def build(self):
        self.two = LayerChoice([Weighed(True), Weighed(False)], label="two")
        self.named = LayerChoice([Weighed(True), Weighed(False)], label="named")

    def body(self, x):
        y = torch.relu(self.two(x, -x))
        return self.named(a=x, share=0.25, b=y)


class Halves(nn.Module):
    """One tensor in; two tensors out, in a tuple, or nested in a dict."""

    def __init__(self, kind: type):
        super().__init__()
        self.kind, self.linear = kind, linear()

    def forward(self, x: Tensor):
        y = self.linear(x)
        return (y, torch.tanh(y[:, :2])) if self.kind is tuple else {"y": y, "more": [torch.tanh(y[:, :2]), "a word"]}


class Outputs(Small):
    def build(self):
        self.pair = LayerChoice([Halves(tuple), Halves(tuple)], label="pair")
        self.dict = LayerChoice([Halves(dict), Halves(dict)], label="dict")

    def body(self, x):
        y, few = self.pair(x)
        out = self.dict(torch.relu(y))
        assert out["more"][1] == "a word"
        return out["y"] * (few.sum(dim=1, keepdim=True) + out["more"][0].sum(dim=1, keepdim=True))


class OneCandidate(Small):
    """A choice that has only one candidate, beside one that has two."""

    def build(self):
        self.only = LayerChoice([bent()], label="only")
        self.other = LayerChoice([linear(), bent()], label="other")

    def body(self, x):
        return self.other(self.only(x))


class CellOfNNI(Small):
    """NNI's own cell, an ``InputChoice`` and a ``LayerChoice`` per edge."""

    def build(self):
        self.cell = Cell([linear(), bent()], num_nodes=3, num_ops_per_node=1, num_predecessors=1, label="cell")
        self.join = nn.Linear(3 * WIDTH, WIDTH)

    def body(self, x):
        return self.join(self.cell(x))


def made(hidden: int) -> Any:
    """A factory: the operation has other weights for each input, and one hidden layer more for the inputs of the cell."""

    def make(node_index: int, op_index: int, input_index: int | None) -> nn.Module:
        if not hidden:
            return nn.Identity()
        deep = input_index is None or input_index < 2
        return nn.Sequential(
            nn.Linear(WIDTH, hidden),
            *([nn.Linear(hidden, hidden)] if deep else []),
            nn.Linear(hidden, WIDTH),
            nn.Tanh(),
        )

    return make


class CellOfFactories(Small):
    """NNI's cell with two operations per node that are made for each input, and two inputs; two cells of one label."""

    def build(self):
        factories = {"wide": made(8), "narrow": made(2), "skip": made(0)}
        self.cells = nn.ModuleList(Cell(factories, 2, 2, 2, label="cell") for _ in range(2))
        self.join = nn.Linear(2 * WIDTH, WIDTH)

    def body(self, x):
        for cell in self.cells:
            x = self.join(cell([x, torch.tanh(x)]))
        return x


class AllInputs(Inputs):
    """Two of four, as a list."""

    n_chosen, reduction = 2, "none"

    def body(self, x):
        return self.join(sum(self.pick([torch.relu(part(x)) for part in self.parts])))


class DepthOfItem(Deep):
    """A depth that is an item of a tuple."""

    def build(self):
        self.blocks = Repeat(lambda index: bent(), nni.choice("both", [(1, 8), (3, 16)])[0])


class CellOfTwoInputs(Small):
    """Four nodes of two operations each."""

    def build(self):
        self.cell = self.make_cell()
        self.join = nn.Linear(4 * WIDTH, WIDTH)

    def make_cell(self) -> Cell:
        return Cell([linear(), nn.Linear(WIDTH, WIDTH, bias=False)], 4, 2, 2, label="cell")

    def body(self, x):
        return self.join(self.cell(x, torch.tanh(x)))


class Preprocessor(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [self.linear(inputs[0]), inputs[1]]


class Postprocessor(nn.Module):
    def forward(self, output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return inputs[-1], output


class CellOfProcessors(CellOfTwoInputs):
    """What is done to the inputs and to the output is the user's own."""

    def make_cell(self) -> Cell:
        candidates = {"first": linear(), "second": nn.Linear(WIDTH, WIDTH, bias=False)}
        return Cell(candidates, 4, 2, 2, preprocessor=Preprocessor(), postprocessor=Postprocessor(), label="cell")

    def body(self, x):
        before, y = self.cell([x, torch.tanh(x)])
        return self.join(y) + before


class CellOfLooseEnds(CellOfTwoInputs):
    def make_cell(self) -> Cell:
        return Cell([linear(), bent()], 4, 2, 2, merge_op="loose_end", label="cell")


def for_input(bias: bool) -> Any:
    """A factory: the first input has two features."""
    return lambda node, op, chosen: nn.Linear(2 if chosen == 0 else WIDTH, WIDTH, bias=bias)


class CellByInput(CellOfTwoInputs):
    """Operations of other shapes for the first input."""

    def make_cell(self) -> Cell:
        return Cell({"first": for_input(True), "second": for_input(False)}, 4, 2, 2, label="cell")

    def body(self, x):
        return self.join(self.cell([x[:, :2], torch.tanh(x)]))
