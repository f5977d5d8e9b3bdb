"""Folders of pictures with masks: a class for every pixel.

ROOT/train/images/a.jpg + ROOT/train/masks/a.png -> the same geometry for both -> (normalized picture, class numbers)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..core.errors import UserError
from ..core.user_path import user_path
from ..tasks.segmentation import IGNORED
from .image_folder import read_picture, require_upright, suffixes_of_pictures
from .image_parts import ImageData
from .normalization import IMAGENET

__all__ = ["masks"]

_logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # of masks: formats that lose nothing


def masks(*, root: str, image_size: int = 224, num_classes: int) -> ImageData:
    """Pictures with a mask each, for task segmentation: ``root/train/images/*`` and ``root/train/masks/*``, and the same below ``root/val``.

    A mask has the name of its picture and the suffix .png, .bmp, .tif or .tiff. It is as large as the picture, with 8 bits of gray or a palette; the
    gray value, or the index into the palette, is the class of a pixel, and 255 says that it has none. Training takes a random part of a picture, half
    of its area or more, mirrors half of them, and jitters colors by 0.4; evaluation takes the whole picture. Both resize to a square: the picture
    bilinearly, the mask to the nearest pixel.

    Parameters
    ----------
    root
        The folder.
    image_size
        Side of the squares that the network sees.
    num_classes
        How many classes there are, from 0 on; 2 to 255.

    Raises
    ------
    UserError
        A folder, a picture or a mask is missing, or a mask does not fit its picture or the classes. The first, the middle and the last are read at
        once, others when they are asked for.
    """
    for name, number, least, most in (("image_size", image_size, 8, None), ("num_classes", num_classes, 2, IGNORED)):
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not whole or number < least or (most is not None and number > most):
            raise ValueError(f"{name} is {number!r}; allowed: a whole number, {least} {f'to {most}' if most else 'or more'}")  # fmt: skip
    base = user_path(root, "data.root")
    train, test = _Pairs.of(base / "train", num_classes), _Pairs.of(base / "val", num_classes)
    augment, plain = _transforms(image_size)
    data = ImageData(
        train=_PicturesWithMasks(train, augment),
        train_plain=_PicturesWithMasks(train, plain),
        test=_PicturesWithMasks(test, plain),
        targets=[None] * len(train.pictures),
        num_classes=num_classes,
        shape=(3, image_size, image_size),
        statistics=IMAGENET,
        meant_for="segmentation",
    )
    for pairs in (train, test):
        for index in sorted({0, len(pairs.pictures) // 2, len(pairs.pictures) - 1}):
            pairs.read(index)
    return data


def _transforms(side: int) -> tuple[Callable, Callable]:
    """For training and for evaluation: from a picture (3, height, width) and a mask (height, width), both uint8, to float32 and int64."""
    types: dict[Any, Any] = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}
    normalize = [v2.ToDtype(types, scale=True), v2.Normalize(*IMAGENET)]
    augment = [_Crop(side, scale=(0.5, 1.0)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4), *normalize]
    return v2.Compose(augment), v2.Compose([_Resize((side, side)), *normalize])


class _Resize(v2.Resize):
    """torchvision resizes a mask by what torch calls ``nearest``, which takes the pixel left above the center: half a pixel off the picture."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Mask):
            return super().transform(inpt, params)
        mask = v2.functional.resize(
            inpt.as_subclass(Tensor)[None], self.size, v2.InterpolationMode.NEAREST_EXACT, antialias=False
        )
        return tv_tensors.Mask(mask[0])


class _Crop(v2.RandomResizedCrop):
    """As :class:`_Resize`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Mask):
            return super().transform(inpt, params)
        mask = v2.functional.resized_crop(
            inpt.as_subclass(Tensor)[None],
            **params,
            size=self.size,
            interpolation=v2.InterpolationMode.NEAREST_EXACT,
            antialias=False,
        )
        return tv_tensors.Mask(mask[0])


@dataclass(frozen=True)
class _Pairs:
    """Paths of pictures, in the order of their names, and of their masks."""

    pictures: list[str]
    masks: list[str]
    num_classes: int

    @classmethod
    def of(cls, root: Path, num_classes: int) -> _Pairs:
        pictures = _by_stem(root / "images", suffixes_of_pictures())
        masks = _by_stem(root / "masks", set(SUFFIXES))
        for these, others, what, other in ((pictures, masks, "picture", "mask"), (masks, pictures, "mask", "picture")):
            if alone := sorted(these.keys() - others.keys()):
                more = f", the first of {len(alone)} such" if len(alone) > 1 else ""
                raise UserError(
                    f"data.root: the {what} '{these[alone[0]]}' has no {other}{more}; allowed: a {other} of its name in "
                    f"'{root / f'{other}s'.replace('pictures', 'images')}'"
                )
        stems = sorted(pictures)
        return cls([pictures[stem] for stem in stems], [masks[stem] for stem in stems], num_classes)

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """A picture, and the class numbers of its pixels, uint8, shape (height, width)."""
        path = self.pictures[index]
        picture = read_picture(path)
        require_upright(path, "picture", "mask")
        numbers = _read_mask(self.masks[index])
        if numbers.shape != (picture.height, picture.width):
            raise UserError(
                f"data: the mask '{self.masks[index]}' has {numbers.shape[1]}x{numbers.shape[0]} pixels; allowed: "
                f"{picture.width}x{picture.height}, as its picture"
            )
        wrong = numbers[(numbers >= self.num_classes) & (numbers != IGNORED)]
        if len(wrong):
            raise UserError(
                f"data: the mask '{self.masks[index]}' has class {wrong[0]}; allowed with num_classes {self.num_classes}: 0 to "
                f"{self.num_classes - 1}, and {IGNORED} where there is none"
            )
        return picture, numbers


class _PicturesWithMasks(Dataset):
    """Pairs of a float32 picture (3, side, side) and an int64 mask (side, side)."""

    def __init__(self, pairs: _Pairs, transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]):
        self.pairs, self.transform = pairs, transform

    def __len__(self) -> int:
        return len(self.pairs.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, numbers = self.pairs.read(index)
        image, mask = self.transform(
            tv_tensors.Image(v2.functional.pil_to_tensor(picture)), tv_tensors.Mask(torch.from_numpy(numbers))
        )
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def _by_stem(folder: Path, suffixes: set[str]) -> dict[str, str]:
    """Name without suffix -> path of every file with one of these suffixes; one line of the log counts what is left out."""
    found: dict[str, str] = {}
    left_out = []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"data.root: '{folder}': {error.strerror}; expected train/images/*, train/masks/*, val/images/*, val/masks/*") from error  # fmt: skip
    for name in names:
        path = os.path.join(folder, name)
        stem, suffix = os.path.splitext(name)
        if name.startswith(".") or suffix.lower() not in suffixes or not os.path.isfile(path):
            left_out.append(path)
        elif stem in found:
            raise UserError(f"data.root: '{found[stem]}' and '{path}' have the same name; allowed: one of a name")
        else:
            found[stem] = path
    named = [path for path in left_out if not os.path.basename(path).startswith(".")]
    if named:
        _logger.warning("data.root: %s: %d left out, the first: %s", folder, len(named), named[0])
    if not found:
        raise UserError(f"data.root: no file in '{folder}' that could be read; allowed: {', '.join(sorted(suffixes))}")
    return found


def _read_mask(path: str) -> np.ndarray:
    try:
        with Image.open(path) as mask:
            mask.load()
            mode, numbers = mask.mode, np.array(mask)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise what they like
        raise UserError(f"data: the mask '{path}' cannot be read: {error or type(error).__name__}; mend it or take it away") from error  # fmt: skip
    if mode not in ("L", "P"):
        raise UserError(
            f"data: the mask '{path}' is of Pillow's mode {mode}; allowed: L, 8 bits of gray, or P, a palette: of class numbers"
        )
    require_upright(path, "mask", "mask")
    return numbers
