"""Small spaces, and what they cost."""

from __future__ import annotations

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from torch import Tensor, nn

from nni_proxyless.latency import LatencyProfiler, LookupTable, Measurement, trace_operations

FEATURES, CLASSES = 8, 4


def table(costs: dict[str, float]) -> LookupTable:
    return LookupTable({key: Measurement(ms, ms, 1) for key, ms in costs.items()})


def per_weight(space: ModelSpace, features: int = FEATURES) -> LatencyProfiler:
    """A millisecond per weight."""
    costs = {
        operation.key: float(sum(p.numel() for p in operation.module.parameters()))
        for operation in trace_operations(space, (features,))
    }
    return LatencyProfiler(space, table(costs), (features,))


def candidates() -> dict[str, nn.Module]:
    """From cheap to dear; one number between two layers cannot tell four classes apart well."""
    return {
        "narrow": nn.Sequential(nn.Linear(FEATURES, 1, bias=False), nn.Linear(1, FEATURES)),
        "linear": nn.Linear(FEATURES, FEATURES),
        "wide": nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, FEATURES)),
    }


class Three(ModelSpace):
    """Three layers, two of which share their label."""

    def __init__(self):
        super().__init__()
        self.one = LayerChoice(candidates(), label="one")
        self.two = LayerChoice(candidates(), label="two")
        self.three = LayerChoice(candidates(), label="two")
        self.last = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.three(torch.tanh(self.two(torch.tanh(self.one(x)))))))


class Small(ModelSpace):
    """Two blocks that choose among a wide part, a narrow one and a skip; one layer that is always there."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(self.block(f"block{i}") for i in range(2)))
        self.last = nn.Linear(FEATURES, 3)

    @staticmethod
    def block(label: str) -> LayerChoice:
        wide = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
        return LayerChoice({"wide": wide, "narrow": nn.Linear(8, 8), "skip": nn.Identity()}, label=label)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(x))


class Timed(ModelSpace):
    """A fixed layer, a choice with a skip, one with a nested choice, one to two blocks with a shared label: 48 networks."""

    fixed_operations = {"Last": ("pool", "last")}  # noqa: RUF012  (as spaces have it)

    def __init__(self, width: int = 256):
        super().__init__()

        def block(factor: int) -> nn.Module:
            return nn.Sequential(nn.Linear(width, factor * width), nn.ReLU(), nn.Linear(factor * width, width))

        self.first = nn.Linear(8, width)
        self.one = LayerChoice({"wide": block(4), "narrow": block(1), "skip": nn.Identity()}, label="one")
        inner = LayerChoice([block(2), nn.Tanh()], label="inner")
        self.two = LayerChoice([nn.Linear(width, width), nn.Sequential(nn.ReLU(), inner)], label="two")
        self.body = Repeat(lambda i: LayerChoice([block(1), block(3)], label="body"), (1, 2), label="depth")
        self.pool, self.last = nn.AvgPool1d(1), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.body(self.two(self.one(self.first(x))))))
