"""ProxylessNAS: direct neural architecture search on target task and hardware (Cai, Zhu, Han; ICLR 2019).

Gradient form with two paths, section 3.2 of the paper. Symbols as in :mod:`.supernet`, and for one choice in one
architecture step:

==========  ===========================================================================================
a, b        the two sampled candidates, a != b
q           softmax of (alpha_a, alpha_b), shape (2,)
E           expected latency, sum over choices of sum_j p_j F_j, F_j from the latency table (eq. 5, 6)
==========  ===========================================================================================

Weights: one path drawn from p, ordinary training on the training data.

Architecture: two candidates are drawn from p without replacement, one of them, drawn from q, is active. With the gate
gradients of both,

    dL/dalpha_a = sum over j in {a, b} of dL/dg_j q_j (delta_aj - q_a) = q_a q_b (dL/dg_a - dL/dg_b)       (eq. 4)
    dL/dalpha_b = -dL/dalpha_a

which is the chain rule through q = softmax(alpha_a, alpha_b) with dL/dg in the place of dL/dq; that is how it is
computed here. After the optimizer's step both logits are shifted by one number, so that the pair's probability mass,
and with it the probability of every candidate that was not sampled, stays what it was.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from .oneshot import SampledOneShotModule, SampledStrategy
from .supernet import Gate, batch_norm_statistics_kept, gradients_off

__all__ = ["ProxylessNAS", "pair_shift", "sample_pair"]


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
        raise ValueError(f"probabilities of the candidates are not finite: {probs.tolist()}")
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


class ProxylessModule(SampledOneShotModule):
    """The search as a Lightning module: weight steps on every batch, an architecture step on every n-th."""

    def __init__(self, training_module: LightningModule, *, arc_update_every: int, cost_probs: str, **kwargs: Any):
        super().__init__(training_module, **kwargs)
        self.arc_update_every = arc_update_every
        self.cost_probs = cost_probs

    def on_train_start(self) -> Any:
        batches = self.trainer.num_training_batches
        if batches < self.arc_update_every:
            raise MisconfigurationException(
                f"strategy: arc_update_every is {self.arc_update_every}, but an epoch has only {batches} batches: the architecture "
                "would never be updated. Use a smaller arc_update_every or a smaller batch."
            )
        return super().on_train_start()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        result = self.weight_step(batch, batch_idx)
        if self.searching and (batch_idx + 1) % self.arc_update_every == 0:
            self.architecture_step(self.next_held_out_batch(), batch_idx)
        self.log_probs_now_and_then(batch_idx)
        return result

    def architecture_step(self, batch: Any, batch_idx: int) -> None:
        """One update of all logits on a held-out batch. Nothing else changes: no weight, no running statistic."""
        pairs = {gate: sample_pair(gate.probs(), gate.generator) for gate in self.gates}
        with gradients_off(self.weights()), batch_norm_statistics_kept(self.training_module):
            probs = {gate: self._open_pair(gate, pair) for gate, pair in pairs.items()}
            loss = self.architecture_loss(batch, batch_idx)
            loss = self.add_penalty(loss, probs)
            self.architecture_optimizer.zero_grad()
            self.manual_backward(loss)
        before = {gate: gate.alpha.detach()[list(pair)].clone() for gate, pair in pairs.items()}
        self.architecture_optimizer.step()
        with torch.no_grad():
            for gate, pair in pairs.items():
                after = gate.alpha[list(pair)]
                gate.alpha[list(pair)] = after - pair_shift(before[gate], after)
        self.reset_gates()

    def _open_pair(self, gate: Gate, pair: tuple[int, int]) -> Tensor:
        """Open the gate for a pair; return the probabilities that the expected cost is taken over, shape (N,)."""
        q = torch.softmax(gate.alpha[list(pair)], dim=0)
        gate.open(active=pair[0], probed=pair, variables=q)
        if self.cost_probs == "full":
            return gate.probs()
        return torch.zeros_like(gate.alpha).index_put((torch.tensor(pair, device=q.device),), q)


class ProxylessNAS(SampledStrategy):
    """ProxylessNAS as a strategy of NNI: ``from nni_proxyless.strategies import ProxylessNAS`` is the whole migration.

    Takes the arguments of ``nni.nas.strategy.Proxyless`` and any evaluator of NNI that is a ``Lightning``. The
    evaluator's training data trains the weights, its validation data trains the architecture.
    ``export_top_models(formatter='dict')`` gives the most probable architecture, not a random sample.

    If the evaluator's module has a method ``architecture_loss(batch, batch_idx) -> Tensor``, architecture steps
    minimise it in the place of ``training_step`` (the authors use cross entropy without label smoothing there).

    Where paper and official code disagree, the default is:

    - The gradient of alpha exists also in steps in which the skip is active (the paper's eq. 4); the official code
      leaves the logits of such a block alone.
    - The expected cost of a two-path step is taken over the pair (official code), so that error and latency are weighed
      on the same two candidates and the others keep their probabilities exactly; ``cost_probs='full'`` takes it over
      all candidates (the paper's eq. 5).
    - An architecture step follows every ``arc_update_every`` weight steps; it updates no running statistics of batch norm.

    Parameters
    ----------
    update
        ``'two-path'``: section 3.2.1 of the paper.
    arc_learning_rate
        Of Adam with betas (0, 0.999) and no weight decay; with a first moment, candidates that were not sampled would
        move too.
    arc_update_every
        Weight steps between two architecture steps, counted within an epoch.
    warmup_epochs
        Epochs at the start that train weights only, on paths from nearly uniform probabilities.
    gradient_clip_val
        Norm to which the gradient of the weights is clipped; None for no clipping.
    log_prob_every_n_step
        How often all probabilities go to the logger, in batches.
    penalty
        A :class:`~nni_proxyless.latency.LatencyPenalty`, any NNI ``ExpectationProfilerPenalty``, or the arguments of the
        latter as a dict. It gets live probabilities, so its gradient reaches alpha.
    cost_probs
        ``'pair'`` or ``'full'``, see above.
    seed
        Of the initial logits and of all sampling.
    mutation_hooks
        As for every one-shot strategy of NNI.

    Raises
    ------
    ValueError
        An argument outside its range; the message names all such arguments.
    """

    def __init__(
        self,
        *,
        update: Literal["two-path"] = "two-path",
        arc_learning_rate: float = 1e-3,
        arc_update_every: int = 5,
        warmup_epochs: int = 0,
        gradient_clip_val: float | None = None,
        log_prob_every_n_step: int = 10,
        penalty: Any = None,
        cost_probs: Literal["pair", "full"] = "pair",
        seed: int = 0,
        **kwargs: Any,
    ):
        self.update = update
        self.arc_update_every = arc_update_every
        self.cost_probs = cost_probs
        super().__init__(
            arc_learning_rate=arc_learning_rate,
            warmup_epochs=warmup_epochs,
            gradient_clip_val=gradient_clip_val,
            log_prob_every_n_step=log_prob_every_n_step,
            penalty=penalty,
            seed=seed,
            **kwargs,
        )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.update != "two-path":
            problems.append(f"update is {self.update!r}; allowed: 'two-path'")
        if self.arc_update_every < 1:
            problems.append(f"arc_update_every is {self.arc_update_every}; allowed: 1 or more")
        if self.cost_probs not in ("pair", "full"):
            problems.append(f"cost_probs is {self.cost_probs!r}; allowed: 'pair', 'full'")
        return problems

    def configure_oneshot_module(self, training_module: LightningModule) -> ProxylessModule:
        return ProxylessModule(
            training_module,
            arc_update_every=self.arc_update_every,
            cost_probs=self.cost_probs,
            **self.module_arguments(),
        )
