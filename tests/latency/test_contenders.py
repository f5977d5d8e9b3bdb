"""Costs as they might be, and the networks that are the best by some of them."""

from __future__ import annotations

import numpy as np
import pytest

from nni_proxyless.latency import BudgetError, LatencyProfiler, best_under_budget
from nni_proxyless.latency.objectives.budget import fastest, log_probability
from nni_proxyless.latency.objectives.contenders import contenders

from .test_budget import OfEveryKind, OfRows, all_networks

PROFILER = LatencyProfiler(OfEveryKind(1), OfRows(np.random.default_rng(0).exponential, "sum"), (2,))
NETWORKS = list(all_networks(PROFILER))


def test_costs_are_off_by_chance_and_the_same_everywhere():
    """A tenth on average, so many as are drawn; none where nothing is paid. The table stays as it is."""
    before = {label: dict(costs) for label, costs in PROFILER.candidate_ms.items()}, dict(PROFILER.nested_ms)
    draw, off = np.random.default_rng(0), []
    for _ in range(300):
        redrawn = PROFILER.redrawn(0.1, draw)
        for label, costs in PROFILER.candidate_ms.items():
            assert all((ms == 0) == (redrawn.candidate_ms[label][choice] == 0) for choice, ms in costs.items())
            off += [redrawn.candidate_ms[label][choice] / ms - 1 for choice, ms in costs.items() if ms]
    assert abs(np.mean(off)) < 0.01
    assert np.std(off) == pytest.approx(0.1, rel=0.05)
    sample = NETWORKS[0]
    assert PROFILER.nested_ms, "or the space is of the wrong kind"
    assert redrawn.profile(sample) == pytest.approx(float(redrawn.expression.evaluate(sample)))
    assert redrawn.profile(sample) != PROFILER.profile(sample)
    assert (PROFILER.candidate_ms, PROFILER.nested_ms) == before
    assert PROFILER.redrawn(0.0, draw).profile(sample) == PROFILER.profile(sample)


def test_each_is_the_best_by_some_table_near_this_one():
    """The table's own first; others differ from it in what they cost or in how probable they are by no more than the errors allow."""
    chance = np.random.default_rng(1)
    for _ in range(3):
        probs = {
            label: dict(zip(costs, chance.dirichlet([1.0] * len(costs)), strict=True))
            for label, costs in PROFILER.candidate_ms.items()
        }
        budget = float(np.median([PROFILER.profile(sample) for sample in NETWORKS]))

        def best(profiler: LatencyProfiler, probs=probs, budget=budget):
            return best_under_budget(probs, profiler, budget)

        found = contenders(best, PROFILER, 5, error=0.1)
        assert found[0] == best(PROFILER)
        assert len({repr(sorted(sample.items())) for sample in found}) == len(found) <= 5
        assert found == contenders(best, PROFILER, 5, error=0.1)
        for sample in found[1:]:
            more_probable = log_probability(probs, sample) > log_probability(probs, found[0])
            assert PROFILER.profile(sample) > budget if more_probable else PROFILER.profile(found[0]) > 0.5 * budget
        assert contenders(best, PROFILER, 5, error=0.0) == [best(PROFILER)]
        assert contenders(best, PROFILER, 1) == [best(PROFILER)]


def test_a_budget_that_some_tables_do_not_meet():
    """The fastest network is the only one; by a table that might be it takes longer than its own budget."""
    uniform = {label: dict.fromkeys(costs, 1 / len(costs)) for label, costs in PROFILER.candidate_ms.items()}
    cheapest, ms = fastest(PROFILER)
    found = contenders(lambda profiler: best_under_budget(uniform, profiler, ms), PROFILER, 4, error=0.01)
    assert PROFILER.profile(found[0]) == pytest.approx(PROFILER.profile(cheapest))
    with pytest.raises(BudgetError, match="that can be reached"):
        contenders(lambda profiler: best_under_budget(uniform, profiler, 0.9 * ms), PROFILER, 4)
