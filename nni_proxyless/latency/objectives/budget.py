"""The most probable architecture under a hard budget, exactly: ProxylessNAS' choice per block, made jointly.

    maximize   sum over labels of log p(choice)
    so that    cost(architecture) <= budget, for one cost or several at once

A multiple-choice knapsack, solved by mixed-integer programming (:mod:`.integer_program`). HiGHS keeps to rows and finds the
optimum within absolute tolerances. They are therefore made small against both: rows are scaled to a sum of 1e5, which a
tolerance of 1e-6 can blur by one part in 1e11 only, and the objective so that an undetected better network would be better
by less than 1e-10 in log p. The row itself is a little wider than the budget, by what rounding can do, so that a network
exactly at the budget is not lost; each solution is checked with ``profiler.profile(sample) <= budget``, and what slipped
through is forbidden and the rest solved again. No network that is returned exceeds its budget. Should a hundred better
ones exceed it by less than HiGHS can see (one part in 1e11), those that come as close to it from below are given up too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nni_proxyless.core.errors import did_you_mean

from ..operation import Conditions
from ..profiler import LatencyProfiler
from . import nearness
from .integer_program import Expression, Program

__all__ = ["BudgetError", "best_under_budget", "fastest", "log_probability", "slowest"]

_logger = logging.getLogger(__name__)

Limit = tuple[LatencyProfiler, float]

COST_SCALE = 1e5
OBJECTIVE_SCALE = 1e4
MARGIN = 2e-6  # of a scaled row: HiGHS' tolerance, with room
MOST_FORBIDDEN = 100
EPSILON = 2.0**-52


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
        The target of the search, say: a network more than 3 % below it has to be more probable in return, by a factor of e for
        every further per cent (:mod:`.nearness`). It may cost more, up to the budget. Of a cost that is a maximum, which many networks have in
        common, it asks nothing; nor does one of 0 or less.
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
    choices = _choices(limits)
    numbers = _checked_probs(probs, choices)
    for name, ms in (("near_ms", near_ms), ("at_least_ms", at_least_ms)):
        if not ms <= budget_ms:
            raise ValueError(f"{name} is {ms!r}; allowed: up to the budget, {budget_ms!r} {profiler.unit}")
    if at_least_ms > -math.inf and profiler.combine == "max":
        raise ValueError(
            f"at_least_ms is {at_least_ms!r}; allowed: none, a network costs the largest of its operations"
        )
    result = {label: max(ps, key=lambda choice: ps[choice]) for label, ps in numbers.items()}
    fits = not _exceeded(limits, result)
    near = near_ms if nearness.applies(profiler, near_ms) else -math.inf
    for least in dict.fromkeys((at_least_ms, -math.inf)):
        if fits and profiler.profile(result) >= max(least, nearness.least_ms(near)):
            return _as_nni_has_it(result, choices)
        found = _most_probable(limits, choices, numbers, result, least, near)
        if found is not None:
            return _as_nni_has_it(found, choices)
    raise BudgetError(_out_of_reach(limits))


def _most_probable(
    limits: Sequence[Limit],
    choices: Mapping[str, Sequence[Any]],
    numbers: Mapping[str, Mapping[Any, float]],
    rest: Mapping[str, Any],
    least: float,
    near: float,
) -> dict[str, Any] | None:
    """The most probable network within the limits, and near; one that costs ``least`` only without choices of probability 0."""
    program, profiler = _program(limits, choices), limits[0][0]
    if not program.choices:  # all networks cost the same
        return None if _exceeded(limits, rest) or profiler.profile(rest) < least else dict(rest)
    costs = {label: numbers[label] for label in program.choices}
    for limit in limits:
        _limit(program, *limit)
    objective = {  # a choice of probability 0 is left out of the product: its factor is 1
        program.column[label, choice]: OBJECTIVE_SCALE * (math.log(max(ps.values())) - math.log(p or 1.0))
        for label, ps in costs.items()
        for choice, p in ps.items()
    }
    zeros = {program.column[label, choice]: 1.0 for label, ps in costs.items() for choice, p in ps.items() if p == 0}
    scale = COST_SCALE / (_span(profiler) or 1.0)
    if nearness.least_ms(near) > profiler.fixed_ms:  # below it no network is
        objective |= {c: OBJECTIVE_SCALE * w for c, w in nearness.penalized(program, profiler, near, scale).items()}
    if least > -math.inf:
        expression = {column: ms * scale for column, ms in program.cost(profiler).items()}
        program.require(expression, (least - profiler.fixed_ms) * scale, math.inf)
        return _verified(program, objective, limits, rest, excluded=zeros)
    found = _verified(program, objective, limits, rest, excluded=zeros)
    if found is None and zeros:
        fewest = _verified(program, zeros, limits, rest)
        if fewest is not None:
            n_zeros = sum(costs[label][fewest[label]] == 0 for label in costs)
            program.require(zeros, 0.0, n_zeros)
            found = _verified(program, objective, limits, rest)
    return found


def fastest(profiler: LatencyProfiler) -> tuple[dict[str, Any], float]:
    """The network that costs least, and what it costs; nested choices included.

    Returns
    -------
    tuple
        Label -> choice for every label that the profiler knows, the first choice where all cost the same; and
        ``profiler.profile`` of it, in the profiler's unit, to one part in 1e11 the least of all.
    """
    sample = _extreme([(profiler, math.inf)], 1.0)
    assert sample is not None
    return sample, float(profiler.profile(sample))


def slowest(profiler: LatencyProfiler) -> tuple[dict[str, Any], float]:
    """The network that costs most, and what it costs; as :func:`fastest`."""
    sample = _extreme([(profiler, math.inf)], -1.0)
    assert sample is not None
    return sample, float(profiler.profile(sample))


def log_probability(probs: Mapping[str, Mapping[Any, Any]], sample: Mapping[str, Any]) -> float:
    """Natural logarithm of the probability of an architecture, the product over all labels; ``-inf`` for 0."""
    chosen = [_number(ps[_hashable(sample[label])]) for label, ps in probs.items()]
    return math.fsum(map(math.log, chosen)) if all(chosen) else -math.inf


# -- the program ---------------------------------------------------------------------------------------------------------


def _program(limits: Sequence[Limit], choices: Mapping[str, Sequence[Any]]) -> Program:
    """Of the labels that make a difference to a cost."""
    costly = {
        label for profiler, _ in limits for label, costs in profiler.candidate_ms.items() if any(costs.values())
    } | {label for profiler, _ in limits for conditions in profiler.nested_ms for label, _ in conditions}
    return Program({label: values for label, values in choices.items() if label in costly})


def _limit(program: Program, profiler: LatencyProfiler, budget: float, *, clear: bool = False) -> None:
    """Bound a cost by a row that no network within the budget can break; ``clear``: one that only they keep to."""
    if math.isinf(budget):
        return
    if profiler.combine == "max":  # no sum, no tolerance: whatever costs more by itself is out
        for conditions, ms in _terms(profiler):
            if ms > max(budget, 0):
                program.require(program.product(conditions), -math.inf, 0.0)
        if profiler.fixed_ms > budget:
            program.require({}, 1.0, 1.0)
        return
    scale = COST_SCALE / (_span(profiler) or 1.0)
    expression = {column: ms * scale for column, ms in program.cost(profiler).items()}
    bound, margin = (budget, -MARGIN) if clear else (_widened(profiler, budget), MARGIN)
    program.require(expression, -math.inf, (bound - profiler.fixed_ms) * scale + margin)


def _terms(profiler: LatencyProfiler) -> list[tuple[Conditions, float]]:
    """The terms that depend on choices: conditions and cost."""
    alone = [(((lb, (c,)),), ms) for lb, costs in profiler.candidate_ms.items() for c, ms in costs.items() if ms > 0]
    return alone + list(profiler.nested_ms.items())


def _span(profiler: LatencyProfiler) -> float:
    """An upper bound on the cost of the slowest network, without the fixed part."""
    return sum(max(costs.values()) for costs in profiler.candidate_ms.values()) + sum(profiler.nested_ms.values())


def _widened(profiler: LatencyProfiler, budget: float) -> float:
    """A bound that no network with ``profile(sample) <= budget`` exceeds, and as few others as can be.

    Rows of a table are decimals, and sums of decimals lie on a grid: with luck thousands of networks cost the same to the
    last digit, and one digit less than that as a budget would let HiGHS propose all of them in turn. Halfway between two
    points of the grid there is nothing to be confused.
    """
    n_terms = len(profiler.candidate_ms) + len(profiler.nested_ms) + 1
    rounding = (n_terms + 1) * EPSILON * (abs(profiler.fixed_ms) + _span(profiler))
    for digits in range(10):
        off_grid = (
            abs(profiler.fixed_ms - round(profiler.fixed_ms, digits))
            + sum(max(abs(ms - round(ms, digits)) for ms in costs.values()) for costs in profiler.candidate_ms.values())
            + sum(abs(ms - round(ms, digits)) for ms in profiler.nested_ms.values())
        )
        # Sums of whole numbers are exact.
        error, grid = (off_grid + rounding if digits or off_grid else 0.0), 10.0**-digits
        if off_grid <= 2 * rounding and error < grid / 4:
            steps = (budget + error) / grid * (1 + 4 * EPSILON if error else 1)
            return (math.floor(steps) + 0.5) * grid
    return budget + rounding


def _verified(
    program: Program,
    objective: Expression,
    limits: Sequence[Limit],
    rest: Mapping[str, Any],
    excluded: Mapping[int, float] | None = None,
) -> dict[str, Any] | None:
    """The best architecture that really is within all limits; those that only HiGHS' tolerances let through are forbidden."""
    n_forbidden = 0
    while (sample := program.minimize(objective, excluded or {})) is not None:
        whole = {**rest, **sample}
        if not _exceeded(limits, whole):
            return whole
        program.forbid(sample)
        n_forbidden += 1
        if n_forbidden == MOST_FORBIDDEN:
            _logger.warning(
                "budget: %d networks exceed it by less than one part in 1e11; looking on below that", n_forbidden
            )
            for profiler, budget in limits:
                _limit(program, profiler, budget, clear=True)
    return None


def _exceeded(limits: Sequence[Limit], sample: Mapping[str, Any]) -> bool:
    return not all(profiler.profile(sample) <= budget for profiler, budget in limits)


def _extreme(limits: Sequence[Limit], sign: float) -> dict[str, Any] | None:
    """The cheapest (1) or dearest (-1) architecture by the first profiler, within all limits."""
    choices = _choices(limits)
    program = _program(limits, choices)
    first = {label: values[0] for label, values in choices.items()}
    if not program.choices:
        return None if _exceeded(limits, first) else first
    if limits[0][0].combine == "max":
        return _extreme_of_maximum(limits, sign, first, choices)
    for limit in limits:
        _limit(program, *limit)
    scale = sign * COST_SCALE / (_span(limits[0][0]) or 1.0)
    objective = {column: ms * scale for column, ms in program.cost(limits[0][0]).items()}
    return _verified(program, objective, limits, first)


def _extreme_of_maximum(
    limits: Sequence[Limit], sign: float, first: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]
) -> dict[str, Any] | None:
    """The same where a network costs what the most expensive of its operations costs."""
    profiler, others = limits[0][0], limits[1:]
    terms = _terms(profiler)
    if sign < 0:
        dearest = max(terms, key=lambda term: term[1])
        return {**first, **{label: allowed[0] for label, allowed in dearest[0]}}
    # The least level that some network keeps to, by bisection.
    levels = sorted({max(profiler.fixed_ms, ms) for ms in (0.0, *(ms for _, ms in terms))})
    found = None
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        within = [(profiler, levels[middle]), *others]
        program = _program(within, choices)
        for limit in within:
            _limit(program, *limit)
        sample = _verified(program, {}, within, first)
        if sample is None:
            low = middle + 1
        else:
            found, high = sample, middle
    return found


def _out_of_reach(limits: Sequence[Limit]) -> str:
    least = [fastest(profiler)[1] for profiler, _ in limits]
    alone = [
        f"budget {budget:.9g} {profiler.unit}: the fastest network that can be reached has {ms:.9g} {profiler.unit}"
        for (profiler, budget), ms in zip(limits, least, strict=True)
        if ms > budget
    ]
    if alone or len(limits) == 1:
        return "; ".join(alone) or f"budget {limits[0][1]!r} {limits[0][0].unit}: out of reach"
    together = _extreme([(limits[0][0], math.inf), *limits[1:]], 1.0)
    budgets = " and ".join(f"{budget:.9g} {profiler.unit}" for profiler, budget in limits)
    others = " and ".join(f"{budget:.9g} {profiler.unit}" for profiler, budget in limits[1:])
    if together is None:
        return f"budgets {budgets}: no network is within {others}, though each budget alone can be met"
    ms, unit = float(limits[0][0].profile(together)), limits[0][0].unit
    return f"budgets {budgets}: the fastest network that can be reached within {others} has {ms:.9g} {unit}"


# -- what came in --------------------------------------------------------------------------------------------------------


def _choices(limits: Sequence[Limit]) -> dict[str, tuple[Any, ...]]:
    """Label -> choices, of all profilers, by label."""
    choices: dict[str, tuple[Any, ...]] = {}
    for i, (profiler, budget) in enumerate(limits):
        where = "budget_ms" if i == 0 else f"also[{i - 1}]"
        if not isinstance(profiler, LatencyProfiler):
            raise TypeError(f"{where}: the profiler is a {type(profiler).__name__}; allowed: a LatencyProfiler")
        if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not budget > -math.inf:
            raise ValueError(f"{where} is {budget!r}; allowed: a number, in {profiler.unit}")
        for label, costs in sorted(profiler.candidate_ms.items()):
            if set(choices.setdefault(label, tuple(costs))) != set(costs):
                raise ValueError(
                    f"{where}: label {label!r} has the choices {_listed(costs)} there, {_listed(choices[label])} in the first "
                    "profiler; allowed: profilers of one space"
                )
    return choices


def _checked_probs(
    probs: Mapping[str, Mapping[Any, Any]], choices: Mapping[str, Sequence[Any]]
) -> dict[str, dict[Any, float]]:
    problems = []
    numbers = {label: {choice: _number(p) for choice, p in ps.items()} for label, ps in probs.items()}
    for label in choices:
        if label not in probs:
            problems.append(f"no probabilities for label {label!r}.{did_you_mean(label, set(probs) - set(choices))}")
    for label, ps in numbers.items():
        allowed = choices.get(label, tuple(ps))
        for choice in ps:
            if choice not in allowed:
                near = did_you_mean(choice, allowed)
                problems.append(f"label {label!r}: unknown choice {choice!r}; allowed: {_listed(allowed)}.{near}")
        problems += [f"label {label!r}: no probability for choice {choice!r}" for choice in allowed if choice not in ps]
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


def _number(p: Any) -> float:
    return float(p.detach() if hasattr(p, "detach") else p)


def _listed(names: Any) -> str:
    return ", ".join(str(name) for name in names)


def _hashable(choice: Any) -> Any:
    return tuple(choice) if isinstance(choice, list) else choice


def _as_nni_has_it(sample: Mapping[str, Any], values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A tuple is a set of inputs, a list for NNI, unless it is one of the values of its label."""
    return {
        label: list(choice) if isinstance(choice, tuple) and label not in values else choice
        for label, choice in sample.items()
    }
