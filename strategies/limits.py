"""Hard limits for a search that makes its choices one after the other: what is chosen stays within every target.

A penalty brings the *expected* cost to its target. The network that is left at the end is one of many, and may cost more; a
network that is deployed as it is must not. So a choice is made only if a network within the targets remains possible, and
the last ones together: the most probable network within the targets and close to the first, given what is fixed already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nni_proxyless.latency import BudgetError, LatencyPenalty, LatencyProfiler, best_under_budget
from nni_proxyless.latency.penalties import Penalties

from .gate import Gate

__all__ = ["Limits", "limits_of", "most_probable_within"]

CLOSE = 0.03  # of the first target may be left over, where the choices allow it

Limits = Sequence[tuple[LatencyProfiler, float]]


def limits_of(penalty: Any) -> Limits:
    """The targets of a penalty, or of several as one; none of NNI's own penalties and profilers, whose target is no limit."""
    parts = list(penalty.penalties.values()) if isinstance(penalty, Penalties) else [penalty]
    return [
        (part.profiler, part.target_ms)
        for part in parts
        if isinstance(part, LatencyPenalty)
        and isinstance(part.profiler, LatencyProfiler)
        and part.target_ms is not None
    ]


def most_probable_within(limits: Limits, gates: Sequence[Gate], made: Mapping[Gate, int]) -> dict[Gate, int] | None:
    """The most probable candidate of every gate, together within all limits and, if there are any such, close to the first.

    Parameters
    ----------
    limits
        At least one.
    gates
        All gates of the search. A fixed one has all its probability on its choice.
    made
        Choices that count as made too.

    Returns
    -------
    dict or None
        Gate -> index of its candidate; None if what is made leaves no network within the limits.
    """
    probs = {
        gate.label: dict(
            zip(gate.choices, gate.one_hot(made[gate]) if gate in made else gate.probs().detach(), strict=True)
        )
        for gate in gates
    }
    (profiler, target), *others = limits
    try:
        least = -math.inf if profiler.combine == "max" else target * (1 - CLOSE)
        sample = best_under_budget(probs, profiler, target, at_least_ms=least, also=others)
    except BudgetError:
        return None
    found = {gate: next(i for i in range(len(gate.choices)) if gate.value(i) == sample[gate.label]) for gate in gates}
    stands = all(found[gate] == made.get(gate, gate.choice) for gate in gates if gate.fixed or gate in made)
    return found if stands else None
