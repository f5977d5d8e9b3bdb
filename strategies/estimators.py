"""REINFORCE (Williams 1992) as ProxylessNAS uses it: section 3.3 of the paper.

Symbols: R_m the reward of the m-th of M sampled networks; b the baseline; p the probabilities of one choice; k_m what
network m takes there.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nni_proxyless.core.divergence import DivergedError

from .supernet.gate import Gate

__all__ = [
    "MovingBaseline",
    "entropy",
    "is_decided",
    "log_prob_of_path",
    "loss_reward_term",
    "pair_shift",
    "reinforce_loss",
    "sample_pair",
]


def reinforce_loss(log_probs: Tensor, rewards: Tensor, baseline: float) -> Tensor:
    """The scalar whose gradient is REINFORCE's: -1/M sum over m of (R_m - b) log p(network m) (ProxylessNAS eq. 8).

    Its gradient with respect to the logits of one choice is 1/M sum over m of (R_m - b)(p - e_{k_m}).

    Parameters
    ----------
    log_probs
        Log-probability of each sampled network, with its graph, shape (M,).
    rewards
        Shape (M,). Not differentiated through.
    """
    return -((rewards.detach() - baseline) * log_probs).mean()


class MovingBaseline:
    """The moving average that rewards are compared with; it begins with the mean reward of the first update.

    Parameters
    ----------
    weight
        Of the newest mean: b <- b + weight * (mean - b).
    when
        ``'before'``: moved before it is used (official code); ``'after'``: used first, which leaves the estimator without
        bias; ``'never'``: no baseline, b = 0.
    """

    def __init__(self, weight: float, when: str):
        self.weight, self.when = weight, when
        self.value: float | None = None

    def next(self, mean: float) -> float:
        """The baseline for an update whose rewards have this mean."""
        if self.when == "never":
            return 0.0
        used = mean if self.value is None else self.value
        self.value = used + self.weight * (mean - used)
        return self.value if self.when == "before" else used


def sample_pair(probs: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """Draw two different candidates, without replacement (ProxylessNAS, sec. 3.2.1); the first one is active.

    Given the pair {a, b}, which of them is active is drawn anew from q, the softmax over the pair alone.

    Parameters
    ----------
    probs
        Shape (n_candidates,), sums to 1. Not differentiated through.
    generator
        The only source of randomness.

    Returns
    -------
    tuple
        Index of the active candidate, index of the other one.

    Raises
    ------
    ValueError
        Fewer than two candidates, or a probability that is not finite.
    """
    probs = probs.detach().cpu()
    if probs.numel() < 2:
        raise ValueError(f"a pair needs at least two candidates, not {probs.numel()}")
    if not torch.isfinite(probs).all():
        raise DivergedError(f"probabilities of the candidates are not finite: {probs.tolist()}")
    # A candidate whose probability has underflowed to 0 can still be the second of a pair.
    a, b = torch.multinomial(probs.clamp_min(torch.finfo(probs.dtype).tiny), 2, generator=generator).tolist()
    q_a = probs[a] / (probs[a] + probs[b])
    keep = bool(torch.rand((), generator=generator, dtype=probs.dtype) < q_a)
    return (a, b) if keep else (b, a)


def pair_shift(before: Tensor, after: Tensor) -> Tensor:
    """What to subtract from both logits of a pair so that its exponential mass is as before the update.

    log[(e^a' + e^b') / (e^a + e^b)]: the paper calls it a ratio, which acts on exp(alpha) (FACTS 1.3.5).

    Parameters
    ----------
    before, after
        Logits of the pair, shape (2,), before and after the optimizer's step.
    """
    return torch.logsumexp(after, 0) - torch.logsumexp(before, 0)


def log_prob_of_path(gates: Iterable[Gate]) -> Tensor:
    """log p(Z): the sum of log p_k over the sampled candidates of these gates, at least one; a scalar with its graph."""
    by_size: dict[int, list[Gate]] = {}
    for gate in gates:
        by_size.setdefault(len(gate.choices), []).append(gate)
    terms = []
    for same in by_size.values():  # of one size in one go: a dozen small operations per gate and step would be felt
        log_p = torch.log_softmax(torch.stack([gate.alpha for gate in same]), dim=1)
        sampled = torch.tensor([[gate.current] for gate in same], device=log_p.device)
        terms.append(log_p.gather(1, sampled).sum())
    return torch.stack(terms).sum()


def loss_reward_term(loss: Tensor, baseline: float, log_prob: Tensor) -> Tensor:
    """A term of value 0 whose gradient on the logits of each choice is (L - b)(e_k - p).

    Parameters
    ----------
    loss
        L, a scalar; not differentiated through.
    baseline
        b, which must not depend on the path that L was measured on.
    log_prob
        log p(Z) of that path, a scalar with its graph.
    """
    return ((loss.detach() - baseline) * (log_prob - log_prob.detach())).to(loss.dtype)


def is_decided(probs: Tensor, gap: float) -> bool:
    """Whether the two best of at least two probabilities, shape (N,), differ by ``gap`` or more (DSNAS eq. 8)."""
    best, second = torch.topk(probs.detach(), 2).values
    return bool(best - second >= gap)


def entropy(distributions: Iterable[Tensor]) -> Tensor:
    """Sum of the entropies, in nats, a scalar with its graph."""
    return torch.stack([torch.special.entr(p).sum() for p in distributions]).sum()
