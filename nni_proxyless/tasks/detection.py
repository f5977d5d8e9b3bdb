"""Boxes around objects, each with a class."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..core.merit import Merit
from .task import Task, together

if TYPE_CHECKING:
    from torchmetrics import Metric

    from .boxes import Boxes

__all__ = ["Detection"]

PLACES = 8  # of the first level, in height and width, that an image has at least, where nothing is said
LARGEST_STRIDE = 8
SMALLEST, LARGEST = 0.1, 0.8  # sides of the anchors of the first and the last level
RATIOS = (2.0,)
COUNTED = 100  # boxes of an image that COCO's metric counts
PACKAGE = "faster_coco_eval"


class Detection(Task):
    """The loss of SSD; mean average precision, as COCO has it.

    A target is a float32 tensor of shape (rows, 5), the same number of rows for all images: a class from 0 on, then x1, y1, x2, y2 in pixels of the
    network's input image; rows that are left over have class -1. Networks are those of :class:`~nni_proxyless.search_spaces.DetectionSpace` around the
    configured space: an SSDLite on a pyramid of its maps. Label smoothing is left aside.

    Parameters
    ----------
    metric
        ``map``, the mean over intersections over union of 0.5, 0.55, …, 0.95; ``map_50``, at 0.5.
    decoder_width
        Channels of the pyramid.
    stride
        Pixels per place of the first level, in height and width: a power of 2. None: 8, or less where images are smaller than 64 pixels, so that there
        are 8 places or more.
    levels
        How many there are, each of twice the stride of the one before.
    scales
        ``levels`` + 1 numbers from 0 to 1, rising: sides of the anchors of each level, as shares of the image, and one that follows. None: from 0.1 to
        0.8 in equal ratios, then 1.
    aspect_ratios
        Of the anchors beside the two squares of each place: for each number above 1, one lying and one upright. None: 2.
    match_iou
        Intersection over union with a box from which on an anchor learns it.
    score_threshold
        Boxes of no higher probability are left out.
    nms_iou
        Intersection over union beyond which two boxes of a class are taken for one.
    detections_per_image
        The most boxes of an image; up to 100, which is what COCO's metric counts.

    Raises
    ------
    ValueError
        An argument is outside its range; at the images, that the package of the metric is missing.
    """

    answers = "classes"
    apart = True

    def __init__(
        self,
        *,
        metric: Literal["map", "map_50"] = "map",
        decoder_width: int = 64,
        stride: int | None = None,
        levels: int = 4,
        scales: list[float] | None = None,
        aspect_ratios: list[float] | None = None,
        match_iou: float = 0.5,
        score_threshold: float = 0.01,
        nms_iou: float = 0.45,
        detections_per_image: int = 100,
    ):
        if metric not in ("map", "map_50"):
            raise ValueError(f"metric is {metric!r}; allowed: map, map_50")
        for name, value, most in (("decoder_width", decoder_width, None), ("levels", levels, 8), ("detections_per_image", detections_per_image, COUNTED)):  # fmt: skip
            if value < 1 or (most is not None and value > most):
                raise ValueError(f"{name} is {value}; allowed: 1 {f'to {most}' if most else 'or more'}")
        if stride is not None and (stride < 1 or stride & (stride - 1)):
            raise ValueError(f"stride is {stride}; allowed: a power of 2")
        for name, share in (("match_iou", match_iou), ("score_threshold", score_threshold), ("nms_iou", nms_iou)):
            if not 0 < share < 1:
                raise ValueError(f"{name} is {share}; allowed: more than 0, less than 1")
        if scales is None:
            step = (LARGEST / SMALLEST) ** (1 / max(1, levels - 1))
            scales = [SMALLEST * step**level for level in range(levels)] + [1.0]
        if len(scales) != levels + 1 or not all(0 < a < b <= 1 for a, b in itertools.pairwise(scales)):
            raise ValueError(
                f"scales is {scales}; allowed with {levels} levels: {levels + 1} rising numbers above 0, up to 1"
            )
        ratios = list(RATIOS) if aspect_ratios is None else aspect_ratios
        if not all(math.isfinite(ratio) and ratio > 1 for ratio in ratios):
            raise ValueError(f"aspect_ratios is {ratios}; allowed: numbers above 1")
        self.merit = Merit(metric)
        self.decoder_width, self.stride, self.levels = decoder_width, stride, levels
        self.scales, self.aspect_ratios, self.match_iou = list(scales), list(ratios), match_iou
        self.read_by = {"score_threshold": score_threshold, "nms_iou": nms_iou, "most": detections_per_image}
        self.rows: int | None = None

    def begin(self, n_outputs: int, image_shape: Sequence[int], targets: Sequence[Any]) -> None:
        super().begin(n_outputs, image_shape, targets)
        if importlib.util.find_spec(PACKAGE) is None:
            raise ValueError(
                f"{self.merit.name} needs the package faster-coco-eval, which is missing; pip install 'nni-proxyless[detection]'"
            )
        if min(self.image_shape[1:]) < self.stride_of(self.image_shape):
            raise ValueError(
                f"stride is {self.stride}; allowed for images of shape {self.image_shape}: up to {min(self.image_shape[1:])}"
            )
        if not any(bool((torch.as_tensor(target)[:, 0] >= 0).any()) for target in targets):
            raise ValueError("no training image has a box; allowed: one or more")

    def problem_of_target(self, target: Any) -> str | None:
        if not isinstance(target, Tensor) or target.dtype != torch.float32:
            kind = f"{target.dtype} tensor" if isinstance(target, Tensor) else type(target).__name__
            return f"{'an' if kind == 'int' else 'a'} {kind} as boxes; allowed: a tensor of torch.float32 of shape (rows, 5)"
        if target.ndim != 2 or target.shape[1] != 5 or not len(target):
            return f"boxes of shape {tuple(target.shape)}; allowed: (rows, 5), class, x1, y1, x2 and y2 of each"
        if self.rows is None:
            self.rows = len(target)
        if len(target) != self.rows:
            return f"boxes of shape {tuple(target.shape)}; allowed: ({self.rows}, 5), as others have; rows left over have class -1"
        height, width = self.image_shape[1:]
        classes, x1, y1, x2, y2 = target.unbind(dim=1)
        known = (classes == classes.round()) & (classes >= -1) & (classes < self.n_outputs)
        sound = (x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= width) & (y2 <= height)
        if bool((known & ((classes < 0) | sound)).all()):
            return None
        if not bool(known.all()):
            return (
                f"a box with class {float(classes[~known][0]):g}; allowed with num_classes {self.n_outputs}: 0 to {self.n_outputs - 1}, and -1 for "
                "a row that is left over"
            )
        wrong = target[(classes >= 0) & ~sound][0, 1:]
        return (
            f"a box {tuple(round(float(number), 3) for number in wrong)}; allowed with shape {self.image_shape}: x1, y1, x2, y2 with "
            f"0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}"
        )

    def output_shape(self) -> tuple[int, ...]:
        return len(self.anchors(self.image_shape)), 5 + self.n_outputs

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        from .boxes import ssd_loss

        outputs = _at_least_float(outputs)
        return ssd_loss(outputs, targets, self.anchors(self.image_shape).to(outputs), self.match_iou)

    def reward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """exp(-loss / 4): a matched anchor brings three others into the loss."""
        from .boxes import NEGATIVES

        return torch.exp(-self.loss(outputs, targets) / (1 + NEGATIVES))

    def metric(self) -> Metric:
        from .box_metric import BoxMetric

        return BoxMetric(self.merit.name, self.boxes)  # type: ignore[arg-type]  # one of two names, as looked at above

    def kinds(self, targets: Sequence[Any]) -> Mapping[str, np.ndarray]:
        """By the rarest class that an image has."""
        classes = [np.unique(np.asarray(target)[:, 0].astype(int)) for target in targets]
        has = np.stack([np.isin(np.arange(self.n_outputs), there) for there in classes])
        rarest = np.where(has, has.sum(axis=0), len(has) + 1).argmin(axis=1)
        rarest[~has.any(axis=1)] = self.n_outputs
        return together({f"class {number}": rarest == number for number in np.unique(rarest).tolist()})

    def space_of(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        return "detection", {
            "backbone": {"name": name, "arguments": dict(arguments)}, "num_classes": self.n_outputs,
            "decoder_width": self.decoder_width, "stride": self.stride_of(self.image_shape), "levels": self.levels,
            "anchors": 2 + 2 * len(self.aspect_ratios),
        }  # fmt: skip

    # -- what answers mean -------------------------------------------------------------------------------------------------

    def stride_of(self, image_shape: Sequence[int]) -> int:
        """Pixels per place of the first level, of images of shape (channels, height, width)."""
        if self.stride is not None:
            return self.stride
        return min(LARGEST_STRIDE, 2 ** max(0, int(min(image_shape[1:]) // PLACES).bit_length() - 1))

    def anchors(self, image_shape: Sequence[int]) -> Tensor:
        """Boxes that answers are relative to, shape (anchors, 4): x1, y1, x2, y2 in pixels, of images of shape (channels, height, width)."""
        from .boxes import anchors_of

        _, height, width = image_shape
        key = (height, width)
        if self._anchors is None or self._anchors[0] != key:
            made = anchors_of(
                height, width, stride=self.stride_of(image_shape), levels=self.levels, scales=self.scales,
                aspect_ratios=self.aspect_ratios,
            )  # fmt: skip
            self._anchors = key, made
        return self._anchors[1]

    _anchors: tuple[tuple[int, int], Tensor] | None = None  # of the last size that was asked for

    def boxes(self, outputs: Tensor, image_shape: Sequence[int] | None = None) -> list[Boxes]:
        """Boxes, scores and classes in each of n images, from the outputs of a network or of an exported file.

        Parameters
        ----------
        outputs
            Shape (n, anchors, 5 + classes); of a file's NumPy array, ``torch.from_numpy`` makes a tensor.
        image_shape
            (channels, height, width) of the network's input; None: that of the images that this task has seen.

        Raises
        ------
        ValueError
            Outputs of images of another shape, or of another task.
        """
        from .boxes import boxes_of

        shape = self.image_shape if image_shape is None else tuple(image_shape)
        anchors = self.anchors(shape)
        if outputs.ndim != 3 or outputs.shape[1] != len(anchors) or outputs.shape[2] < 6:
            raise ValueError(
                f"outputs of shape {tuple(outputs.shape)}; allowed for images of shape {tuple(shape)}: (n, {len(anchors)}, 5 + classes)"
            )
        outputs = _at_least_float(outputs.detach())
        return boxes_of(outputs, anchors.to(outputs), (shape[1], shape[2]), **self.read_by)  # type: ignore[arg-type]  # of two types


def _at_least_float(outputs: Tensor) -> Tensor:
    """Numbers of 16 bits have pixels only up to 256, or 2048, of one size."""
    return outputs if outputs.dtype.itemsize >= 4 else outputs.float()
