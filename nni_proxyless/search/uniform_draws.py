"""Random networks that use a budget up: of those that cost 95 to 100 % of it each is as likely as the others.

Rejection sampling is uniform but too slow when the budget is unusual; starting from a random network and making it faster
until it fits is biased. So the networks are counted. With costs in whole steps,

    ways(l, s)   in how many ways the choices of the labels l, l + 1, … cost s steps = sum over c of ways(l + 1, s - cost of c)

and a network is drawn label by label, each choice in proportion to the number of ways that remain after it. Rounding to steps widens the
range of sums a little; networks outside of the budget by the table itself are drawn again, so the draw is exact.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from nni.nas.nn.pytorch import ModelSpace

from ..latency import LatencyProfiler
from ..latency.objectives.limits import Limit

__all__ = ["CLOSE", "draw_networks"]

CLOSE = 0.05  # of the budget may be left over
STEPS = 4000  # to the budget
MOST_DRAWS = 20_000


def draw_networks(
    space: ModelSpace,
    profiler: LatencyProfiler,
    n: int,
    budget: float,
    seed: int,
    *,
    least: float | None = None,
    also: Sequence[Limit] = (),
    made: Mapping[str, Any] | None = None,
    most_draws: int = MOST_DRAWS,
) -> list[dict[str, Any]]:
    """Choices of up to n different networks within a budget, each as likely as the others; fewer where no more are found.

    Parameters
    ----------
    budget
        What each may cost at most; infinite: no limit.
    seed
        The only source of chance.
    least
        What each costs at least. None: 95 % of the budget.
    also
        Further limits that hold at once.
    made
        Label -> choice that all of them have; ``profiler`` knows no other.
    most_draws
        Networks that are looked at.
    """
    if least is None:
        least = budget * (1 - CLOSE) if math.isfinite(budget) else -math.inf
    limits = [(profiler, budget), *also]
    found: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    for sample in itertools.islice(_candidates(space, profiler, least, budget, seed, made or {}), most_draws):
        name = repr(sorted(sample.items()))
        if name in seen:
            continue
        seen.add(name)
        if least <= profiler.profile(sample) and all(cost.profile(sample) <= most for cost, most in limits):
            found[name] = sample
            if len(found) == n:
                break
    return list(found.values())


def _candidates(
    space: ModelSpace, profiler: LatencyProfiler, least: float, budget: float, seed: int, made: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Networks that may be within, each that is as likely as the others; without end, unless there are none."""
    mutables = space.simplify()
    of_labels = profiler.combine == "sum" and not profiler.nested_ms and set(mutables) == set(profiler.candidate_ms)
    if of_labels and math.isfinite(budget):
        yield from _counted(profiler, least, budget, seed)
        return
    # Costs that depend on two choices at once are no sum over labels: from the whole space, and most are not within.
    draw = np.random.RandomState(seed)
    while True:
        sample: dict[str, Any] = {}
        for mutable in mutables.values():
            mutable.random(sample, draw)
        yield {**{str(label): choice for label, choice in sample.items()}, **made}  # NNI's labels are no plain texts


def _counted(profiler: LatencyProfiler, least: float, budget: float, seed: int) -> Iterator[dict[str, Any]]:
    step = budget / STEPS
    costs = {
        str(label): {choice: round(ms / step) for choice, ms in profiler.candidate_ms[label].items()}
        for label in sorted(profiler.candidate_ms)
    }
    ways = _ways([list(choices.values()) for choices in costs.values()], STEPS + len(costs))
    first, last = ((limit - profiler.fixed_ms) / step for limit in (least, budget))
    sums = [
        steps for steps, number in enumerate(ways[0]) if number and first - len(costs) <= steps <= last + len(costs)
    ]
    chance = random.Random(seed)  # of whole numbers of any size
    while sums:
        steps = _drawn(chance, {steps: ways[0][steps] for steps in sums})
        sample = {}
        for i, (label, choices) in enumerate(costs.items(), start=1):
            sample[label] = _drawn(chance, {c: ways[i][steps - cost] for c, cost in choices.items() if cost <= steps})
            steps -= choices[sample[label]]
        yield sample


def _ways(costs: Sequence[Sequence[int]], most: int) -> list[np.ndarray]:
    """For each label, and behind the last, in how many ways the choices from there on cost 0 to so many steps: whole numbers of any size."""
    ways = [np.array([1, *[0] * most], dtype=object)]
    for choices in reversed(costs):
        reached, longer = np.flatnonzero(ways[-1]).max(initial=-1) + 1, np.zeros(most + 1, dtype=object)
        for cost in choices:
            n = min(reached, most + 1 - cost)
            if n > 0:
                longer[cost : cost + n] += ways[-1][:n]
        ways.append(longer)
    return ways[::-1]


def _drawn(chance: random.Random, numbers: Mapping[Any, int]) -> Any:
    """A key, by its share in the sum."""
    left = chance.randrange(sum(numbers.values()))
    for key, number in numbers.items():
        if left < number:
            return key
        left -= number
    raise AssertionError
