"""A space of 64 small networks, the accuracies of all of them, and what one of them or a random one is worth among these."""

from __future__ import annotations

import functools
import itertools
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from torch.utils.data import TensorDataset

from nni_proxyless.core.progress import bar
from nni_proxyless.data import digits
from nni_proxyless.derive import count_macs
from nni_proxyless.latency.objectives.nearness import least_ms

CHANNELS, SHAPE, CLASSES = 8, (1, 8, 8), 10
N_TRAIN = 600  # images; the rest judges
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 20, 64, 0.02, 4e-5


class Small(ModelSpace):
    """Three choices at 8x8, 4x4 and 2x2 pixels, of nothing and convolutions of 1x1, 3x3, 5x5.

    Parameters
    ----------
    copies
        So many networks side by side, in groups of channels that never meet: trained at once in a third of the time.
    """

    def __init__(self, copies: int = 1):
        super().__init__()
        self.stem = convolution(1, 3, copies)
        layers: list[nn.Module] = []
        for i in range(3):
            candidates = {"skip": nn.Identity(), **{f"k{k}": convolution(CHANNELS, k, copies) for k in (1, 3, 5)}}
            layers += [nn.MaxPool2d(2)] * (i > 0) + [LayerChoice(candidates, label=f"layer{i}")]
        self.layers = nn.Sequential(*layers)
        classifier = nn.Conv2d(copies * CHANNELS, copies * CLASSES, 1, groups=copies)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), classifier, nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)))


def convolution(channels: int, kernel: int, copies: int) -> nn.Module:
    conv = nn.Conv2d(copies * channels, copies * CHANNELS, kernel, padding=kernel // 2, groups=copies, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(copies * CHANNELS), nn.ReLU())


def architectures() -> list[dict[str, str]]:
    mutables = Small().simplify()
    labels = sorted(mutables)
    return [
        dict(zip(map(str, labels), found, strict=True))
        for found in itertools.product(*(mutables[label].values for label in labels))
    ]


def name_of(architecture: dict[str, str]) -> str:
    return "-".join(architecture[label] for label in sorted(architecture))


@functools.cache
def images() -> tuple[TensorDataset, TensorDataset]:
    """All digits in a fixed random order: those to train on, and those that judge."""
    data: Any = digits(image_size=SHAPE[-1])
    x = torch.cat([data.train_plain.images, data.test.images])
    y = torch.cat([data.train_plain.targets, data.test.targets])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return TensorDataset(x[:N_TRAIN], y[:N_TRAIN]), TensorDataset(x[N_TRAIN:], y[N_TRAIN:])


def optimizer_and_schedule(network: nn.Module, steps: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=True)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def trained_accuracies(architecture: dict[str, str], trainings: int) -> list[float]:
    """Of one network trained from scratch several times, each with weights and an order of the images of its own."""
    torch.manual_seed(0)
    network = Small(trainings).freeze(architecture).to(memory_format=torch.channels_last).train()
    data, judging = images()
    x, y = data.tensors
    steps = EPOCHS * (N_TRAIN // BATCH)
    optimizer, schedule = optimizer_and_schedule(network, steps)
    for _ in range(EPOCHS):
        order = torch.stack([torch.randperm(N_TRAIN) for _ in range(trainings)], dim=1)
        for some in order[: N_TRAIN // BATCH * BATCH].split(BATCH):
            logits = network(channels_last(x[some].squeeze(2))).view(BATCH * trainings, CLASSES)
            loss = cross_entropy(logits, y[some].flatten()) * trainings  # of each copy its mean
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    update_bn([channels_last(x.expand(-1, trainings, -1, -1))], network)
    network.eval()
    x, y = judging.tensors
    with torch.no_grad():
        logits = network(channels_last(x.expand(-1, trainings, -1, -1))).view(len(x), trainings, CLASSES)
    return [float(right) for right in (logits.argmax(2) == y[:, None]).float().mean(0)]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def settings_of_truth() -> dict[str, Any]:
    """What the accuracies of the 64 networks depend on."""
    return {
        "images": N_TRAIN, "channels": CHANNELS, "epochs": EPOCHS, "batch": BATCH, "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY, "networks": [*map(name_of, architectures())],
    }  # fmt: skip


def measure_truth(trainings: int) -> dict[str, Any]:
    """Accuracies and multiply-adds of all networks."""
    began = time.process_time()
    accuracies, macs = {}, {}
    nets = architectures()
    with bar(len(nets), "all networks", "network") as done:
        for net in nets:
            accuracies[name_of(net)] = trained_accuracies(net, trainings)
            macs[name_of(net)] = count_macs(Small().freeze(net), SHAPE)
            done.update()
    return {
        "settings": settings_of_truth(), "accuracies": accuracies, "macs": macs,
        "seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


def read_truth(path: Path) -> dict[str, Any] | None:
    """The accuracies in a result; None where there are none, or those of another space or training."""
    try:
        truth: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["truth"]
    except (OSError, ValueError, KeyError):
        return None
    return truth if truth.get("settings") == settings_of_truth() else None


# -- what one is worth ---------------------------------------------------------------------------------------------------


def noise_of(truth: dict[str, Any], share: float | None) -> float:
    """Standard error of the difference of two mean accuracies, from the variance between seeds of the ten best networks allowed.

    Poor networks vary ten times as much, and nobody asks which of them is the best. 0 with one seed, which shows no variance.
    """
    accuracies = allowed(truth, share)
    best = sorted(accuracies, key=lambda name: -accuracies[name])[:10]
    of_seeds = [truth["accuracies"][name] for name in best]
    n = min(map(len, of_seeds))
    return math.sqrt(2 * statistics.mean(map(statistics.variance, of_seeds)) / n) if n > 1 else 0.0


def allowed(truth: dict[str, Any], share: float | None) -> dict[str, float]:
    """Mean accuracy of the networks within the target."""
    limit = math.inf if share is None else share * max(truth["macs"].values())
    return {name: statistics.mean(found) for name, found in truth["accuracies"].items() if truth["macs"][name] <= limit}


def near(truth: dict[str, Any], share: float | None) -> dict[str, float]:
    """Of the networks within the target those that ``best_under_budget`` takes for being at it, or the nearest one; all without a target."""
    within = allowed(truth, share)
    if share is None:
        return within
    target = share * max(truth["macs"].values())
    least = min(least_ms(target), max(truth["macs"][name] for name in within))
    return {name: accuracy for name, accuracy in within.items() if truth["macs"][name] >= least}


def standing(found: str, accuracies: dict[str, float], noise: float) -> dict[str, Any]:
    """Rank and regret of one network among those that are allowed."""
    best = max(accuracies.values())
    regret = best - accuracies[found]
    return {
        "rank": 1 + sum(other > accuracies[found] for other in accuracies.values()),
        "regret": regret,
        "within_noise": regret <= noise,
    }


def chance(truth: dict[str, Any], share: float | None, draws: int) -> dict[str, Any]:
    """What random networks get, in expectation: one of them, and the best of so many, each trained once; and the same near the target.

    The best of several is the one with the best accuracy of one seed, each seed in turn; its worth is the mean over all seeds,
    the chosen one included, which flatters it a little.
    """
    accuracies = allowed(truth, share)
    noise, n = noise_of(truth, share), len(accuracies)
    standings = {name: standing(name, accuracies, noise) for name in accuracies}

    def of_best(names: Sequence[str]) -> float:
        n, some, regrets = len(names), min(draws, len(names)), []
        for seed in range(min(map(len, truth["accuracies"].values()))):
            ordered = sorted(names, key=lambda name: -truth["accuracies"][name][seed])
            regrets.append(sum(
                math.comb(n - 1 - i, some - 1) / math.comb(n, some) * standings[name]["regret"] for i, name in enumerate(ordered)
            ))  # fmt: skip
        return statistics.mean(regrets)

    close = list(near(truth, share))
    return {
        "target": share, "noise": noise, "networks": n, "best": max(accuracies, key=lambda name: accuracies[name]),
        "best_accuracy": max(accuracies.values()), "rank": statistics.mean(s["rank"] for s in standings.values()),
        "is_best": 1 / n, "top_5": min(1.0, 5 / n),
        "within_noise": statistics.mean(s["within_noise"] for s in standings.values()),
        "regret": statistics.mean(s["regret"] for s in standings.values()),
        "draws": min(draws, n), "regret_of_best_of_draws": of_best(list(accuracies)),
        "near": {"networks": len(close), "regret": statistics.mean(standings[name]["regret"] for name in close),
                 "regret_of_best_of_draws": of_best(close)},
    }  # fmt: skip
