"""Replace the augmentation of a data set by timm's."""

from __future__ import annotations

from typing import Any

from timm.data import create_transform

from ..config.train_config import AugmentationSection
from ..core.errors import UserError
from ..data.image_parts import ImageData
from ..data.normalization import preprocessing
from ..models.architecture import Architecture

__all__ = ["augmented"]

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
        raise UserError(
            f"augmentation: the data set '{architecture.data.get('name')}' holds no pictures, which timm's transforms take; "
            "leave the section out, then the data set augments its images itself"
        )
    known: dict[str, Any]
    if data.statistics is not None:
        known = {"mean": data.statistics[0], "std": data.statistics[1], "interpolation": "bilinear", "crop_pct": 1.0}
    else:
        known = preprocessing(architecture.data, data.shape)
    options = {_OPTIONS.get(name, name): value for name, value in section.model_dump(exclude_none=True).items()}
    crop_pct = options.pop("crop_pct", known["crop_pct"])
    both: dict[str, Any] = {"input_size": data.shape, "mean": known["mean"], "std": known["std"]}
    # 'random' is for training only.
    interpolation = known["interpolation"] if section.interpolation == "random" else section.interpolation
    return data.through(
        create_transform(is_training=True, **options, **both),
        create_transform(is_training=False, interpolation=interpolation, crop_pct=crop_pct, **both),
    )
