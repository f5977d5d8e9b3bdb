"""The steps of a search without the search: a plain loop over batches that are in memory.

What stays is the method: a path is drawn, the supernet runs it forward and backward, the same optimizer moves the same weights;
ProxylessNAS takes its two-path steps on held-out batches, DSNAS moves its logits with the weights, fixes choices and becomes its
child. What is gone is all that is not a step: Lightning, reading and augmenting images, logging, judging, pictures, checkpoints.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from nni_proxyless.strategies.dsnas import DSNASModule
from nni_proxyless.strategies.estimators import (
    entropy,
    is_decided,
    keep_pair_mass,
    loss_reward_term,
    pair_gradient,
    path_log_probs,
    sample_pair,
)
from nni_proxyless.strategies.oneshot.constraints import most_probable_within
from nni_proxyless.strategies.supernet.frozen import gradients_off
from nni_proxyless.strategies.supernet.gate import Gate
from nni_proxyless.strategies.supernet.layers import SampledModule, remove_unused_candidates
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nni_proxyless.core.batch_norm import batch_norm_statistics_kept

Batch = tuple[Tensor, Tensor]


class PlainLoop:
    """The same steps as a search that has not begun yet, from copies of its weights, logits and state of randomness.

    Parameters
    ----------
    module
        The search, inside its fit, with two-path steps or DSNAS's ``reward='loss'``; its settings are read, nothing is changed.
    """

    def __init__(self, module: Any):
        training = module.training_module
        self.of, self.task, self.epochs = module, training, module.trainer.max_epochs
        self.is_dsnas = isinstance(module, DSNASModule)
        memo = {id(module.penalty.profiler): module.penalty.profiler} if module.penalty is not None else {}
        self.supernet, self.penalty = copy.deepcopy((training.model, module.penalty), memo)
        found = {gate.label: gate for m in self.supernet.modules() if isinstance(m, SampledModule) for gate in m.gates.values()}  # fmt: skip
        self.gates: list[Gate] = [found[gate.label] for gate in module.gates]
        generator = torch.Generator()
        generator.set_state(module.gates[0].generator.get_state())
        for gate in self.gates:
            gate.generator = generator
        self.searched = [gate for gate in self.gates if len(gate.choices) > 1]
        self.limits = module.limits
        self.optimizer = create_optimizer_v2(
            self.supernet, training.optimizer, lr=training.learning_rate, momentum=training.momentum,
            weight_decay=training.weight_decay, filter_bias_and_bn=False,
        )  # fmt: skip
        steps = self.epochs * module.trainer.num_training_batches
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=steps)
        alphas = [gate.alpha for gate in self.gates]
        self.alpha_optimizer = torch.optim.Adam(
            alphas, lr=module.options.arc_learning_rate, betas=(0.5 if self.is_dsnas else 0.0, 0.999)
        )
        self.baseline = copy.deepcopy(module.baseline)
        self.is_child = False
        self._find_parts()

    def epoch(self, epoch: int, batches: list[Batch], held_out: list[Batch]) -> None:
        """All steps of an epoch, the first being 0, on the batches that the search had."""
        rests = iter(held_out)
        searching = epoch >= self.of.options.warmup_epochs
        momenta = self._decide(epoch) if self.is_dsnas and searching and not self.is_child else {}
        for i, batch in enumerate(batches):
            learning = self.is_dsnas and searching and not self.is_child
            self._weight_step(batch, epoch, learning)
            if not self.is_dsnas and epoch >= self.of.options.warmup_epochs + self.of.options.arc_start_epoch and (i + 1) % self.of.options.arc_update_every == 0:  # fmt: skip
                for _ in range(self.of.options.arc_update_steps):
                    self._two_path_step(next(rests), epoch)
        for norm, momentum in momenta.items():
            norm.momentum = momentum

    def same_as(self, module: Any) -> bool:
        """Whether weights, statistics and logits are those of the search, to the bit."""
        ours, theirs = self.supernet.state_dict(), module.training_module.model.state_dict()
        logits = zip(self.gates, module.gates, strict=True)
        return (
            ours.keys() == theirs.keys()
            and all(torch.equal(ours[name], theirs[name]) for name in ours)
            and all(torch.equal(a.alpha, b.alpha) for a, b in logits)
        )

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _find_parts(self) -> None:
        self.weights = list(self.supernet.parameters())
        self.norms = [m for m in self.supernet.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def _forward(self, batch: Batch, label_smoothing: float) -> Tensor:
        images, targets = batch
        logits = self.supernet(images.contiguous(memory_format=torch.channels_last))
        return cross_entropy(logits, targets, label_smoothing=label_smoothing)

    def _reset(self) -> None:
        for gate in self.gates:
            gate.reset()

    def _weight_step(self, batch: Batch, epoch: int, learning: bool) -> None:
        self.optimizer.zero_grad()
        for gate in self.gates:
            gate.sample_path(0.0 if learning else self.of.options.size_bias)
        loss = self._forward(batch, self.task.label_smoothing)
        if learning:
            loss = self._dsnas_objective(loss, epoch)
        loss.backward()
        self._reset()
        self.optimizer.step()
        self.schedule.step()
        if learning:
            self.alpha_optimizer.step()
            self.alpha_optimizer.zero_grad()

    def _two_path_step(self, batch: Batch, epoch: int) -> None:
        first = self.of.options.warmup_epochs + self.of.options.arc_start_epoch
        with batch_norm_statistics_kept(self.norms):
            pairs = {gate: sample_pair(gate.probs(), gate.generator) for gate in self.searched}
            with gradients_off(self.weights):
                probs = {gate: self._open_pair(gate, pair) for gate, pair in pairs.items()}
                loss = self._forward(batch, self.task.architecture_label_smoothing)
                loss = loss + self._rising(epoch, first, self.epochs) * entropy(
                    [gate.variables for gate in self.searched]
                )
                loss = self._with_penalty(loss, {g: probs[g] if g in probs else g.probs() for g in self.gates})
                self.alpha_optimizer.zero_grad()
                loss.backward()
            before = {gate: gate.alpha.detach()[list(pair)].clone() for gate, pair in pairs.items()}
            self.alpha_optimizer.step()
            with torch.no_grad():
                for gate, pair in pairs.items():
                    gate.alpha[list(pair)] = keep_pair_mass(before[gate], gate.alpha[list(pair)])
        self._reset()

    def _open_pair(self, gate: Gate, pair: tuple[int, int]) -> Tensor:
        q = torch.softmax(gate.alpha[list(pair)], dim=0)
        gate.open(active=pair[0], probed=pair, variables=q)
        return pair_gradient(gate.probs(), q, torch.tensor(pair, device=q.device))

    def _dsnas_objective(self, loss: Tensor, epoch: int) -> Tensor:
        baseline = self.baseline.next(float(loss.detach().clone()))
        task = loss
        if reached := [gate for gate in self.searched if gate.ran and not gate.fixed]:
            log_prob = path_log_probs([gate.alpha for gate in reached], [[gate.current] for gate in reached])
            task = task + loss_reward_term(loss, baseline, log_prob.sum())
        probs = {gate: gate.probs() for gate in self.gates}
        undecided = [p for gate, p in probs.items() if not gate.fixed]
        task = task + (self._rising(epoch, self.of.options.warmup_epochs, self.of.child_epoch) * entropy(undecided)).to(
            task
        )
        return self._with_penalty(task, probs)

    def _rising(self, epoch: int, first: int, end: int) -> float:
        return self.of.options.entropy_weight * min(1.0, (epoch - first) / max(1, end - first - 1))

    def _with_penalty(self, loss: Tensor, probs: dict[Gate, Tensor]) -> Tensor:
        if self.penalty is None:
            return loss
        path = {gate.label: gate.value(gate.current) for gate in self.gates}
        of_choices = {g.label: dict(zip(g.choices, p.unbind(), strict=True)) for g, p in probs.items()}
        return self.penalty(loss, of_choices, path=path)[0]

    # -- the stages of DSNAS ---------------------------------------------------------------------------------------------

    def _decide(self, epoch: int) -> dict[Any, float | None]:
        """Fix what is decided; once all is, become the child. Momenta to put back when its first epoch is over."""
        for gate in self.searched:
            if not gate.fixed and is_decided(gate.probs(), self.of.options.fix_gap):
                made = {gate: gate.most_probable()}
                if not self.limits or most_probable_within(self.limits, self.gates, made, near=False) is not None:
                    self._fix(gate)
        if epoch >= self.of.child_epoch:
            chosen = most_probable_within(self.limits, self.gates) if self.limits else None
            for gate in self.searched:
                if not gate.fixed:
                    self._fix(gate, None if chosen is None else chosen[gate])
        if not all(gate.fixed for gate in self.searched):
            return {}
        self.is_child = True
        remove_unused_candidates(self.supernet)
        left = set(self.supernet.parameters())
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p in left]
        for p in [p for p in self.optimizer.state if p not in left]:
            del self.optimizer.state[p]
        self._find_parts()
        momenta = {}
        for norm in self.norms:
            norm.reset_running_stats()
            momenta[norm], norm.momentum = norm.momentum, None
        return momenta

    @staticmethod
    def _fix(gate: Gate, index: int | None = None) -> None:
        gate.fix(index)
        gate.alpha.grad = None
