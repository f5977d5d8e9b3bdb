"""A front by a supernet: for each of many budgets the best network, by what each choice adds to the verdicts.

Some networks are drawn over all costs. Then, in rounds, a regression on all verdicts says what each choice adds; for budgets drawn at random the solver
finds the networks of the least sum, which are judged next, and beside them some that are drawn. So one regression serves all budgets, and knows most where
the front is. Where choices add up, it needs a third of the networks that an evolution does (``experiments/benchmarks/evolution``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from ..core.progress import bar
from .finished_search import FinishedSearch
from .judging import Verdict, judge_networks
from .selection import Judging, Sample, Selection, candidates_of, name_of
from .supernet_selection import DRAWS, Selected, judging_images
from .uniform_draws import draw_networks

__all__ = ["METHOD", "judge_front", "select_front"]

METHOD = "front"  # beside those of selection.py, in architecture.json
FIRST = 0.2  # of all networks that are judged: drawn before the first round
ROUNDS = 8
DRAWN = 0.2  # of the networks of a round


def judge_front(search: FinishedSearch, budgets: Sequence[float], n: int) -> list[tuple[float, Selected]]:
    """Let the supernet of a finished search judge n networks of all costs, and select one for each budget.

    Returns
    -------
    list
        Budgets and what was selected, as :func:`select_front` has them.
    """
    began, images, space, profiler = time.perf_counter(), judging_images(search.parts), search.space, search.profiler
    seed = search.parts.config.seed
    with bar(n, "judged", "network") as done:

        def judge(samples: list[Sample]) -> list[Verdict]:
            done.total = max(done.total, done.n + len(samples))
            return judge_networks(
                search.supernet,
                samples,
                images.calibration,
                images.few,
                profiler=profiler,
                on_done=done.update,
                task=images.task,
            )

        judging = Judging(
            judge=judge, draw=lambda n, seed: draw_networks(space, profiler, n, math.inf, seed, most_draws=DRAWS * n),
            candidates=candidates_of(space), limits=[(profiler, math.inf)], n=n, seed=seed, known=search.known,
        )  # fmt: skip
        found = select_front(judging, budgets)
    took = time.perf_counter() - began
    n_images, merit = len(images.few.dataset), images.task.merit
    return [(budget, Selected(selection, n_images, took, profiler.unit, merit)) for budget, selection in found]


def select_front(judging: Judging, budgets: Sequence[float]) -> list[tuple[float, Selection]]:
    """Judge ``judging.n`` networks and those that the solver finds in the end, and select one for each budget.

    Parameters
    ----------
    judging
        Its verdicts have costs by the profiler of its first limit, as the budgets are.
    budgets
        Increasing; the least of them can be met.

    Returns
    -------
    list
        Budgets and selections: the network of the least loss, smoothed as ``mixture`` has it, of all that were judged and are within the budget. A budget
        at which it is that of the budget before is left out.
    """
    drawn = iter(judging.drawn(judging.n))
    first, in_round = max(2, round(FIRST * judging.n)), max(1, round((1 - FIRST) * judging.n / ROUNDS))
    n_drawn = round(DRAWN * in_round)

    def look_at_drawn(n: int) -> None:
        judging.look_at([sample for _, sample in zip(range(min(n, judging.left)), drawn, strict=False)])

    look_at_drawn(first)
    while judging.left:
        before = judging.left
        judging.learn()
        solved = [judging.solved(judging.chance.uniform(budgets[0], budgets[-1])) for _ in range(in_round - n_drawn)]
        judging.look_at(solved[: judging.left])
        look_at_drawn(n_drawn if judging.left < before else in_round)
        if judging.left == before:  # all networks of the space are known
            break
    judging.learn()
    loss = judging.smoothed(list(judging.verdicts.values()))
    judging.look_at([judging.solved(budget) for budget in budgets])
    fit = judging.learn()
    every = sorted(judging.verdicts.values(), key=lambda verdict: verdict.log_loss)
    found: list[tuple[float, Selection]] = []
    for budget in budgets:
        ranked = sorted((verdict for verdict in every if verdict.cost <= budget), key=loss)
        if not found or name_of(ranked[0].choices) != name_of(found[-1][1].best.choices):
            found.append((budget, Selection(ranked, every, [], fit, METHOD, judging.witnesses)))
    return found
