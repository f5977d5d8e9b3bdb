"""DSNAS: direct neural architecture search without parameter retraining (Hu, Xie et al.; CVPR 2020; arXiv:2002.09128).

The symbols and formulas are those of :mod:`.estimators`. A search has four stages on one schedule, all on
training data:

===============  ======================================================================================================
pretraining      weights only, on paths drawn from p, which is nearly uniform; ``size_bias`` favors larger candidates
search           weights and logits; a choice whose two best probabilities differ by h is fixed (eq. 8) between epochs
child            choices that are left take their best candidates, together within the target; all other candidates
                 are removed, batch-norm statistics are estimated afresh, and the weights go on training
end              a trained network
===============  ======================================================================================================

In the search, weights and logits learn from the same backward pass of one sampled network Z (section 3.3):

    dL/dalpha_i = r (delta_ik - p_i) = r d log p(Z) / d alpha_i

With ``reward='loss'``, the default, r = L - c: the score-function estimator (REINFORCE) on the loss of the same step.
With ``'gradient'`` (paper), r = dL/dZ_k = <dL/dy, y>: the gradient of the constant 1 that multiplies the sampled output.

Where r vanishes, where paper and official code differ, and which option selects which: ``docs/methods/dsnas.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from nni_proxyless.core.ranges import AtLeast, GreaterThan, NotIdentity, UpTo

from .estimators import entropy, is_decided, loss_reward_term, path_log_probs
from .oneshot.baseline import MovingBaseline
from .oneshot.child import FreshStatistics, remove_from_optimizers
from .oneshot.constraints import stays_feasible
from .oneshot.distributed import average
from .oneshot.module import SampledOneShotModule
from .oneshot.stages import check_stages, first_child_epoch
from .oneshot.strategy import SampledStrategy
from .supernet.gate import Gate

__all__ = ["DSNAS"]


class DSNASModule(SampledOneShotModule):
    """The search as a Lightning module: one backward pass per batch, for the weights and the logits."""

    options: DSNAS

    def __init__(self, training_module: LightningModule, *, options: DSNAS, **parts: Any):
        super().__init__(training_module, options=options, **parts)
        self.baseline = MovingBaseline(options.baseline_weight, "after")
        self.child_since: int | None = None  # epoch
        self.selection: dict[str, Any] | None = None  # its record
        self.statistics = FreshStatistics()

    @property
    def child_epoch(self) -> int:
        """The epoch with which the child begins, at the latest."""
        return first_child_epoch(self.options.warmup_epochs, self.options.search_epochs, self.trainer.max_epochs)

    @property
    def learning(self) -> bool:
        """Whether logits move."""
        return self.searching and self.child_since is None

    def on_train_start(self) -> Any:
        check_stages(self.options.warmup_epochs, self.options.search_epochs, self.trainer.max_epochs)
        if self.options.paths == "per-process" and self.trainer.world_size > 1:
            self.gates[0].generator.manual_seed(self.options.seed * self.trainer.world_size + self.trainer.global_rank)
        return super().on_train_start()

    def search_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            self._begin_epoch()
        if self.trainer.current_epoch != self.child_since:  # a resumed search becomes the child anew
            self.statistics.end()
        scale = self.loss_scale()
        result, stepped = self.weight_step(batch, batch_idx)
        if self.learning and stepped:
            self._step_logits(scale)
        return result

    def on_train_epoch_end(self) -> Any:
        self.statistics.end()
        return super().on_train_epoch_end()

    def _begin_epoch(self) -> None:
        """Fix what is decided; when nothing is left to decide, or the time for it is over, go on with the child."""
        if not self.learning:
            return
        over = self.trainer.current_epoch >= self.child_epoch
        for gate in self.searched:
            decided = not gate.fixed and is_decided(gate.probs(), self.options.fix_gap)
            if decided and stays_feasible(self.limits, self.gates, gate):
                self._fix(gate)
        if over:
            chosen = self._last_choices()
            for gate in self.searched:
                if not gate.fixed:
                    self._fix(gate, chosen[gate])
        if len(self.fixed) == len(self.searched):
            self.child_since = self.trainer.current_epoch
            self._become_child()

    def _last_choices(self) -> dict[Gate, int]:
        """Of the choices that are left: those of the selector if there is one, else the most probable ones within the targets."""
        if self.options.selector is None or len(self.fixed) == len(self.searched):
            return self.most_probable()
        made = {gate.label: gate.value(gate.most_probable()) for gate in self.fixed}
        found = self.options.selector(self, made)
        if self.trainer.world_size > 1:  # networks that are all but equal may come in another order elsewhere
            found = self.trainer.strategy.broadcast(found)
        if found is None:
            return self.most_probable()
        sample, self.selection = found
        return {
            gate: next(i for i in range(len(gate.choices)) if gate.value(i) == sample[gate.label])
            for gate in self.gates
        }

    def _fix(self, gate: Gate, index: int | None = None) -> None:
        gate.fix(index)
        gate.alpha.grad = None  # Adam leaves alone what has no gradient

    def _become_child(self) -> None:
        """Remove all candidates but the chosen ones, and estimate batch-norm statistics afresh."""
        remove_from_optimizers(self.training_module, self.trainer.optimizers)
        self.__dict__.pop("parts", None)
        self.statistics.begin(self.batch_norms())

    # -- the step ----------------------------------------------------------------------------------------------------

    @property
    def path_size_bias(self) -> float:
        return 0.0 if self.learning else self.options.size_bias  # the estimator's paths are drawn from p

    def open_path(self, path: dict[Gate, int]) -> None:
        for gate, active in path.items():
            if self.learning and self.options.reward == "gradient" and not gate.fixed and len(gate.choices) > 1:
                # d log p_k / d alpha = e_k - p does the rest; with p_k as the variable, r would contain 1/p_k.
                log_p = torch.log_softmax(gate.alpha, dim=0)[active : active + 1]
                gate.open(active, probed=(active,), variables=log_p, shift=False)
            else:
                gate.open(active)

    def objective(self, loss: Tensor) -> Tensor:
        """The loss; in the search with the terms that the logits learn from."""
        if not self.learning:
            return loss
        task = loss + self._reward_term(loss) if self.options.reward == "loss" else loss
        if self.penalty is None and self.options.entropy_weight == 0:
            return task
        probs = {gate: gate.probs() for gate in self.gates}
        if self.options.entropy_weight > 0:
            undecided = [p for gate, p in probs.items() if not gate.fixed]
            weight = self.rising(self.options.entropy_weight, self.options.warmup_epochs, self.child_epoch)
            task = task + (weight * entropy(undecided)).to(task)
        return self.add_penalty(task, probs)

    def _reward_term(self, loss: Tensor) -> Tensor | float:
        seen = loss.detach().clone()
        if self.trainer.world_size > 1:  # one baseline for all, or logits would drift apart
            average([seen])
        baseline = self.baseline.next(float(seen))
        reached = [gate for gate in self.searched if gate.ran and not gate.fixed]
        if not reached:
            return 0.0
        log_prob = path_log_probs([gate.alpha for gate in reached], [[gate.current] for gate in reached])
        return loss_reward_term(loss, baseline, log_prob.sum())

    def _step_logits(self, scale: float) -> None:
        self.step_logits_of_weight_step([gate for gate in self.searched if not gate.fixed], scale)

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        # Every step moves every logit of a choice that ran, so a first moment does no harm.
        alphas, rate = [gate.alpha for gate in self.gates], self.options.arc_learning_rate
        return torch.optim.Adam(alphas, lr=rate, betas=(0.5, 0.999), foreach=True)

    def method_state(self) -> dict[str, Any]:
        return {
            "fixed": {gate.label: gate.choice for gate in self.fixed},
            "baseline": self.baseline.value,
            "child_since": self.child_since,
            "selection": self.selection,
        }

    def load_method_state(self, state: dict[str, Any]) -> None:
        self.baseline.value = state["baseline"]
        for gate in self.searched:
            if gate.label in state["fixed"]:
                self._fix(gate, state["fixed"][gate.label])
        self.child_since = state["child_since"]
        self.selection = state.get("selection")
        if self.child_since is not None:
            self._become_child()


@dataclass(kw_only=True, eq=False, repr=False)
class DSNAS(SampledStrategy):
    """DSNAS as a strategy of NNI: what it leaves is a trained network.

    Takes any evaluator of NNI that is a ``Lightning`` and any model space of ``LayerChoice``, ``InputChoice``,
    ``Repeat`` and, with ``'loss'``, arguments of modules (docs/how-to/values.md). All training is on the evaluator's training data; validation data are not touched, and need not be
    given. ``export_top_models(formatter='instance')`` gives the trained child, ``formatter='dict'`` its choices.

    The other options are those of :class:`.oneshot.strategy.SampledStrategy`. Of these, clipping is of the weights'
    gradient alone; with ``within_target`` a choice is not made while no network within the target would remain.

    Parameters
    ----------
    search_epochs
        Epochs of search after ``warmup_epochs``; all further ones train the child, at least one. None: half of them.
    fix_gap
        h: a choice is made, for good, at the start of an epoch in which its two best probabilities differ by this or
        more. 1 practically never. With a penalty, probabilities first follow the cost; 0.9 then keeps choices from
        being made before the loss has had its say.
    reward
        What the logits learn from. ``'loss'``: the loss of the sampled network against a moving average;
        ``'gradient'``: the gradient that reaches the output of each sampled candidate (paper).
    paths
        ``'per-process'``: every process samples its own network; ``'shared'``: all the same.
    baseline_weight
        Of the newest loss in the moving average c.
    selector
        Chooses, in the place of probabilities, for the choices that are left when the search stage is over and the supernet still has all
        candidates: ``selector(module, made) -> (network, record)``, label -> choice; None: by probabilities.
    """

    search_epochs: Annotated[int | None, AtLeast(1)] = None
    fix_gap: Annotated[float, GreaterThan(0), UpTo(1)] = 0.3
    reward: Literal["loss", "gradient"] = "loss"
    paths: Literal["per-process", "shared"] = "per-process"
    baseline_weight: Annotated[float, GreaterThan(0), UpTo(1)] = 0.1
    selector: Annotated[Any, NotIdentity()] = None

    module_class = DSNASModule
    initial_spread = 1e-2  # official code: docs/methods/dsnas.md
    needs_held_out_data = False
    leaves_trained_network = True

    def learns_from_gates(self) -> bool:
        return self.reward == "gradient"
