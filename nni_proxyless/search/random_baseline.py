"""Random networks under the budget of a search: the baseline for its choices.

By the milliseconds of the search's own table, a random network takes 95 to 100 % of the budget; each network of the space that does is
equally likely (:mod:`.uniform_draws`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nni.nas.nn.pytorch import ModelSpace

from ..config.read import read_config
from ..config.search_config import SearchConfig
from ..core.errors import UserError
from ..latency import DeviceEstimator, LatencyProfiler, LookupTable
from ..latency.digits import in_words
from ..latency.objectives.budget import fastest, slowest
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.original import kept_original
from ..models.record import describe, latency_record, record, unit_of
from ..models.space import make_space
from .latency_table import make_estimator
from .uniform_draws import CLOSE, draw_networks

__all__ = ["draw_within_budget", "profiler_of_search", "random_networks"]


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
        described = describe(
            space, sample, **searched.space, data=searched.data, input_shape=searched.input_shape, task=searched.task
        )
        conditions = searched.latency.get("measured_conditions")
        networks.append(
            record(
                described, build_network(described),
                latency=latency_record(profiler, sample, target=budget, measured_conditions=conditions),
                search={"strategy": "random", "weights": "fresh", "seed": seed, "number": i, **kept_original(searched)},
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
    found = draw_networks(space, profiler, n, budget, seed)
    if len(found) == n:
        return found
    least = budget * (1 - CLOSE)
    low, high = fastest(profiler)[1], slowest(profiler)[1]
    raise UserError(
        f"--random: {len(found)} different networks take {least:.9g} to {budget:.9g} {profiler.unit}, 95 to 100 % of the budget, and "
        f"{n} are asked for; allowed: fewer, or another --budget-ms; the networks of this space take {in_words(low)} to {in_words(high)} "
        f"{profiler.unit}"
    )


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
