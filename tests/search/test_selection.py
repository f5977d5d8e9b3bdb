"""Selection by a judge whose truth is known: what is found, what it may cost, and what the fit knows."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

from nni_proxyless.latency import LatencyEstimator, LatencyProfiler, Operation
from nni_proxyless.search.additive_fit import fit_additive
from nni_proxyless.search.judging import Verdict
from nni_proxyless.search.selection import METHODS, candidates_of, name_of, select
from nni_proxyless.search.uniform_draws import draw_networks

LABELS, CHOICES = 6, 4


class Space(ModelSpace):
    """4,096 networks; choice j of place i costs about j."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(
            LayerChoice({f"c{j}": nn.Linear(1, 1 + j) for j in range(CHOICES)}, label=f"p{i}") for i in range(LABELS)
        ))  # fmt: skip

    def forward(self, x: Any) -> Any:
        for layer in self.body:
            x = layer(x)[..., :1]
        return x


class Costs(LatencyEstimator):
    conditions = {}  # noqa: RUF012  (a constant)

    def estimate(self, operation: Operation) -> float:
        ((label, (choice,)),) = operation.conditions
        return 0.1 + int(choice[1:]) * (1 + 0.05 * int(label[1:]))


@pytest.fixture(scope="module")
def space() -> Space:
    return Space()


@pytest.fixture(scope="module")
def profiler(space) -> LatencyProfiler:
    return LatencyProfiler(space, Costs(), (1,))


class Truth:
    """Additive scores; verdicts with an error that is each network's own."""

    def __init__(self, profiler: LatencyProfiler, seed: int, error: float = 0.0):
        self.profiler, self.error = profiler, error
        draw = np.random.RandomState(seed)
        # What costs more is better, but for luck.
        self.scores = {f"p{i}": {f"c{j}": draw.normal() - 0.3 * j for j in range(CHOICES)} for i in range(LABELS)}
        self.judged: list[dict[str, Any]] = []

    def loss(self, sample: dict[str, Any]) -> float:
        return 5 + sum(of[sample[label]] for label, of in self.scores.items())

    def __call__(self, samples: list[dict[str, Any]]) -> list[Verdict]:
        self.judged += samples
        return [
            Verdict(s, self.loss(s) + self.error * random.Random(name_of(s)).gauss(0, 1), 0.5, self.profiler.profile(s))
            for s in samples
        ]


BUDGET = 9.8


def selected(
    method: str, space: Space, profiler: LatencyProfiler, truth: Truth, seed: int = 0, n: int = 40, **more: Any
) -> Any:
    least = 0.8 * BUDGET

    def draw(n: int, seed: int) -> list[dict[str, Any]]:
        return draw_networks(space, profiler, n, BUDGET, seed, least=least)

    given = {"profiler": profiler, "budget": BUDGET, "at_least": least, "candidates": candidates_of(space)}
    return select(method, judge=truth, draw=draw, n=n, seed=seed, **given, **more)


@pytest.mark.parametrize("method", METHODS)
def test_the_best_is_found_within_the_budget(method, space, profiler):
    """Exactly, where a regression knows the truth; else the best of what was judged. Never above the budget, each network once."""
    every = [
        dict(zip(profiler.candidate_ms, of, strict=True)) for of in itertools.product(*profiler.candidate_ms.values())
    ]
    within = [s for s in every if 0.8 * BUDGET <= profiler.profile(s) <= BUDGET]
    for seed in range(3):
        truth = Truth(profiler, seed)
        found = selected(method, space, profiler, truth, seed)
        assert 40 <= len(truth.judged) == len({name_of(s) for s in truth.judged}) <= 41
        assert sorted(name_of(v.choices) for v in found.verdicts) == sorted(map(name_of, truth.judged))
        assert all(0.8 * BUDGET <= profiler.profile(s) <= BUDGET for s in truth.judged)
        assert [v.log_loss for v in found.verdicts] == sorted(v.log_loss for v in found.verdicts)
        assert found.best == found.verdicts[0]
        ranks = sum(truth.loss(s) < truth.loss(found.best.choices) - 1e-9 for s in within)
        assert ranks < 3 or method in ("raw", "evolution")
        assert ranks < len(within) / 10
        assert found.fit.knows
        again = selected(method, space, profiler, Truth(profiler, seed), seed)
        assert (again.best, again.verdicts) == (found.best, found.verdicts)


def test_a_mixture_is_better_than_a_noisy_verdict(space, profiler):
    """Mean truth over 16 spaces, by a judge whose correlation with it is about 0.6: what it picks, the fit, and both."""
    mean = {}
    for method in ("raw", "ridge", "mixture"):
        truths = [Truth(profiler, seed, error=2.5) for seed in range(16)]
        mean[method] = np.mean(
            [t.loss(selected(method, space, profiler, t, i).best.choices) for i, t in enumerate(truths)]
        )
    assert mean["ridge"] < mean["raw"] - 0.3
    assert mean["mixture"] < mean["raw"] - 0.3


def test_witnesses_with_errors_of_their_own_make_a_mixture_better(space, profiler):
    """Mean truth over 16 spaces, by a judge and scores that both know it in part; those that know nothing do little harm."""

    def known(scores: dict[str, dict[str, float]], seed: int) -> dict[str, dict[str, dict[str, float]]]:
        chance = random.Random(seed)
        return {"training": {label: {c: s + chance.gauss(0, 1) for c, s in of.items()} for label, of in scores.items()}}

    mean = {}
    for name in ("none", "knows", "nothing"):
        found = []
        for seed in range(16):
            truth = Truth(profiler, seed, error=2.5)
            scores = (
                {label: dict.fromkeys(of, 0.0) for label, of in truth.scores.items()}
                if name == "nothing"
                else truth.scores
            )
            given = None if name == "none" else known(scores, seed)
            chosen = selected("mixture", space, profiler, truth, seed, known=given)
            assert profiler.profile(chosen.best.choices) <= BUDGET
            found.append(truth.loss(chosen.best.choices))
        mean[name] = np.mean(found)
    assert mean["knows"] < mean["none"] - 0.3
    assert mean["nothing"] < mean["none"] + 0.3


def test_the_last_few_are_judged_on_more_images(space, profiler):
    truth, more = Truth(profiler, 0, error=2.5), Truth(profiler, 0, error=0.1)
    found = selected("mixture", space, profiler, truth, judge_again=more)
    assert 2 <= len(more.judged) <= 5
    assert [v.choices for v in found.final] == more.judged
    assert found.best in found.final
    assert name_of(found.best.choices) in {name_of(v.choices) for v in found.verdicts}


def test_verdicts_that_are_no_numbers_are_left_out(space, profiler):
    truth = Truth(profiler, 0)

    def judge(samples: list[dict[str, Any]]) -> list[Verdict]:
        return [v if v.choices["p0"] != "c0" else Verdict(v.choices, math.inf, 0.1, v.cost) for v in truth(samples)]

    found = select(
        "mixture", judge=judge, draw=lambda n, seed: draw_networks(space, profiler, n, BUDGET, seed), profiler=profiler, budget=BUDGET, n=20, seed=0,
    )  # fmt: skip
    assert found.fit.knows
    assert math.isfinite(found.best.log_loss)
    with pytest.raises(ValueError, match="method: 'best'; allowed: raw, ridge, mixture, evolution"):
        selected("best", space, profiler, truth)
    with pytest.raises(ValueError, match="draw: no network"):
        select("raw", judge=judge, draw=lambda n, seed: [], profiler=profiler, budget=BUDGET, n=20, seed=0)


def test_planted_scores_are_recovered(space, profiler):
    """Differences within a label; and the correlation is that of networks which the fit has not seen."""
    truth = Truth(profiler, 1)
    networks = draw_networks(space, profiler, 400, math.inf, seed=1)
    sets = [{**network, "inputs": [i % 3, 3]} for i, network in enumerate(networks)]
    candidates = {**candidates_of(space), "inputs": [[0, 3], (1, 3), (2, 3)]}
    fit = fit_additive(sets[:200], [truth.loss(s) for s in networks[:200]], candidates)
    for label, of in truth.scores.items():
        for choice, score in of.items():
            assert fit.scores[label][choice] - fit.scores[label]["c0"] == pytest.approx(score - of["c0"], abs=0.06)
    assert max(map(abs, fit.scores["inputs"].values())) < 0.02
    assert [fit.predict(s) for s in sets[200:]] == pytest.approx([truth.loss(s) for s in networks[200:]], abs=0.15)
    assert min(fit.correlation, fit.rank_correlation) > 0.99

    noisy = Truth(profiler, 1, error=2.5)
    few = fit_additive(networks[:60], [v.log_loss for v in noisy(networks[:60])], candidates_of(space))
    on_others = np.corrcoef([few.predict(s) for s in networks[60:]], [v.log_loss for v in noisy(networks[60:])])[0, 1]
    assert few.correlation == pytest.approx(on_others, abs=0.25)


def test_where_nothing_is_known_the_fit_says_so(space, profiler):
    """Of 60 judges that draw lots some three pass at 5 %; nine or more with a probability of 0.003 (binomial)."""
    networks, candidates = draw_networks(space, profiler, 32, BUDGET, seed=0), candidates_of(space)
    fits = [fit_additive(networks, np.random.RandomState(seed).normal(size=32), candidates) for seed in range(60)]
    assert sum(fit.knows for fit in fits) < 9
    few = fit_additive(networks[:3], [1.0, 2.0, 3.0], candidates)
    same = fit_additive(networks, [1.0] * 32, candidates)
    assert [(math.isnan(fit.correlation), fit.knows) for fit in (few, same)] == [(True, False)] * 2
    assert (few.predict(networks[9]), same.predict(networks[9])) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("n", "values", "message"),
    [
        (2, [1.0], "values: 1 for 2 networks; allowed: one for each"),
        (0, [], "values: 0 for 0 networks"),
        (2, [1.0, math.inf], "values: inf is among them; allowed: finite numbers"),
        (1, [1.0], r"choices: label 'p5': None; allowed: 'c0', 'c1'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(n, values, message, space):
    networks = [{f"p{i}": "c0" for i in range(LABELS - (n == 1))}] * n
    with pytest.raises(ValueError, match=message):
        fit_additive(networks, values, candidates_of(space))
