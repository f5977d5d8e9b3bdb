"""How a supernet's weights are trained on images: an NNI ``Lightning`` evaluator."""

from __future__ import annotations

from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from ..data.accuracy import as_channels_last
from ..tasks import Classification, Task
from ..tasks.distillation import annealed, distilled

__all__ = ["TaskTraining"]


class TaskTraining(LightningModule):
    """The loss of a task, an optimizer of timm, a cosine schedule over all steps.

    Parameters
    ----------
    task
        What is learned; it has seen its images.
    optimizer
        Name that timm's ``create_optimizer_v2`` knows; ``'sgd'`` is SGD with Nesterov momentum.
    learning_rate, momentum, weight_decay
        Of the weights. The decay applies to all of them, as in the official code.
    label_smoothing
        For the weights, where the task has labels.
    architecture_label_smoothing
        For the architecture, which minimizes plain cross entropy in paper and official code (docs/methods/proxyless.md).
    teacher, distillation
        A network whose answers are learned too, in evaluation mode, and its share in the loss of the weights, which falls to 0 over the epochs.
    schedule_epochs
        Epochs over which the learning rate falls; None: all. Fewer for a search whose warm-up has a schedule of its own.
    """

    def __init__(
        self, *, task: Task, optimizer: str, learning_rate: float, momentum: float, weight_decay: float, label_smoothing: float,
        architecture_label_smoothing: float = 0.0, schedule_epochs: int | None = None,
        teacher: nn.Module | None = None, distillation: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.task = task
        # In a list: no part of the search, so no checkpoint has it and no optimizer knows of it.
        self.taught_by, self.distillation = [teacher], distillation
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.momentum, self.weight_decay, self.label_smoothing = momentum, weight_decay, label_smoothing
        self.architecture_label_smoothing, self.schedule_epochs = architecture_label_smoothing, schedule_epochs

    def forward(self, images: Tensor) -> Tensor:
        return self.model(as_channels_last(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        outputs = self(images)
        loss = self._with_teacher(self.task.loss(outputs, targets, self.label_smoothing), images, outputs)
        self._log_mean("train_loss", loss.detach(), images)
        if isinstance(self.task, Classification):  # other figures of merit are no means over batches
            self._log_mean("train_accuracy", self.task.reward(outputs, targets), images)
        return loss

    def _with_teacher(self, loss: Tensor, images: Tensor, outputs: Tensor) -> Tensor:
        """The loss with the share of the teacher, if there is one: :func:`.distilled`."""
        teacher = self.taught_by[0]
        if teacher is None:
            return loss
        like = next(teacher.parameters())
        if like.device != images.device or like.dtype != images.dtype:
            teacher.to(images)
        with torch.no_grad():
            taught = teacher(as_channels_last(images))
        epochs = self.trainer.max_epochs
        assert epochs is not None
        return distilled(loss, outputs, taught, annealed(self.distillation, self.current_epoch, epochs))

    def architecture_loss(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        loss = self.task.loss(self(images), targets, self.architecture_label_smoothing)
        self._log_mean("architecture_loss", loss.detach(), images)
        return loss

    def architecture_accuracy(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """What REINFORCE takes for an accuracy."""
        images, targets = batch
        return self.task.reward(self(images), targets)

    def _log_mean(self, name: str, value: Tensor, images: Tensor) -> None:
        self.log(name, value, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(images))

    def configure_optimizers(self) -> Any:
        optimizer = create_optimizer_v2(
            self.model, self.optimizer, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay,
            filter_bias_and_bn=False,
        )  # fmt: skip
        batches = int(self.trainer.estimated_stepping_batches)
        if self.schedule_epochs is not None:
            batches = batches * self.schedule_epochs // self.trainer.max_epochs
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
