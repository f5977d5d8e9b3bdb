"""ProxylessNAS: direct neural architecture search on target task and hardware (Cai, Zhu, Han; ICLR 2019).

Symbols as in :mod:`.supernet.gate`, and for one choice in one architecture step:

==========  ===========================================================================================
a, b        the two sampled candidates, a != b
q           softmax of (alpha_a, alpha_b), shape (2,)
E           expected latency, sum over choices of sum_j p_j F_j, F_j from the latency table (eq. 5, 6)
R_m         reward of the m-th of M sampled networks, accuracy * (latency / target)^w
b           baseline of the rewards
==========  ===========================================================================================

Weights: one path drawn from p, ordinary training on the training data. (``size_bias`` can draw large candidates more often.)

Architecture, on held-out data and with the weights as they are, by one of three updates:

``full``, section 3.2. The path is drawn from p, and the gates of all candidates get their gradient:

    dL/dalpha_i = sum over j of dL/dg_j p_j (delta_ij - p_i)                                          (eq. 4)

``two-path``, section 3.2.1. Two candidates are drawn from p without replacement, one of them, drawn from q, is active:

    dL/dalpha_a = sum over j in {a, b} of dL/dg_j q_j (delta_aj - q_a) = q_a q_b (dL/dg_a - dL/dg_b)
    dL/dalpha_b = -dL/dalpha_a

After the optimizer's step both logits are shifted by one number, so that the pair's probability mass, and with it the
probability of every candidate that was not sampled, stays what it was.

Both are the chain rule through a softmax with dL/dg in the place of dL/dp (dL/dq); that is how they are computed here.

``reinforce``, section 3.3. M networks are drawn from p and tried on one batch:

    dJ/dalpha = 1/M sum over m of (R_m - b) d log p(network m) / dalpha                               (eq. 8)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from nni_proxyless.core.batch_norm import batch_norm_statistics_kept
from nni_proxyless.latency import LatencyReward
from nni_proxyless.latency.objectives.penalty_sum import Penalties

from .estimators import MovingBaseline, entropy, pair_shift, reinforce_loss, sample_pair
from .oneshot.accuracy import accuracy_of
from .oneshot.distributed import average
from .oneshot.module import SampledOneShotModule
from .oneshot.strategy import SampledStrategy
from .ranges import problems_of_proxyless
from .supernet.frozen import gradients_off
from .supernet.gate import Gate

__all__ = ["MovingBaseline", "ProxylessNAS", "reinforce_loss"]


class ProxylessModule(SampledOneShotModule):
    """The search as a Lightning module: a weight step on every batch, architecture steps after every n-th."""

    def __init__(
        self,
        training_module: LightningModule,
        *,
        update: str,
        arc_update_every: int,
        arc_update_steps: int,
        arc_start_epoch: int,
        cost_probs: str,
        update_active_skip: bool,
        entropy_weight: float,
        reinforce_samples: int,
        baseline: MovingBaseline,
        **kwargs: Any,
    ):
        super().__init__(training_module, **kwargs)
        self.update = update
        self.arc_update_every = arc_update_every
        self.arc_update_steps = arc_update_steps
        self.arc_start_epoch = arc_start_epoch
        self.cost_probs = cost_probs
        self.update_active_skip = update_active_skip
        self.entropy_weight = entropy_weight
        self.reinforce_samples = reinforce_samples
        self.baseline = baseline

    def on_train_start(self) -> Any:
        batches = self.trainer.num_training_batches
        if -(-batches // self.accumulate_grad_batches) < self.arc_update_every:
            several = "" if self.accumulate_grad_batches == 1 else f", {self.accumulate_grad_batches} to a weight step"
            raise MisconfigurationException(
                f"strategy: arc_update_every is {self.arc_update_every}, but an epoch has only {batches} batches{several}: the "
                "architecture would never be updated. Use a smaller arc_update_every or a smaller batch."
            )
        return super().on_train_start()

    def search_step(self, batch: Any, batch_idx: int) -> Any:
        result, stepped = self.weight_step(batch, batch_idx)
        steps = batch_idx // self.accumulate_grad_batches + 1  # of this epoch, the last one may have fewer batches
        if stepped and self.updating and steps % self.arc_update_every == 0:
            for _ in range(self.arc_update_steps):
                self.architecture_step(self.next_held_out_batch(), batch_idx)
        return result

    @property
    def updating(self) -> bool:
        """Whether the architecture moves in this epoch."""
        return self.trainer.current_epoch >= self.warmup_epochs + self.arc_start_epoch

    def architecture_step(self, batch: Any, batch_idx: int) -> None:
        """One update of the logits on a held-out batch. Nothing else changes: no weight, no running statistic."""
        with batch_norm_statistics_kept(self.batch_norms()):
            if self.update == "reinforce":
                self._reinforce_step(batch, batch_idx)
            else:
                self._gradient_step(batch, batch_idx)
        self.reset_gates()

    # -- by gradient -------------------------------------------------------------------------------------------------

    def _gradient_step(self, batch: Any, batch_idx: int) -> None:
        pairs = {}
        if self.update == "two-path":
            pairs = {gate: sample_pair(gate.probs(), gate.generator) for gate in self.searched}
        with gradients_off(self.weights()):
            probs = {gate: self._open_pair(gate, pair) for gate, pair in pairs.items()} or self._open_all()
            still = [] if self.update_active_skip else [g for g in probs if g.active in (g.skips or ())]
            task = self.architecture_loss(batch, batch_idx)
            if task is None:
                return
            loss = self.add_penalty(task + self._indecision(probs), self._with_decided(probs))
            self.architecture_optimizer.zero_grad()
            self.manual_backward(loss)
        for gate in still:
            gate.alpha.grad = None
        self.average_architecture_gradients()
        before = {gate: gate.alpha.detach()[list(pair)].clone() for gate, pair in pairs.items()}
        self.architecture_optimizer.step()
        with torch.no_grad():
            for gate, pair in pairs.items():
                after = gate.alpha[list(pair)]
                gate.alpha[list(pair)] = after - pair_shift(before[gate], after)

    def _open_all(self) -> dict[Gate, Tensor]:
        """Sample a path from p and probe every candidate; return p, which the expected cost is taken over."""
        probs = {}
        for gate in self.searched:
            active = gate.sample_path()
            probs[gate] = gate.probs()
            gate.open(active, probed=range(len(gate.choices)), variables=probs[gate])
        return probs

    def _open_pair(self, gate: Gate, pair: tuple[int, int]) -> Tensor:
        """Open the gate for a pair; return the probabilities that the expected cost is taken over, shape (N,).

        Their values are p, so that the cost is the expected latency. With ``cost_probs='pair'`` their gradient is that of
        q, the same that the gates of the pair have: candidates that were not sampled have none.
        """
        q = torch.softmax(gate.alpha[list(pair)], dim=0)
        gate.open(active=pair[0], probed=pair, variables=q)
        if self.cost_probs == "full":
            return gate.probs()
        of_the_pair = torch.zeros_like(gate.alpha).index_put((torch.tensor(pair, device=q.device),), q)
        return gate.probs().detach() + (of_the_pair - of_the_pair.detach())

    def _indecision(self, gates: Iterable[Gate]) -> Tensor | float:
        """Entropy of what the gates stand for, with a weight that rises from 0 to ``entropy_weight`` during the search."""
        if self.entropy_weight == 0:
            return 0.0
        stands_for = [gate.variables for gate in gates if gate.variables is not None]
        first = self.warmup_epochs + self.arc_start_epoch
        return self.rising(self.entropy_weight, first, self.trainer.max_epochs or 0) * entropy(stands_for)

    def _with_decided(self, probs: dict[Gate, Tensor]) -> dict[Gate, Tensor]:
        """Together with the gates that have only one choice."""
        return {gate: probs[gate] if gate in probs else gate.probs() for gate in self.gates}

    # -- by REINFORCE --------------------------------------------------------------------------------------------------

    def _reinforce_step(self, batch: Any, batch_idx: int) -> None:
        rewards, paths = [], []
        with torch.no_grad():
            for _ in range(self.reinforce_samples):
                paths.append([gate.sample_path() for gate in self.gates])
                accuracy = accuracy_of(self.training_module, batch, batch_idx)
                rewards.append(accuracy if self.penalty is None else self.penalty(accuracy, self.sampled_path()))
        received = torch.tensor(rewards, dtype=torch.float64)
        if self.trainer.world_size > 1:
            # In double precision where there is one: Adam would turn a difference of rounding alone into a whole step.
            received = received.to(self.device, torch.float32 if self.device.type == "mps" else torch.float64)
            average([received])
        mean = received[0] + (received - received[0]).mean()  # exact where all are equal
        baseline = self.baseline.next(float(mean))
        log_probs = torch.stack(
            [
                torch.log_softmax(gate.alpha, dim=0)[[path[i] for path in paths]]
                for i, gate in enumerate(self.gates)
                if len(gate.choices) > 1
            ]
        ).sum(dim=0)
        self.architecture_optimizer.zero_grad()
        self.manual_backward(reinforce_loss(log_probs, received.to(log_probs), baseline))
        self.architecture_optimizer.step()
        self.note({"reinforce/reward": received.mean().float(), "reinforce/baseline": baseline})

    def method_state(self) -> dict[str, Any]:
        return {"baseline": self.baseline.value}

    def load_method_state(self, state: dict[str, Any]) -> None:
        self.baseline.value = state["baseline"]


class ProxylessNAS(SampledStrategy):
    """ProxylessNAS as a strategy of NNI: ``from nni_proxyless.strategies import ProxylessNAS`` is the whole migration.

    Takes the arguments of ``nni.nas.strategy.Proxyless`` and any evaluator of NNI that is a ``Lightning``; any model
    space of ``LayerChoice``, ``InputChoice`` and ``Repeat``. The evaluator's training data trains the weights, its
    validation data trains the architecture. ``export_top_models(formatter='dict')`` gives the most probable
    architecture within the target, not a random sample.

    If the evaluator's module has a method ``architecture_loss(batch, batch_idx) -> Tensor``, architecture steps
    minimise it in the place of ``training_step``. Paper and official code use plain cross entropy there, and label
    smoothing for the weights only. With ``'reinforce'``, ``architecture_accuracy(batch, batch_idx)`` likewise.

    Where paper and official code disagree, there is an argument; what is said first is the default.

    =========================  =====================================================================================
    ``within_target``          what is left is within the target; in paper and official code it has what its argmax costs
    ``update``                 two paths, as in the paper; the official code's own default is ``'full'``
    ``update_active_skip``     the logits move also when the skip is active (paper, eq. 4); the official code leaves
                               them alone in such a step, the gradient of the cost included
    ``cost_probs``             two-path: gradient of the cost over the pair (official code), so that error and latency
                               are weighed on the same two candidates and the others keep their probabilities exactly;
                               ``'full'``: over all candidates (paper, eq. 5). The value is the full expectation always
    ``penalty``                automatic or additive, see ``LatencyPenalty``; ``form='mul#log'`` is the official default
    ``arc_update_every``       an architecture step after 5 weight steps (official code); 1 is the paper's alternation
    ``arc_start_epoch``        logits move from the first epoch after warm-up on; 1 is the official code
    ``warmup_epochs``          none (paper); 40 with ``warmup_learning_rate=0.05`` is the official code
    ``baseline``               moved before use, 99 % of it the newest mean (official code); ``'after'`` with
                               ``baseline_weight=0.1`` is the textbook's, without bias and slower
    =========================  =====================================================================================

    An architecture step updates no running statistics of batch norm (the official code's does).

    Parameters
    ----------
    update
        ``'two-path'``, ``'full'`` or ``'reinforce'``; see the head of this module.
    arc_learning_rate
        Of Adam with betas (0, 0.999) and no weight decay; with a first moment, candidates that were not sampled would
        move too.
    arc_update_every
        Weight steps between two updates of the architecture, counted within an epoch.
    arc_update_steps
        Architecture steps in a row, each on a held-out batch of its own.
    arc_start_epoch
        Epochs after warm-up in which the logits stay where they are.
    warmup_epochs
        Epochs at the start that train weights only, on paths from nearly uniform probabilities.
    warmup_learning_rate
        Warm-up has a cosine schedule of its own, from here to 0; the evaluator's schedule begins with the search, and
        should be as long as the search alone. None: the evaluator's schedule from the start.
    size_bias
        Weights train on paths in which candidate j has a probability proportional to p_j s_j^size_bias, s_j being its number of
        weights. 0: p_j, as in the paper. 1 is for candidates that share their weights
        (:class:`~nni_proxyless.search_spaces.MobileNetV2Space`): a large one alone trains what it does not share, and drawn as
        often as the others it stays behind them and is judged too low. The architecture learns on paths drawn from p.
    gradient_clip_val, gradient_clip_algorithm
        Norm (or largest value, with ``'value'``) to which the gradient of the weights is clipped; None for no clipping.
        Lightning's Trainer refuses its own arguments of these names under manual optimization.
    accumulate_grad_batches
        Batches of one weight step, all on the same path.
    log_prob_every_n_step
        How often all probabilities go to the logger, in batches.
    penalty
        A :class:`~nni_proxyless.latency.LatencyPenalty`, any NNI ``ExpectationProfilerPenalty``, or the arguments of the
        latter as a dict. It gets live probabilities, so its gradient reaches alpha. With ``'reinforce'``: a
        :class:`~nni_proxyless.latency.LatencyReward`, which takes any profiler or measurement; or a ``LatencyPenalty``,
        whose profiler and target are used.
    cost_probs
        ``'pair'`` or ``'full'``, see above.
    update_active_skip
        See above.
    entropy_weight
        Adds the entropy of the choices to the loss of the architecture, in units of the loss, rising from 0 in the first
        epoch of the search to this weight in the last. It makes choices decide, and so brings the latency of the
        derived net to the expected one, in searches that are too short to decide by themselves. 0: as in the paper.
        Not with ``'reinforce'``.
    reinforce_samples
        Networks per update, M; 10 in the official code.
    reward_exponent
        w of the reward when ``penalty`` is a ``LatencyPenalty``; -0.1 in the official code.
    baseline, baseline_weight
        ``'before'``, ``'after'`` or ``'never'``; see :class:`MovingBaseline`.
    checkpoint_dir
        Folder for checkpoints: a search that is killed and started again with the same arguments goes on from the last
        one, and ends as if it had not been killed. None: no checkpoints.
    checkpoint_every
        Batches between two checkpoints; one at the end of every epoch is written anyway.
    within_target
        Whether the network that is left is within the target of a ``LatencyPenalty``, or each of several, and with
        ``weight='auto'`` near it: the most probable one of those, as :func:`~nni_proxyless.latency.best_under_budget` has it.
        False: of every choice its most probable candidate (paper), which together may cost more, or much less. Nothing else
        in the search depends on it.
    seed
        Of the initial logits and of all sampling.
    mutation_hooks
        As for every one-shot strategy of NNI.

    Raises
    ------
    ValueError
        An argument outside its range; the message names all such arguments.
    """

    out_of_range = staticmethod(problems_of_proxyless)

    def __init__(
        self,
        *,
        update: Literal["two-path", "full", "reinforce"] = "two-path",
        arc_learning_rate: float = 1e-3,
        arc_update_every: int = 5,
        arc_update_steps: int = 1,
        arc_start_epoch: int = 0,
        warmup_epochs: int = 0,
        warmup_learning_rate: float | None = None,
        size_bias: float = 0.0,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        accumulate_grad_batches: int = 1,
        log_prob_every_n_step: int = 10,
        penalty: Any = None,
        cost_probs: Literal["pair", "full"] = "pair",
        update_active_skip: bool = True,
        entropy_weight: float = 0.0,
        reinforce_samples: int = 10,
        reward_exponent: float = -0.1,
        baseline: Literal["before", "after", "never"] = "before",
        baseline_weight: float = 0.99,
        checkpoint_dir: str | None = None,
        checkpoint_every: int | None = None,
        within_target: bool = True,
        seed: int = 0,
        **kwargs: Any,
    ):
        self.update = update
        self.arc_update_every = arc_update_every
        self.arc_update_steps = arc_update_steps
        self.arc_start_epoch = arc_start_epoch
        self.cost_probs = cost_probs
        self.update_active_skip = update_active_skip
        self.entropy_weight = entropy_weight
        self.reinforce_samples = reinforce_samples
        self.reward_exponent = reward_exponent
        self.baseline = baseline
        self.baseline_weight = baseline_weight
        super().__init__(
            arc_learning_rate=arc_learning_rate,
            warmup_epochs=warmup_epochs,
            warmup_learning_rate=warmup_learning_rate,
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

    def penalty_problem(self) -> str | None:
        if self.update == "reinforce":
            if isinstance(self.penalty, Penalties):
                return (
                    f"penalty holds {len(self.penalty.penalties)} costs, of which update='reinforce' makes no one reward; "
                    "allowed: LatencyReward with a function of your own, or one LatencyPenalty"
                )
            if self.penalty is None or isinstance(self.penalty, LatencyReward) or hasattr(self.penalty, "profiler"):
                return None
            return f"penalty is a {type(self.penalty).__name__}; allowed with update='reinforce': LatencyReward, LatencyPenalty"
        if isinstance(self.penalty, LatencyReward):
            return f"penalty is a LatencyReward, which update={self.update!r} cannot differentiate; allowed: LatencyPenalty"
        return super().penalty_problem()

    def module_arguments(self) -> dict[str, Any]:
        penalty = self.penalty
        if self.update == "reinforce" and penalty is not None and not isinstance(penalty, LatencyReward):
            penalty = LatencyReward(penalty.profiler, penalty.baseline, self.reward_exponent)
        return {**super().module_arguments(), "penalty": penalty}

    def configure_oneshot_module(self, training_module: LightningModule) -> ProxylessModule:
        return ProxylessModule(
            training_module,
            update=self.update,
            arc_update_every=self.arc_update_every,
            arc_update_steps=self.arc_update_steps,
            arc_start_epoch=self.arc_start_epoch,
            cost_probs=self.cost_probs,
            update_active_skip=self.update_active_skip,
            entropy_weight=self.entropy_weight,
            reinforce_samples=self.reinforce_samples,
            baseline=MovingBaseline(self.baseline_weight, self.baseline),
            **self.module_arguments(),
        )
