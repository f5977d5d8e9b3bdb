"""How long the most probable network under a budget takes, and how much faster that is than looking at all networks.

    python -m experiments.benchmarks.budget.run --output experiments/benchmarks/budget/records/budget.json

The paper's space of 21 layers and 2.2e17 networks with random costs, every candidate another; with costs that blocks of a
stage share, as in a real table; and six layers of it, where all networks can be looked at. Budgets are spread evenly
between the fastest network and the most probable one, above which there is nothing to decide.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless.core.progress import bar
from nni_proxyless.latency import LatencyEstimator, LatencyProfiler, Operation, best_under_budget
from nni_proxyless.latency.objectives.budget import fastest, log_probability

from ..common import record
from .report import bars, markdown

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


def timed(profiler: LatencyProfiler, probs: Probs, n: int, *, near: bool = False) -> list[float]:
    """Seconds of n budgets; ``near``: of networks near the budget too, as a search asks for them."""
    seconds = []
    for budget in budgets(profiler, probs, n):
        began = time.perf_counter()
        sample = best_under_budget(probs, profiler, budget, near_ms=budget if near else -math.inf)
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


def large(name: str, shared: bool, near: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds in the paper's space."""
    space = MobileNetV2Space("cifar", aligned_init=False)
    profiler = LatencyProfiler(space, RandomCosts(options.seed, shared), (3, 32, 32))
    seconds = timed(profiler, probabilities(profiler, options.seed), options.budgets, near=near)
    return {"name": name, "networks": math.prod(map(len, profiler.candidate_ms.values())),
            "median_seconds": statistics.median(seconds), "worst_seconds": max(seconds)}  # fmt: skip


def beside_exhaustion(options: argparse.Namespace, done: Any) -> dict[str, Any]:
    """Seconds in six layers, and how many times as long all networks take; both must find as probable a network."""
    small = MobileNetV2Space("cifar", widths=(16, 24), depths=(3, 3), strides=(1, 2), aligned_init=False)
    profiler = LatencyProfiler(small, RandomCosts(options.seed, False), (3, 32, 32))
    probs = probabilities(profiler, options.seed)
    pairs, worse_by = [], 0.0
    for budget in budgets(profiler, probs, options.rounds):
        began = time.perf_counter()
        found = best_under_budget(probs, profiler, budget)
        middle = time.perf_counter()
        expected = by_exhaustion(profiler, probs, budget)
        pairs.append((middle - began, time.perf_counter() - middle))
        worse_by = max(worse_by, log_probability(probs, expected) - log_probability(probs, found))
        done.update()
    return {
        "name": "6 layers", "networks": math.prod(map(len, profiler.candidate_ms.values())),
        "median_seconds": statistics.median(a for a, _ in pairs), "worst_seconds": max(a for a, _ in pairs),
        "exhaustive_by_budget": statistics.median(b / a for a, b in pairs),
        "all_ratios": [b / a for a, b in pairs], "worse_by": worse_by,
    }  # fmt: skip


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="20 budgets, 2 rounds")
    parser.add_argument("--budgets", type=int, help="per space (default: 100)")
    parser.add_argument("--rounds", type=int, help="of exhaustive search (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    options = parser.parse_args(arguments)
    options.budgets = options.budgets or (20 if options.short else 100)
    options.rounds = options.rounds or (2 if options.short else 3)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    torch.set_num_threads(1)
    began = time.perf_counter()
    entries = []
    spaces = (("21 layers, a cost per candidate", False), ("21 layers, costs shared in a stage", True))
    with bar(2 * len(spaces) + options.rounds, "budgets", "space") as done:
        for (name, shared), near in itertools.product(spaces, (False, True)):
            entries.append(large(f"{name}{', near it' if near else ''}", shared, near, options))
            done.update()
        entries.append(beside_exhaustion(options, done))
    seconds = time.perf_counter() - began
    result = record.provenance(__file__, options, seconds) | {"entries": entries, "bars": bars(entries)}
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
