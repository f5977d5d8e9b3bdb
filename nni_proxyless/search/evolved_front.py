"""Evolve networks of a finished search: a front of log-loss and cost within a budget, each network judged by the supernet.

The evolution is a multi-trial strategy of NNI, by its name. A trial trains nothing: it judges a copy of a network, with the weights of the
supernet and statistics of batch norm of its own (:mod:`.judging`), in a fraction of a second and in this process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nni
from nni.nas.evaluator import Evaluator

from ..config import registry
from ..config.nni_evolution import GROUP, STRATEGY
from ..core.atomic_files import write_csv
from ..core.errors import UserError
from ..core.merit import Merit
from ..core.nni_compat import RawFormatModelSpace, SequentialExecutionEngine
from ..core.progress import bar
from ..core.text_table import in_columns
from ..latency import BudgetError
from ..latency.digits import in_words
from ..models.architecture import Architecture
from .additive_fit import fit_additive
from .derivation import require_free
from .finished_search import FinishedSearch
from .judging import Verdict, judge_networks
from .selection import FINALISTS, Selection, candidates_of, name_of
from .supernet_files import EVOLVED_FRONT, JUDGED
from .supernet_selection import JudgingImages, Selected, judging_images

__all__ = ["derive_evolved", "evolved_table"]

POPULATION = 40


class SupernetEvaluator(Evaluator):
    """Reports the negative log-loss of a network, and keeps its verdict."""

    def __init__(self, judge: Callable[[Sequence[Any]], list[Verdict]]):
        self.judge = judge
        self.verdicts: list[Verdict] = []

    def _execute(self, model: Any) -> None:
        self.verdicts += self.judge([model.sample])
        nni.report_final_result(-self.verdicts[-1].log_loss)


@dataclass(frozen=True)
class Evolved:
    """Verdicts on the front, the least log-loss first, and the network of them that was selected."""

    front: list[Verdict]
    selected: Selected


def derive_evolved(run: Path, budget: float, folder: Path, n: int) -> tuple[Architecture, list[Verdict]]:
    """Evolve n networks of a finished search within a budget; write the front, and of it the network that is selected, to ``folder``.

    ``folder`` gets what :func:`.derivation.derive_judged` writes, ``judged.csv`` with all n networks, and ``evolved_front.csv``.

    Returns
    -------
    tuple
        The network, and the verdicts on the front, the least log-loss first.

    Raises
    ------
    UserError
        n is less than 2, there are no trained weights to judge with, no network is within the budget, or the strategy is not installed; or as
        :func:`.derivation.derive_under_budget`.
    """
    if math.isnan(budget):
        raise UserError("--budget-ms: nan; allowed: a number")
    if n < 2:
        raise UserError(f"--evolve: {n} is not allowed here; allowed: 2 or more networks")
    require_free(folder)
    try:
        strategy = registry.load(GROUP, STRATEGY)
    except ValueError as error:
        raise UserError(f"--evolve: {error}") from error
    search = FinishedSearch.read(run)
    if not search.inherits:
        raise UserError(
            f"--evolve: {run} has no weights of a supernet to judge with; allowed: after a search that keeps all candidates, as with strategy 'proxyless'"
        )
    search.best(budget)  # says exactly what can be reached, where nothing is within the budget
    evolved = _evolve(strategy, search, judging_images(search.parts), budget, n)
    derived = search.derive(evolved.selected.choices, budget, measured=True, selection=evolved.selected.record())
    derived.write(folder)
    evolved.selected.write(folder / JUDGED, search.probs, search.training)
    _write_front(evolved.front, search.profiler.unit, evolved.selected.merit, folder / EVOLVED_FRONT)
    return derived.architecture, evolved.front


def _evolve(strategy: Any, search: FinishedSearch, images: JudgingImages, budget: float, n: int) -> Evolved:
    began, population = time.perf_counter(), min(POPULATION, n)
    with bar(n, "evolved", "network") as done:

        def judge(samples: Sequence[Any], batches: Any = images.few) -> list[Verdict]:
            return judge_networks(
                search.supernet,
                samples,
                images.calibration,
                batches,
                profiler=search.profiler,
                on_done=done.update,
                task=images.task,
            )

        evaluator = SupernetEvaluator(judge)
        evolution = strategy(
            limits={"latency": (search.profiler, budget)}, population_size=population, n_generations=math.ceil(n / population),
            seed=search.parts.config.seed,
        )  # fmt: skip
        try:
            evolution(RawFormatModelSpace(search.space, evaluator), SequentialExecutionEngine(max_model_count=n))
        except BudgetError as error:
            raise UserError(f"--evolve: {error}") from error
        verdicts = {name_of(verdict.choices): verdict for verdict in evaluator.verdicts}
        front = [verdicts[name_of(trial.sample)] for trial in evolution.front()]
        few = front[:FINALISTS]
        final = few if images.more is None else judge([verdict.choices for verdict in few], images.more)
    first = [verdict for verdict in evaluator.verdicts[:population] if math.isfinite(verdict.log_loss)]
    fit = fit_additive(
        [verdict.choices for verdict in first], [verdict.log_loss for verdict in first], candidates_of(search.space)
    )  # of children it would be about what the best have in common
    every = sorted(evaluator.verdicts, key=_loss)
    selection = Selection(sorted(final, key=_loss), every, final, fit, STRATEGY, {})
    took = time.perf_counter() - began
    unit, merit = search.profiler.unit, images.task.merit
    return Evolved(front, Selected(selection, len(images.few.dataset), took, unit, merit))


def evolved_table(front: Sequence[Verdict], unit: str, merit: Merit) -> str:
    """One row per network of the front."""
    rows = [(f"table {unit}", "log-loss", merit.name)]
    rows += [(in_words(one.cost), f"{one.log_loss:.4f}", merit.in_words(one.merit)) for one in front]
    return "\n".join(in_columns(rows))


def _write_front(front: Sequence[Verdict], unit: str, merit: Merit, path: Path) -> None:
    labels = sorted(front[0].choices)
    rows = ((one.cost, unit, one.log_loss, one.merit, *(one.choices[label] for label in labels)) for one in front)
    write_csv(path, ("table_ms", "unit", "log_loss", merit.name, *labels), rows)


def _loss(verdict: Verdict) -> float:
    return verdict.log_loss
