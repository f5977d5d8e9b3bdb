"""Select a network by verdicts: of networks drawn uniformly within a budget, by one of four methods.

===============  ======================================================================================================
``raw``          of n drawn networks the one with the least log-loss
``ridge``        what each choice adds to the log-loss is fitted to n drawn networks, and the solver finds the network
                 of the least sum within all limits, among all there are
``mixture``      each of n drawn networks by the mean of verdict and fit, and by what else is known of its choices
                 (:mod:`.witnesses`); the best few and the solver's network are judged on more images, the best is taken
``evolution``    half of n are drawn, the others are children of the best, by exchange and mutation, in four generations
===============  ======================================================================================================

The mean in ``mixture`` is a shrunk verdict: a ridge regression that finds nothing predicts the same of all, and leaves the verdict alone; one
that explains much corrects what is noise in it. What judges is handed over: a supernet (:mod:`.judging`), or a table of trained networks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nni.nas.nn.pytorch import ModelSpace

from ..latency import LatencyProfiler, least_under_budget
from ..latency.choices import as_key
from ..latency.objectives.limits import Limit
from .additive_fit import AdditiveFit, fit_additive
from .judging import Verdict
from .witnesses import Scores, Witness, hear

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Draw",
    "Judge",
    "Judging",
    "Sample",
    "Selection",
    "candidates_of",
    "name_of",
    "select",
]

Sample = dict[str, Any]
Judge = Callable[[list[Sample]], list[Verdict]]
"""Verdicts on networks, in their order."""
Draw = Callable[[int, int], list[Sample]]
"""Up to n different networks within the limits, each as likely as the others: ``draw(n, seed)``."""

FINALISTS = 5  # that are judged on more images, the solver's among them
GENERATIONS = 4
PARENTS = 10
TRIES = 200  # for a child within the limits


@dataclass(frozen=True)
class Selection:
    """The network that was selected, and those that come after it.

    Attributes
    ----------
    ranked
        Networks with their last verdicts, the best by the method first.
    verdicts
        All networks that were judged, on as many images each, the least log-loss first; the selected one is among them.
    final
        The verdicts that decided, where not all did: on more images, if there are more.
    fit
        To those of ``verdicts`` that were drawn; its correlation says whether the judge knows anything.
    method
        By which it was selected.
    witnesses
        What else was asked, in ``mixture``, by name.
    """

    ranked: list[Verdict]
    verdicts: list[Verdict]
    final: list[Verdict]
    fit: AdditiveFit
    method: str
    witnesses: dict[str, Witness]

    @property
    def best(self) -> Verdict:
        """The last verdict on the network that was selected."""
        return self.ranked[0]


@dataclass(kw_only=True)
class Judging:
    """What is judged so far, and what a method may ask for; all but the last five as :func:`select` takes it."""

    judge: Judge
    draw: Draw
    candidates: Mapping[str, Sequence[Any]]
    limits: Sequence[Limit]
    n: int
    seed: int
    judge_again: Judge | None = None
    at_least: float = -math.inf
    first: Sequence[Sample] = ()
    known: Mapping[str, Scores] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict, init=False)
    final: list[Verdict] = field(default_factory=list, init=False)
    fit: AdditiveFit | None = field(default=None, init=False)
    witnesses: dict[str, Witness] = field(default_factory=dict, init=False)
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    @property
    def left(self) -> int:
        """How many networks may still be judged."""
        return max(0, self.n - len(self.verdicts))

    def drawn(self, n: int) -> list[Sample]:
        different = {name_of(sample): dict(sample) for sample in (*self.first, *self.draw(n, self.seed))}
        if not different:
            raise ValueError("draw: no network; allowed: at least one")
        return list(different.values())[:n]

    def look_at(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Judge those that were not judged yet, each once; the verdicts on all of them."""
        new = {name_of(sample): sample for sample in samples if name_of(sample) not in self.verdicts}
        self.verdicts |= zip(new, self.judge(list(new.values())), strict=True)
        return [self.verdicts[name_of(sample)] for sample in samples]

    def learn(self) -> AdditiveFit:
        """Fit all verdicts so far that are numbers."""
        sound = [verdict for verdict in self.verdicts.values() if math.isfinite(verdict.log_loss)]
        if sound:
            values = [verdict.log_loss for verdict in sound]
        else:
            sound, values = list(self.verdicts.values()), [0.0] * len(self.verdicts)
        self.fit = fit_additive([verdict.choices for verdict in sound], values, self.candidates)
        return self.fit

    def smoothed(self, verdicts: Sequence[Verdict]) -> Callable[[Verdict], float]:
        """The loss of a network: the mean of its verdict and the fit, and what else is known, as far as that agrees with these verdicts."""
        fit = self.learn() if self.fit is None else self.fit

        def mean(verdict: Verdict) -> float:
            return (verdict.log_loss + fit.predict(verdict.choices)) / 2

        samples, means = [verdict.choices for verdict in verdicts], list(map(mean, verdicts))
        self.witnesses = {name: hear(of, samples, means, self.candidates) for name, of in self.known.items()}
        return lambda verdict: mean(verdict) + sum(w.loss(verdict.choices) for w in self.witnesses.values())

    def solved(self, budget: float | None = None) -> Sample:
        """The network of the least sum of scores within all limits; of the first limit within another budget, where one is given."""
        assert self.fit is not None
        (profiler, limit), *also = self.limits
        budget = limit if budget is None else budget
        scores: Scores = self.fit.scores
        for witness in self.witnesses.values():
            scores = witness.added_to(scores)
        return least_under_budget(scores, profiler, budget, also=also, at_least_ms=self.at_least)

    def within(self, sample: Sample) -> bool:
        (profiler, _), *_ = self.limits
        return profiler.profile(sample) >= self.at_least and all(
            cost.profile(sample) <= most for cost, most in self.limits
        )


# -- the methods: each gives networks with their last verdicts, the best first ----------------------------------------------


def _raw(judging: Judging) -> list[Verdict]:
    return sorted(judging.look_at(judging.drawn(judging.n)), key=_loss)


def _ridge(judging: Judging) -> list[Verdict]:
    drawn = judging.look_at(judging.drawn(judging.n))
    fit = judging.learn()
    solved = judging.look_at([judging.solved()])
    return _different([*solved, *sorted(drawn, key=lambda verdict: fit.predict(verdict.choices))])


def _mixture(judging: Judging) -> list[Verdict]:
    drawn = judging.look_at(judging.drawn(judging.n))
    judging.learn()
    loss = judging.smoothed(drawn)
    few = sorted(drawn, key=loss)
    finalists = _different([*few[: FINALISTS - 1], *judging.look_at([judging.solved()])])
    again = [verdict.choices for verdict in finalists]
    judging.final = judging.judge_again(again) if judging.judge_again else finalists
    return _different([*sorted(judging.final, key=loss), *few])


def _evolution(judging: Judging) -> list[Verdict]:
    judging.look_at(judging.drawn(max(2, judging.n // 2)))
    judging.learn()  # of these alone: of children the fit would be about what the best have in common
    generation = max(1, (judging.n - len(judging.verdicts)) // GENERATIONS)
    while (left := judging.n - len(judging.verdicts)) > 0:
        parents = sorted(judging.verdicts.values(), key=_loss)[:PARENTS]
        children = _children(judging, [parent.choices for parent in parents], min(generation, left))
        if not children:  # all that can be had from these are known
            break
        judging.look_at(children)
    return sorted(judging.verdicts.values(), key=_loss)


METHODS: dict[str, Callable[[Judging], list[Verdict]]] = {
    "raw": _raw, "ridge": _ridge, "mixture": _mixture, "evolution": _evolution,
}  # fmt: skip
DEFAULT_METHOD = "mixture"


def select(
    method: str,
    *,
    judge: Judge,
    draw: Draw,
    profiler: LatencyProfiler,
    budget: float,
    n: int,
    seed: int,
    candidates: Mapping[str, Sequence[Any]] | None = None,
    also: Sequence[Limit] = (),
    at_least: float = -math.inf,
    judge_again: Judge | None = None,
    first: Sequence[Sample] = (),
    known: Mapping[str, Scores] | None = None,
) -> Selection:
    """Select a network within limits.

    Parameters
    ----------
    method
        One of :data:`METHODS`.
    judge
        Gives verdicts. Each network comes once.
    draw
        Gives the networks to begin with, within the limits below.
    profiler, budget, also
        What a network may cost at most: by ``profiler``, and by further (profiler, budget) pairs.
    n
        How many networks are judged, but for the one of the solver.
    seed
        Of the draw, and of evolution.
    candidates
        Label -> all that may be chosen; None: those that the profiler knows of.
    at_least
        What the network of the solver, and children of others, cost at least, if there is such a network; as the drawn ones, about which the
        fit knows.
    judge_again
        Gives verdicts by more images, for the last few of ``mixture``; None: there are no more.
    first
        Networks that are judged among the n, drawn or not; within the limits too.
    known
        What else is known of the choices, for ``mixture``: name -> scores, as :mod:`.witnesses` has them; None: nothing.

    Raises
    ------
    ValueError
        The method is unknown, or nothing was drawn.
    BudgetError
        No network is within the limits.
    """
    if method not in METHODS:
        raise ValueError(f"method: {method!r}; allowed: {', '.join(METHODS)}")
    candidates = (
        {label: tuple(costs) for label, costs in profiler.candidate_ms.items()} if candidates is None else candidates
    )
    at_least = -math.inf if profiler.combine == "max" else min(at_least, budget)
    judging = Judging(
        judge=judge, draw=draw, candidates=candidates, limits=[(profiler, budget), *also], n=n, seed=seed, judge_again=judge_again,
        at_least=at_least, first=first, known=known or {},
    )  # fmt: skip
    ranked = METHODS[method](judging)
    fit = judging.fit or judging.learn()
    return Selection(
        ranked, sorted(judging.verdicts.values(), key=_loss), judging.final, fit, method, judging.witnesses
    )


def candidates_of(space: ModelSpace) -> dict[str, tuple[Any, ...]]:
    """Label -> all that may be chosen; a set of inputs as a tuple."""
    return {str(label): tuple(dict.fromkeys(map(as_key, m.grid()))) for label, m in space.simplify().items()}


def name_of(sample: Mapping[str, Any]) -> str:
    """The same for the same choices, in whatever order."""
    return repr(sorted(sample.items()))


def _loss(verdict: Verdict) -> float:
    return verdict.log_loss


def _different(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """One of each network, the first."""
    found: dict[str, Verdict] = {}
    for verdict in verdicts:
        found.setdefault(name_of(verdict.choices), verdict)
    return list(found.values())


def _children(judging: Judging, parents: Sequence[Sample], n: int) -> list[Sample]:
    """Up to n new networks within the limits, half of them of two parents, half of one with some choices anew."""
    found: dict[str, Sample] = {}
    for _ in range(TRIES * n):
        if len(found) == n:
            break
        child = (_crossed if judging.chance.random() < 0.5 else _mutated)(judging, parents)
        name = name_of(child)
        if name not in judging.verdicts and name not in found and judging.within(child):
            found[name] = child
    return list(found.values())


def _crossed(judging: Judging, parents: Sequence[Sample]) -> Sample:
    one, other = judging.chance.choice(parents), judging.chance.choice(parents)
    return {label: (one if judging.chance.random() < 0.5 else other)[label] for label in one}


def _mutated(judging: Judging, parents: Sequence[Sample]) -> Sample:
    child = dict(judging.chance.choice(parents))
    for label in judging.chance.sample(sorted(child), judging.chance.randint(1, min(3, len(child)))):
        chosen = judging.chance.choice(list(judging.candidates[label]))
        child[label] = list(chosen) if isinstance(child[label], list) else chosen
    return child
