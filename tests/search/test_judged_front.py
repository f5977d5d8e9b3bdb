"""A front by a judge whose truth is known: every network within its budget, none judged twice, near the true front."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from nni_proxyless.latency import LatencyProfiler
from nni_proxyless.search.judged_front import select_front
from nni_proxyless.search.judging import Verdict
from nni_proxyless.search.selection import Judging, candidates_of, name_of
from nni_proxyless.search.uniform_draws import draw_networks

from .test_selection import Costs, Space, Truth

BUDGETS = [2.0, 5.0, 8.0, 11.0, 14.0, 17.0]


@pytest.fixture(scope="module")
def space() -> Space:
    return Space()


@pytest.fixture(scope="module")
def profiler(space) -> LatencyProfiler:
    return LatencyProfiler(space, Costs(), (1,))


def judging(space: Space, profiler: LatencyProfiler, judge: Any, n: int, seed: int = 0, **more: Any) -> Judging:
    def draw(n: int, seed: int) -> list[dict[str, Any]]:
        return draw_networks(space, profiler, n, math.inf, seed, most_draws=50 * n)

    return Judging(
        judge=judge, draw=draw, candidates=candidates_of(space), limits=[(profiler, math.inf)], n=n, seed=seed, **more
    )


def best_within(profiler: LatencyProfiler, truth: Truth, budget: float) -> float:
    every = (
        dict(zip(profiler.candidate_ms, of, strict=True)) for of in itertools.product(*profiler.candidate_ms.values())
    )
    return min(truth.loss(sample) for sample in every if profiler.profile(sample) <= budget)


@pytest.mark.parametrize("seed", range(3))
def test_the_front_of_a_judge_whose_choices_add_up_is_the_true_one(space, profiler, seed):
    truth = Truth(profiler, seed)
    found = select_front(judging(space, profiler, truth, 60, seed), BUDGETS)
    assert 60 <= len(truth.judged) == len({name_of(s) for s in truth.judged}) <= 60 + len(BUDGETS)
    assert [budget for budget, _ in found] == sorted({budget for budget, _ in found})
    for budget, selection in found:
        assert profiler.profile(selection.best.choices) <= budget
        assert truth.loss(selection.best.choices) == pytest.approx(best_within(profiler, truth, budget), abs=0.1)
        assert len(selection.verdicts) == len(truth.judged)
        assert selection.fit.knows
    losses = [truth.loss(selection.best.choices) for _, selection in found]
    assert losses == sorted(losses, reverse=True)
    again = select_front(judging(space, profiler, Truth(profiler, seed), 60, seed), BUDGETS)
    assert [(b, s.best) for b, s in again] == [(b, s.best) for b, s in found]


def test_of_noisy_verdicts_it_is_better_than_the_least_of_as_many_random_ones(space, profiler):
    """Mean truth over five spaces and all budgets, by a judge whose correlation with it is about 0.6."""
    front, least = [], []
    for seed in range(5):
        truth = Truth(profiler, seed, error=2.5)
        found = dict(select_front(judging(space, profiler, truth, 60, seed), BUDGETS))
        drawn = truth(draw_networks(space, profiler, 60, math.inf, seed))
        for budget in BUDGETS:
            within = [verdict for verdict in drawn if verdict.cost <= budget]
            chosen = next((found[b] for b in reversed(BUDGETS) if b <= budget and b in found), None)
            if within and chosen is not None:
                front.append(truth.loss(chosen.best.choices))
                least.append(truth.loss(min(within, key=lambda verdict: verdict.log_loss).choices))
    assert len(front) > 15
    assert np.mean(front) < np.mean(least) - 1


def test_a_small_space_is_judged_whole_and_it_ends(space, profiler):
    """Fewer networks than may be judged; and a judge that gives no numbers for some."""
    truth = Truth(profiler, 0)

    def judge(samples: list[dict[str, Any]]) -> list[Verdict]:
        return [v if v.choices["p0"] != "c3" else Verdict(v.choices, math.inf, 0.1, v.cost) for v in truth(samples)]

    few = draw_networks(space, profiler, 12, math.inf, 0)
    one = judging(space, profiler, judge, 40)
    one.draw = lambda n, seed: few
    one.candidates = {label: tuple(dict.fromkeys(s[label] for s in few)) for label in few[0]}
    found = select_front(one, BUDGETS)
    assert found
    assert all(math.isfinite(selection.best.log_loss) for _, selection in found)
    assert len({name_of(s) for s in truth.judged}) == len(truth.judged)
