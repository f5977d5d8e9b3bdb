"""Metrics of several labels per image, on logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAccuracy, MultilabelAveragePrecision, MultilabelF1Score

__all__ = ["LabelMetric"]

OF_PROBABILITIES: dict[str, Any] = {
    "average_precision": MultilabelAveragePrecision, "f1": MultilabelF1Score, "label_accuracy": MultilabelAccuracy,
}  # fmt: skip


class LabelMetric(Metric):
    """The mean over the labels of a metric of torchmetrics, which takes numbers from 0 to 1 for probabilities, be they logits or not.

    Parameters
    ----------
    name
        ``average_precision``, ``f1`` or ``label_accuracy``.
    n_labels
        How many there are.
    """

    full_state_update = False

    def __init__(self, name: str, n_labels: int) -> None:
        super().__init__()
        self.of_probabilities = OF_PROBABILITIES[name](n_labels, average="macro")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Logits and 0 or 1, both of shape (n, n_labels)."""
        self.of_probabilities.update(outputs.sigmoid(), targets.long())

    def compute(self) -> Tensor:
        return self.of_probabilities.compute()
