"""The most probable architecture under a hard budget, exactly: ProxylessNAS' choice per block, made jointly.

    maximize   sum over labels of log p(choice)
    so that    cost(architecture) <= budget, for one cost or several at once

A multiple-choice knapsack, solved by mixed-integer programming (:mod:`.integer_program`). HiGHS keeps to rows and finds the
optimum within absolute tolerances. They are therefore made small against both: rows as :mod:`.limits` says, and the objective so that an
undetected better network would be better by less than 1e-10 in log p. No network that is returned exceeds its budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nni_proxyless.core.errors import did_you_mean

from ..profiler import LatencyProfiler
from . import nearness
from .extremes import fastest, out_of_reach, slowest
from .integer_program import Program
from .limits import COST_SCALE, Limit, as_nni_has_it, bound, choices_of, exceeded, listed, program_of, span, verified

__all__ = ["BudgetError", "best_under_budget", "fastest", "least_under_budget", "log_probability", "slowest"]

OBJECTIVE_SCALE = 1e4  # of log-probabilities
SCORE_SCALE = 1e5  # of all that scores can differ by


class BudgetError(ValueError):
    """No network of the space is within the budget; the message says which could be reached."""


def best_under_budget(
    probs: Mapping[str, Mapping[Any, Any]],
    profiler: LatencyProfiler,
    budget_ms: float,
    *,
    near_ms: float = -math.inf,
    at_least_ms: float = -math.inf,
    also: Sequence[Limit] = (),
) -> dict[str, Any]:
    """The most probable architecture among those that cost at most ``budget_ms``.

    A search that holds a target holds it by a mixture of networks, and what it has learned is about networks near the target.
    Where its choices are not decided, each by itself may favor what is cheap, and the most probable network of all leaves
    much of the target unused. ``near_ms`` asks for one that does not: among all networks of a small space, trained, those
    found so were close to the best, those found without it no better than random ones (``experiments/benchmarks/RESULTS.md``).

    Choices of probability 0 are made only where nothing else is within the budget: then as few as possible, and among
    those networks the product of all other probabilities is largest. Among equals the solver decides, always alike.

    Parameters
    ----------
    probs
        Label -> choice -> probability, numbers or tensors, as a strategy's ``export_probs`` gives them. Not differentiated
        through. Labels that cost nothing, such as those of an ``InputChoice``, get their most probable choice, the first
        among equals; a set of inputs comes as a list, as NNI's samples have it.
    profiler
        What a network costs; nested and shared choices and depths included.
    budget_ms
        In the profiler's unit. Infinite: no limit.
    near_ms
        The target of the search, say: only networks that cost at least 95 % of it, if there are any without a choice of probability 0; and
        one more than 3 % below it has to be more probable in return, by a factor of e for every further per cent (:mod:`.nearness`). A network may
        cost more, up to the budget. Of a cost that is a maximum, which many networks have in common, it asks nothing; nor does one of 0 or less.
    at_least_ms
        Only networks that cost this much, if there are any. Not of a maximum.
    also
        Further (profiler, budget) pairs that hold at once, such as multiply-adds beside milliseconds.

    Returns
    -------
    dict
        Label -> choice, for every label of ``probs``.

    Raises
    ------
    BudgetError
        No network is within the budgets; the message names the fastest that can be reached.
    ValueError
        Labels or choices do not agree, a probability is no number of 0 or more, a budget is no number, ``near_ms`` or
        ``at_least_ms`` is above it, or ``at_least_ms`` of a maximum.
    """
    limits = [(profiler, budget_ms), *also]
    choices = choices_of(limits)
    numbers = _checked_probs(probs, choices)
    _check_below(profiler, budget_ms, near_ms=near_ms, at_least_ms=at_least_ms)
    result = {label: max(ps, key=lambda choice: ps[choice]) for label, ps in numbers.items()}
    fits = not exceeded(limits, result)
    near = near_ms if nearness.applies(profiler, near_ms) else -math.inf
    for least in sorted({at_least_ms, nearness.lower_end_ms(near), -math.inf}, reverse=True):
        if fits and profiler.profile(result) >= max(least, nearness.least_ms(near)):
            return as_nni_has_it(result, choices)
        found = _most_probable(limits, choices, numbers, result, least, near)
        if found is not None:
            return as_nni_has_it(found, choices)
    raise BudgetError(out_of_reach(limits))


def _most_probable(
    limits: Sequence[Limit],
    choices: Mapping[str, Sequence[Any]],
    numbers: Mapping[str, Mapping[Any, float]],
    rest: Mapping[str, Any],
    least: float,
    near: float,
) -> dict[str, Any] | None:
    """The most probable network within the limits, and near; one that costs ``least`` only without choices of probability 0."""
    program, profiler = program_of(limits, choices), limits[0][0]
    if not program.choices:  # all networks cost the same
        return None if exceeded(limits, rest) or profiler.profile(rest) < least else dict(rest)
    costs = {label: numbers[label] for label in program.choices}
    for limit in limits:
        bound(program, *limit)
    objective = {  # a choice of probability 0 is left out of the product: its factor is 1
        program.column[label, choice]: OBJECTIVE_SCALE * (math.log(max(ps.values())) - math.log(p or 1.0))
        for label, ps in costs.items()
        for choice, p in ps.items()
    }
    zeros = {program.column[label, choice]: 1.0 for label, ps in costs.items() for choice, p in ps.items() if p == 0}
    scale = COST_SCALE / (span(profiler) or 1.0)
    if nearness.least_ms(near) > profiler.fixed_ms:  # below it no network is
        objective |= {c: OBJECTIVE_SCALE * w for c, w in nearness.penalized(program, profiler, near, scale).items()}
    _require_at_least(program, profiler, least)
    if least > -math.inf:
        return verified(program, objective, limits, rest, excluded=zeros)
    found = verified(program, objective, limits, rest, excluded=zeros)
    if found is None and zeros:
        fewest = verified(program, zeros, limits, rest)
        if fewest is not None:
            n_zeros = sum(costs[label][fewest[label]] == 0 for label in costs)
            program.require(zeros, 0.0, n_zeros)
            found = verified(program, objective, limits, rest)
    return found


def least_under_budget(
    scores: Mapping[str, Mapping[Any, Any]],
    profiler: LatencyProfiler,
    budget_ms: float,
    *,
    also: Sequence[Limit] = (),
    at_least_ms: float = -math.inf,
) -> dict[str, Any]:
    """The architecture with the least sum of scores among those that cost at most ``budget_ms``, exactly.

    Scores are what each choice adds to a loss, say, as a regression on judged networks has them
    (``nni_proxyless.search.additive_fit``). Among equals the solver decides, always alike.

    Parameters
    ----------
    scores
        Label -> choice -> any finite number. An undetected better network would be better by less than 1e-10 of what the best and the worst
        network differ by. Labels that cost nothing get their least, the first among equals.
    profiler, budget_ms, also, at_least_ms
        As in :func:`best_under_budget`.

    Returns
    -------
    dict
        Label -> choice, for every label of ``scores``.

    Raises
    ------
    BudgetError
        No network is within the budgets; the message names the fastest that can be reached.
    ValueError
        Labels or choices do not agree, a score or a budget is no number, or ``at_least_ms`` is above the budget, or of a maximum.
    """
    limits = [(profiler, budget_ms), *also]
    choices = choices_of(limits)
    numbers = _checked_scores(scores, choices)
    _check_below(profiler, budget_ms, at_least_ms=at_least_ms)
    rest = {label: min(of, key=lambda choice: of[choice]) for label, of in numbers.items()}
    fits = not exceeded(limits, rest)
    for least in dict.fromkeys((at_least_ms, -math.inf)):
        found = rest if fits and profiler.profile(rest) >= least else _least(limits, choices, numbers, rest, least)
        if found is not None:
            return as_nni_has_it(found, choices)
    raise BudgetError(out_of_reach(limits))


def _least(
    limits: Sequence[Limit],
    choices: Mapping[str, Sequence[Any]],
    numbers: Mapping[str, Mapping[Any, float]],
    rest: Mapping[str, Any],
    least_ms: float,
) -> dict[str, Any] | None:
    program = program_of(limits, choices)
    if not program.choices:  # all networks cost the same
        return None
    for limit in limits:
        bound(program, *limit)
    _require_at_least(program, limits[0][0], least_ms)
    above = {
        label: {c: s - min(numbers[label].values()) for c, s in numbers[label].items()} for label in program.choices
    }
    scale = SCORE_SCALE / (sum(max(of.values()) for of in above.values()) or 1.0)
    objective = {program.column[label, c]: scale * s for label, of in above.items() for c, s in of.items()}
    return verified(program, objective, limits, rest)


def _require_at_least(program: Program, profiler: LatencyProfiler, least_ms: float) -> None:
    if least_ms > -math.inf:
        scale = COST_SCALE / (span(profiler) or 1.0)
        expression = {column: ms * scale for column, ms in program.cost(profiler).items()}
        program.require(expression, (least_ms - profiler.fixed_ms) * scale, math.inf)


def log_probability(probs: Mapping[str, Mapping[Any, Any]], sample: Mapping[str, Any]) -> float:
    """Natural logarithm of the probability of an architecture, the product over all labels; ``-inf`` for 0."""
    chosen = [_number(ps[_hashable(sample[label])]) for label, ps in probs.items()]
    return math.fsum(map(math.log, chosen)) if all(chosen) else -math.inf


# -- what came in --------------------------------------------------------------------------------------------------------


def _check_below(profiler: LatencyProfiler, budget_ms: float, **least: float) -> None:
    for name, ms in least.items():
        if not ms <= budget_ms:
            raise ValueError(f"{name} is {ms!r}; allowed: up to the budget, {budget_ms!r} {profiler.unit}")
    if (ms := least["at_least_ms"]) > -math.inf and profiler.combine == "max":
        raise ValueError(f"at_least_ms is {ms!r}; allowed: none, a network costs the largest of its operations")


def _checked_probs(
    probs: Mapping[str, Mapping[Any, Any]], choices: Mapping[str, Sequence[Any]]
) -> dict[str, dict[Any, float]]:
    numbers = {label: {choice: _number(p) for choice, p in ps.items()} for label, ps in probs.items()}
    problems = _wrong_names(numbers, choices, "probability", "probabilities")
    for label, ps in numbers.items():
        problems += [
            f"label {label!r}: the probability of {choice!r} is {p}; allowed: 0 to 1"
            for choice, p in ps.items()
            if not 0 <= p <= 1 + 1e-6  # a softmax in float32 sums to 1 up to rounding
        ]
        if not any(ps.values()):
            problems.append(f"label {label!r}: no choice has a probability above 0")
    if problems:
        raise ValueError("probs: " + "; ".join(problems))
    return numbers


def _checked_scores(
    scores: Mapping[str, Mapping[Any, Any]], choices: Mapping[str, Sequence[Any]]
) -> dict[str, dict[Any, float]]:
    numbers = {label: {choice: _number(score) for choice, score in of.items()} for label, of in scores.items()}
    problems = _wrong_names(numbers, choices, "score", "scores")
    problems += [
        f"label {label!r}: the score of {choice!r} is {score}; allowed: a finite number"
        for label, of in numbers.items()
        for choice, score in of.items()
        if not math.isfinite(score)
    ]
    problems += [f"label {label!r}: no choice has a score" for label, of in numbers.items() if not of]
    if problems:
        raise ValueError("scores: " + "; ".join(problems))
    return numbers


def _wrong_names(
    numbers: Mapping[str, Mapping[Any, float]], choices: Mapping[str, Sequence[Any]], one: str, several: str
) -> list[str]:
    """Labels and choices that are unknown, or have no number."""
    problems = [
        f"no {several} for label {label!r}.{did_you_mean(label, set(numbers) - set(choices))}"
        for label in choices
        if label not in numbers
    ]
    for label, of in numbers.items():
        allowed = choices.get(label, tuple(of))
        for choice in of:
            if choice not in allowed:
                near = did_you_mean(choice, allowed)
                problems.append(f"label {label!r}: unknown choice {choice!r}; allowed: {listed(allowed)}.{near}")
        problems += [f"label {label!r}: no {one} for choice {choice!r}" for choice in allowed if choice not in of]
    return problems


def _number(p: Any) -> float:
    return float(p.detach() if hasattr(p, "detach") else p)


def _hashable(choice: Any) -> Any:
    return tuple(choice) if isinstance(choice, list) else choice
