"""DSNAS finds a planted best candidate, with weights that stand still: in every seed."""

from __future__ import annotations

import copy

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.strategies import DSNAS
from torch import Tensor, nn

from .searches import quiet_trainer
from .test_dsnas import Task

FEATURES, N_CANDIDATES = 8, 4
SEEDS = 3


class Block(nn.Module):
    def __init__(self, residual: bool):
        super().__init__()
        self.residual = residual
        self.linear, self.norm = nn.Linear(FEATURES, FEATURES, bias=False), nn.BatchNorm1d(FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.linear(x)))
        return x + y if self.residual else y


class Planted(ModelSpace):
    """Three choices; one candidate of each computes what the labels are made by, the others half of it."""

    def __init__(self, residual: bool, generator: torch.Generator):
        super().__init__()
        layers = [LayerChoice([Block(residual) for _ in range(N_CANDIDATES)], label=f"layer{i}") for i in range(3)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.Linear(FEATURES, FEATURES, bias=False), nn.BatchNorm1d(FEATURES))
        self.best = {f"layer{i}": int(torch.randint(N_CANDIDATES, (), generator=generator)) for i in range(3)}
        with torch.no_grad():
            for layer in layers:
                best = layer[self.best[layer.label]].linear.weight
                for j in set(range(N_CANDIDATES)) - {self.best[layer.label]}:
                    layer[j].linear.weight.mul_(0.5**0.5).add_(best, alpha=0.5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.last(self.layers(x))


def choices_found(seed: int, residual: bool, reward: str) -> int:
    torch.manual_seed(seed)
    space = Planted(residual, torch.Generator().manual_seed(seed))
    best, x = space.best, torch.randn(16 * 256, FEATURES)
    with torch.no_grad():
        labels = copy.deepcopy(space).freeze(best)(x).argmax(1)
    batches = [*zip(x.split(256), labels.split(256), strict=True)]  # put together once: that takes longer than a step
    strategy = DSNAS(arc_learning_rate=0.06, search_epochs=12, fix_gap=1.0, reward=reward, seed=seed)
    space = strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(
        Lightning(
            Task(), quiet_trainer(max_epochs=13), train_dataloaders=DataLoader(batches, batch_size=None, shuffle=True)
        )
    )  # fmt: skip
    evaluator.evaluate(space)
    return sum(evaluator.module.export()[label] == k for label, k in best.items())


@pytest.mark.parametrize("residual", [False, True])
def test_a_planted_best_candidate_is_found_in_every_seed(residual):
    """3 of 3 seeds (20 of 20 for the record), with weights that stand still: all three choices, with and without residual
    connections. By chance that happens once in 4 ** 9 times."""
    assert [choices_found(seed, residual, "loss") for seed in range(SEEDS)] == [3] * SEEDS


def test_the_check_above_can_fail():
    """Without a residual the paper's reward is blind: of the 9 choices of 3 seeds it finds about as many as chance would, 2."""
    assert sum(choices_found(seed, False, "gradient") for seed in range(SEEDS)) < 6
