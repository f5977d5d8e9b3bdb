"""Any number of labels per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..core.merit import Merit
from .labels import vector_of
from .task import Task, together

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["MultiLabel"]

METRICS = ("average_precision", "f1", "label_accuracy")


class MultiLabel(Task):
    """Binary cross entropy of each label, their mean; a metric that is the mean over the labels.

    A target is a float32 tensor of shape (labels,), 1 for a label that the image has, else 0. Label smoothing draws both to 1/2.

    Parameters
    ----------
    balanced
        Whether the images that have a label count as much in its loss, all together, as those that have it not.
    metric
        ``average_precision``, the area under precision over recall; ``f1`` and ``label_accuracy``, the share of right answers, with a
        label said to be there where its logit is above 0.

    Raises
    ------
    ValueError
        The metric is unknown.
    """

    answers = "labels"

    def __init__(
        self,
        *,
        balanced: bool = False,
        metric: Literal["average_precision", "f1", "label_accuracy"] = "average_precision",
    ):
        if metric not in METRICS:
            raise ValueError(f"metric is {metric!r}; allowed: {', '.join(METRICS)}")
        self.balanced, self.merit = balanced, Merit(metric)
        self.weights: Tensor | None = None

    def begin(self, n_outputs: int, image_shape: Sequence[int], targets: Sequence[Any]) -> None:
        super().begin(n_outputs, image_shape, targets)
        if self.balanced:
            share = torch.stack([torch.as_tensor(target) for target in targets]).double().mean(dim=0)
            if not bool(((share > 0) & (share < 1)).all()):
                raise ValueError(
                    "balanced: a label that all training images have, or none; allowed: labels that some of them have"
                )
            self.weights = torch.stack([0.5 / (1 - share), 0.5 / share]).float()  # (absent or present, labels)

    def problem_of_target(self, target: Any) -> str | None:
        labels = vector_of(target, self.n_outputs, "labels")
        if isinstance(labels, str):
            return labels
        return (
            None if bool(((labels == 0) | (labels == 1)).all()) else "labels that are neither 0 nor 1; allowed: those"
        )

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        targets = targets.to(outputs)
        weights = None
        if self.weights is not None:
            absent, present = self.weights.to(outputs)
            weights = torch.where(targets > 0, present, absent)
        return binary_cross_entropy_with_logits(outputs, targets + smoothing * (0.5 - targets), weights)

    def metric(self) -> Metric:
        from .label_metric import LabelMetric

        return LabelMetric(self.merit.name, self.n_outputs)

    def kinds(self, targets: Sequence[Any]) -> Mapping[str, np.ndarray]:
        """By the rarest label that an image has."""
        labels = np.stack([np.asarray(target) for target in targets]) > 0
        counts = labels.sum(axis=0)
        rarest = np.where(labels, counts, len(labels) + 1).argmin(axis=1)
        rarest[~labels.any(axis=1)] = labels.shape[1]
        return together({f"label {label}": rarest == label for label in np.unique(rarest).tolist()})
