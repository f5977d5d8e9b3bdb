"""Trade the probability of a network against its distance from the target, smoothly.

    maximize   log p(network) - gap(network) / SCALE,     gap = max(0, 1 - BAND - cost / near_ms)

This is the maximum a posteriori: what a search has learned is the prior, and that a network is one of those at the target, which the
search is about, has a likelihood that is flat within ``BAND`` below it and falls exponentially from there. Three per cent is by how
much a table errs about a network at worst (1.2 % on average, 3.3 % at worst, ``experiments/benchmarks/latency_truth/README.md``), so within that
probability alone decides. ``SCALE`` is the one exchange rate: each further per cent, about the table's mean error, weighs as
much as a factor of e in probability.

    undecided    a choice of 0.6 against 0.4 is given up for 0.4 % of the target, so the network is as near as networks come
    decided      one of 0.999 against 0.001 for no less than 7 %, so a search that has decided keeps what it has decided for

The gap is convex in the choices, so it costs the integer program one column and one row, and the optimum stays exact. Without the
band, choices that are undecided would have to be added up to the last digit of the target, which takes ten times as long.

The exchange has an end: where networks that some probability is left for cost at least ``1 - MOST_UNUSED`` of the target, the others are no
answer to who asked for it. So a decided choice is given up for nearness only where nothing else brings the network to within 5 % of the target.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .integer_program import Expression, Program

if TYPE_CHECKING:
    from ..profiler import LatencyProfiler

__all__ = ["BAND", "MOST_UNUSED", "SCALE", "applies", "gap", "least_ms", "log_likelihood", "lower_end_ms", "penalized"]

BAND = 0.03  # a share of the target
SCALE = 0.01  # share of the target that weighs as much as one unit of log-probability
MOST_UNUSED = 0.05  # share of the target, where there are networks that leave no more


def applies(profiler: LatencyProfiler, near_ms: float) -> bool:
    """Whether there is anything to be near to. A maximum many networks have in common, so that of one asks nothing."""
    return profiler.combine != "max" and 0 < near_ms < math.inf


def least_ms(near_ms: float) -> float:
    """What a network at the target costs at least."""
    return near_ms * (1 - BAND)


def lower_end_ms(near_ms: float) -> float:
    """What a network costs at least where there are such networks."""
    return near_ms * (1 - MOST_UNUSED)


def gap(cost_ms: float, near_ms: float) -> float:
    """How much less than :func:`least_ms` a network costs, as a share of ``near_ms``; 0 for one that costs as much, or more."""
    return max(0.0, (least_ms(near_ms) - cost_ms) / near_ms)


def log_likelihood(profiler: LatencyProfiler, cost_ms: float, near_ms: float) -> float:
    """Of a network that costs so much being at the target; 0 where nothing is asked."""
    return -gap(cost_ms, near_ms) / SCALE if applies(profiler, near_ms) else 0.0


def penalized(program: Program, profiler: LatencyProfiler, near_ms: float, scale: float) -> Expression:
    """Minus the log-likelihood as a linear expression, which holds where it is minimized.

    Parameters
    ----------
    scale
        From the profiler's unit to that of the program's rows. The new column is in the latter, so that what HiGHS may be off
        in a row or a bound (1e-6) is 1e-11 of the costs, and 1e-9 in terms of log-probability.
    """
    short = program.slack()
    row = {column: ms * scale for column, ms in program.cost(profiler).items()}
    program.require({**row, short: 1.0}, (least_ms(near_ms) - profiler.fixed_ms) * scale, math.inf)
    return {short: 1 / (scale * near_ms * SCALE)}
