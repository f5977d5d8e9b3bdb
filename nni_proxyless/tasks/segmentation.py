"""One class per pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..core.merit import Merit
from .task import Task

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["IGNORED", "Segmentation"]

IGNORED = 255  # the class of pixels that count nowhere


class Segmentation(Task):
    """Cross entropy of the pixels; the mean over the classes of intersection over union.

    A target is an int64 tensor of shape (height, width) with a class per pixel, or 255 for one that does not count. Networks are those of
    :class:`~nni_proxyless.search_spaces.SegmentationSpace` around the configured space.

    Parameters
    ----------
    class_weights
        What a pixel of each class counts in the loss, a number above 0 per class; None: the same.
    decoder_width, levels
        Channels of the decoder, and of how many resolutions, from the smallest map up, it sees a map.

    Raises
    ------
    ValueError
        An argument is outside its range.
    """

    merit = Merit("iou")
    answers = "classes"
    reads_targets = False

    def __init__(self, *, class_weights: list[float] | None = None, decoder_width: int = 64, levels: int = 3):
        for name, value in (("decoder_width", decoder_width), ("levels", levels)):
            if value < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 or more")
        if class_weights is not None and not all(math.isfinite(weight) and weight > 0 for weight in class_weights):
            raise ValueError(f"class_weights is {class_weights}; allowed: a number above 0 per class")
        self.weights = None if class_weights is None else torch.tensor(class_weights)
        self.decoder_width, self.levels = decoder_width, levels

    def begin(self, n_outputs: int, image_shape: Sequence[int], targets: Sequence[Any]) -> None:
        super().begin(n_outputs, image_shape, targets)
        if n_outputs < 2:
            raise ValueError(f"num_classes of the images is {n_outputs}; allowed: 2 or more, the background included")
        if self.weights is not None and len(self.weights) != n_outputs:
            raise ValueError(
                f"class_weights has {len(self.weights)} numbers; allowed for these images: {n_outputs}, one per class"
            )

    def problem_of_target(self, target: Any) -> str | None:
        if not isinstance(target, Tensor) or target.dtype != torch.int64:
            kind = f"{target.dtype} tensor" if isinstance(target, Tensor) else type(target).__name__
            return f"{'an' if kind == 'int' else 'a'} {kind} as mask; allowed: a tensor of torch.int64 of shape {self.image_shape[1:]}"
        if tuple(target.shape) != self.image_shape[1:]:
            return (
                f"a mask of shape {tuple(target.shape)}; allowed with shape {self.image_shape}: {self.image_shape[1:]}"
            )
        wrong = target[(target != IGNORED) & ((target < 0) | (target >= self.n_outputs))]
        if wrong.numel():
            return (
                f"a mask with class {int(wrong[0])}; allowed with num_classes {self.n_outputs}: 0 to {self.n_outputs - 1}, and {IGNORED} for "
                "pixels that do not count"
            )
        return None

    def output_shape(self) -> tuple[int, ...]:
        return (self.n_outputs, *self.image_shape[1:])

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        weights = None if self.weights is None else self.weights.to(outputs)
        summed = cross_entropy(
            outputs, targets, weights, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
        )
        return summed / (targets != IGNORED).sum().clamp(min=1)

    def metric(self) -> Metric:
        from torchmetrics.classification import MulticlassJaccardIndex

        return MulticlassJaccardIndex(self.n_outputs, average="macro", ignore_index=IGNORED)

    def space_of(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        return "segmentation", {
            "backbone": {"name": name, "arguments": dict(arguments)}, "num_classes": self.n_outputs,
            "decoder_width": self.decoder_width, "levels": self.levels,
        }  # fmt: skip
