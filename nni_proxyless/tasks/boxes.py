"""Boxes and anchors: what a detection network is trained for, and what is read from its answers. Plain torch, no NNI.

Symbols: n images of a batch, A anchors, C classes, M rows of a target. A box is (x1, y1, x2, y2), in pixels of the network's input, (0, 0) the
left upper corner of the image. A target has shape (M, 5): class, then box; a row of padding has class -1. Outputs have shape
(n, A, 5 + C): four codes of a box, the logit of the background, the logits of the classes.

Anchors, codes, matching and loss are those of SSD (Liu et al., arXiv:1512.02325) as torchvision has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

__all__ = ["NEGATIVES", "Boxes", "anchors_of", "boxes_of", "matched", "ssd_loss"]

CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
NEGATIVES = 3  # anchors of the background that count in the loss, per anchor of an object
CANDIDATES = 400  # of an image and class, before those that overlap are taken away


class Boxes(NamedTuple):
    """What is found in an image, the surest first.

    Attributes
    ----------
    boxes
        Shape (found, 4): x1, y1, x2, y2 in pixels of the network's input image.
    scores
        Shape (found,): probability of the class.
    classes
        Shape (found,), int64, from 0 on.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


def anchors_of(
    height: int, width: int, *, stride: int, levels: int, scales: Sequence[float], aspect_ratios: Sequence[float]
) -> Tensor:
    """The anchors of images of one size: shape (A, 4), boxes in pixels, in the order of a network's outputs.

    Parameters
    ----------
    height, width
        Of the network's input, in pixels.
    stride, levels
        Pixels per place of the first level, and how many levels there are, each of twice the stride.
    scales
        ``levels`` + 1 shares of the image's height and width. Level k has squares of side ``scales[k]`` and of the geometric mean of that and the next.
    aspect_ratios
        For each r, boxes of ``scales[k]`` times sqrt(r) and 1 / sqrt(r), lying and upright.
    """
    generator = DefaultBoxGenerator([list(aspect_ratios)] * levels, scales=list(scales))
    images = ImageList(torch.zeros(()).expand(1, 1, height, width), [(height, width)])
    strides = [stride * 2**level for level in range(levels)]
    (anchors,) = generator(images, [torch.zeros(1, 1, -(-height // one), -(-width // one)) for one in strides])
    return anchors


def matched(anchors: Tensor, targets: Tensor, least: float = 0.5) -> Tensor:
    """The row of its target that each anchor has to find, or -1: shape (n, A).

    That of the box that it overlaps most, if their intersection over union is ``least`` or more; and each box is that of its best anchor, in any case.
    torchvision's ``SSDMatcher``, of a batch: where a box shares its best anchor with another, the later one has it.
    """
    there = targets[..., 0] >= 0
    n, rows = there.shape
    overlaps = box_iou(targets[..., 1:].reshape(-1, 4), anchors).view(n, rows, -1).masked_fill(~there[..., None], -1)
    most, found = overlaps.max(dim=1)
    found = found.masked_fill(most < least, -1)
    numbers = torch.arange(rows, device=targets.device).expand(n, rows).masked_fill(~there, -1)
    forced = torch.full_like(found, -1).scatter_reduce(1, overlaps.argmax(dim=2), numbers, "amax")
    return torch.where(forced >= 0, forced, found)


def ssd_loss(outputs: Tensor, targets: Tensor, anchors: Tensor, least: float = 0.5) -> Tensor:
    """Smooth L1 of the codes of matched anchors, and cross entropy of these and of the three times as many others of an image that are worst.

    Their sum by the number of matched anchors in the batch, as torchvision's ``SSD.compute_loss`` has it; 0 without a box. Where an image has fewer
    others than that, torchvision counts matched ones twice, and this does not.

    Parameters
    ----------
    outputs
        Shape (n, A, 5 + C).
    targets
        Shape (n, M, 5).
    anchors
        Shape (A, 4).
    least
        Of the intersection over union, from which on an anchor is matched.
    """
    used = (targets[..., 0] >= 0).any(dim=0)
    used[0] = True  # one row, be it of padding: the largest of nothing is none
    targets = targets[:, used].to(outputs)
    rows = matched(anchors, targets, least)
    positive = rows >= 0
    taken = targets.gather(1, rows.clamp(min=0)[..., None].expand(-1, -1, 5))
    classes = torch.where(positive, taken[..., 0].long() + 1, 0)
    codes = CODER.encode_single(taken[..., 1:][positive], anchors.expand(len(outputs), -1, -1)[positive])
    of_boxes = smooth_l1_loss(outputs[..., :4][positive], codes, reduction="sum")
    of_classes = cross_entropy(outputs[..., 4:].transpose(1, 2), classes, reduction="none")
    hardness = of_classes.detach().masked_fill(positive, -torch.inf)
    rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    hard = (rank < NEGATIVES * positive.sum(dim=1, keepdim=True)) & ~positive
    return (of_boxes + of_classes[positive | hard].sum()) / positive.sum().clamp(min=1)


def boxes_of(
    outputs: Tensor, anchors: Tensor, size: tuple[int, int], *, score_threshold: float, nms_iou: float, most: int
) -> list[Boxes]:
    """What the outputs of a network say, one entry per image.

    Codes become boxes inside the image, logits probabilities by a softmax; of each class, what overlaps a surer one of it is taken away. An anchor
    may be several classes, as in torchvision's ``SSD.postprocess_detections``.

    Parameters
    ----------
    outputs
        Shape (n, A, 5 + C).
    anchors
        Shape (A, 4), of these images.
    size
        Height and width of the network's input, in pixels.
    score_threshold
        Boxes of no higher probability are left out.
    nms_iou
        Intersection over union beyond which two boxes of a class are one.
    most
        Boxes of an image.
    """
    scores = outputs[..., 4:].softmax(dim=2)[..., 1:]
    best, places = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)  # of each class: (n, candidates, C)
    found = []
    for codes, scores_here, places_here in zip(outputs[..., :4], best, places, strict=True):
        boxes = clip_boxes_to_image(CODER.decode_single(codes, anchors), size)
        classes, rank = (scores_here > score_threshold).T.nonzero(as_tuple=True)  # class by class
        sure, boxes = scores_here[rank, classes], boxes[places_here[rank, classes]]
        kept = batched_nms(boxes, sure, classes, nms_iou)[:most]
        found.append(Boxes(boxes[kept], sure[kept], classes[kept]))
    return found
