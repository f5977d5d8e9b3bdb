"""DSNAS: direct neural architecture search without parameter retraining (Hu, Xie et al.; CVPR 2020).

Symbols as in :mod:`.supernet.gate`, and for one step of the search:

==========  ===========================================================================================
Z           the sampled network, one-hot per choice; Z_k = 1 for the active candidate
r           reward of a choice; a cost, since descent lowers p_k where r > 0
b           baseline of the losses, their moving average
h           gap between the two best probabilities with which a choice is fixed
==========  ===========================================================================================

One stage, on training batches alone. Weights and logits learn from the same backward pass of one sampled network:

    dL/dalpha_i = r (delta_ik - p_i) = r d log p(Z) / d alpha_i                                   (section 3.3)

What r is, is an argument.

``loss``, the default: r = L - b, the score-function estimator (REINFORCE) on the loss of the same step. Its expectation is
the gradient of E[L], whatever the network is like.

``gradient``, the paper's: the gradient that reaches the constant 1 by which the sampled candidate's output is multiplied,

    r = dL/dZ_k = sum over all elements of dL/dy * y

If L is positively homogeneous of degree m in y, its expectation is m times the gradient of E[L] (FACTS 2.1.5). It asks how
the loss changes with the *scale* of y. Where y feeds nothing but convolutions with batch norm behind them, scale is divided
out again, m is 0 and r of the order of the norm's eps: the choice learns nothing (FACTS 2.1.6). Where scale matters, as
before a residual addition, r was found to say little about which candidate is the better one (``experiments/benchmarks/DSNAS.md``).

A search in four stages, on one schedule:

    pretraining     weights only, on paths drawn from p, which is nearly uniform, or with ``size_bias`` larger candidates more
                    often
    search          weights and logits; a choice whose two best probabilities differ by h is fixed at the start of an
                    epoch (eq. 8)
    child           choices that are left take their best candidates, together within the target. All others leave memory,
                    batch-norm statistics are estimated afresh, and the weights go on training
    end             a trained network
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from nni_proxyless.core.batch_norm import moving_norms

from .estimators import MovingBaseline, entropy, is_decided, log_prob_of_path, loss_reward_term
from .oneshot.constraints import most_probable_within
from .oneshot.distributed import average, average_gradients
from .oneshot.module import SampledOneShotModule
from .oneshot.strategy import SampledStrategy
from .ranges import problems_of_dsnas
from .supernet.gate import Gate
from .supernet.layers import settle

__all__ = ["DSNAS"]


class DSNASModule(SampledOneShotModule):
    """The search as a Lightning module: one backward pass per batch, for the weights and the logits."""

    def __init__(
        self,
        training_module: LightningModule,
        *,
        search_epochs: int | None,
        fix_gap: float,
        reward: str,
        paths: str,
        entropy_weight: float,
        baseline: MovingBaseline,
        **kwargs: Any,
    ):
        super().__init__(training_module, **kwargs)
        self.search_epochs = search_epochs
        self.fix_gap = fix_gap
        self.reward = reward
        self.paths = paths
        self.entropy_weight = entropy_weight
        self.baseline = baseline
        self.child_since: int | None = None  # epoch
        self._momenta: dict[nn.modules.batchnorm._BatchNorm, float | None] = {}

    # -- stages ------------------------------------------------------------------------------------------------------

    @property
    def child_epoch(self) -> int:
        """The epoch with which the child begins, at the latest."""
        epochs = self.trainer.max_epochs - self.warmup_epochs
        return self.warmup_epochs + (epochs // 2 if self.search_epochs is None else self.search_epochs)

    @property
    def learning(self) -> bool:
        """Whether logits move."""
        return self.searching and self.child_since is None

    def on_train_start(self) -> Any:
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise MisconfigurationException(
                "strategy: DSNAS needs a Trainer with max_epochs, in which it has its stages"
            )
        if not self.warmup_epochs < self.child_epoch < epochs:
            search = "half of the rest" if self.search_epochs is None else self.search_epochs
            raise MisconfigurationException(
                f"strategy: warmup_epochs is {self.warmup_epochs} and search_epochs {search}, of {epochs} epochs; allowed: at "
                "least one epoch of search and, after it, one in which the child trains"
            )
        if self.paths == "per-process" and self.trainer.world_size > 1:
            self.gates[0].generator.manual_seed(self.seed * self.trainer.world_size + self.trainer.global_rank)
        return super().on_train_start()

    def search_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            self._begin_epoch()
        if self.trainer.current_epoch != self.child_since:  # a resumed search becomes the child anew
            self._restore_momenta()
        scale = self.loss_scale()
        result, stepped = self.weight_step(batch, batch_idx)
        if self.learning and stepped:
            self._step_logits(scale)
        return result

    def on_train_epoch_end(self) -> Any:
        self._restore_momenta()
        return super().on_train_epoch_end()

    def _restore_momenta(self) -> None:
        for norm, momentum in self._momenta.items():
            norm.momentum = momentum
        self._momenta = {}

    def _begin_epoch(self) -> None:
        """Fix what is decided; when nothing is left to decide, or the time for it is over, go on with the child."""
        if not self.learning:
            return
        over = self.trainer.current_epoch >= self.child_epoch
        for gate in self.searched:
            if not gate.fixed and is_decided(gate.probs(), self.fix_gap) and self._leaves_a_network(gate):
                self._fix(gate)
        if over:
            chosen = self.most_probable()
            for gate in self.searched:
                if not gate.fixed:
                    self._fix(gate, chosen[gate])
        if len(self.fixed) == len(self.searched):
            self.child_since = self.trainer.current_epoch
            self._become_child()

    def _leaves_a_network(self, gate: Gate) -> bool:
        """Whether a network within the targets remains if the gate's most probable candidate is chosen for good."""
        made = {gate: gate.most_probable()}
        return not self.limits or most_probable_within(self.limits, self.gates, made, near=False) is not None

    def _fix(self, gate: Gate, index: int | None = None) -> None:
        gate.fix(index)
        gate.alpha.grad = None  # Adam leaves alone what has no gradient

    def _become_child(self) -> None:
        """Let go of all candidates but the chosen ones, and of what optimizers know of them; begin batch norm anew."""
        before = set(self.training_module.parameters())
        settle(self.training_module)
        gone = before - set(self.training_module.parameters())
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if p not in gone]
            for p in gone & optimizer.state.keys():
                del optimizer.state[p]
        self._parts = None
        for norm in moving_norms(self.batch_norms()):
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.reset_running_stats()
                # The plain mean over all batches of this epoch, in the place of a moving one that begins at 0 and 1.
                self._momenta[norm], norm.momentum = norm.momentum, None

    # -- the step ----------------------------------------------------------------------------------------------------

    @property
    def path_size_bias(self) -> float:
        return 0.0 if self.learning else self.size_bias  # the estimator's paths are drawn from p

    def open_path(self, path: dict[Gate, int]) -> None:
        for gate, active in path.items():
            if self.learning and self.reward == "gradient" and not gate.fixed and len(gate.choices) > 1:
                # d log p_k / d alpha = e_k - p does the rest; with p_k as the variable, r would contain 1/p_k.
                log_p = torch.log_softmax(gate.alpha, dim=0)[active : active + 1]
                gate.open(active, probed=(active,), variables=log_p, shift=False)
            else:
                gate.open(active)

    def objective(self, loss: Tensor) -> Tensor:
        if not self.learning:
            return loss
        task = loss
        if self.reward == "loss":
            seen = loss.detach().clone()
            if self.trainer.world_size > 1:  # one baseline for all, or logits would drift apart
                average([seen])
            baseline = self.baseline.next(float(seen))
            if reached := [gate for gate in self.searched if gate.ran and not gate.fixed]:
                task = task + loss_reward_term(loss, baseline, log_prob_of_path(reached))
        if self.penalty is None and self.entropy_weight == 0:
            return task
        probs = {gate: gate.probs() for gate in self.gates}
        if self.entropy_weight > 0:
            undecided = [p for gate, p in probs.items() if not gate.fixed]
            weight = self.rising(self.entropy_weight, self.warmup_epochs, self.child_epoch)
            task = task + (weight * entropy(undecided)).to(task)
        return self.add_penalty(task, probs)

    def _step_logits(self, scale: float) -> None:
        moving = [gate for gate in self.searched if not gate.fixed]
        if self.trainer.world_size > 1:
            average_gradients([gate.alpha for gate in moving])  # a layer that has not run here may have run elsewhere
        now = self.loss_scale()
        if now != scale:  # mixed precision has changed it with the step of the weights, after the backward pass
            for gate in moving:
                if gate.alpha.grad is not None:
                    gate.alpha.grad *= now / scale
        self.architecture_optimizer.step()
        self.architecture_optimizer.zero_grad()

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        # Every step moves every logit of a choice that ran, so a first moment does no harm (FACTS 2.4.1).
        return torch.optim.Adam(
            [gate.alpha for gate in self.gates], lr=self.arc_learning_rate, betas=(0.5, 0.999), foreach=True
        )

    # -- state -------------------------------------------------------------------------------------------------------

    def method_state(self) -> dict[str, Any]:
        return {
            "fixed": {gate.label: gate.choice for gate in self.fixed},
            "baseline": self.baseline.value,
            "child_since": self.child_since,
        }

    def load_method_state(self, state: dict[str, Any]) -> None:
        self.baseline.value = state["baseline"]
        for gate in self.searched:
            if gate.label in state["fixed"]:
                self._fix(gate, state["fixed"][gate.label])
        self.child_since = state["child_since"]
        if self.child_since is not None:
            self._become_child()


class DSNAS(SampledStrategy):
    """DSNAS as a strategy of NNI: what it leaves is a trained network.

    Takes any evaluator of NNI that is a ``Lightning`` and any model space of ``LayerChoice``, ``InputChoice`` and
    ``Repeat``. All training is on the evaluator's training data; validation data are not touched, and need not be given.
    ``export_top_models(formatter='instance')`` gives the child with its trained weights, ``formatter='dict'`` its choices.

    Where paper, official code and this differ; what is said first is the default.

    =====================  ========================================================================================
    ``reward``             ``'loss'``; ``'gradient'`` is the paper's, see the head of this module
    ``search_epochs``      half of the epochs after pretraining; the official code searches 80 of 240 epochs, takes the
                           argmax by hand and starts a second script with a schedule of its own
    ``fix_gap``            0.3 (official code). Its logits then never move again; in the official code they move within
                           each epoch and are put back at the next, and a resumed search has forgotten which they are
    ``penalty``            automatic or additive, over all candidates, see ``LatencyPenalty``; ``form='threshold'`` is
                           the paper's. Its weight against the loss does not depend on the number of processes, with
                           which it grows quadratically in the official code
    ``within_target``      the child is within the target; in paper and official code it has what its argmax costs
    ``paths``              every process samples its own network (paper); ``'shared'``: all the same
    candidates off the     nothing moves them; in the official code weight decay and momentum do
    path
    =====================  ========================================================================================

    Parameters
    ----------
    arc_learning_rate
        Of Adam with betas (0.5, 0.999) and no weight decay.
    search_epochs
        Epochs of search after ``warmup_epochs``; all further ones train the child, at least one. None: half of them.
    warmup_epochs
        Epochs of pretraining.
    size_bias
        As for :class:`~nni_proxyless.strategies.ProxylessNAS`, in the pretraining; the search draws its paths from p.
    fix_gap
        h: a choice is made, for good, at the start of an epoch in which its two best probabilities differ by this or
        more. 1 practically never. With a penalty, probabilities first follow the cost; 0.9 then keeps choices from being
        made before the loss has had its say.
    within_target
        Whether the target of a ``LatencyPenalty``, or each of several, is a limit to the child, and not only to the expected
        cost: a choice waits while making it would leave no network within it, and those made last are the most probable ones
        within it, with ``weight='auto'`` near it, together, as :func:`~nni_proxyless.latency.best_under_budget` has it. False:
        each takes its most probable candidate.
    reward
        ``'loss'`` or ``'gradient'``.
    paths
        ``'per-process'`` or ``'shared'``; the same with one process.
    entropy_weight
        Adds the entropy of the choices to the loss, in units of the loss, rising from 0 in the first epoch of the search
        to this weight in the last. It makes choices decide in searches that are too short to decide by themselves, and
        so brings the latency of the child to the expected one. 0: as in the paper.
    baseline_weight
        Of the newest loss in the moving average b.
    penalty
        A :class:`~nni_proxyless.latency.LatencyPenalty`, any NNI ``ExpectationProfilerPenalty``, or the arguments of the
        latter as a dict. It gets live probabilities, one-hot for choices that are made.
    gradient_clip_val, gradient_clip_algorithm, accumulate_grad_batches
        As for :class:`~nni_proxyless.strategies.ProxylessNAS`. Clipping is of the weights' gradient alone.
    checkpoint_dir, checkpoint_every, log_prob_every_n_step, seed, mutation_hooks
        As there.

    Raises
    ------
    ValueError
        An argument outside its range; the message names all such arguments.
    """

    out_of_range = staticmethod(problems_of_dsnas)
    initial_spread = 1e-2  # FACTS 2.4.1
    needs_held_out_data = False
    leaves_trained_network = True

    def __init__(
        self,
        *,
        arc_learning_rate: float = 1e-3,
        search_epochs: int | None = None,
        warmup_epochs: int = 0,
        size_bias: float = 0.0,
        fix_gap: float = 0.3,
        within_target: bool = True,
        reward: Literal["loss", "gradient"] = "loss",
        paths: Literal["per-process", "shared"] = "per-process",
        entropy_weight: float = 0.0,
        baseline_weight: float = 0.1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        accumulate_grad_batches: int = 1,
        log_prob_every_n_step: int = 10,
        penalty: Any = None,
        checkpoint_dir: str | None = None,
        checkpoint_every: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        self.search_epochs = search_epochs
        self.fix_gap = fix_gap
        self.reward = reward
        self.paths = paths
        self.entropy_weight = entropy_weight
        self.baseline_weight = baseline_weight
        super().__init__(
            arc_learning_rate=arc_learning_rate,
            warmup_epochs=warmup_epochs,
            size_bias=size_bias,
            gradient_clip_val=gradient_clip_val,
            gradient_clip_algorithm=gradient_clip_algorithm,
            accumulate_grad_batches=accumulate_grad_batches,
            log_prob_every_n_step=log_prob_every_n_step,
            penalty=penalty,
            checkpoint_dir=checkpoint_dir,
            checkpoint_every=checkpoint_every,
            within_target=within_target,
            seed=seed,
            **kwargs,
        )

    def configure_oneshot_module(self, training_module: LightningModule) -> DSNASModule:
        return DSNASModule(
            training_module,
            search_epochs=self.search_epochs,
            fix_gap=self.fix_gap,
            reward=self.reward,
            paths=self.paths,
            entropy_weight=self.entropy_weight,
            baseline=MovingBaseline(self.baseline_weight, "after"),
            **self.module_arguments(),
        )
