"""ProxylessNAS: search on the target task and hardware (Cai, Zhu, Han; ICLR 2019; arXiv:1812.00332).

The symbols and formulas are those of :mod:`.estimators`. Weights train on the training data, on one path drawn from p.
The architecture trains on held-out data, with the weights as they are, by one of three updates:

===============  =================  =========================================================================
``full``         section 3.2.1      every candidate is probed; dL/dalpha by eq. 4
``two-path``     section 3.2.1      two candidates are probed; all others keep their probabilities
``reinforce``    section 3.3.2      M sampled networks are rewarded; dL/dalpha by eq. 8
===============  =================  =========================================================================

``full`` and ``two-path`` are the chain rule through a softmax with dL/dg in the place of dL/dp (dL/dq), and autograd
applies it: :func:`.estimators.logit_gradient` is what comes out.

Where paper and official code differ, and which option selects which: ``docs/methods/proxyless.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from nni_proxyless.core.batch_norm import batch_norm_statistics_kept
from nni_proxyless.core.ranges import AtLeast, GreaterThan, UpTo
from nni_proxyless.latency import LatencyReward

from .estimators import entropy, keep_pair_mass, pair_gradient, path_log_probs, reinforce_loss, sample_pair
from .oneshot.baseline import MovingBaseline
from .oneshot.module import SampledOneShotModule
from .oneshot.reward import mean_reward, reward_of, reward_problem, sample_and_reward
from .oneshot.strategy import SampledStrategy
from .supernet.frozen import gradients_off
from .supernet.gate import Gate, alike, logits_of, probs_of, sample_paths

__all__ = ["ProxylessNAS"]


class ProxylessModule(SampledOneShotModule):
    """The search as a Lightning module: a weight step on every batch, architecture steps after every n-th."""

    options: ProxylessNAS

    def __init__(self, training_module: LightningModule, *, options: ProxylessNAS, **parts: Any):
        super().__init__(training_module, options=options, **parts)
        self.baseline = MovingBaseline(options.baseline_weight, options.baseline)

    def on_train_start(self) -> Any:
        batches, per_step = self.trainer.num_training_batches, self.options.accumulate_grad_batches
        if -(-batches // per_step) < self.options.arc_update_every:
            word = "batch" if batches == 1 else "batches"
            several = "" if per_step == 1 else f", {per_step} to a weight step"
            raise MisconfigurationException(
                f"strategy: arc_update_every is {self.options.arc_update_every}, but an epoch has only {batches} {word}{several}: "
                "the architecture would never be updated. Use a smaller arc_update_every or a smaller batch."
            )
        return super().on_train_start()

    def search_step(self, batch: Any, batch_idx: int) -> Any:
        result, stepped = self.weight_step(batch, batch_idx)
        steps = (
            batch_idx // self.options.accumulate_grad_batches + 1
        )  # of this epoch, the last one may have fewer batches
        if stepped and self.trainer.current_epoch >= self.first_epoch and steps % self.options.arc_update_every == 0:
            for _ in range(self.options.arc_update_steps):
                self.architecture_step(self.next_held_out_batch(), batch_idx)
        return result

    @property
    def first_epoch(self) -> int:
        """The epoch in which the architecture begins to move."""
        return self.options.warmup_epochs + self.options.arc_start_epoch

    def architecture_step(self, batch: Any, batch_idx: int) -> None:
        """One update of the logits on a held-out batch. Nothing else changes: no weight, no running statistic."""
        update = {"full": self.full, "two-path": self.two_path, "reinforce": self.reinforce}[self.options.update]
        with batch_norm_statistics_kept(self.batch_norms()):
            update(batch, batch_idx)
        self.reset_gates()

    def full(self, batch: Any, batch_idx: int) -> None:
        """Section 3.2.1, eq. 4: a path is drawn from p, and the gates of all candidates get their gradient."""
        cost_probs = self._open_all()
        if self.backward_of_loss(batch, batch_idx, cost_probs):
            self.architecture_optimizer.step()

    def two_path(self, batch: Any, batch_idx: int) -> None:
        """Section 3.2.1: the gates of a sampled pair get their gradient; other candidates keep their probabilities."""
        pairs = {gate: sample_pair(p, gate.generator) for gate, p in probs_of(self.searched).items()}
        cost_probs = self._open_pairs(pairs)
        if not self.backward_of_loss(batch, batch_idx, cost_probs):
            return
        with torch.no_grad():
            before = [logits_of(same) for same in alike(pairs)]
        self.architecture_optimizer.step()
        with torch.no_grad():
            for same, logits in zip(alike(pairs), before, strict=True):
                index, moved = indices(same, pairs), logits_of(same)
                kept = keep_pair_mass(logits.gather(1, index), moved.gather(1, index))
                for gate, alpha in zip(same, moved.scatter(1, index, kept), strict=True):
                    gate.alpha.copy_(alpha)

    def reinforce(self, batch: Any, batch_idx: int) -> None:
        """Section 3.3.2: M networks are drawn from p and tried on one batch."""
        paths, rewards = sample_and_reward(self, batch, batch_idx, self.options.reinforce_samples)
        baseline = self.baseline.next(mean_reward(rewards))
        taken = [[path[gate] for path in paths] for gate in self.searched]
        log_probs = path_log_probs([gate.alpha for gate in self.searched], taken)
        self.architecture_optimizer.zero_grad()
        self.manual_backward(reinforce_loss(log_probs, rewards.to(log_probs), baseline))
        self.architecture_optimizer.step()
        self.note({"reinforce/reward": rewards.mean().float(), "reinforce/baseline": baseline})

    # -- steps of full and two-path ------------------------------------------------------------------------------------

    def _open_all(self) -> dict[Gate, Tensor]:
        """Sample the active candidates from p and probe all; return p, which the expected latency is taken over."""
        found = {}
        for gate, active in sample_paths(self.searched).items():
            found[gate] = gate.probs()
            gate.open(active, probed=range(len(gate.choices)), variables=found[gate])
        return found

    def _open_pairs(self, pairs: dict[Gate, tuple[int, int]]) -> dict[Gate, Tensor]:
        """Probe pairs, the first candidate of each active; return what the expected latency is taken over, shape (N,) of each."""
        found: dict[Gate, Tensor] = {}
        for same in alike(pairs):
            logits, index = logits_of(same), indices(same, pairs)
            p, q = torch.softmax(logits, dim=1), torch.softmax(logits.gather(1, index), dim=1)
            cost_probs = p if self.options.cost_probs == "full" else pair_gradient(p, q, index)
            for gate, of_pair in zip(same, q.unbind(), strict=True):
                gate.open(active=pairs[gate][0], probed=pairs[gate], variables=of_pair)
            found.update(zip(same, cost_probs.unbind(), strict=True))
        return {gate: found[gate] for gate in pairs}

    def backward_of_loss(self, batch: Any, batch_idx: int, cost_probs: dict[Gate, Tensor]) -> bool:
        """Gradient of task loss, entropy and expected latency (eq. 7) on the logits; False if the batch is skipped."""
        with gradients_off(self.weights()):
            task = self.architecture_loss(batch, batch_idx)
            if task is None:
                return False
            idle = [gate for gate in cost_probs if not gate.ran]
            probs = {gate: cost_probs[gate] if gate in cost_probs else gate.probs() for gate in self.gates}
            loss = self.add_penalty(task + self._entropy_term(cost_probs), probs)
            self.architecture_optimizer.zero_grad()
            self.manual_backward(loss)
        for gate in idle:  # pairs are rows of one matrix, whose gradient is 0 where there is none
            if gate.alpha.grad is not None and not gate.alpha.grad.any():
                gate.alpha.grad = None
        if not self.options.update_active_skip:
            for gate in cost_probs:
                if gate.active in (gate.skips or ()):
                    gate.alpha.grad = None
        self.average_architecture_gradients()
        return True

    def _entropy_term(self, opened: dict[Gate, Tensor]) -> Tensor | float:
        """Entropy of the gates' probabilities, with a weight that rises from 0 to ``entropy_weight`` in the search."""
        if self.options.entropy_weight == 0:
            return 0.0
        weight = self.rising(self.options.entropy_weight, self.first_epoch, self.trainer.max_epochs or 0)
        return weight * entropy(gate.variables for gate in opened if gate.variables is not None)

    def method_state(self) -> dict[str, Any]:
        return {"baseline": self.baseline.value}

    def load_method_state(self, state: dict[str, Any]) -> None:
        self.baseline.value = state["baseline"]


def indices(gates: Sequence[Gate], pairs: Mapping[Gate, tuple[int, int]]) -> Tensor:
    """The pairs of these gates, shape (n_gates, 2), where their logits are."""
    return torch.tensor([pairs[gate] for gate in gates], device=gates[0].alpha.device)


@dataclass(kw_only=True, eq=False, repr=False)
class ProxylessNAS(SampledStrategy):
    """ProxylessNAS as a strategy of NNI: a drop-in replacement for ``nni.nas.strategy.Proxyless``.

    Takes any evaluator of NNI that is a ``Lightning`` and any model space of ``LayerChoice``, ``InputChoice``,
    ``Repeat`` and, with ``'reinforce'``, arguments of modules (docs/how-to/values.md). The evaluator's training data trains the weights, its validation data the architecture.
    ``export_top_models(formatter='dict')`` gives the most probable architecture within the target, not a random sample.

    If the evaluator's module has a method ``architecture_loss(batch, batch_idx) -> Tensor``, architecture steps
    minimize it in the place of ``training_step``: paper and official code use plain cross entropy there, and label
    smoothing for the weights only. With ``'reinforce'``, ``architecture_accuracy(batch, batch_idx)`` likewise.

    The other options are those of :class:`.oneshot.strategy.SampledStrategy`. With ``'reinforce'``, ``penalty`` may
    also be a :class:`~nni_proxyless.latency.LatencyReward`, which takes any profiler or measurement, and
    ``entropy_weight`` has no part.

    Parameters
    ----------
    update
        How the logits learn: from a sampled pair of candidates, from all candidates, or from rewarded networks.
    arc_update_every
        Weight steps between two updates of the architecture, counted within an epoch.
    arc_update_steps
        Architecture steps in a row, each on a held-out batch of its own.
    arc_start_epoch
        Epochs after warm-up in which the logits stay where they are.
    cost_probs
        Two-path only. ``'pair'``: the gradient of the expected latency acts on the sampled pair alone; ``'full'``: on
        all candidates (eq. 5). The value is the expectation over all in both.
    update_active_skip
        Whether a choice is updated in steps in which its skip candidate is active.
    reinforce_samples
        Networks per update of ``'reinforce'``, M.
    reward_exponent
        w of the reward accuracy * (latency / target)^w when ``penalty`` is a ``LatencyPenalty``.
    baseline
        ``'reinforce'`` only. ``'before'``: moved, then used; ``'after'``: used, then moved, unbiased; ``'never'``: none.
    baseline_weight
        Of the newest mean reward in the moving baseline.
    """

    update: Literal["two-path", "full", "reinforce"] = "two-path"
    arc_update_every: Annotated[int, AtLeast(1)] = 5
    arc_update_steps: Annotated[int, AtLeast(1)] = 1
    arc_start_epoch: Annotated[int, AtLeast(0)] = 0
    cost_probs: Literal["pair", "full"] = "pair"
    update_active_skip: bool = True
    reinforce_samples: Annotated[int, AtLeast(1)] = 10
    reward_exponent: Annotated[float, UpTo(0, "a slow network earns less")] = -0.1
    baseline: Literal["before", "after", "never"] = "before"
    baseline_weight: Annotated[float, GreaterThan(0), UpTo(1)] = 0.99

    module_class = ProxylessModule
    keeps_candidates = True

    def compares_candidates(self) -> bool:
        return self.update != "reinforce"

    def learns_from_gates(self) -> bool:
        return self.update != "reinforce"

    def penalty_problem(self) -> str | None:
        if self.update == "reinforce":
            return reward_problem(self.penalty)
        if isinstance(self.penalty, LatencyReward):
            return f"penalty is a LatencyReward, which update={self.update!r} cannot differentiate; allowed: LatencyPenalty"
        return super().penalty_problem()

    def penalty_of_module(self) -> Any:
        return reward_of(self.penalty, self.reward_exponent) if self.update == "reinforce" else self.penalty
