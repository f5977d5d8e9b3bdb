"""Mean average precision of boxes, on outputs of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision

from .boxes import Boxes

__all__ = ["BoxMetric"]


class BoxMetric(Metric):
    """COCO's mean average precision, by torchmetrics; 0 where there is no box to find.

    Parameters
    ----------
    name
        ``map``, the mean over intersections over union of 0.5, 0.55, …, 0.95; ``map_50``, at 0.5.
    found
        Outputs of a network -> the boxes of each image.
    """

    full_state_update = False

    def __init__(self, name: Literal["map", "map_50"], found: Callable[[Tensor], list[Boxes]]) -> None:
        super().__init__()
        self.name, self.found = name, found
        # Four times as fast as pycocotools, of which it computes the same.
        self.of_boxes: Any = MeanAveragePrecision(backend="faster_coco_eval")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Outputs of shape (n, anchors, 5 + classes), and targets of shape (n, rows, 5)."""
        there = [target[target[:, 0] >= 0] for target in targets]
        self.of_boxes.update(
            [{"boxes": boxes, "scores": scores, "labels": classes} for boxes, scores, classes in self.found(outputs)],
            [{"boxes": rows[:, 1:].float(), "labels": rows[:, 0].long()} for rows in there],
        )

    def compute(self) -> Tensor:
        return self.of_boxes.compute()[self.name].clamp(min=0)  # it says -1 where there is none
