"""Hard limits: the network that a search leaves is within every target of its penalty, and near the one that is held.

A penalty brings the *expected* cost of a mixture to its target. The most probable candidates of all choices, each by
itself, are one network of many, and may cost more than the target, or much less. So what a search leaves is chosen
together: the most probable network of those within the targets and near the one that the penalty holds, if it holds one
(:func:`~nni_proxyless.latency.best_under_budget`). A method that makes choices before the end makes one only if a
network within the targets remains possible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from nni_proxyless.latency import BudgetError, LatencyPenalty, LatencyProfiler, best_under_budget
from nni_proxyless.latency.objectives.penalty_sum import Penalties

from ..supernet.gate import Gate

__all__ = ["Limit", "limits_of", "most_probable_within", "reachable", "stays_feasible"]


class Limit(NamedTuple):
    """What a network may cost at most.

    Attributes
    ----------
    held
        Whether the search brings the expected cost to this target from both sides: its probabilities are about networks
        near it.
    """

    profiler: LatencyProfiler
    target: float
    held: bool = False


def limits_of(penalty: Any) -> list[Limit]:
    """The targets of a penalty, or of several as one; none of NNI's own, whose target is no limit."""
    parts = list(penalty.penalties.values()) if isinstance(penalty, Penalties) else [penalty]
    return [
        Limit(part.profiler, part.target_ms, part.holds_target)
        for part in parts
        if isinstance(part, LatencyPenalty)
        and isinstance(part.profiler, LatencyProfiler)
        and part.target_ms is not None
    ]


def most_probable_within(
    limits: Sequence[Limit], gates: Sequence[Gate], made: Mapping[Gate, int] | None = None, *, near: bool = True
) -> dict[Gate, int] | None:
    """The most probable candidate of every gate, together within all limits and near the one that is held.

    Parameters
    ----------
    limits
        At least one.
    gates
        All gates of the search. A fixed one has all its probability on its choice.
    made
        Choices that count as made too.
    near
        Whether the network is to be near the limit that is held: at 95 % of it or more if there are such networks, and one
        more than 3 % below it has to be more probable, by a factor of e for every further per cent
        (:mod:`nni_proxyless.latency.objectives.nearness`).

    Returns
    -------
    dict or None
        Gate -> index of its candidate; None if what is made leaves no network within the limits.
    """
    made = made or {}
    probs = {
        gate.label: dict(
            zip(gate.choices, gate.one_hot(made[gate]) if gate in made else gate.probs().detach(), strict=True)
        )
        for gate in gates
    }
    (profiler, target, held), *others = sorted(limits, key=lambda limit: not limit.held)
    try:
        at = target if near and held else -math.inf
        also = [(other.profiler, other.target) for other in others]
        sample = best_under_budget(probs, profiler, target, near_ms=at, also=also)
    except BudgetError:
        return None
    found = {gate: next(i for i in range(len(gate.choices)) if gate.value(i) == sample[gate.label]) for gate in gates}
    stands = all(found[gate] == made.get(gate, gate.choice) for gate in gates if gate.fixed or gate in made)
    return found if stands else None


def stays_feasible(limits: Sequence[Limit], gates: Sequence[Gate], gate: Gate) -> bool:
    """Whether a network within all limits remains if the gate's most probable candidate is chosen for good."""
    made = {gate: gate.most_probable()}
    return not limits or most_probable_within(limits, gates, made, near=False) is not None


def reachable(limits: list[Limit], gates: Sequence[Gate]) -> list[Limit]:
    """The limits if any network keeps to them all; else none, with a warning."""
    if not limits or most_probable_within(limits, gates, near=False) is not None:
        return limits
    targets = ", ".join(f"{limit.target:.6g} {limit.profiler.unit}" for limit in limits)
    rank_zero_warn(f"strategy: no network of this space is within {targets}: what the search leaves will not be either")
    return []
