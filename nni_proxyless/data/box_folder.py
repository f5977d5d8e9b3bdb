"""Folders of pictures with boxes, which a file of annotations as COCO has it lists.

ROOT/train.json, ROOT/train/a.jpg -> the same geometry for picture and boxes -> (normalized picture, rows of class and box)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..core.errors import UserError, on_one_line
from ..core.user_path import user_path
from .coco_annotations import Annotated, read_annotations
from .image_folder import read_picture, require_upright
from .image_parts import ImageData
from .normalization import IMAGENET

__all__ = ["boxes"]

JITTER = 0.4
PADDING = -1.0  # class of a row that is left over


def boxes(
    *,
    root: str,
    train: str = "train",
    val: str = "val",
    train_annotations: str | None = None,
    val_annotations: str | None = None,
    image_size: int = 224,
    max_boxes: int = 100,
) -> ImageData:
    """Pictures with boxes around objects, for task detection: ``root/train.json`` and ``root/train/*``, ``root/val.json`` and ``root/val/*``.

    The files of annotations are in COCO's format: ``images``, ``categories``, and ``annotations`` with a ``bbox`` each. Classes are the categories in
    ascending order of their ids, numbered from 0 on; crowds (``iscrowd``) are left out; pictures without a box are kept. A box that reaches up to
    one pixel beyond its picture is cut. Training takes a random part of a picture that keeps boxes (SSD's), mirrors half of them, and jitters
    colors by 0.4; evaluation takes the whole picture. Both resize to a square.

    Parameters
    ----------
    root
        Folder that the others are relative to.
    train, val
        Folders of pictures, which ``file_name`` of the annotations is relative to.
    train_annotations, val_annotations
        The files; None: the name of the folder and ``.json``.
    image_size
        Side of the squares that the network sees.
    max_boxes
        The most boxes that a picture has.

    Raises
    ------
    UserError
        A file or a picture is missing, or an entry is not what it has to be; the message names it. The first, the middle and the last picture are read
        at once, others when they are asked for.
    """
    for name, number, least in (("image_size", image_size, 8), ("max_boxes", max_boxes, 1)):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} is {number!r}; allowed: a whole number, {least} or more")
    base = user_path(root, "data.root")
    files = [train_annotations or f"{train}.json", val_annotations or f"{val}.json"]
    if files[0] == files[1]:
        raise ValueError(f"{files[0]!r} is for train and for val; allowed: a file of each")
    of_train, of_val = (
        read_annotations(f"data.{part}_annotations", base / file, base / folder, max_boxes)
        for part, file, folder in zip(("train", "val"), files, (train, val), strict=True)
    )
    _require_same_categories(of_train, of_val)
    training, test = _Pictures(of_train, image_size, max_boxes), _Pictures(of_val, image_size, max_boxes)
    data = ImageData(
        train=_PicturesWithBoxes(training, augmented=True),
        train_plain=_PicturesWithBoxes(training),
        test=_PicturesWithBoxes(test),
        targets=list(training.targets),
        num_classes=len(of_train.ids),
        shape=(3, image_size, image_size),
        statistics=IMAGENET,
        meant_for="detection",
    )
    for pictures in (training, test):
        for index in sorted({0, len(pictures) // 2, len(pictures) - 1}):
            pictures.read(index)
    return data


def _require_same_categories(train: Annotated, val: Annotated) -> None:
    ours, theirs = dict(zip(train.ids, train.categories, strict=True)), dict(zip(val.ids, val.categories, strict=True))
    for number in sorted(ours.keys() | theirs.keys()):
        if ours.get(number) != theirs.get(number):
            said, here = (
                f"no category {number}" if number not in of else f"category {number} as '{on_one_line(of[number])}'"
                for of in (ours, theirs)
            )
            raise UserError(f"{val.where} has {here}, {train.where} has {said}; allowed: the same categories in both")


class _Pictures:
    """Pictures with their boxes.

    Attributes
    ----------
    targets
        In pixels of squares, as they are evaluated: shape (n, max_boxes, 5), float32.
    """

    def __init__(self, annotated: Annotated, side: int, max_boxes: int):
        self.annotated, self.side = annotated, side
        self.targets = torch.zeros(len(annotated.paths), max_boxes, 5)
        self.targets[..., 0] = PADDING
        for target, rows, (width, height) in zip(self.targets, annotated.boxes, annotated.sizes, strict=True):
            target[: len(rows), 0] = torch.from_numpy(rows[:, 0])
            # In this order, so that an edge of the picture is one of the square.
            target[: len(rows), 1:] = torch.from_numpy(rows[:, 1:] * side / np.array([width, height, width, height]))

    def __len__(self) -> int:
        return len(self.annotated.paths)

    def read(self, index: int) -> Image.Image:
        path, (width, height) = self.annotated.paths[index], self.annotated.sizes[index]
        picture = read_picture(path)
        require_upright(path, "picture", "boxes")
        if picture.size != (width, height):
            raise UserError(
                f"data: the picture '{path}' has {picture.width}x{picture.height} pixels, where {self.annotated.where} says {width}x{height}; "
                "allowed: the same"
            )
        return picture


class _PicturesWithBoxes(Dataset):
    """Pairs of a float32 picture (3, side, side) and rows of class and box, float32 (max_boxes, 5)."""

    def __init__(self, pictures: _Pictures, *, augmented: bool = False):
        self.pictures = pictures
        self.normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)])
        self.resize = v2.Resize((pictures.side, pictures.side))
        self.geometry: Callable | None = None
        if augmented:
            self.cut, self.jitter = v2.RandomIoUCrop(), v2.ColorJitter(JITTER, JITTER, JITTER)
            # Resizing rounds: an edge of the picture may come to lie behind that of the square, and such boxes would be left out.
            clamp, sanitize = v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes()
            self.geometry = v2.Compose([v2.RandomHorizontalFlip(), self.resize, clamp, sanitize])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = tv_tensors.Image(v2.functional.pil_to_tensor(self.pictures.read(index)))
        target = self.pictures.targets[index]
        if self.geometry is None:
            return self.normalize(self.resize(image)).as_subclass(Tensor), target.clone()
        rows = torch.from_numpy(self.pictures.annotated.boxes[index])
        size: Any = image.shape[-2:]
        here = {
            "boxes": tv_tensors.BoundingBoxes(rows[:, 1:].float(), format="XYXY", canvas_size=size),
            "labels": rows[:, 0],
        }
        if len(rows):  # it would look for a part that keeps one
            image, here = self.cut(image, here)
        image, here = self.geometry(image, here)
        target = torch.zeros_like(target)
        target[:, 0] = PADDING
        kept = here["boxes"].as_subclass(Tensor)
        target[: len(kept), 0], target[: len(kept), 1:] = here["labels"].float(), kept.clamp(0, self.pictures.side)
        return self.normalize(self.jitter(image)).as_subclass(Tensor), target
