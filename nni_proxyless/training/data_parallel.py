"""Data parallelism: the whole network in each process, of which there may be one; each learns from images of its own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.train_config import TrainConfig
from ..data.accuracy import as_channels_last
from ..tasks import Task
from .batches import Division, EpochBatches, Judge, training_loader
from .distributed import Processes
from .loss import Objective
from .optimizer import Optimization

__all__ = ["DataParallel"]


class DataParallel:
    """How a network learns from batches, in one process or in several. Every process calls every method.

    Parameters
    ----------
    network
        On its device already.
    taught_by
        As of :class:`.Objective`.
    """

    def __init__(
        self, network: nn.Module, config: TrainConfig, processes: Processes, division: Division, task: Task,
        taught_by: nn.Module | None = None,
    ):  # fmt: skip
        self.config, self.processes, self.task = config, processes, task
        mixing = bool(config.mixup or config.cutmix)
        self.batches = EpochBatches(len(division.train), config.batch_size, config.seed, processes, even=mixing)  # type: ignore[arg-type]  # torch's Dataset need have no length, ours has
        self.loader = training_loader(division.train, self.batches, config.workers)
        # The moving average copies the network, so it comes before any wrapping.
        steps = math.ceil(self.batches.per_epoch / config.accumulate_grad_batches)
        self.optimization = Optimization(network, config, steps, processes.device)
        self.objective = Objective(network, config, task, processes, taught_by)

    @property
    def images_per_batch(self) -> int:
        """Of all processes together."""
        return self.batches.batch_size * self.processes.count

    def begin(self, epoch: int, first: int) -> Iterable[tuple[Tensor, Tensor]]:
        """The batches of an epoch for :meth:`learn`, from batch ``first`` on."""
        self.objective.begin(epoch)
        self.batches.begin(epoch, first)
        return self.loader

    def learn(self, images: Tensor, targets: Tensor, in_group: int, *, moves: bool) -> Tensor:
        """Forward and backward.

        Parameters
        ----------
        in_group
            Batches whose gradients make up a step.
        moves
            Whether this is the last of them, after which the weights move.

        Returns
        -------
        Tensor
            The loss, for :meth:`mean_loss`.
        """
        images = as_channels_last(images.to(self.processes.device, non_blocking=True))
        targets = targets.to(self.processes.device, non_blocking=True)
        with contextlib.nullcontext() if moves else self.objective.without_averaging():
            with self.optimization.autocast():
                loss = self.objective(images, targets)
            self.optimization.backward(loss / in_group)
        if moves:
            self.optimization.step()
        return loss.detach()

    def mean_loss(self, loss_sum: Tensor, n_batches: int) -> float:
        """Of all processes, from the sum of what :meth:`learn` has returned in each."""
        return float(self.processes.total(loss_sum)) / (max(1, n_batches) * self.processes.count)

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        return self.optimization.is_finite()

    def end_epoch(self) -> None:
        """Average the statistics of batch norm over the processes."""
        self.processes.average(self.optimization.statistics())

    def judge(self, images: Any) -> Callable[[nn.Module], float]:
        """What finds the figure of merit of ``optimization.judged``, or of ``optimization.network``, on these images."""
        return Judge(images, self.config.batch_size, self.config.workers, self.processes, self.task)

    def weights(self) -> dict[str, Tensor]:
        """Those of the network that is judged, on the CPU, by their names in it; the first process has all of them."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.optimization.judged.state_dict().items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put :meth:`weights` of an earlier moment into ``optimization.network``."""
        self.optimization.network.load_state_dict(weights)

    def whole(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The network that is judged, which has these weights; for the first process."""
        return self.optimization.judged

    def described(self) -> dict[str, Any]:
        """What a result says of it beside the settings."""
        return {}

    def state_dict(self, loss_sum: Tensor) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on; in the first process."""
        own = torch.cat([tensor.reshape(-1) for tensor in (*self.optimization.statistics(), loss_sum)])
        return {"of_each_process": self.processes.gather(own), **self.optimization.state_dict()}

    def load_state_dict(self, state: dict[str, Any], loss_sum: Tensor) -> None:
        """Restore :meth:`state_dict`, ``loss_sum`` included."""
        self.optimization.load_state_dict(state)
        own = [*self.optimization.statistics(), loss_sum]
        parts = state["of_each_process"][self.processes.rank].split([tensor.numel() for tensor in own])
        for tensor, part in zip(own, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
