"""The loss of the final training: that of the task; of classes with mixup and CutMix, with a teacher."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from ..config.train_config import TrainConfig
from ..core.errors import UserError
from ..core.merit import ACCURACY
from ..core.module_modes import Modes
from ..tasks import Classification, Task
from .distributed import Processes

__all__ = ["Objective", "require_fits"]


class Objective:
    """Images and their targets -> a loss.

    Parameters
    ----------
    network
        What is trained.
    teacher
        A network whose answers are learned too, with timm's ``pretrained_cfg``; as the student has. None: only classes.
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
        self.distillation: Any = None
        self.modes = Modes(network)  # a norm that is kept in evaluation mode stays there
        if teacher is None:
            self.trained = processes.wrapped(network)
        else:
            self.distillation = _distillation(network, teacher, self.criterion, config, processes)
            self.trained = (
                getattr(self.distillation, "trainable_module", None) or self.distillation.student
            )  # its name up to timm 1.0.30

    def begin(self, epoch: int) -> None:
        """Epoch ``epoch``, from 0 on, begins."""
        off = self.config.mixup_off_epoch
        self.mixup.mixup_enabled = off is None or epoch < off
        self.modes.restore()
        if self.teacher is not None:
            self.teacher.eval()

    def mixed(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The batch with mixup and CutMix, if there are any; then the targets are numbers for each class."""
        return self.mixup(images, targets) if self.mixing else (images, targets)

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        images, targets = self.mixed(images, targets)
        if self.distillation is not None:
            return self.distillation(images, targets)["loss"]
        return self.criterion(self.trained(images), targets)

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
    if config.distillation is not None and not isinstance(task, Classification):
        raise UserError(
            f"distillation: a teacher's logits teach classes, and task '{name}' has none; leave the section out"
        )
    if config.pipeline is not None and task.merit != ACCURACY:
        raise UserError(
            f"pipeline: its last stage counts right answers, and the figure of merit is {task.merit.name}; leave the section out"
        )


def _distillation(
    student: Any, teacher: nn.Module, criterion: nn.Module, config: TrainConfig, processes: Processes
) -> Any:
    from timm.task import LogitDistillationTask

    assert config.distillation is not None
    task = LogitDistillationTask(
        student, teacher, criterion, temperature=config.distillation.temperature,
        task_loss_weight=1 - config.distillation.weight, device=processes.device, verbose=False,
    )  # fmt: skip
    return task.prepare_distributed(**processes.of_wrapper) if processes.count > 1 else task
