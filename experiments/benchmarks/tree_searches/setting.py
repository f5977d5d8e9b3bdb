"""What is compared, and how long it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CIFAR10 = "experiments.benchmarks.common.cifar10:part_of_cifar10"
TARGET, FREE = AIMS = ("target", "free")
"""With a latency target, and without."""
RANDOM = "random"  # in the place of a method


@dataclass(frozen=True)
class Setting:
    """Searches with every method and aim for every seed, and the trainings of what they find and of random trees.

    Attributes
    ----------
    seeds
        Those of the record are seeds that no setting was chosen on.
    data, search_data
        Name and arguments of the images; how a search divides them and their batches.
    shape
        Of an image.
    share
        Where the target lies between the fastest and the slowest network of the table.
    n_random
        Trees of a seed that cost what its networks with a target do, on average; every network without a target has one of its own cost.
    within
        By which share the cost of a random tree may differ.
    strategies
        Method -> section ``strategy`` of ``search.yml``.
    search
        Section ``training`` of ``search.yml``.
    selection
        Section ``search`` of ``search.yml``: how the network is taken from the supernet.
    final
        Settings of the final training beside those of the recipe ``cifar-tree``.
    networks, repeats
        That the table is fitted to, and timings of each.
    """

    seeds: tuple[int, ...]
    data: Mapping[str, Any]
    search_data: Mapping[str, Any]
    shape: tuple[int, int, int]
    strategies: Mapping[str, Mapping[str, Any]]
    search: Mapping[str, Any]
    selection: Mapping[str, Any]
    final: Mapping[str, Any]
    share: float = 0.25
    n_random: int = 2
    within: float = 0.02
    networks: int = 72
    repeats: int = 40
    space: Mapping[str, Any] = field(default_factory=lambda: {"name": "pyramid-tree", "preset": "small"})


PROXYLESS = {"name": "proxyless", "arc_update_every": 2, "arc_learning_rate": 0.1}
# Tried with seed 0 and one tree or two, for their time and by held-out images.
FULL = Setting(
    seeds=(10, 11, 12, 13, 14),
    data={"name": CIFAR10, "n_train": 2400, "n_test": 10_000, "side": 16},
    search_data={"batch_size": 32, "alphas": 0.2, "validation": 0.1},
    shape=(3, 16, 16),
    strategies={
        "two-path": {**PROXYLESS, "update": "two-path", "warmup_epochs": 7},
        "reinforce": {**PROXYLESS, "update": "reinforce", "warmup_epochs": 7},
        "dsnas": {"name": "dsnas", "warmup_epochs": 6, "search_epochs": 2, "fix_gap": 0.9, "arc_learning_rate": 0.1},
    },
    search={"epochs": 9, "optimizer": "sgd", "learning_rate": 0.1, "label_smoothing": 0.0, "calibration_images": 256},
    selection={"select": "supernet", "judged": 32},
    final={"epochs": 6, "batch_size": 32, "learning_rate": 0.15, "warmup_epochs": 1},
)
SHORT = Setting(
    seeds=(0,),
    data={"name": "synthetic", "n_images": 60, "channels": 3, "image_size": 8, "num_classes": 10},
    search_data={"batch_size": 8, "alphas": 0.4, "validation": 0.2},
    shape=(3, 8, 8),
    strategies={"two-path": {**PROXYLESS, "update": "two-path", "warmup_epochs": 1}},
    search={"epochs": 2, "optimizer": "sgd", "learning_rate": 0.05, "calibration_images": 16},
    selection={"select": "supernet", "judged": 4},
    final={"epochs": 1, "batch_size": 16, "learning_rate": 0.05},
    n_random=1, networks=40, repeats=5, space={"name": "pyramid-tree", "preset": "small", "depths": [1, 1, 1]},
)  # fmt: skip
