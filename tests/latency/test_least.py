"""The network of the least sum of scores under a budget, against every network there is."""

from __future__ import annotations

import copy
import itertools
import math
import random
from typing import Any

import pytest

from nni_proxyless.latency import BudgetError, LatencyProfiler, least_under_budget
from nni_proxyless.latency.objectives.extremes import fastest, slowest
from nni_proxyless.search.uniform_draws import draw_networks

from .test_budget import OfEveryKind, OfNames, Small, all_networks, profiler_of

TEMPLATE = LatencyProfiler(Small(), OfNames(), (2,))


def made_up(draw: random.Random, choices: dict[str, tuple[str, ...]]) -> LatencyProfiler:
    """Costs of choices, and of some pairs of them, in a profiler."""
    profiler = copy.copy(TEMPLATE)
    cost = draw.choice(
        [lambda: draw.uniform(0, 3), lambda: draw.choice([0.1, 0.2, 0.3]), lambda: float(draw.randint(0, 4))]
    )
    alone = {label: {choice: cost() for choice in of} for label, of in choices.items()}
    pairs = draw.sample(list(itertools.combinations(choices, 2)), draw.randint(0, 1))
    nested = {((a, choices[a][:1]), (b, choices[b][-1:])): cost() for a, b in pairs}
    profiler.candidate_ms, profiler.nested_ms, profiler.fixed_ms = alone, nested, 0.5

    def profile(sample: dict[str, str]) -> float:
        both = (ms for conditions, ms in nested.items() if all(sample[label] in of for label, of in conditions))
        return math.fsum((0.5, *(alone[label][choice] for label, choice in sample.items()), *both))

    profiler.profile = profile  # type: ignore[method-assign]
    return profiler


def random_scores(draw: random.Random, choices: dict[str, Any]) -> dict[str, dict[Any, float]]:
    """Of any size and sign; in steps, so that there are ties."""
    of = draw.choice([lambda: draw.gauss(0, 1), lambda: 1e5 * draw.gauss(1, 1e-3), lambda: float(draw.randint(-1, 1))])
    return {label: {choice: of() for choice in several} for label, several in choices.items()}


def check(
    draw: random.Random, networks: list[dict[str, Any]], profiler: LatencyProfiler, other: LatencyProfiler
) -> str:
    """Within a budget that is some network's own cost, or just below it, and one of another cost; above a least cost, if there is one."""
    scores = random_scores(draw, profiler.candidate_ms)
    costs = [(profiler.profile(sample), other.profile(sample)) for sample in networks]
    budget, also = draw.choice(costs)[0], draw.choice(costs)[1]
    budget = draw.choice([budget, math.nextafter(budget, -1)])
    least = draw.choice([-math.inf, 0.7123 * budget])
    limits = {"also": [(other, also)], "at_least_ms": least}
    within = [(s, ms) for s, (ms, more) in zip(networks, costs, strict=True) if ms <= budget and more <= also]
    if not within:
        with pytest.raises(BudgetError, match=r"that can be reached|no network is within"):
            least_under_budget(scores, profiler, budget, **limits)
        return "out of reach"
    found = least_under_budget(scores, profiler, budget, **limits)
    assert profiler.profile(found) <= budget
    assert other.profile(found) <= also
    among = [s for s, ms in within if ms >= least] or [s for s, _ in within]

    def total(sample: dict[str, Any]) -> float:
        return math.fsum(scores[label][sample[label]] for label in scores)

    spread = sum(max(of.values()) - min(of.values()) for of in scores.values())
    assert total(found) == pytest.approx(min(map(total, among)), abs=1e-9 * (spread or 1))
    return "nested" if profiler.nested_ms else "plain"


def test_it_is_the_least_of_all_networks():
    """200 small spaces with two limits: made-up ones, and ones of every kind of NNI's choices."""
    seen = []
    for seed in range(200):
        draw = random.Random(seed)
        if seed % 20:
            choices = {f"l{i}": tuple(f"c{j}" for j in range(draw.randint(2, 4))) for i in range(draw.randint(2, 4))}
            profiler, other = made_up(draw, choices), made_up(draw, choices)
            networks = [dict(zip(choices, of, strict=True)) for of in itertools.product(*choices.values())]
        else:
            space = OfEveryKind(seed)
            profiler, other = (profiler_of(space, (2,), lambda d=draw: d.uniform(0, 3)) for _ in range(2))
            networks = list(all_networks(profiler))
        seen.append(check(draw, networks, profiler, other))
    assert min(seen.count(what) for what in ("nested", "plain", "out of reach")) > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block1": None, "blok1": {"a": 1.0}}, "no scores for label 'block1'. Did you mean 'blok1'?"),
        ({"block1": {"wide": 1.0}}, "label 'block1': no score for choice 'narrow'"),
        ({"block0": {"wide": math.nan, "narrow": 1.0}}, "label 'block0': the score of 'wide' is nan; allowed: a finite number"),
        ({"other": {}}, "label 'other': no choice has a score"),
    ],
)  # fmt: skip
def test_wrong_scores_are_refused_by_name(changes, message):
    profiler = LatencyProfiler(Small(), OfNames(), (2,))
    sound = {f"block{i}": {"wide": -3.0, "narrow": 0.1} for i in range(2)}
    assert least_under_budget(sound, profiler, 5.5)["block0"] in ("wide", "narrow")
    scores = {label: of for label, of in {**sound, **changes}.items() if of is not None}
    with pytest.raises(ValueError, match="scores: ") as caught:
        least_under_budget(scores, profiler, 5.0)
    assert message in str(caught.value)
    with pytest.raises(ValueError, match=r"at_least_ms is 6\.0; allowed: up to the budget, 5\.0 ms"):
        least_under_budget(sound, profiler, 5.0, at_least_ms=6.0)


def test_choices_that_are_made_leave_the_others():
    """In 12 spaces of every kind: fastest, slowest and least among the networks that have a choice in common."""
    for seed in range(12):
        draw, space = random.Random(seed), OfEveryKind(seed)
        profiler = profiler_of(space, (2,), lambda d=draw: d.uniform(0, 3))
        label = draw.choice(sorted(profiler.candidate_ms))
        made = {label: draw.choice(list(profiler.candidate_ms[label])), "which": [1]}
        decided = profiler.decided(made)
        left = [s for s in all_networks(profiler) if s[label] == made[label]]
        costs = sorted(map(profiler.profile, left))
        assert fastest(decided)[1] == pytest.approx(costs[0], rel=1e-10)
        assert slowest(decided)[1] == pytest.approx(costs[-1], rel=1e-10)
        scores = random_scores(draw, decided.candidate_ms)
        found = least_under_budget(scores, decided, costs[len(costs) // 2])
        assert found[label] == made[label]
        assert profiler.profile(found) <= costs[len(costs) // 2]
        drawn = draw_networks(space, decided, 5, costs[len(costs) // 2], seed, least=-math.inf, made=made)
        assert len({repr(sorted(s.items())) for s in drawn}) == min(
            5, len({repr(sorted(s.items())) for s in left[: len(costs) // 2 + 1]})
        )
        assert all(s[label] == made[label] and s["which"] == [1] for s in drawn)
