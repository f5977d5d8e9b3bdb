"""One class per image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..core.merit import ACCURACY, Merit
from .labels import class_of
from .task import Task

__all__ = ["Classification"]


class Classification(Task):
    """Cross entropy; accuracy, or its mean over the classes, or the mean of their F1.

    Parameters
    ----------
    class_weights
        What an image of each class counts in the loss: a number above 0 per class, ``balanced`` for one over the number of the class's training
        images, None for the same. Over the training images their mean is made 1.
    metric
        ``accuracy``; ``balanced_accuracy``, the mean over the classes of the share of their images that is right; ``f1``, the mean over
        the classes of F1.

    Raises
    ------
    ValueError
        A weight is no number above 0, or a metric unknown.
    """

    answers = "classes"

    def __init__(
        self,
        *,
        class_weights: list[float] | Literal["balanced"] | None = None,
        metric: Literal["accuracy", "balanced_accuracy", "f1"] = "accuracy",
    ):
        if metric not in ("accuracy", "balanced_accuracy", "f1"):
            raise ValueError(f"metric is {metric!r}; allowed: accuracy, balanced_accuracy, f1")
        if isinstance(class_weights, list) and not all(
            math.isfinite(weight) and weight > 0 for weight in class_weights
        ):
            raise ValueError(f"class_weights is {class_weights}; allowed: balanced, or a number above 0 per class")
        self.class_weights = class_weights
        self.merit = ACCURACY if metric == "accuracy" else Merit(metric)
        self.weights: Tensor | None = None

    def begin(self, n_outputs: int, image_shape: Sequence[int], targets: Sequence[Any]) -> None:
        super().begin(n_outputs, image_shape, targets)
        if self.class_weights is None:
            return
        counts = np.bincount(np.asarray(targets, dtype=np.int64), minlength=n_outputs)
        if self.class_weights == "balanced":
            weights = 1 / counts
        elif len(self.class_weights) == n_outputs:
            weights = np.asarray(self.class_weights, dtype=float)
        else:
            raise ValueError(
                f"class_weights has {len(self.class_weights)} numbers; allowed for these images: {n_outputs}, one per class"
            )
        self.weights = torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()

    @property
    def mixes(self) -> bool:  # type: ignore[override]  # of a class with a number for each class nobody could say what it weighs
        return self.class_weights is None

    def problem_of_target(self, target: Any) -> str | None:
        number = class_of(target)
        if number is None:
            what = type(target).__name__
            if isinstance(target, (torch.Tensor, np.ndarray, np.generic)):
                what = f"{type(target).__name__} of {target.dtype} and shape {tuple(target.shape)}"
            return f"a {what} as class; allowed: an int, or a tensor of one int64"
        if not 0 <= number < self.n_outputs:
            return f"class {number}; allowed with num_classes {self.n_outputs}: 0 to {self.n_outputs - 1}"
        return None

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        if self.weights is None:
            return cross_entropy(outputs, targets, label_smoothing=smoothing)
        # Not divided by the weights of the batch, as torch would: an image counts the same in any batch.
        of_images = cross_entropy(
            outputs, targets, self.weights.to(outputs), label_smoothing=smoothing, reduction="sum"
        )
        return of_images / len(outputs)

    def summed_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = None if self.weights is None else self.weights.to(outputs)
        return cross_entropy(outputs, targets, weights, reduction="sum")

    def metric(self) -> Any:
        if self.merit == ACCURACY:
            return RightAnswers()
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        cls = MulticlassAccuracy if self.merit.name == "balanced_accuracy" else MulticlassF1Score
        return cls(self.n_outputs, average="macro")

    def reward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(dim=1) == targets).float().mean()

    def kinds(self, targets: Sequence[Any]) -> Mapping[str, np.ndarray]:
        classes = np.asarray(targets)
        return {f"class {label}": classes == label for label in range(self.n_outputs)}


class RightAnswers:
    """Share of right answers, exact: counted in whole numbers and divided once. A metric as those of torchmetrics, without its import."""

    def __init__(self) -> None:
        self.right, self.total = torch.zeros((), dtype=torch.int64), 0

    def to(self, device: torch.device) -> RightAnswers:
        self.right = self.right.to(device)
        return self

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right += (outputs.argmax(dim=1) == targets).sum()
        self.total += len(targets)

    def compute(self) -> float:
        return int(self.right) / self.total
