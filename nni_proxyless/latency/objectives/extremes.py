"""The fastest and the slowest network of a space, within limits or without: exactly, nested choices included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..profiler import LatencyProfiler
from .limits import COST_SCALE, Limit, bound, choices_of, exceeded, program_of, span, terms, verified

__all__ = ["fastest", "out_of_reach", "slowest"]


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


def _extreme(limits: Sequence[Limit], sign: float) -> dict[str, Any] | None:
    """The cheapest (1) or dearest (-1) architecture by the first profiler, within all limits."""
    choices = choices_of(limits)
    program = program_of(limits, choices)
    first = {label: values[0] for label, values in choices.items()}
    if not program.choices:
        return None if exceeded(limits, first) else first
    if limits[0][0].combine == "max":
        return _extreme_of_maximum(limits, sign, first, choices)
    for limit in limits:
        bound(program, *limit)
    scale = sign * COST_SCALE / (span(limits[0][0]) or 1.0)
    objective = {column: ms * scale for column, ms in program.cost(limits[0][0]).items()}
    return verified(program, objective, limits, first)


def _extreme_of_maximum(
    limits: Sequence[Limit], sign: float, first: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]
) -> dict[str, Any] | None:
    """The same where a network costs what the most expensive of its operations costs."""
    profiler, others = limits[0][0], limits[1:]
    parts = terms(profiler)
    if sign < 0:
        dearest = max(parts, key=lambda term: term[1])
        return {**first, **{label: allowed[0] for label, allowed in dearest[0]}}
    # The least level that some network keeps to, by bisection.
    levels = sorted({max(profiler.fixed_ms, ms) for ms in (0.0, *(ms for _, ms in parts))})
    found = None
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        within = [(profiler, levels[middle]), *others]
        program = program_of(within, choices)
        for limit in within:
            bound(program, *limit)
        sample = verified(program, {}, within, first)
        if sample is None:
            low = middle + 1
        else:
            found, high = sample, middle
    return found


def out_of_reach(limits: Sequence[Limit]) -> str:
    """Why no network is within the limits: which is the fastest that can be reached."""
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
