"""What is done to training images beside, or in the place of, the augmentation of their data set."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from timm.data import create_transform
from torch.utils.data import Dataset

from ..config.train_config import AugmentationSection
from ..core.errors import UserError
from ..data.image_parts import ImageData
from ..data.normalization import preprocessing
from ..models.architecture import Architecture
from ..tasks import Detection, Regression, Segmentation

__all__ = ["Cutout", "augmented", "cut_out"]

_logger = logging.getLogger(__name__)

_OPTIONS = {"random_erasing": "re_prob", "random_erasing_mode": "re_mode"}  # others have timm's name


def augmented(data: ImageData, section: AugmentationSection, architecture: Architecture) -> ImageData:
    """The same images through timm's transforms, for training and for evaluation.

    Parameters
    ----------
    data
        A data set of pictures.
    section
        What to do to them.
    architecture
        Says by which statistics its data set is normalized, where ``data`` does not.

    Raises
    ------
    UserError
        The data set holds no pictures.
    """
    if data.through is None:
        kept = "masks" if isinstance(data.task, Segmentation) else "boxes" if isinstance(data.task, Detection) else None
        why = (
            f"has {kept}, which timm's transforms would leave as they are"
            if kept
            else "holds no pictures, which timm's transforms take"
        )
        raise UserError(
            f"augmentation: the data set '{architecture.data.get('name')}' {why}; "
            "leave the section out, then the data set augments its images itself"
        )
    if isinstance(data.task, Regression) and (section.scale != [1.0, 1.0] or section.hflip or section.vflip):
        _logger.warning(
            "augmentation: crops of %s to %s of a picture and mirroring may change the values that are learned; scale: [1, 1], hflip: 0 leave "
            "them as they are",
            *section.scale,
        )  # fmt: skip
    known = preprocessing({**architecture.data, **data.normalization}, data.shape)
    options = {_OPTIONS.get(name, name): value for name, value in section.model_dump(exclude_none=True).items()}
    crop_pct = options.pop("crop_pct", known["crop_pct"])
    both: dict[str, Any] = {"input_size": data.shape, "mean": known["mean"], "std": known["std"]}
    # 'random' is for training only.
    interpolation = known["interpolation"] if section.interpolation == "random" else section.interpolation
    return data.through(
        create_transform(is_training=True, **options, **both),
        create_transform(is_training=False, interpolation=interpolation, crop_pct=crop_pct, **both),
    )


class Cutout(Dataset):
    """Images with a square of zeros around a pixel that is drawn at random; at the edges of the image less of it is inside.

    Source: DeVries, Taylor, arXiv:1708.04552. After normalization a zero is the mean.
    """

    def __init__(self, images: Any, side: int):
        self.images, self.side = images, side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image, target = self.images[index]
        rows, columns = (self._around(int(torch.randint(n, ()))) for n in image.shape[-2:])
        image = image.clone()  # that of a data set in memory is the data set's
        image[..., rows, columns] = 0
        return image, target

    def _around(self, center: int) -> slice:
        first = center - self.side // 2
        return slice(max(0, first), first + self.side)


def cut_out(data: ImageData, side: int) -> ImageData:
    """The same images, with :class:`Cutout` in training."""
    return dataclasses.replace(data, train=Cutout(data.train, side))
