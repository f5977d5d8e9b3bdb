"""A search inside Lightning, for both methods: weight steps on single paths, parts of an architecture step."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from nni_proxyless.core.divergence import require_finite
from nni_proxyless.core.module_modes import Modes
from nni_proxyless.core.nni_compat import BaseOneShotLightningModule
from nni_proxyless.latency import LatencyPenalty
from nni_proxyless.latency.objectives.penalty_sum import Penalties

from ..supernet.gate import Gate, sample_paths
from ..supernet.slices import SlicesOfPath
from .constraints import Limit, most_probable_within, reachable
from .data import HeldOutBatches, ReplayableLoader, divided
from .distributed import average, average_gradients, check_strategy, reduces_by_itself
from .own_module import FORWARDED, check_module, check_skips, clip, loss_of, overrides
from .parts import SupernetParts
from .path_losses import PathLosses
from .resume import CheckpointLoop
from .step_log import StepLog
from .warmup import WarmupSchedule

if TYPE_CHECKING:
    from .strategy import SampledStrategy

__all__ = ["SampledOneShotModule"]

_IN_LIGHTNINGS = "nni_proxyless"  # key of what is ours in a checkpoint of Lightning's


class SampledOneShotModule(BaseOneShotLightningModule):
    """Weight steps on single paths; everything that a method's architecture step is put together from.

    A method overrides :meth:`search_step`, and :meth:`method_state` if it keeps anything of its own from step to step.
    What learns the architecture in the backward pass of the weights also overrides :meth:`open_path` and
    :meth:`objective`.

    Parameters
    ----------
    training_module
        The evaluator's Lightning module, holding the supernet.
    options
        The strategy: its options are read where they are needed.
    gates
        One per label, in the order of labels: an optimizer's state is stored by position.
    training_data, held_out_data
        What the weights and what the architecture is trained on.
    penalty
        What latency adds to the loss, or makes of an accuracy; None for nothing.
    limits
        What the network that is left keeps to.
    checkpoint_loop
        Writes and reads checkpoints; None for none.
    """

    def __init__(
        self,
        training_module: LightningModule,
        *,
        options: SampledStrategy,
        gates: list[Gate],
        training_data: ReplayableLoader,
        held_out_data: ReplayableLoader,
        penalty: Any,
        limits: Sequence[Limit],
        checkpoint_loop: CheckpointLoop | None,
    ):
        super().__init__(training_module)
        for name in FORWARDED:
            if overrides(training_module, name):
                setattr(self, name, getattr(training_module, name))
        self.options = options
        self.gates = list(gates)
        self.gate_modules = nn.ModuleList(gates)  # so that Lightning moves them
        self.penalty = penalty
        self.training_data = training_data
        self.held_out_data = held_out_data
        self.held_out_batches = HeldOutBatches(held_out_data)
        self.checkpoint_loop = checkpoint_loop
        self.limits = list(limits)
        self._warmup = WarmupSchedule(options)
        self._accumulated = 0
        self.original: Any = None  # of the space, until something has been trained
        self._path: dict[Gate, int] = {}
        self._slices: SlicesOfPath
        self.path_losses = PathLosses(self.gates)
        self._modes: Modes | None = None
        self._step_log = StepLog()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # The strategy knows NNI's engine and with it the whole search, which is not a part of this module.
        memo[id(self.options)] = self.options
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    # -- life in Lightning -----------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> Any:
        check_strategy(self.trainer.strategy)
        self._modes = Modes(self)
        # Too late to be refused; so that estimated_stepping_batches, from which schedules take their length, counts steps.
        self.trainer.accumulate_grad_batches = self.options.accumulate_grad_batches
        for data in (self.training_data, self.held_out_data):
            if data.loader is not None:  # else they come from a data module, later
                data.loader = divided(data.loader, self.trainer, self.options.seed)
        if self.checkpoint_loop is not None:
            self.checkpoint_loop.read(self)
        return super().setup(stage)

    def on_train_start(self) -> Any:
        if self._modes is not None:
            self._modes.restore()  # what a space keeps in evaluation mode stays in it
            self._modes = None
        own = [o for o in self.trainer.optimizers if not getattr(o, "is_arch_optimizer", False)]
        check_module(self.training_module, own, [config.scheduler for config in self.trainer.lr_scheduler_configs])
        if self.options.warmup_learning_rate is not None and math.isinf(self.trainer.num_training_batches):
            raise MisconfigurationException(
                "strategy: warmup_learning_rate needs training data of known length; use the evaluator's own schedule"
            )
        self.limits = reachable(self.limits, self.gates)
        if self.checkpoint_loop is not None:
            self.checkpoint_loop.restore(self)
        return super().on_train_start()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.checkpoint_loop is not None and self.checkpoint_loop.is_done(self, batch_idx):
            return None
        self.original = None
        result = self.search_step(batch, batch_idx)
        if batch_idx % self.options.log_prob_every_n_step == 0:
            self._step_log.probs = self.export_probs()
        self._step_log.hand_over(self)
        return result

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        result = super().on_train_batch_end(outputs, batch, batch_idx, *args, **kwargs)
        if self.checkpoint_loop is not None:
            self.checkpoint_loop.after_batch(self, batch_idx)
        return result

    def on_train_epoch_end(self) -> Any:
        result = super().on_train_epoch_end()
        if self.trainer.world_size > 1:  # each process has seen its own share of the images
            average([b for b in self.training_module.buffers() if b.is_floating_point()])
        require_finite(self, self.trainer.current_epoch)
        if self.checkpoint_loop is not None:
            self.checkpoint_loop.after_epoch(self)
        return result

    # From Lightning's own checkpoints NNI's ``state_dict`` goes on. What is decided comes first: a child lacks what has left.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_IN_LIGHTNINGS] = {
            "method": self.method_state(), "paths": self.gates[0].generator.get_state(), "path_losses": self.path_losses.state(),
        }  # fmt: skip
        self.training_module.on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if state := checkpoint.get(_IN_LIGHTNINGS):
            self.load_method_state(state["method"])
            self.gates[0].generator.set_state(state["paths"])
            if "path_losses" in state:  # not of a version before this one
                self.path_losses.load_state(state["path_losses"])
        self.training_module.on_load_checkpoint(checkpoint)

    def search_step(self, batch: Any, batch_idx: int) -> Any:
        """What the method does with one training batch."""
        raise NotImplementedError

    def method_state(self) -> dict[str, Any]:
        """What a checkpoint must hold of the method: tensors and plain types."""
        return {}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`method_state` returned."""

    # -- the weights -----------------------------------------------------------------------------------------------

    @property
    def searching(self) -> bool:
        """False during warm-up, when only weights train."""
        return self.trainer.current_epoch >= self.options.warmup_epochs

    def weights(self) -> list[nn.Parameter]:
        """Everything the supernet trains but the logits."""
        return self.parts.weights

    def batch_norms(self) -> list[nn.Module]:
        """All batch norms of the supernet, and its instance norms, which may have running statistics too."""
        return self.parts.batch_norms

    @functools.cached_property
    def parts(self) -> SupernetParts:
        """Of the supernet; a method that changes it forgets them."""
        return SupernetParts.of(self.training_module)

    @property
    def is_accumulating(self) -> bool:
        """Whether gradients wait for more batches before the weights move."""
        return self._accumulated > 0

    @property
    def weight_optimizer(self) -> Any:
        """The evaluator's own optimizer."""
        return next(o for o in self.optimizers() if not getattr(o, "is_arch_optimizer", False))

    def weight_step(self, batch: Any, batch_idx: int) -> tuple[Any, bool]:
        """One training batch on one sampled path; candidates off the path have no gradient, so nothing moves them.

        With ``accumulate_grad_batches`` n, the path stays for n batches, of which the last one ends the step: n
        batches are one step on a batch n times as large.

        Returns
        -------
        tuple
            What the evaluator's ``training_step`` returned, and whether the weights have moved.
        """
        optimizer = self.weight_optimizer
        if self._accumulated == 0:
            self._path = sample_paths(self.gates, self.path_size_bias)
            self.training_module.on_before_zero_grad(optimizer)
            self.training_module.optimizer_zero_grad(self.trainer.current_epoch, batch_idx, optimizer)
            # Other processes may be on other paths, and all weights move by the mean of their gradients.
            sliced = self.parts.super_kernels if self.trainer.world_size == 1 else []
            self._slices = SlicesOfPath(sliced, self._path, optimizer.optimizer)
        self.open_path(self._path)
        with self._slices.running():
            result = self.training_module.training_step(batch, batch_idx)
            loss = loss_of(result, self.training_module)
            if loss is not None:
                self.manual_backward(self.objective(loss) / self.options.accumulate_grad_batches)
        if loss is None:
            check_skips(self.training_module)
        else:
            self.path_losses.add(self._path, loss)
            self._accumulated += 1
        self.reset_gates()
        last = self.trainer.is_last_batch
        stepped = self._accumulated > 0 and (self._accumulated == self.options.accumulate_grad_batches or last)
        epoch = self.trainer.current_epoch
        self._warmup.set(optimizer.param_groups, epoch, batch_idx, self.trainer.num_training_batches)
        if stepped:
            self._accumulated = 0
            if self.trainer.world_size > 1:
                average_gradients(self.weights())
            with self._slices.stepping(optimizer.optimizer):
                rule = (self.options.gradient_clip_val, self.options.gradient_clip_algorithm)
                clip(self.training_module, optimizer, *rule)
                self.training_module.optimizer_step(epoch, batch_idx, optimizer)
        # As Lightning counts: a batch that was skipped is one of those that a schedule is made for.
        skipped = loss is None and self.options.accumulate_grad_batches == 1
        if (stepped or last or skipped) and not self._warmup.is_on(epoch):
            self.advance_lr_schedulers(batch_idx)
        return result, stepped

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if not getattr(optimizer, "is_arch_optimizer", False):
            self.training_module.on_before_optimizer_step(optimizer)

    @property
    def path_size_bias(self) -> float:
        """How much more often than by its probability a large candidate is on the path that trains weights."""
        return self.options.size_bias

    def open_path(self, path: dict[Gate, int]) -> None:
        """Let a sampled path run."""
        for gate, active in path.items():
            gate.open(active)

    def objective(self, loss: Tensor) -> Tensor:
        """What backward starts from, given the loss of the sampled path."""
        return loss

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's, without the reduction of DDP, which would send the gradients of all candidates around."""
        if not reduces_by_itself(self.trainer.strategy):
            super().manual_backward(loss, *args, **kwargs)
            return
        precision = self.trainer.precision_plugin
        loss = precision.pre_backward(loss, self)
        precision.backward(loss, self, None, *args, **kwargs)
        precision.post_backward(loss, self)

    def loss_scale(self) -> float:
        """By how much mixed precision has scaled the gradients up."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())

    # -- the architecture ------------------------------------------------------------------------------------------

    @property
    def searched(self) -> list[Gate]:
        """The gates that have something to choose from."""
        return [gate for gate in self.gates if len(gate.choices) > 1]

    @property
    def fixed(self) -> list[Gate]:
        """Those of them whose choice is made, for good."""
        return [gate for gate in self.searched if gate.fixed]

    def architecture_loss(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Task loss of the sampled path, by the module's ``architecture_loss`` if it has one; None skips the batch."""
        own = getattr(self.training_module, "architecture_loss", None)
        return loss_of((own or self.training_module.training_step)(batch, batch_idx), self.training_module)

    def add_penalty(self, loss: Tensor, probs: dict[Gate, Tensor]) -> Tensor:
        """Add the expected cost under ``probs`` (live tensors of shape (N,)) and log what it came to."""
        if self.penalty is None:
            return loss
        path = {"path": self.sampled_path()} if isinstance(self.penalty, (LatencyPenalty, Penalties)) else {}
        loss, details = self.penalty(
            loss, {g.label: dict(zip(g.choices, p.unbind(), strict=True)) for g, p in probs.items()}, **path
        )
        self.note({f"penalty/{name}": value for name, value in details.items()})
        return loss

    def note(self, figures: dict[str, Any]) -> None:
        """Log figures of this step when the loggers log next; see :class:`.step_log.StepLog`."""
        self._step_log.figures.update(figures)

    def rising(self, weight: float, first: int, end: int) -> float:
        """A weight that rises from 0 in epoch ``first`` to its whole in the last epoch before ``end``."""
        return weight * min(1.0, (self.trainer.current_epoch - first) / max(1, end - first - 1))

    def sampled_path(self) -> dict[str, Any]:
        """Label -> choice of the path that is open."""
        return {gate.label: gate.value(gate.current) for gate in self.gates}

    def next_held_out_batch(self) -> Any:
        """The next batch for the architecture, on this module's device; begins again when the data are through."""
        # What Lightning's own loop does with a batch, in its order.
        batch = self.trainer.precision_plugin.convert_input(self.held_out_batches.next())
        batch = self._on_before_batch_transfer(batch)
        return self.trainer.strategy.batch_to_device(batch, self.device)

    def average_architecture_gradients(self) -> None:
        """Several processes: one gradient for all, so that logits stay the same everywhere."""
        if self.trainer.world_size > 1:
            average([gate.alpha.grad for gate in self.gates if gate.alpha.grad is not None])

    def step_logits_of_weight_step(self, gates: list[Gate], scale: float) -> None:
        """Step the logits on gradients of the weights' backward pass, in which :meth:`loss_scale` was ``scale``."""
        if self.trainer.world_size > 1:
            average_gradients([gate.alpha for gate in gates])  # a layer that has not run here may have run elsewhere
        now = self.loss_scale()
        if now != scale:  # mixed precision has changed it with the step of the weights, after the backward pass
            for gate in gates:
                if gate.alpha.grad is not None:
                    gate.alpha.grad *= now / scale
        self.architecture_optimizer.step()
        self.architecture_optimizer.zero_grad()

    def reset_gates(self) -> None:
        """Back to the most probable path, which is what anyone who calls the supernet between steps wants to see."""
        for gate in self.gates:
            gate.reset()

    def export(self) -> dict[str, Any]:
        """The most probable network, with limits the most probable one within them: the same at every call."""
        chosen = self.most_probable()
        return {gate.label: gate.value(chosen[gate]) for gate in self.gates}

    def most_probable(self) -> dict[Gate, int]:
        """Gate -> index of its candidate in the network that would be left now."""
        within = most_probable_within(self.limits, self.gates) if self.limits else None
        return {gate: gate.most_probable() for gate in self.gates} if within is None else within

    def export_probs(self) -> dict[str, dict[Any, float]]:
        """Label -> choice -> probability, as plain numbers."""
        return {gate.label: dict(zip(gate.choices, gate.probs().tolist(), strict=True)) for gate in self.gates}

    def export_searched_probs(self) -> dict[str, dict[Any, float]]:
        """As :meth:`export_probs`; of a choice that is made for good the distribution that it was made from."""
        return {
            gate.label: dict(zip(gate.choices, torch.softmax(gate.alpha.detach(), dim=0).tolist(), strict=True))
            for gate in self.gates
        }

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        # beta1 must be 0 and weight decay off: a logit without gradient must not move (ProxylessNAS, sec. 3.2.1).
        return torch.optim.Adam(
            [gate.alpha for gate in self.gates], lr=self.options.arc_learning_rate, betas=(0.0, 0.999)
        )

    @property
    def architecture_optimizer(self) -> Any:
        """The optimizer of all logits."""
        return self.architecture_optimizers()
