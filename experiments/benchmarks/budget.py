"""How long the most probable network under a budget takes, and how much faster that is than looking at all networks.

    python experiments/benchmarks/budget.py --output experiments/benchmarks/budget.json

The paper's space of 21 layers and 2.2e17 networks with random costs, every candidate another; with costs that blocks of a
stage share, as in a real table; and six layers of it, where all networks can be looked at. Budgets are spread evenly
between the fastest network and the most probable one, above which there is nothing to decide.
"""

# ruff: noqa: E402  (NNI warns while it is imported)

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import random
import statistics
import time
import warnings
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module")

import torch
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless.latency import LatencyEstimator, LatencyProfiler, Operation, best_under_budget
from nni_proxyless.latency.budget import fastest, log_probability
from nni_proxyless.latency.timing import device_name

Probs = dict[str, dict[Any, float]]


class RandomCosts(LatencyEstimator):
    """From 0.5 to 8 ms; ``shared``: the same for equal operations."""

    def __init__(self, seed: int, shared: bool):
        self.draw, self.shared, self.known = random.Random(seed), shared, dict[str, float]()

    conditions = {"source": "random"}  # noqa: RUF012  (a constant)

    def estimate(self, operation: Operation) -> float:
        ms = self.draw.uniform(0.5, 8)
        return self.known.setdefault(operation.key, ms) if self.shared else ms


def probabilities(profiler: LatencyProfiler, seed: int) -> Probs:
    """Softmax of normal logits."""
    draw = random.Random(seed)
    return {
        label: dict(zip(costs, torch.softmax(torch.tensor([draw.gauss(0, 1) for _ in costs]), 0).tolist(), strict=True))
        for label, costs in profiler.candidate_ms.items()
    }


def budgets(profiler: LatencyProfiler, probs: Probs, n: int) -> list[float]:
    """Of which no one is trivial."""
    low, high = (
        fastest(profiler)[1],
        profiler.profile({label: max(ps, key=ps.__getitem__) for label, ps in probs.items()}),
    )
    return [low + (high - low) * (i + 0.5) / n for i in range(n)]


def timed(profiler: LatencyProfiler, probs: Probs, n: int) -> list[float]:
    """Seconds of n budgets."""
    seconds = []
    for budget in budgets(profiler, probs, n):
        began = time.perf_counter()
        sample = best_under_budget(probs, profiler, budget)
        seconds.append(time.perf_counter() - began)
        assert profiler.profile(sample) <= budget
    return seconds


def all_networks(profiler: LatencyProfiler) -> Iterator[dict[str, Any]]:
    labels = list(profiler.candidate_ms)
    for choices in itertools.product(*profiler.candidate_ms.values()):
        yield dict(zip(labels, choices, strict=True))


def by_exhaustion(profiler: LatencyProfiler, probs: Probs, budget: float) -> dict[str, Any]:
    """The same by looking at every network."""
    within = (sample for sample in all_networks(profiler) if profiler.profile(sample) <= budget)
    return max(within, key=lambda sample: log_probability(probs, sample))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budgets", type=int, default=100, help="per space (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of exhaustive search (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    entries = []
    for name, shared in (("21 layers, a cost per candidate", False), ("21 layers, costs shared in a stage", True)):
        space = MobileNetV2Space("cifar", aligned_init=False)
        profiler = LatencyProfiler(space, RandomCosts(options.seed, shared), (3, 32, 32))
        seconds = timed(profiler, probabilities(profiler, options.seed), options.budgets)
        entries.append({"name": name, "networks": math.prod(map(len, profiler.candidate_ms.values())),
                        "median_seconds": statistics.median(seconds), "worst_seconds": max(seconds)})  # fmt: skip

    small = MobileNetV2Space("cifar", widths=(16, 24), depths=(3, 3), strides=(1, 2), aligned_init=False)
    profiler = LatencyProfiler(small, RandomCosts(options.seed, False), (3, 32, 32))
    probs = probabilities(profiler, options.seed)
    pairs = []
    for budget in budgets(profiler, probs, options.rounds):
        began = time.perf_counter()
        found = best_under_budget(probs, profiler, budget)
        middle = time.perf_counter()
        expected = by_exhaustion(profiler, probs, budget)
        pairs.append((middle - began, time.perf_counter() - middle))
        assert abs(log_probability(probs, found) - log_probability(probs, expected)) < 1e-9
    entries.append({
        "name": "6 layers", "networks": math.prod(map(len, profiler.candidate_ms.values())),
        "median_seconds": statistics.median(a for a, _ in pairs), "worst_seconds": max(a for a, _ in pairs),
        "exhaustive_by_budget": statistics.median(b / a for a, b in pairs),
    })  # fmt: skip

    for entry in entries:
        ratio = (
            f", all networks one by one {entry['exhaustive_by_budget']:.0f} times as long"
            if "exhaustive_by_budget" in entry
            else ""
        )
        print(f"{entry['name']}, {entry['networks']:.2g} networks: median {entry['median_seconds'] * 1e3:.1f} ms, "
              f"worst {entry['worst_seconds'] * 1e3:.1f} ms{ratio}")  # fmt: skip
    if options.output:
        result = {
            "settings": {"budgets": options.budgets, "rounds": options.rounds, "seed": options.seed},
            "date": datetime.now(timezone.utc).date().isoformat(),
            "machine": {"cpu": device_name(torch.device("cpu")), "cores": os.cpu_count(), "system": platform.system()},
            "versions": {"Python": platform.python_version(), **{name: version(name) for name in ("scipy", "numpy", "nni", "torch")}},
            "entries": entries,
        }  # fmt: skip
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
