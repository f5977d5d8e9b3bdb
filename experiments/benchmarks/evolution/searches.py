"""Searches with the table of NAS-Bench-Macro as the evaluator: which networks each trains, in which order.

A bound is a number of multiply-adds. What a search is worth is the hypervolume of error and multiply-adds, up to the bound and to the worst error of all networks
within it, as a share of that of the true front; and the best accuracy within the bound.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nni
import numpy as np
from nni.nas.evaluator import Evaluator
from nni.nas.space import SimplifiedModelSpace
from nni.nas.strategy import RegularizedEvolution
from nni.nas.strategy.middleware import Chain, Filter
from nni_proxyless.strategies import EarlyExitEvolution
from pymoo.indicators.hv import HV

from nni_proxyless.core.nni_compat import SequentialExecutionEngine

from ..nas_bench_macro.space import MacroSpace, macs_profiler
from ..nas_bench_macro.table import Table

EARLY_EXIT, UNBOUNDED, DRAWS, REGULARIZED = "early exit", "no early exit", "random", "regularized"


@dataclass(frozen=True)
class Method:
    """A way to search, and its settings; ``mutation`` is the probability of each choice, None the default of the strategy."""

    kind: str
    population: int = 0
    mutation: float | None = None


class TableJudge(Evaluator):
    """Reports the accuracy that a table has, and keeps the order in which networks came."""

    def __init__(self, table: Table):
        self.table = table
        self.judged: list[int] = []

    def _execute(self, model: Any) -> None:
        self.judged.append(self.table.index(model.sample))
        nni.report_final_result(float(self.table.accuracy[self.judged[-1]]))


@functools.cache
def space() -> MacroSpace:
    """No network of it is built, so it is as narrow as can be."""
    return MacroSpace(width=0.125)


def search(method: Method, table: Table, bound: float, n: int, seed: int) -> dict[str, Any]:
    """Let a method train n networks.

    Parameters
    ----------
    bound
        Multiply-adds, in millions.

    Returns
    -------
    dict
        ``judged``, rows of the table in the order in which they were trained; of early exit, ``drawn`` and ``over`` as well: random networks drawn and
        not trained.
    """
    judge, engine = TableJudge(table), SequentialExecutionEngine(max_model_count=n)
    strategy = _strategy(method, bound, n, seed)
    strategy(SimplifiedModelSpace.from_model(space(), judge), engine)
    found: dict[str, Any] = {"judged": judge.judged}
    if isinstance(strategy, EarlyExitEvolution):
        found |= {"drawn": strategy.sampling.n_draws, "over": strategy.sampling.n_over}
    return found


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


def hypervolume(table: Table, rows: Sequence[int] | np.ndarray, bound: float) -> float:
    """Of the networks in these rows, as a share of that of all networks within the bound."""
    within = np.flatnonzero(table.macs / 1e6 <= bound)
    error, macs = 100 - table.accuracy, table.macs / 1e6
    indicator = HV(ref_point=[error[within].max(), bound])

    def of(rows: np.ndarray) -> float:
        return float(indicator(np.stack([error[rows], macs[rows]], axis=1)))

    return of(np.asarray(rows)) / of(within)


def best(table: Table, rows: Sequence[int], bound: float) -> float | None:
    """The highest accuracy of these within the bound, in per cent; None where none is within."""
    return max((float(table.accuracy[row]) for row in rows if table.macs[row] / 1e6 <= bound), default=None)
