"""The loss of the final training: that of the task; of classes with mixup and CutMix, with a teacher."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from ..config.train_config import TrainConfig
from ..core.errors import UserError
from ..core.merit import ACCURACY
from ..core.module_modes import Modes
from ..tasks import Classification, Task
from ..tasks.distillation import annealed, distilled
from .distributed import Processes

__all__ = ["Objective", "require_fits"]


class Objective:
    """Images and their targets -> a loss.

    Parameters
    ----------
    network
        What is trained.
    teacher
        A network whose answers to the same images, mixed as they are, are learned too. None: only classes.
    task
        What is learned; it has seen its images.
    """

    def __init__(
        self, network: nn.Module, config: TrainConfig, task: Task, processes: Processes, teacher: nn.Module | None
    ):
        self.config, self.processes, self.teacher = config, processes, teacher
        self.mixing = config.mixup > 0 or config.cutmix > 0
        self.mixup = Mixup(
            mixup_alpha=config.mixup, cutmix_alpha=config.cutmix, label_smoothing=config.label_smoothing,
            num_classes=task.n_outputs,
        )  # fmt: skip
        self.criterion: Any = functools.partial(task.loss, smoothing=config.label_smoothing)
        if self.mixing:
            self.criterion = SoftTargetCrossEntropy()
        elif type(task) is Classification and task.weights is None:
            self.criterion = LabelSmoothingCrossEntropy(config.label_smoothing)
        self.share = config.distillation.share  # of the teacher, in this epoch
        self.modes = Modes(network)  # a norm that is kept in evaluation mode stays there
        self.trained = processes.wrapped(network)

    def begin(self, epoch: int) -> None:
        """Epoch ``epoch``, from 0 on, begins."""
        off = self.config.mixup_off_epoch
        self.mixup.mixup_enabled = off is None or epoch < off
        self.modes.restore()
        if self.teacher is not None:
            self.teacher.eval()
            section = self.config.distillation
            if section.anneal:
                self.share = annealed(section.share, epoch, self.config.epochs)

    def mixed(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The batch with mixup and CutMix, if there are any; then the targets are numbers for each class."""
        return self.mixup(images, targets) if self.mixing else (images, targets)

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        images, targets = self.mixed(images, targets)
        outputs = self.trained(images)
        loss = self.criterion(outputs, targets)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            taught = self.teacher(images)
        return distilled(loss, outputs, taught, self.share, self.config.distillation.temperature)

    def without_averaging(self) -> Any:
        """A context in which gradients are added up here and not averaged over the processes."""
        return self.trained.no_sync() if self.processes.count > 1 else contextlib.nullcontext()  # type: ignore[operator]  # of several it is DDP's wrapper


def require_fits(config: TrainConfig, task: Task, name: str) -> None:
    """Refuse settings that only some tasks know; ``name`` is what the task is called."""
    for key in ("mixup", "cutmix"):
        if getattr(config, key) and not task.mixes:
            raise UserError(
                f"{key}: targets of task '{name}' cannot be mixed; allowed: 0, or a classification without class_weights"
            )
    if config.distillation.is_asked_for and not isinstance(task, Classification):
        raise UserError(
            f"distillation: a teacher's logits teach classes, and task '{name}' has none; leave the section out"
        )
    if config.pipeline is not None and task.merit != ACCURACY:
        raise UserError(
            f"pipeline: its last stage counts right answers, and the figure of merit is {task.merit.name}; leave the section out"
        )
