"""How choices come to a decision: by their entropy, and the ones that cost most first.

H(p) = - sum_c p_c ln p_c. Short searches do not decide by themselves: the mixture meets the target, its most probable network
something else. The entropy of the choices, added to the loss with a rising weight, makes them decide. Were they all to decide
at once, the target would be met by whichever choice is last: it stays undecided between a candidate that takes too little and
one that takes too much, and its argmax then misses the target by the milliseconds between the two. So a choice is made the
earlier the further its candidates are apart in cost. Those that are left make up for it, and the last one misses by little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .gate import Gate

__all__ = ["cost_spread", "entropy", "share_of_weight", "turns"]


def entropy(distributions: Iterable[Tensor], weights: Iterable[float]) -> Tensor:
    """Weighted sum of the entropies of at least one distribution, in nats, a scalar with its graph."""
    return torch.stack([w * torch.special.entr(p).sum() for p, w in zip(distributions, weights, strict=True)]).sum()


def cost_spread(penalty: Any, gates: Sequence[Gate]) -> dict[Gate, float]:
    """By how much the dearest and the cheapest candidate of each choice differ, in the unit of the penalty's profiler.

    The expected cost E is linear in the probabilities of each choice: dE/dp_c is what a network with candidate c costs, on
    average over all other choices. Of several penalties the first counts.
    """
    uniform = [torch.full((len(gate.choices),), 1 / len(gate.choices), requires_grad=True) for gate in gates]
    with torch.enable_grad():
        sample = {g.label: dict(zip(g.choices, p.unbind(), strict=True)) for g, p in zip(gates, uniform, strict=True)}
        expected = penalty.profile(sample)
        if not isinstance(expected, Tensor) or not expected.requires_grad:
            return dict.fromkeys(gates, 0.0)
        costs = torch.autograd.grad(expected, uniform, allow_unused=True)
    return {g: 0.0 if cost is None else float(cost.max() - cost.min()) for g, cost in zip(gates, costs, strict=True)}


def turns(spread: Mapping[Gate, float]) -> dict[Gate, float]:
    """When the weight of each choice's entropy is whole, as a share of the search: from a third of it on, the last at its end.

    Choices of the same spread come together, with the last of them; with one spread for all, all come at the end.
    """
    order = sorted(spread.values(), reverse=True)
    return {gate: (1 + 2 * (len(order) - order[::-1].index(own)) / len(order)) / 3 for gate, own in spread.items()}


def share_of_weight(epoch: int, first: int, end: int, turn: float = 1.0) -> float:
    """Rises evenly from 0 in epoch ``first`` to 1, which it reaches at ``turn`` of the way to the last epoch before ``end``."""
    return min(1.0, (epoch - first) / max(1, end - first - 1) / turn)
