"""Spaces of NNI's tests and tutorials with choices of values, rewritten for the features of :mod:`.searches`."""

from __future__ import annotations

from typing import Any

import nni
import torch
from nni.mutable import MutableExpression
from nni.nas.nn.pytorch import (
    InputChoice,
    LayerChoice,
    ModelSpace,
    MutableBatchNorm1d,
    MutableBatchNorm2d,
    MutableConv2d,
    MutableDropout,
    MutableLayerNorm,
    MutableLinear,
    MutableMaxPool2d,
    MutableMultiheadAttention,
    Repeat,
)
from torch import Tensor, nn

from .searches import CLASSES, FEATURES


class OfFeatures(ModelSpace):
    """What images of eight features are given to."""


class ConvNet(OfFeatures):
    """NNI's ``ValueChoiceConvNet``: channels, and a kernel with the padding that goes with it."""

    def __init__(self):
        super().__init__()
        channels, kernel = nni.choice("channels", [3, 6]), nni.choice("kernel", [1, 3])
        self.conv1 = MutableConv2d(1, channels, kernel, padding=kernel // 2)
        self.norm = MutableBatchNorm2d(channels)
        self.conv2 = MutableConv2d(channels, 4, 3, padding=1, bias=False)
        self.dropout = LayerChoice([nn.Dropout(0.25), nn.Dropout(0.5)], label="dropout")
        self.last = MutableLinear(4, CLASSES)  # nothing to choose in it

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.norm(self.conv1(x.reshape(-1, 1, 2, FEATURES // 2))))
        return self.last(self.dropout(self.conv2(maps).mean((2, 3))))


class SimpleNet(OfFeatures):
    """NNI's ``SimpleNet`` with a choice of values, as in its tutorial hello_nas: layers, a rate, a width, an input."""

    def __init__(self):
        super().__init__()
        hidden = nni.choice("hidden", [2, 4, 6])
        self.first = LayerChoice([nn.Linear(FEATURES, FEATURES), nn.Identity()], label="first")
        self.dropout = MutableDropout(nni.choice("rate", [0.25, 0.5, 0.75]))
        self.hidden = MutableLinear(FEATURES, hidden)
        self.norm = MutableBatchNorm1d(hidden, affine=False)
        self.last = MutableLinear(hidden, CLASSES, bias=False)
        self.same = MutableLinear(CLASSES, CLASSES)
        self.inputs = InputChoice(2, 1, label="inputs")

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(torch.relu(self.norm(self.hidden(self.dropout(self.first(x))))))
        return self.inputs([y, self.same(y)])


class RepeatNet(OfFeatures):
    """NNI's ``RepeatNet``: a depth that is a value, blocks of a width that all share, and one of their own each."""

    def __init__(self):
        super().__init__()
        width = nni.choice("width", [4, 8])
        self.first = MutableLinear(FEATURES, width)
        self.blocks = Repeat(lambda i: self.block(width, nni.choice(f"ratio{i}", [1, 2])), nni.choice("depth", [1, 3]))
        self.norm, self.last = MutableLayerNorm(width), MutableLinear(width, CLASSES)

    @staticmethod
    def block(width: Any, ratio: Any) -> nn.Module:
        return nn.Sequential(MutableLinear(width, width * ratio), nn.Tanh(), MutableLinear(width * ratio, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.blocks(self.first(x))))


class Attention(OfFeatures):
    """Heads, and sizes of keys and values that are those of the queries in some networks and others in others."""

    def __init__(self):
        super().__init__()
        width, other = nni.choice("width", [4, 8]), nni.choice("other", [4, 8])
        self.first, self.second = MutableLinear(1, width), MutableLinear(1, other)
        heads = nni.choice("heads", [1, 2])
        self.attention = MutableMultiheadAttention(width, heads, kdim=other, vdim=other, batch_first=True)
        self.same = MutableMultiheadAttention(width, heads, bias=False, batch_first=True)
        self.last = MutableLinear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(2)
        query, key = self.first(tokens), self.second(tokens)
        y, _ = self.attention(query, key, key, need_weights=False)
        y, _ = self.same(y, y, y, need_weights=False)
        return self.last(y.mean(1))


class Depthwise(OfFeatures):
    """Expressions of several choices, groups that follow them, kernels that are tuples, and a module without weights."""

    def __init__(self):
        super().__init__()
        width, expand = nni.choice("width", [2, 4]), nni.choice("expand", [1, 1.5])
        hidden = MutableExpression.to_int(width * expand)
        sides = nni.choice("sides", [(1, 3), (3, 1)])
        self.stem = MutableConv2d(1, width, 1)
        self.expand = MutableConv2d(width, hidden, 1, bias=False)
        self.depthwise = MutableConv2d(
            hidden, hidden, sides, stride=nni.choice("stride", [1, 2]), padding=(1, 1), groups=hidden
        )
        self.norm = MutableBatchNorm2d(hidden)
        pooled = nni.choice("pooled", [1, 3])
        self.pool = MutableMaxPool2d(pooled, stride=1, padding=pooled // 2)
        self.last = MutableConv2d(hidden, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.expand(self.stem(x.reshape(-1, 1, 2, FEATURES // 2)))
        return self.last(self.pool(self.norm(self.depthwise(maps)))).mean((2, 3))


class Items(OfFeatures):
    """Arguments that are items of one choice."""

    def __init__(self):
        super().__init__()
        both = nni.choice("both", [(4, 3), (6, 1)])
        self.conv = MutableConv2d(1, both[0], both[1], padding=both[1] // 2)
        self.last = MutableLinear(both[0], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.conv(x.reshape(-1, 1, 2, FEATURES // 2))).mean((2, 3)))


class InCandidates(OfFeatures):
    """A choice of values in one of the candidates of a layer."""

    def __init__(self):
        super().__init__()
        width = nni.choice("width", [2, 4])
        narrow = nn.Sequential(MutableLinear(FEATURES, width), MutableLinear(width, CLASSES))
        self.layer = LayerChoice([narrow, nn.Linear(FEATURES, CLASSES)], label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


SPACES = (ConvNet, SimpleNet, RepeatNet, Attention, Depthwise, Items, InCandidates)
