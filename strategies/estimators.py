"""The formulas of both methods, as functions on tensors: ProxylessNAS (arXiv:1812.00332) and DSNAS (arXiv:2002.09128).

One choice has N candidates. Symbols, with the equation of the paper that introduces them:

==========  =============================================================  ==============================================
alpha       logits, shape (N,)                                             ProxylessNAS eq. 1
p           softmax(alpha), shape (N,)                                     ProxylessNAS eq. 1
g, Z        gate, one-hot: 1 for the active candidate, 0 for all others    ProxylessNAS eq. 2; Z in DSNAS sec. 3.3
k           the active candidate, drawn from p or q
o_j(x)      output of candidate j
y           sum over j of g_j o_j(x) = o_k(x), output of the layer         ProxylessNAS eq. 3
L           loss
dL/dg_j     <dL/dy, o_j(x)>                         :func:`gate_gradient`  ProxylessNAS sec. 3.2.1
dL/dalpha   sum_j dL/dg_j p_j (delta_ij - p_i)     :func:`logit_gradient`  ProxylessNAS eq. 4
a, b        a sampled pair of candidates, a != b      :func:`sample_pair`  ProxylessNAS sec. 3.2.1
q           softmax of (alpha_a, alpha_b), shape (2,)                      ProxylessNAS sec. 3.2.1
F_j         latency of candidate j, milliseconds                           ProxylessNAS eq. 5
E           expected latency, sum over choices of sum_j p_j F_j            ProxylessNAS eq. 5, 6
M           networks sampled in one update of REINFORCE                    ProxylessNAS sec. 3.3.2
R_m         reward of network m                    :func:`reinforce_loss`  ProxylessNAS eq. 8
c           baseline of rewards or losses              :func:`moved_baseline`
r           reward of a choice in DSNAS; a cost: descent lowers p_k
            where r > 0
            ``reward='loss'``: L - c             :func:`loss_reward_term`
            ``reward='gradient'``: <dL/dy, y>       :func:`gate_gradient`  DSNAS sec. 3.3
h           gap of the two best probabilities that fixes a
            choice                                     :func:`is_decided`  DSNAS eq. 8
==========  =============================================================  ==============================================

Latency, eq. 5 to 7, is :mod:`nni_proxyless.latency.objectives`. What paper and official code do differently:
``docs/methods``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nni_proxyless.core.divergence import DivergedError

__all__ = [
    "entropy",
    "gate_gradient",
    "is_decided",
    "keep_pair_mass",
    "logit_gradient",
    "loss_reward_term",
    "moved_baseline",
    "pair_gradient",
    "pair_shift",
    "path_log_probs",
    "reinforce_loss",
    "sample_pair",
]


# -- the gradient through a gate: ProxylessNAS, section 3.2.1 ------------------------------------------------------------


def gate_gradient(grad_y: Tensor, output: Tensor, shift: Tensor | None = None) -> Tensor:
    """dL/dg_j = <dL/dy, o_j(x)>, the sum over all elements; a scalar, in float32 at least.

    Half precision would overflow, or lose small terms.

    Parameters
    ----------
    grad_y
        dL/dy.
    output
        o_j(x), of the same shape.
    shift
        Subtracted from ``output``. A term that all candidates share has no effect behind a softmax, and without it
        float32 loses no digits to it.
    """
    if shift is output:
        return grad_y.new_zeros((), dtype=torch.promote_types(grad_y.dtype, torch.float32))
    if grad_y.dtype in (torch.float16, torch.bfloat16) or output.dtype in (torch.float16, torch.bfloat16):
        grad_y, output, shift = grad_y.float(), output.float(), None if shift is None else shift.float()
    if shift is not None:
        output = output - shift
    if grad_y.dtype == output.dtype and grad_y.stride() == output.stride() and _is_dense(grad_y):
        # In the order in which they lie in memory: a dot product needs no third tensor of this size.
        n = grad_y.numel()
        return torch.dot(grad_y.as_strided((n,), (1,)), output.as_strided((n,), (1,)))
    return (grad_y * output).sum()


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements lie in memory without gaps and overlaps, in the usual order or channels-last."""
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def logit_gradient(gate_gradients: Tensor, probs: Tensor) -> Tensor:
    """dL/dalpha_i = sum over j of dL/dg_j p_j (delta_ij - p_i): ProxylessNAS eq. 4. Shape (N,).

    A search gets it by the chain rule: it hands ``probs`` to the gates as what they stand for, autograd goes through
    the softmax, and the two are equal (``tests/strategies/test_estimators.py``). Of a pair, with q and the two gates,
    the same formula is section 3.2.1: q_a q_b (dL/dg_a - dL/dg_b) for a, the opposite for b.

    Parameters
    ----------
    gate_gradients
        dL/dg_j of every candidate, shape (N,); see :func:`gate_gradient`.
    probs
        p, shape (N,).
    """
    delta = torch.eye(len(probs), dtype=probs.dtype, device=probs.device)
    return (gate_gradients * probs) @ (delta - probs)


# -- two candidates: ProxylessNAS, section 3.2.1 -------------------------------------------------------------------------


def sample_pair(probs: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """Draw two different candidates, without replacement (ProxylessNAS, sec. 3.2.1); the first one is active.

    Given the pair {a, b}, which of them is active is drawn anew from q, the softmax over the pair alone.

    Parameters
    ----------
    probs
        p, shape (N,), sums to 1. Not differentiated through.
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


def pair_gradient(probs: Tensor, q: Tensor, pair: Tensor) -> Tensor:
    """Return p by value and q by gradient, shape (..., N): a cost over all candidates that only the pair learns from.

    Parameters
    ----------
    probs
        p, shape (..., N). Not differentiated through.
    q
        Softmax over the pair, shape (..., 2), with its graph.
    pair
        Indices of the two candidates, shape (..., 2).
    """
    of_the_pair = torch.zeros_like(probs).scatter(-1, pair, q)
    return probs.detach() + (of_the_pair - of_the_pair.detach())


def pair_shift(before: Tensor, after: Tensor) -> Tensor:
    """log[(e^a' + e^b') / (e^a + e^b)]: by how much an update has changed the pair's share of sum_j e^alpha_j.

    Parameters
    ----------
    before, after
        Logits of the pair, shape (..., 2), before and after the optimizer's step.
    """
    return torch.logsumexp(after, -1) - torch.logsumexp(before, -1)


def keep_pair_mass(before: Tensor, after: Tensor) -> Tensor:
    """Logits of the pair after an update, shape (..., 2), shifted so that all other candidates keep their probabilities.

    Section 3.2.1 multiplies by a ratio. The ratio acts on e^alpha, so on alpha its logarithm is subtracted
    (:func:`pair_shift`).
    """
    return after - pair_shift(before, after).unsqueeze(-1)


# -- whole networks: REINFORCE (ProxylessNAS, section 3.3.2) and DSNAS, section 3.3 --------------------------------------


def path_log_probs(alphas: Sequence[Tensor], paths: Sequence[Sequence[int]]) -> Tensor:
    """log p(network m) = sum over choices of log p_k, shape (M,), with its graph.

    Parameters
    ----------
    alphas
        Logits of each choice, at least one choice.
    paths
        Per choice the active candidate in each of the M networks.
    """
    by_size: dict[int, list[int]] = {}
    for i, alpha in enumerate(alphas):
        by_size.setdefault(len(alpha), []).append(i)
    terms = []
    for same in by_size.values():  # of one size in one go: a dozen small operations per choice and step add up
        log_p = torch.log_softmax(torch.stack([alphas[i] for i in same]), dim=1)
        active = torch.tensor([paths[i] for i in same], device=log_p.device)
        terms.append(log_p.gather(1, active).sum(dim=0))
    return torch.stack(terms).sum(dim=0)


def reinforce_loss(log_probs: Tensor, rewards: Tensor, baseline: float) -> Tensor:
    """The scalar whose gradient is REINFORCE's: -1/M sum over m of (R_m - c) log p(network m) (ProxylessNAS eq. 8).

    Its gradient with respect to the logits of one choice is 1/M sum over m of (R_m - c)(p - e_{k_m}).

    Parameters
    ----------
    log_probs
        Log-probability of each sampled network, with its graph, shape (M,).
    rewards
        Shape (M,). Not differentiated through.
    """
    return -((rewards.detach() - baseline) * log_probs).mean()


def moved_baseline(baseline: float, mean: float, weight: float) -> float:
    """c <- c + weight * (mean - c): the moving average that rewards or losses are compared with."""
    return baseline + weight * (mean - baseline)


def loss_reward_term(loss: Tensor, baseline: float, log_prob: Tensor) -> Tensor:
    """A term of value 0 whose gradient on the logits of each choice is (L - c)(e_k - p).

    Parameters
    ----------
    loss
        L, a scalar; not differentiated through.
    baseline
        c, which must not depend on the path that L was measured on.
    log_prob
        log p(Z) of that path, a scalar with its graph.
    """
    return ((loss.detach() - baseline) * (log_prob - log_prob.detach())).to(loss.dtype)


# -- how decided a choice is ---------------------------------------------------------------------------------------------


def is_decided(probs: Tensor, gap: float) -> bool:
    """Whether the two best of at least two probabilities, shape (N,), differ by ``gap`` or more (DSNAS eq. 8)."""
    best, second = torch.topk(probs.detach(), 2).values
    return bool(best - second >= gap)


def entropy(distributions: Iterable[Tensor]) -> Tensor:
    """Sum of the entropies, in nats, a scalar with its graph."""
    return torch.stack([torch.special.entr(p).sum() for p in distributions]).sum()
