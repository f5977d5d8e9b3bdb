"""Searches of NAS-Bench-Macro with an evaluator that knows what its networks are worth: which of them each evaluates, in which order.

The evaluator is the table, or a supernet (:mod:`.supernet`). A bound is a number of multiply-adds. What a search is worth is the hypervolume of error and
multiply-adds, up to the bound and to the worst error of all networks within it, as a share of that of the true front; and the best accuracy within the bound.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nni
import numpy as np
from nni.nas.evaluator import Evaluator
from nni.nas.space import SimplifiedModelSpace
from nni.nas.strategy import RegularizedEvolution
from nni.nas.strategy.middleware import Chain, Filter
from nni_proxyless.strategies import EarlyExitEvolution
from nni_proxyless.strategies.nsga2 import not_dominated
from pymoo.indicators.hv import HV

from nni_proxyless.core.nni_compat import SequentialExecutionEngine
from nni_proxyless.search.additive_fit import fit_additive
from nni_proxyless.search.selection import candidates_of

from ..nas_bench_macro.space import CHOICES, LABELS, MacroSpace, macs_profiler, sample_of
from ..nas_bench_macro.table import Table

EARLY_EXIT, UNBOUNDED, DRAWS, REGULARIZED, SELECTION = (
    "early exit",
    "no early exit",
    "random",
    "regularized",
    "selection",
)
ROUND = 10  # networks of a selection, after which it fits anew
Worth = Callable[[Mapping[str, Any]], float]
"""Of a network, given by its choices: the more the better."""


@dataclass(frozen=True)
class Method:
    """A way to search, and its settings.

    Attributes
    ----------
    mutation
        The probability of each choice; None: the default of the strategy.
    drawn
        Of a selection, the share of each round that is drawn at random; ``population`` are drawn before the first.
    """

    kind: str
    population: int = 0
    mutation: float | None = None
    drawn: float = 0.0


class KnownWorth(Evaluator):
    """Reports what a network is worth, and keeps the order in which networks came, as rows of the table."""

    def __init__(self, table: Table, worth: Worth):
        self.table, self.worth = table, worth
        self.judged: list[int] = []

    def __call__(self, sample: Mapping[str, Any]) -> float:
        self.judged.append(self.table.index(sample))
        return self.worth(sample)

    def _execute(self, model: Any) -> None:
        nni.report_final_result(self(model.sample))


def by_table(table: Table) -> Worth:
    """Accuracy, per cent."""
    return lambda sample: float(table.accuracy[table.index(sample)])


@functools.cache
def space() -> MacroSpace:
    """No network of it is built, so it is as narrow as can be."""
    return MacroSpace(width=0.125)


def search(method: Method, table: Table, bound: float, n: int, seed: int, worth: Worth | None = None) -> dict[str, Any]:
    """Let a method evaluate n networks.

    Parameters
    ----------
    bound
        Multiply-adds, in millions.
    worth
        None: by the table.

    Returns
    -------
    dict
        ``judged``, rows of the table in the order in which they were evaluated; of early exit, ``drawn`` and ``over`` as well: random networks drawn and
        not evaluated.
    """
    judge = KnownWorth(table, by_table(table) if worth is None else worth)
    if method.kind == SELECTION:
        _select(judge, method, bound, n, seed)
        return {"judged": judge.judged}
    strategy = _strategy(method, bound, n, seed)
    strategy(SimplifiedModelSpace.from_model(space(), judge), SequentialExecutionEngine(max_model_count=n))
    found: dict[str, Any] = {"judged": judge.judged}
    if isinstance(strategy, EarlyExitEvolution):
        found |= {"drawn": strategy.sampling.n_draws, "over": strategy.sampling.n_over}
    return found


def _select(judge: KnownWorth, method: Method, bound: float, n: int, seed: int) -> None:
    """As ``derive --judge --select ridge`` does for one budget, for many, in rounds.

    Some networks are drawn at random, as many as a population. Then, in every round, a regression on all that are known says what each choice adds; for
    random budgets below the bound the networks of the least sum are evaluated, as the solver would find them, and beside them some that are drawn.
    """
    table, draw, candidates = judge.table, np.random.default_rng(seed), candidates_of(space())
    macs, places = table.macs / 1e6, np.arange(len(LABELS))
    drawn = iter(draw.permutation(np.flatnonzero(macs <= bound)))
    known: dict[int, float] = {}

    def evaluate(rows: Iterable[int]) -> None:
        for row in map(int, rows):
            if len(known) < n and row not in known:
                known[row] = judge(sample_of(table.digits[row]))

    evaluate(itertools.islice(drawn, method.population))
    n_drawn = round(method.drawn * ROUND)
    while len(known) < n:
        samples = [sample_of(table.digits[row]) for row in known]
        scores = fit_additive(samples, [-worth for worth in known.values()], candidates).scores
        adds = np.array([[scores[label][choice] for choice in CHOICES] for label in LABELS])
        loss = adds[places, table.digits].sum(1)
        budgets = draw.uniform(macs.min(), bound, ROUND - n_drawn)
        evaluate(np.where(macs <= budget, loss, np.inf).argmin() for budget in budgets)
        evaluate(itertools.islice(drawn, n_drawn))


def _strategy(method: Method, bound: float, n: int, seed: int) -> Any:
    profiler = macs_profiler()
    if method.kind == REGULARIZED:
        size, rate = method.population, {} if method.mutation is None else {"mutation_prob": method.mutation}
        evolution = RegularizedEvolution(population_size=size, sample_size=max(2, size // 4), seed=seed, **rate)
        return Chain(evolution, Filter(lambda model: profiler.profile(model.sample) <= bound))
    population = n if method.kind == DRAWS else method.population
    return EarlyExitEvolution(
        limits={"macs": (profiler, math.inf if method.kind == UNBOUNDED else bound)}, population_size=population,
        n_generations=math.ceil(n / population), mutation_prob=method.mutation, seed=seed,
    )  # fmt: skip


# -- what a search is worth --------------------------------------------------------------------------------------------


def hypervolume(table: Table, rows: Sequence[int] | np.ndarray, bound: float, error: np.ndarray | None = None) -> float:
    """Of the networks in these rows, as a share of that of all networks within the bound.

    Parameters
    ----------
    error
        Of every row, nan where it is not known, so that the row is none of all; None: what the table's accuracy lacks to 100 %.
    """
    error, macs = 100 - table.accuracy if error is None else error, table.macs / 1e6
    within = np.flatnonzero((macs <= bound) & ~np.isnan(error))
    indicator = HV(ref_point=[error[within].max(), bound])

    def of(rows: np.ndarray) -> float:
        return float(indicator(np.stack([error[rows], macs[rows]], axis=1)))

    return of(np.asarray(rows)) / of(within)


def front(table: Table, rows: Sequence[int] | np.ndarray, error: np.ndarray) -> np.ndarray:
    """Those of these rows than which no other has both less of the error and fewer multiply-adds."""
    rows = np.asarray(rows)
    return rows[not_dominated(np.stack([error[rows], table.macs[rows]], axis=1).tolist())]


def best(table: Table, rows: Sequence[int], bound: float) -> float | None:
    """The highest accuracy of these within the bound, in per cent; None where none is within."""
    return max((float(table.accuracy[row]) for row in rows if table.macs[row] / 1e6 <= bound), default=None)
