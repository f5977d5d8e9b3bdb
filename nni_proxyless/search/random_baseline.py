"""Random networks under the budget of a search: the baseline for its choices.

By the milliseconds of the search's own table, a random network takes 95 to 100 % of the budget; each network of the space that does is
equally likely. Rejection sampling is uniform but too slow when the budget is unusual; starting from a random network and making it faster
until it fits is biased. So the networks are counted. With costs in whole steps,

    ways(l, s)   in how many ways the choices of the labels l, l + 1, … cost s steps = sum over c of ways(l + 1, s - cost of c)

and a network is drawn label by label, each choice in proportion to the number of ways that remain after it. Rounding to steps widens the
range of sums a little; networks outside of the budget by the table itself are drawn again, so the draw is exact.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nni.nas.nn.pytorch import ModelSpace

from ..config.read import read_config
from ..config.search_config import SearchConfig
from ..core.errors import UserError
from ..latency import DeviceEstimator, LatencyProfiler, LookupTable
from ..latency.digits import in_words
from ..latency.objectives.budget import fastest, slowest
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.record import describe, latency_record, record, unit_of
from ..models.space import make_space
from .latency_table import make_estimator

__all__ = ["CLOSE", "draw_within_budget", "profiler_of_search", "random_networks"]

CLOSE = 0.05  # of the budget may be left over
STEPS = 4000  # to the budget
MOST_DRAWS = 20_000


def random_networks(
    searched: Architecture, run: Path, n: int, *, budget: float | None = None, seed: int = 0
) -> list[Architecture]:
    """Random networks of the space of a search, within its latency target; not timed, with fresh weights.

    Parameters
    ----------
    searched
        A network of the search: its space, images and target.
    run
        Folder of the search, with the milliseconds that it worked with.
    n
        How many; all different.
    budget
        In the unit of the search; None for its target.
    seed
        The only source of chance.

    Raises
    ------
    UserError
        No target and no budget, no milliseconds, or too few networks of the space use the budget up.
    """
    budget = searched.latency.get("target_ms") if budget is None else budget
    if budget is None:
        raise UserError(f"--random: the search in {run} had no latency target; give --budget-ms")
    space = make_space(searched.space["name"], searched.space["arguments"])
    profiler = profiler_of_search(searched, space, run)
    networks = []
    for i, sample in enumerate(draw_within_budget(space, profiler, n, budget, seed)):
        described = describe(space, sample, **searched.space, data=searched.data, input_shape=searched.input_shape)
        conditions = searched.latency.get("measured_conditions")
        networks.append(
            record(
                described, build_network(described),
                latency=latency_record(profiler, sample, target=budget, measured_conditions=conditions),
                search={"strategy": "random", "weights": "fresh", "seed": seed, "number": i},
            )
        )  # fmt: skip
    return networks


def draw_within_budget(
    space: ModelSpace, profiler: LatencyProfiler, n: int, budget: float, seed: int
) -> list[dict[str, Any]]:
    """Choices of n different networks that cost at most the budget, and at least 95 % of it; each as likely as the others.

    Raises
    ------
    UserError
        There are not that many; the message says what networks of this space cost.
    """
    least = budget * (1 - CLOSE)
    found: dict[str, dict[str, Any]] = {}
    for sample in itertools.islice(_candidates(space, profiler, least, budget, seed), MOST_DRAWS):
        if least <= profiler.profile(sample) <= budget:
            found.setdefault(repr(sorted(sample.items())), sample)
            if len(found) == n:
                return list(found.values())
    low, high = fastest(profiler)[1], slowest(profiler)[1]
    raise UserError(
        f"--random: {len(found)} different networks take {least:.9g} to {budget:.9g} {profiler.unit}, 95 to 100 % of the budget, and "
        f"{n} are asked for; allowed: fewer, or another --budget-ms; the networks of this space take {in_words(low)} to {in_words(high)} "
        f"{profiler.unit}"
    )


def _candidates(
    space: ModelSpace, profiler: LatencyProfiler, least: float, budget: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Networks that may be within, each that is as likely as the others; without end, unless there are none."""
    mutables = space.simplify()
    if profiler.combine == "sum" and not profiler.nested_ms and set(mutables) == set(profiler.candidate_ms):
        yield from _counted(profiler, least, budget, seed)
        return
    # Costs that depend on two choices at once are no sum over labels: from the whole space, and most are not within.
    draw = np.random.RandomState(seed)
    while True:
        sample: dict[str, Any] = {}
        for mutable in mutables.values():
            mutable.random(sample, draw)
        yield {str(label): choice for label, choice in sample.items()}  # NNI's labels are no plain texts


def _counted(profiler: LatencyProfiler, least: float, budget: float, seed: int) -> Iterator[dict[str, Any]]:
    step = budget / STEPS
    costs = {
        str(label): {choice: round(ms / step) for choice, ms in profiler.candidate_ms[label].items()}
        for label in sorted(profiler.candidate_ms)
    }
    ways: list[dict[int, int]] = [{0: 1}]  # of the last labels, the last of all first
    for choices in reversed(costs.values()):
        longer: dict[int, int] = {}
        for steps, number in ways[-1].items():
            for cost in choices.values():
                if steps + cost <= STEPS + len(costs):
                    longer[steps + cost] = longer.get(steps + cost, 0) + number
        ways.append(longer)
    ways.reverse()
    first, last = ((limit - profiler.fixed_ms) / step for limit in (least, budget))
    sums = [steps for steps in sorted(ways[0]) if first - len(costs) <= steps <= last + len(costs)]
    chance = random.Random(seed)  # of whole numbers of any size
    while sums:
        steps = _drawn(chance, {steps: ways[0][steps] for steps in sums})
        sample = {}
        for i, (label, choices) in enumerate(costs.items(), start=1):
            sample[label] = _drawn(chance, {c: ways[i].get(steps - cost, 0) for c, cost in choices.items()})
            steps -= choices[sample[label]]
        yield sample


def _drawn(chance: random.Random, numbers: Mapping[Any, int]) -> Any:
    """A key, by its share in the sum."""
    left = chance.randrange(sum(numbers.values()))
    for key, number in numbers.items():
        if left < number:
            return key
        left -= number
    raise AssertionError


def profiler_of_search(searched: Architecture, space: ModelSpace, run: Path) -> LatencyProfiler:
    """What a network costs, as the search saw it: by its table, or by its estimator where that measures nothing.

    Raises
    ------
    UserError
        The table is gone.
    """
    # A network that was derived lies below its search.
    table, settings = (
        next((path for folder in (run, run.parent, run.parent.parent) if (path := folder / name).exists()), None)
        for name in ("latencies.yaml", "search.yml")
    )
    try:
        if table is not None:
            return LatencyProfiler(space, LookupTable.read(table, unit=unit_of(searched.latency)), searched.input_shape)
        if settings is not None:
            estimator = make_estimator(read_config(SearchConfig, settings, of_run=True).latency.estimator)
            if not isinstance(estimator, DeviceEstimator) and estimator.unit == unit_of(searched.latency):
                return LatencyProfiler(space, estimator, searched.input_shape)
    except (ValueError, KeyError) as error:  # a TableError, or a table of another space
        raise UserError(f"{table or run}: {error.args[0]}") from error
    raise UserError(
        f"--random: no latencies.yaml in {run}: whether a network is within the budget, the milliseconds of the search say; "
        "allowed: the folder of a search, or the architecture.json that it has left there"
    )
