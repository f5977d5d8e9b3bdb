"""Numbers per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss, smooth_l1_loss

from ..core.merit import Merit
from .labels import vector_of
from .task import FEWEST, Task

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Regression"]

LOSSES = {"mse": mse_loss, "mae": l1_loss, "huber": smooth_l1_loss}
MERITS = {
    "mae": Merit("mae", higher_is_better=False, is_share=False),
    "rmse": Merit("rmse", higher_is_better=False, is_share=False),
    "r2": Merit("r2", is_share=False),
}
PARTS = 10  # of the values, by size, which are divided in the same proportions


class Regression(Task):
    """Numbers per image, such as an age, an angle, a position.

    A target is a float32 tensor of shape (values,), as many as ``num_classes`` of the images says. The loss takes each number by its deviation over
    the training images, so that units do not matter; a network answers in the units of the targets, and so does the metric.

    Parameters
    ----------
    loss
        ``mse``, ``mae``, or ``huber``: squared up to one deviation, absolute beyond.
    metric
        ``mae``, mean absolute error; ``rmse``, the root of the mean squared error; ``r2``, the share of the variance that is explained, its
        mean over the values. None: ``mae`` of one value, ``r2`` of several, whose errors in units of their own have no mean that says
        anything: asked for, it is that of all numbers.

    Raises
    ------
    ValueError
        Loss or metric is unknown.
    """

    apart = True
    answers = "values"

    def __init__(
        self, *, loss: Literal["mse", "mae", "huber"] = "mse", metric: Literal["mae", "rmse", "r2"] | None = None
    ):
        if loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}; allowed: {', '.join(LOSSES)}")
        if metric is not None and metric not in MERITS:
            raise ValueError(f"metric is {metric!r}; allowed: {', '.join(MERITS)}")
        self.of_batch, self.asked_for = LOSSES[loss], metric
        self.merit = MERITS[metric or "mae"]
        self.mean = self.deviation = torch.ones(1)

    def begin(self, n_outputs: int, image_shape: Sequence[int], targets: Sequence[Any]) -> None:
        super().begin(n_outputs, image_shape, targets)
        self.merit = MERITS[self.asked_for or ("mae" if n_outputs == 1 else "r2")]
        values = torch.stack([torch.as_tensor(target) for target in targets]).double()
        deviation = values.std(dim=0, correction=0)
        if len(same := (deviation <= 0).nonzero()):
            raise ValueError(
                f"value {int(same[0]) + 1} of {n_outputs} is the same for all training images; allowed: values that differ"
            )
        self.mean, self.deviation = values.mean(dim=0).float(), deviation.float()

    def problem_of_target(self, target: Any) -> str | None:
        values = vector_of(target, self.n_outputs, "values")
        return values if isinstance(values, str) else None

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        deviation = self.deviation.to(outputs)
        return self.of_batch(outputs / deviation, targets.to(outputs) / deviation)

    def metric(self) -> Metric:
        from torchmetrics import MeanAbsoluteError, MeanSquaredError, R2Score

        if self.merit.name == "r2":
            return R2Score()
        return MeanAbsoluteError() if self.merit.name == "mae" else MeanSquaredError(squared=False)

    def space_of(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        scale = {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}
        return "regression", {"backbone": {"name": name, "arguments": dict(arguments)}, **scale}

    def kinds(self, targets: Sequence[Any]) -> Mapping[str, np.ndarray]:
        """By size, of several values by that of their mean deviation from the mean: tenths of the images, fewer parts of fewer."""
        values = np.stack([np.asarray(target) for target in targets]).astype(float)
        sizes = ((values - values.mean(axis=0)) / values.std(axis=0)).mean(axis=1)
        n_parts = max(1, min(PARTS, len(sizes) // FEWEST))
        ranks = sizes.argsort(kind="stable").argsort(kind="stable")
        return {f"part {part} of the values": ranks * n_parts // len(sizes) == part for part in range(n_parts)}
