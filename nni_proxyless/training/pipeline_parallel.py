"""Pipeline parallelism: a stage of the network in each process; the micro-batches of a batch go through all of them.

The first process has the images, mixes them, and tells the last one their classes. What each process holds is its stage's alone:
weights, gradients, the optimizer's memory, the average, activations.

With more processes than stages there are several such pipelines, the replicas. As in data parallelism each learns from images of its own;
the processes of a stage average their gradients (DDP), and after an epoch their statistics of batch norm.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from ..config.train_config import TrainConfig
from ..core.errors import UserError, did_you_mean
from ..core.module_modes import evaluating
from ..data.accuracy import as_channels_last
from ..data.image_parts import loader
from ..tasks import Task
from .batches import Division, EpochBatches, training_loader
from .distributed import Processes
from .loss import Objective
from .optimizer import AUTOCAST, Optimization
from .pipeline import LayerCost, Plan, Stage, balanced, keep_only, layers_of, measured, names_in, pipelined

__all__ = ["PipelineParallel"]

_logger = logging.getLogger(__name__)

_NO_CLASS = -1  # of images that only fill up a batch


class PipelineParallel:
    """As :class:`.DataParallel`, with a stage in the place of the network: ``optimization`` is that of the stage of this process.

    Parameters
    ----------
    network
        On the CPU. Its stage moves to the device, its other layers lose their weights.
    config
        With a ``pipeline``, whose number of stages divides that of the processes.
    cut_before
        As ``pipeline.cut_before``; it takes the place of that.

    Raises
    ------
    UserError
        The network has no such layers, or the optimizer looks at all gradients.
    """

    def __init__(
        self, network: nn.Module, config: TrainConfig, processes: Processes, division: Division, task: Task,
        cut_before: Sequence[str] | None = None,
    ):  # fmt: skip
        assert config.pipeline is not None
        self.config, self.section, self.processes = config, config.pipeline, processes
        self.network, self.task = network, task
        self.replicas, self.stages = processes.on_mesh(self.section.stages)
        self.is_last = self.stages.rank == self.stages.count - 1
        self.batches = self._batches(division)
        self.loader = training_loader(division.train, self.batches, config.workers)
        layers = layers_of(network)
        plan = self._plan(layers, division.test[0][0], cut_before or self.section.cut_before)
        self.cut_before = [list(layers)[begin] for begin in plan.begins[1:]]
        self.all_names = list(network.state_dict())
        self.optimization = Optimization(self._stage(layers, plan), config, self.batches.per_epoch, processes.device)
        if self.optimization.optimizer.defaults.get("max_grad_norm"):
            raise UserError(
                f"optimizer: {config.optimizer} divides by the norm of all gradients, of which a stage has its own only; allowed with "
                "pipeline: an optimizer that takes each weight by itself, such as sgd, adamw, lars"
            )
        stage = self.optimization.network
        self.objective = Objective(stage, config, task, self.replicas, None)
        self.schedule = self._pipelined(
            self.objective.trained, plan=plan, schedule=self.section.schedule, loss=self._loss
        )

    @property
    def _mixes(self) -> bool:
        return bool(self.config.mixup or self.config.cutmix)

    def _batches(self, division: Division) -> EpochBatches:
        n_images = len(division.train)  # type: ignore[arg-type]  # torch's Dataset need have no length, ours has
        batches = EpochBatches(n_images, self.config.batch_size, self.config.seed, self.replicas, even=self._mixes)
        if batches.batch_size < self.config.batch_size:
            of_each = n_images // self.replicas.count
            raise UserError(
                f"batch_size: {self.config.batch_size}, but a pipeline has only {of_each} training images; allowed with pipeline, whose "
                f"micro-batches have one size: up to {of_each}"
            )
        return batches

    def _plan(self, layers: Mapping[str, nn.Module], image: Tensor, cut_before: Sequence[str] | None) -> Plan:
        """Measured by the first process, for all."""
        n_stages = self.section.stages
        if len(layers) < n_stages:
            raise UserError(
                f"pipeline.stages: {n_stages} for {len(layers)} layers with weights; allowed: up to {len(layers)}"
            )
        begins = None if cut_before is None else _begins(list(layers), cut_before)
        told: list[Any] = [None]
        if self.processes.is_first:
            n_images = self.config.batch_size // self.section.micro_batches
            images = torch.randn(n_images, *image.shape, dtype=image.dtype, generator=torch.Generator().manual_seed(0))
            images = as_channels_last(images.to(self.processes.device))
            costs = measured(list(layers.values()), images, autocast=AUTOCAST[self.config.precision])
            seconds, sizes = [cost.seconds for cost in costs], [self._bytes(cost) for cost in costs]
            by = seconds if self.section.balance == "time" else sizes
            told = [Plan.of(begins or balanced(by, n_stages), costs, images)]
            for stage in range(n_stages):
                part = told[0].layers(stage)
                names = list(layers)[part]
                _logger.info(
                    "pipeline: stage %d: %s to %s, %.0f %% of the time, %.0f %% of the memory", stage + 1, names[0], names[-1],
                    100 * sum(seconds[part]) / sum(seconds), 100 * sum(sizes[part]) / sum(sizes),
                )  # fmt: skip
        torch.distributed.broadcast_object_list(told)
        return told[0]

    def _bytes(self, cost: LayerCost) -> int:
        """Of memory that a layer takes, with an optimizer that has a momentum."""
        kept = {"gpipe": self.section.micro_batches, "1f1b": self.section.stages}[self.section.schedule]
        return cost.bytes(1 if self.section.rematerialize else kept, 4 if self.config.ema_decay else 3)

    def _stage(self, layers: Mapping[str, nn.Module], plan: Plan) -> Stage:
        """The stage of this process, on its device; the other layers are empty from now on."""
        own = keep_only(plan.layers(self.stages.rank), list(layers.values()))
        stage = Stage(
            own, self.stages.rank, plan.n_stages,
            rematerialize=self.section.rematerialize, autocast=AUTOCAST[self.config.precision],
        )  # fmt: skip
        self.names = names_in(self.network, stage)
        return stage.to(self.processes.device)

    def _pipelined(self, stage: nn.Module, **options: Any) -> Any:
        here = self.stages
        return pipelined(
            stage, here.rank, here.count, here.device, self.section.micro_batches, group=here.group, **options
        )

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        with self.optimization.autocast():
            return self.objective.criterion(logits, targets)

    # -- as of DataParallel --------------------------------------------------------------------------------------------

    @property
    def images_per_batch(self) -> int:
        return self.batches.batch_size * self.replicas.count

    def begin(self, epoch: int, first: int) -> Iterable[Any]:
        self.objective.begin(epoch)
        self.batches.begin(epoch, first)
        return self.loader if self.stages.is_first else itertools.repeat((None, None), len(self.batches))

    def learn(self, images: Any, targets: Any, in_group: int = 1, *, moves: bool = True) -> Tensor:
        """As of :class:`.DataParallel`; the last process of a replica knows the loss, the others return 0."""
        if self.stages.is_first:
            images = as_channels_last(images.to(self.processes.device, non_blocking=True))
            images, targets = self.objective.mixed(images, targets.to(self.processes.device, non_blocking=True))
        targets = self._told(targets, soft=self._mixes)
        losses: list[Tensor] = []
        if self.stages.is_first:
            self.schedule.step(images)
        elif self.is_last:
            self.schedule.step(target=targets, losses=losses)
        else:
            self.schedule.step()
        self.optimization.step(self._norm_of_all)
        return torch.stack(losses).detach().mean() if losses else torch.zeros((), device=self.processes.device)

    def _told(self, targets: Tensor | None, *, soft: bool = False) -> Tensor:
        """The classes of a batch, or a number for each class, which the first process of a replica tells the others."""
        if targets is None:
            shape = (self.batches.batch_size, self.task.n_outputs) if soft else (self.batches.batch_size,)
            targets = torch.empty(shape, dtype=torch.float32 if soft else torch.int64, device=self.processes.device)
        torch.distributed.broadcast(targets, src=self.stages.first, group=self.stages.group)
        return targets

    def _norm_of_all(self, norm: Tensor) -> Tensor:
        return self.stages.total(norm**2).sqrt()

    def mean_loss(self, loss_sum: Tensor, n_batches: int) -> float:
        return float(self.processes.total(loss_sum)) / (max(1, n_batches) * self.replicas.count)

    def is_finite(self) -> bool:
        n_spoiled = torch.tensor(int(not self.optimization.is_finite()), device=self.processes.device)
        return int(self.processes.total(n_spoiled)) == 0

    def end_epoch(self) -> None:
        self.replicas.average(self.optimization.statistics())

    def judge(self, images: Any) -> Callable[[nn.Module], float]:
        part = Subset(images, range(self.replicas.rank, len(images), self.replicas.count))
        batches = loader(part, self.batches.batch_size, workers=self.config.workers)
        return lambda stage: self._n_right(stage, batches) / len(images)

    @torch.no_grad()
    def _n_right(self, stage: nn.Module, batches: Any) -> int:
        """Of all replicas together."""
        size, device = self.batches.batch_size, self.processes.device
        n_right = torch.zeros((), dtype=torch.int64, device=device)
        schedule = self._pipelined(stage)
        here: Iterable[Any] = batches if self.stages.is_first else itertools.repeat((None, None), len(batches))
        with evaluating(stage):
            for images, targets in here:
                if self.stages.is_first:
                    images, targets = _filled_up(images, targets, size)
                    targets = self._told(targets.to(device))
                    schedule.step(as_channels_last(images.to(device)))
                    continue
                targets, logits = self._told(None), schedule.step()
                if self.is_last:
                    n_right += (logits.argmax(dim=1) == targets).sum()
        return int(self.processes.total(n_right))

    def weights(self) -> dict[str, Tensor]:
        """As of :class:`.DataParallel`; nothing in other processes than the first."""
        own: dict[str, Tensor] = {}
        if self.replicas.is_first:
            own = dict(zip(self.names, self.optimization.judged.state_dict().values(), strict=True))
        found = {name: tensor for part in self.processes.collect(own) for name, tensor in part.items()}
        return {name: found[name] for name in self.all_names} if found else {}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        told = [dict(weights)]
        torch.distributed.broadcast_object_list(told)
        stage = self.optimization.network
        stage.load_state_dict({own: told[0][name] for own, name in zip(stage.state_dict(), self.names, strict=True)})

    def whole(self, weights: Mapping[str, Tensor]) -> nn.Module:
        network = copy.deepcopy(self.network).to_empty(device="cpu")
        network.load_state_dict(weights)
        return network

    def described(self) -> dict[str, Any]:
        return {"pipeline": {"cut_before": self.cut_before}}

    def state_dict(self, loss_sum: Tensor) -> dict[str, Any]:
        own: dict[str, Any] = {"loss_sum": loss_sum}
        if self.replicas.is_first:
            own.update(self.optimization.state_dict())
        else:  # which has these alone of its own
            own["statistics"] = self.optimization.statistics()
        return {"of_each_process": self.processes.collect(own), **self.described()}

    def load_state_dict(self, state: Mapping[str, Any], loss_sum: Tensor) -> None:
        own = state["of_each_process"][self.processes.rank]
        self.optimization.load_state_dict(state["of_each_process"][self.stages.rank])
        if not self.replicas.is_first:
            for tensor, saved in zip(self.optimization.statistics(), own["statistics"], strict=True):
                tensor.copy_(saved)
        loss_sum.copy_(own["loss_sum"])


def _filled_up(images: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The batch with empty images up to this size, of no class: none is right."""
    lacking = size - len(targets)
    more = images.new_zeros(lacking, *images.shape[1:]), targets.new_full((lacking,), _NO_CLASS)
    return torch.cat([images, more[0]]), torch.cat([targets, more[1]])


def _begins(names: Sequence[str], cut_before: Sequence[str]) -> tuple[int, ...]:
    """The first layer of each stage, by the names of all but the first."""
    for name in cut_before:
        if name not in names[1:]:
            raise UserError(
                f"pipeline.cut_before: there is no layer '{name}'; allowed: {', '.join(names[1:])}.{did_you_mean(name, names[1:])}"
            )
    begins = (0, *map(list(names).index, cut_before))
    if any(first >= second for first, second in itertools.pairwise(begins)):
        raise UserError(
            f"pipeline.cut_before: {', '.join(cut_before)} do not stand in the order of the layers; allowed: {', '.join(names[1:])}"
        )
    return begins
