"""Preprocessing of images in timm's terms: size, interpolation, mean and standard deviation.

Needs no NNI. The data sets of :mod:`.datasets` take their numbers from here; a test holds the digits' against them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

__all__ = ["CIFAR", "FASHION_MNIST", "IMAGENET", "preprocessing"]

_logger = logging.getLogger(__name__)

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of pixels from 0 to 1."""

FASHION_MNIST: Statistics = ((0.2190,), (0.3318,))
CIFAR: Statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET: Statistics = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

# Enlarging the digits by bilinear interpolation keeps their mean and takes from their deviation. Other sides: 0.318 to 0.331.
DIGITS_MEAN, DIGITS_STD, DIGITS_STD_ELSE = 0.3053, {8: 0.3761, 16: 0.3189, 32: 0.3236}, 0.325


def preprocessing(data: Mapping[str, Any], input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Entries of a timm ``PretrainedCfg``: mean, std, interpolation, crop_pct.

    Parameters
    ----------
    data
        ``{'name': …}`` of an architecture, with ``mean`` and ``std`` where the data set gives them.
    input_shape
        Of one image, (channels, height, width).

    Notes
    -----
    For a data set of the user's own that gives none: ImageNet statistics for three channels, mean and standard deviation 0.5 for any other
    number, and the log says so.
    """
    name = str(data.get("name", "")).removeprefix("nni_proxyless.data:").replace("_", "-")
    channels, side = input_shape[0], input_shape[-1]
    known: dict[str, Statistics] = {
        "digits": ((DIGITS_MEAN,), (DIGITS_STD.get(side, DIGITS_STD_ELSE),)),
        "fashion-mnist": FASHION_MNIST,
        "cifar10": CIFAR,
        "cifar100": CIFAR,
        "folder": IMAGENET,
        "csv": IMAGENET,
        "synthetic": ((0.0,) * channels, (1.0,) * channels),
    }
    given = "mean" in data and "std" in data
    if given:
        mean, std = tuple(data["mean"]), tuple(data["std"])
    elif name in known:
        mean, std = known[name]
    else:
        mean, std = IMAGENET if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
        _logger.warning(
            "data set %r: its normalization is unknown; mean %s, std %s are taken. Others: statistics of its ImageData, or "
            "pretrained_cfg_overlay={'mean': …, 'std': …}",
            data.get("name"), mean, std,
        )  # fmt: skip
    crop = 1.0 if given or (name in known and name not in ("folder", "csv")) else 224 / 256
    return {"mean": mean, "std": std, "interpolation": "bilinear", "crop_pct": crop}
