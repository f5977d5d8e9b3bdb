"""What tables of pictures have in common, whatever file they are in: columns of targets, transforms, the data sets of both parts.

classes, values or labels -> name of the target, its columns -> targets of training and test -> ImageData
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from timm.data import create_transform
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ..core.errors import shown
from .image_parts import ImageData
from .normalization import IMAGENET

__all__ = ["Part", "finite", "image_data", "in_order", "target_columns", "zero_or_one"]

_JITTER = 0.4  # of brightness, contrast and saturation


class Part(Protocol):
    """Pictures of training or of the test, with their targets.

    Attributes
    ----------
    targets
        A class of each picture, or a float32 tensor of shape (n_outputs,).
    n_outputs
        How many classes, numbers or labels there are.
    """

    @property
    def targets(self) -> Sequence[Any]: ...

    @property
    def n_outputs(self) -> int: ...

    def through(self, transform: Callable) -> Dataset: ...


def target_columns(picture: str, image_size: int, **given: Any) -> tuple[str, list[str]]:
    """The name of what is learned (classes, values, labels), and the columns that hold it.

    Raises
    ------
    ValueError
        None or several of ``given`` are, a column is no name or stands twice, or the size is none.
    """
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(
            f"{' and '.join(named) or 'none of classes, values, labels'} given; allowed: one of classes, values, labels"
        )
    target = named[0]
    value = given[target]
    if not value:
        raise ValueError(f"{target} is {value!r}; allowed: the name of a column, or a list of them")
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 8:
        raise ValueError(f"image_size is {image_size!r}; allowed: a whole number, 8 or more")
    columns = [value] if target == "classes" or (target == "labels" and isinstance(value, str)) else value
    if not isinstance(columns, list) or not all(isinstance(one, str) for one in [*columns, picture]):
        wanted = "the name of a column" if target == "classes" else "a list of names of columns"
        raise ValueError(f"{target} is {shown(value)}; allowed: {wanted}")
    if twice := [name for name, n in Counter([picture, *columns]).items() if n > 1]:
        raise ValueError(
            f"the column '{twice[0]}' is named twice; allowed: another one for picture and all of {target}"
        )
    return target, columns


MEANT_FOR = {"classes": "classification", "values": "regression", "labels": "multi-label"}


def image_data(train: Part, test: Part, *, target: str, image_size: int, flip: bool | None) -> ImageData:
    """Both parts through the transforms of this target: with values nothing is cropped, nor, unless ``flip`` says so, mirrored."""
    size = (3, image_size, image_size)

    def through(augment: Callable, plain: Callable) -> ImageData:
        return ImageData(
            train.through(augment), train.through(plain), test.through(plain), train.targets, train.n_outputs, size,
            through, IMAGENET if target == "values" else None, MEANT_FOR[target],
        )  # fmt: skip

    return through(*_transforms(size, whole=target == "values", flip=target != "values" if flip is None else flip))


def _transforms(size: tuple[int, int, int], *, whole: bool, flip: bool) -> tuple[Callable, Callable]:
    """For training and for evaluation, from a PIL picture to a normalized tensor of this size; ``whole``: nothing is cropped."""
    mean, std = IMAGENET
    if not whole:
        stats: dict[str, Any] = {"mean": mean, "std": std}
        augment = create_transform(
            size, is_training=True, color_jitter=_JITTER, auto_augment=None, hflip=0.5 * flip, **stats
        )
        return augment, create_transform(size, is_training=False, crop_pct=224 / 256, **stats)
    resize = v2.Resize(size[1:])
    normalize = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    flips = [v2.RandomHorizontalFlip()] if flip else []
    jitter = v2.ColorJitter(_JITTER, _JITTER, _JITTER)
    return v2.Compose([resize, *flips, jitter, *normalize]), v2.Compose([resize, *normalize])


def in_order(names: set[str]) -> list[str]:
    """Names of classes as they are numbered: numbers by size, names by letters."""
    numbers = {name: finite(name) for name in names}
    if None in numbers.values():
        return sorted(names)
    return sorted(names, key=lambda name: (numbers[name], name))


def finite(cell: str | float) -> float | None:
    """The number that a cell holds; None if it is none, or too large for 32 bits."""
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        return None
    largest = torch.finfo(torch.float32).max
    return number if "_" not in str(cell) and math.isfinite(number) and abs(number) <= largest else None


def zero_or_one(cell: str | float) -> float | None:
    number = finite(cell)
    return number if number in (0, 1) else None
