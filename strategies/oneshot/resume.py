"""Resume a search: killed at any moment and started again, it ends as if it had never been killed.

What a checkpoint holds is everything that the rest of the search depends on: weights, logits, both optimizers, learning
rate schedules, loss scaling, the generator of the paths, all global randomness, and how far each loader has come. Data
are not stored but replayed: the shuffled order is drawn again from the state that it was drawn from, and batches that
are done are skipped. A checkpoint is written between two batches, when no gradient is pending.

On a CPU with a fixed number of threads the result is the same to the last bit.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from nni_proxyless.core.cpu_threads import say_if_other_threads
from nni_proxyless.core.divergence import DivergedError, is_finite
from nni_proxyless.core.nni_compat import ProfilerPenalty, set_batches_of_loggers
from nni_proxyless.core.settings_diff import differences

from .checkpoint import CheckpointError, CheckpointFolder
from .data import rng_state, set_rng_state
from .identity import without_modules

__all__ = ["CheckpointLoop"]

_logger = logging.getLogger(__name__)


class CheckpointLoop:
    """Writes the checkpoints of one search, and resumes from the last one.

    Parameters
    ----------
    folder
        Where checkpoints are, or will be.
    every
        Batches between two checkpoints within an epoch; None: only at the end of epochs.
    identity
        What makes this search this search, as plain values; a checkpoint of another one is refused.
    """

    def __init__(self, folder: str | Path, every: int | None, identity: dict[str, Any]):
        self.files = CheckpointFolder(folder)
        self.every = every
        self.identity = identity
        self._state: dict[str, Any] | None = None
        self._identity_now: dict[str, Any] = {}
        self._done = 0  # batches of the current epoch that a checkpoint holds already

    # -- going on --------------------------------------------------------------------------------------------------

    def read(self, module: Any) -> None:
        """Read the checkpoint, if there is one, and let the loaders draw their order from where they did.

        Comes before Lightning touches the data for the first time.
        """
        self._identity_now = self._identity(module)  # now: a search may let go of candidates later
        self._state = self.files.read()
        if self._state is None:
            return
        found = without_modules(self._state.get("identity", {}))
        # Of an option that a version before this one did not write down nothing says that it was another.
        if unsaid := [name for name in self.identity if name not in found]:
            _logger.warning(
                "%s: the checkpoint does not say %s: taken as the same as here", self.files.folder, ", ".join(unsaid)
            )
            found = {**found, **{name: self.identity[name] for name in unsaid}}
        if different := differences(self._identity_now, found, "in the checkpoint"):
            raise CheckpointError(
                f"{self.files.folder}: the checkpoint is of another search: {'; '.join(different[:5])}"
                f"{f'; and {len(different) - 5} more' if len(different) > 5 else ''}. Use another folder, or empty this one."
            )
        if self._state["batch"] > 0:
            module.training_data.replay(self._state_of_rank(self._state["ranks"], module)["training_data"]["start"])

    def restore(self, module: Any) -> None:
        """Put everything back as it was; comes after Lightning has made the optimizers, before the first batch."""
        state = self._state
        if state is None:
            return
        trainer, mine = module.trainer, self._state_of_rank(state["ranks"], module)
        for gate in module.gates:
            gate.alpha.data.copy_(state["alphas"][gate.label])
        module.load_method_state(state["method"])  # it may let go of candidates, which the checkpoint lacks then
        module.training_module.load_state_dict(state["module"])
        for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(trainer.lr_scheduler_configs, state["schedules"], strict=True):
            schedule.scheduler.load_state_dict(_with_counters(schedule.scheduler, saved))
        trainer.precision_plugin.load_state_dict(state["precision"])
        if isinstance(module.penalty, ProfilerPenalty):
            module.penalty.load_state_dict(state["penalty"])
        module.gates[0].generator.set_state(mine["paths"])
        module.held_out_batches.load_state(mine["held_out"])
        if "path_losses" in state:  # not of a version before this one
            module.path_losses.load_state(state["path_losses"])
        self._done = state["batch"]
        self._set_progress(trainer, state["epoch"], state["steps"])
        if self._done == 0:
            self._restore_randomness(module)
        _logger.info("going on after epoch %d, batch %d (%s)", state["epoch"], state["batch"], self.files.folder)
        say_if_other_threads(state.get("threads"))

    def is_done(self, module: Any, batch_idx: int) -> bool:
        """Whether the checkpoint holds this batch already; after the last such batch, randomness is as it was then."""
        if batch_idx >= self._done:
            if self._state is not None:  # the first new batch: from here on the loaders draw afresh
                module.training_data.replayed()
                self._state = None
            return False
        if batch_idx == self._done - 1:
            self._restore_randomness(module)
        return True

    def _restore_randomness(self, module: Any) -> None:
        assert self._state is not None
        mine = self._state_of_rank(self._state["ranks"], module)
        module.training_data.load_state(mine["training_data"]["now"])
        set_rng_state(mine["randomness"])

    def _set_progress(self, trainer: Any, epoch: int, steps: int) -> None:
        """Tell Lightning's loops where they are."""
        progress = trainer.fit_loop.epoch_progress
        for counts in (progress.current, progress.total):
            counts.ready = counts.started = counts.processed = counts.completed = epoch
        loop = trainer.fit_loop.epoch_loop
        # The loggers' x-axis: batches, all of them, since the ones that are done are gone through again.
        if math.isfinite(trainer.num_training_batches):
            set_batches_of_loggers(trainer, epoch * trainer.num_training_batches)
        counts = loop.manual_optimization.optim_step_progress.total
        counts.ready = counts.completed = steps

    # -- stopping --------------------------------------------------------------------------------------------------

    def after_batch(self, module: Any, batch_idx: int) -> None:
        """Write a checkpoint if it is time and no gradient is pending; not after an epoch's last batch."""
        due = self.every is not None and (batch_idx + 1) // self.every > self._done // self.every
        if batch_idx >= self._done and due and not module.is_accumulating and not module.trainer.is_last_batch:
            self._write(module, module.trainer.current_epoch, batch_idx + 1)
            self._done = batch_idx + 1

    def after_epoch(self, module: Any) -> None:
        """Write a checkpoint at the end of an epoch."""
        self._done = 0
        self._write(module, module.trainer.current_epoch + 1, 0)

    def _write(self, module: Any, epoch: int, batch: int) -> None:
        trainer = module.trainer
        mine = {
            "randomness": rng_state(),
            "paths": module.gates[0].generator.get_state(),
            "training_data": {"start": module.training_data.start, "now": module.training_data.state()},
            "held_out": module.held_out_batches.state(),
        }
        ranks = [mine]
        finite = [is_finite(module)]
        if trainer.world_size > 1:
            ranks, finite = [{} for _ in range(trainer.world_size)], [True] * trainer.world_size
            torch.distributed.all_gather_object(finite, is_finite(module))
            torch.distributed.all_gather_object(ranks, mine)
        if not all(finite):  # a checkpoint from which nothing could go on would take the place of a good one
            raise DivergedError("the weights are no numbers", trainer.current_epoch)
        if trainer.is_global_zero:
            self.files.write(
                {
                    "identity": self._identity_now,
                    "epoch": epoch,
                    "batch": batch,
                    "steps": trainer.global_step,
                    "threads": torch.get_num_threads(),
                    "module": module.training_module.state_dict(),
                    "alphas": {gate.label: gate.alpha.detach() for gate in module.gates},
                    "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
                    "schedules": [_without_counters(s.scheduler.state_dict()) for s in trainer.lr_scheduler_configs],
                    "precision": trainer.precision_plugin.state_dict(),
                    "penalty": module.penalty.state_dict() if isinstance(module.penalty, ProfilerPenalty) else {},
                    "method": module.method_state(),
                    "path_losses": module.path_losses.state(),
                    "ranks": ranks,
                }
            )

    def _identity(self, module: Any) -> dict[str, Any]:
        return {
            **self.identity,
            "processes": module.trainer.world_size,
            "choices": {gate.label: [str(choice) for choice in gate.choices] for gate in module.gates},
            "weights": {name: list(tensor.shape) for name, tensor in module.training_module.state_dict().items()},
        }

    def _state_of_rank(self, ranks: list[dict[str, Any]], module: Any) -> dict[str, Any]:
        return ranks[module.trainer.global_rank]


def _without_counters(value: Any) -> Any:
    """The state of a schedule as plain types: torch's ``MultiStepLR`` has a ``Counter`` in it."""
    if isinstance(value, dict):
        return {key: _without_counters(item) for key, item in value.items()}
    return [_without_counters(item) for item in value] if isinstance(value, list) else value


def _with_counters(schedule: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Counters again where this schedule has them, and where the schedules have them that it is made of."""
    parts = getattr(schedule, "_schedulers", [])
    return {
        key: Counter(item)
        if isinstance(getattr(schedule, key, None), Counter)
        else [_with_counters(part, saved) for part, saved in zip(parts, item, strict=True)]
        if key == "_schedulers"
        else item
        for key, item in state.items()
    }
