"""Networks within hard limits on their costs: rows of an integer program that no network within them breaks, and none above passes.

HiGHS keeps to rows within absolute tolerances. Rows are therefore scaled to a sum of 1e5, which a tolerance of 1e-6 can blur by one part
in 1e11 only. A row is a little wider than its limit, by what rounding can do, so that a network exactly at the limit is not lost; each
solution is checked with ``profiler.profile(sample) <= budget``, and what slipped through is forbidden and the rest solved again. Should a
hundred better ones exceed a limit by less than HiGHS can see (one part in 1e11), those that come as close to it from below are given up too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..choices import as_nni_has_it as in_sample
from ..operation import Conditions
from ..profiler import LatencyProfiler
from .integer_program import Expression, Program

__all__ = [
    "COST_SCALE",
    "Limit",
    "as_nni_has_it",
    "bound",
    "choices_of",
    "exceeded",
    "listed",
    "program_of",
    "span",
    "terms",
    "verified",
]

_logger = logging.getLogger(__name__)

Limit = tuple[LatencyProfiler, float]
"""A cost, and what a network may cost at most."""

COST_SCALE = 1e5
MARGIN = 2e-6  # of a scaled row: HiGHS' tolerance, with room
MOST_FORBIDDEN = 100
EPSILON = 2.0**-52


def choices_of(limits: Sequence[Limit]) -> dict[str, tuple[Any, ...]]:
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
                    f"{where}: label {label!r} has the choices {listed(costs)} there, {listed(choices[label])} in the first "
                    "profiler; allowed: profilers of one space"
                )
    return choices


def program_of(limits: Sequence[Limit], choices: Mapping[str, Sequence[Any]]) -> Program:
    """Of the labels that make a difference to a cost."""
    costly = {
        label for profiler, _ in limits for label, costs in profiler.candidate_ms.items() if any(costs.values())
    } | {label for profiler, _ in limits for conditions in profiler.nested_ms for label, _ in conditions}
    return Program({label: values for label, values in choices.items() if label in costly})


def bound(program: Program, profiler: LatencyProfiler, budget: float, *, clear: bool = False) -> None:
    """Bound a cost by a row that no network within the budget can break; ``clear``: one that only they keep to."""
    if math.isinf(budget):
        return
    if profiler.combine == "max":  # no sum, no tolerance: whatever costs more by itself is out
        for conditions, ms in terms(profiler):
            if ms > max(budget, 0):
                program.require(program.product(conditions), -math.inf, 0.0)
        if profiler.fixed_ms > budget:
            program.require({}, 1.0, 1.0)
        return
    scale = COST_SCALE / (span(profiler) or 1.0)
    expression = {column: ms * scale for column, ms in program.cost(profiler).items()}
    most, margin = (budget, -MARGIN) if clear else (widened(profiler, budget), MARGIN)
    program.require(expression, -math.inf, (most - profiler.fixed_ms) * scale + margin)


def terms(profiler: LatencyProfiler) -> list[tuple[Conditions, float]]:
    """The terms that depend on choices: conditions and cost."""
    alone = [(((lb, (c,)),), ms) for lb, costs in profiler.candidate_ms.items() for c, ms in costs.items() if ms > 0]
    return alone + list(profiler.nested_ms.items())


def span(profiler: LatencyProfiler) -> float:
    """An upper bound on the cost of the slowest network, without the fixed part."""
    return sum(max(costs.values()) for costs in profiler.candidate_ms.values()) + sum(profiler.nested_ms.values())


def widened(profiler: LatencyProfiler, budget: float) -> float:
    """A bound that no network with ``profile(sample) <= budget`` exceeds, and as few others as can be.

    Rows of a table are decimals, and sums of decimals lie on a grid: with luck thousands of networks cost the same to the
    last digit, and one digit less than that as a budget would let HiGHS propose all of them in turn. Halfway between two
    points of the grid there is nothing to be confused.
    """
    n_terms = len(profiler.candidate_ms) + len(profiler.nested_ms) + 1
    rounding = (n_terms + 1) * EPSILON * (abs(profiler.fixed_ms) + span(profiler))
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


def verified(
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
        if not exceeded(limits, whole):
            return whole
        program.forbid(sample)
        n_forbidden += 1
        if n_forbidden == MOST_FORBIDDEN:
            _logger.warning(
                "budget: %d networks exceed it by less than one part in 1e11; looking on below that", n_forbidden
            )
            for profiler, budget in limits:
                bound(program, profiler, budget, clear=True)
    return None


def exceeded(limits: Sequence[Limit], sample: Mapping[str, Any]) -> bool:
    """Whether a network costs more than it may."""
    return not all(profiler.profile(sample) <= budget for profiler, budget in limits)


def listed(names: Any) -> str:
    """Names for a message."""
    return ", ".join(str(name) for name in names)


def as_nni_has_it(sample: Mapping[str, Any], values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A tuple is a set of inputs, a list for NNI, unless it is one of the values of its label."""
    return {
        label: list(choice) if isinstance(choice, tuple) and label not in values else in_sample(choice)
        for label, choice in sample.items()
    }
