"""Rank many probable networks of a search by their accuracy with the supernet's weights.

Probabilities are of one choice each, and that of a network is their product: it knows what a candidate is worth on average,
but not which candidates go well together. A supernet has all of them, and judging one network takes it a second.

FinishedSearch -> networks near the budget, drawn from the probabilities -> accuracy on held-out images -> SupernetRanking
"""

from __future__ import annotations

import copy
import csv
import io
import logging
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.atomic_files import write_text
from ..core.errors import UserError
from ..core.progress import bar
from ..latency.objectives.budget import log_probability
from ..models.architecture import Architecture
from .derivation import JUDGED, FinishedSearch, require_free
from .monitor import judge
from .uniform_draws import CLOSE

__all__ = ["Judged", "SupernetRanking", "derive_most_accurate", "judge_probable"]

_logger = logging.getLogger(__name__)

MOST_DRAWS = 20_000  # from each of these:
POWERS = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16)  # of the probabilities: the smaller, the less decided


@dataclass(frozen=True)
class Judged:
    """A network, and its accuracy with the supernet's weights on the images that trained none of them."""

    choices: dict[str, Any]
    accuracy: float
    log_probability: float
    table_ms: float


@dataclass(frozen=True)
class SupernetRanking:
    """All networks that were judged, the most accurate first, and of equally accurate ones the most probable.

    ``unit`` is that of ``table_ms``.
    """

    networks: list[Judged]
    n_images: int
    unit: str = "ms"

    def write(self, path: Path) -> None:
        """As a CSV file: a row per network, a column per choice."""
        labels = sorted(self.networks[0].choices)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("accuracy", "log_probability", "table_ms", "unit", *labels))
        for network in self.networks:
            writer.writerow(
                (
                    network.accuracy,
                    network.log_probability,
                    network.table_ms,
                    self.unit,
                    *(network.choices[label] for label in labels),
                )
            )
        write_text(path, text.getvalue())


def derive_most_accurate(
    run: Path, budget: float, folder: Path, n: int, *, at_least: float | None = None
) -> tuple[Architecture, SupernetRanking]:
    """Judge up to n probable networks of a finished search and write the most accurate one, and ``judged.csv``, to ``folder``.

    Raises
    ------
    UserError
        As :func:`judge_probable`; or no such search, or the folder holds something else.
    """
    if math.isnan(budget):
        raise UserError("--budget-ms: nan; allowed: a number")
    require_free(folder)
    search = FinishedSearch.read(run)
    ranking = judge_probable(search, budget, n, at_least)
    derived = search.derive(ranking.networks[0].choices, budget, measured=True)
    derived.write(folder)
    ranking.write(folder / JUDGED)
    return derived.architecture, ranking


def judge_probable(search: FinishedSearch, budget: float, n: int, at_least: float | None = None) -> SupernetRanking:
    """Judge the most probable network under a budget, and up to n - 1 others drawn from the probabilities.

    Where these have decided for fewer, from their roots: p^(1/2), p^(1/4), … as far as it takes.

    Parameters
    ----------
    budget
        What each may cost at most.
    at_least
        What each costs at least. None: where the search held a target, 95 % of what the most probable one near it costs, which is
        as near as networks of this space come; else nothing.

    Raises
    ------
    UserError
        n is less than 2, there are no trained weights to judge with, or no network is within the budget.
    """
    if n < 2:
        raise UserError(f"--judge: {n} is not allowed here; allowed: 2 or more networks")
    if not search.inherits:
        raise UserError(
            f"--judge: {search.folder} has no weights of a supernet to judge with; allowed: after a search that keeps all candidates, "
            "as with strategy 'proxyless'"
        )
    best = search.best(budget, at_least)
    if at_least is None:
        near = float(search.profiler.profile(best)) * (1 - CLOSE)
        at_least = near if math.isfinite(search.near(budget)) else -math.inf
    samples = [best, *_drawn(search, budget, at_least, n)]
    different = list({repr(sorted(sample.items())): sample for sample in samples}.values())[:n]
    if len(different) < n:
        _logger.warning("--judge: of networks within %.6g the probabilities give %d, not %d", budget, len(different), n)
    found, calibration = [], search.parts.judging_loaders[0]
    with bar(len(different), "judged", "network") as done:
        for sample in different:
            network = copy.deepcopy(search.space.freeze(sample))
            accuracy = judge(network, calibration, search.parts.held_out, torch.device("cpu"))
            ms = float(search.profiler.profile(sample))
            found.append(Judged(sample, accuracy, log_probability(search.probs, sample), ms))
            done.update()
    return SupernetRanking(
        sorted(found, key=lambda network: (-network.accuracy, -network.log_probability)),
        len(search.parts.held_out.dataset),
        search.profiler.unit,
    )


def _drawn(search: FinishedSearch, budget: float, least: float, n: int) -> list[dict[str, Any]]:
    """Up to n different networks that cost between the two, the most decided draws first."""
    chance = random.Random(search.parts.config.seed)
    found: dict[str, dict[str, Any]] = {}
    for power in POWERS:
        probs = {label: {choice: p**power for choice, p in ps.items()} for label, ps in search.probs.items()}
        for _ in range(MOST_DRAWS):
            sample = {label: search.choice(label, _one_of(chance, ps)) for label, ps in probs.items()}
            if least <= search.profiler.profile(sample) <= budget:
                found.setdefault(repr(sorted(sample.items())), sample)
                if len(found) == n:
                    return list(found.values())
    return list(found.values())


def _one_of(chance: random.Random, probs: Mapping[Any, float]) -> Any:
    left = chance.random() * math.fsum(probs.values())
    for choice, p in probs.items():
        left -= p
        if left < 0:
            return choice
    return max(probs, key=lambda choice: probs[choice])  # by rounding
