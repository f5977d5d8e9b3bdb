"""A fingerprint of the images of a search: their number, all labels, and a sample of the pixels.

The division into parts depends on the images alone. With other images it changes, and an image that has trained the
weights could then validate them.

ImageData -> fingerprint -> RUN/data_fingerprint.json -> compared by whoever divides the images of this run again
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from ..core.atomic_files import write_text
from ..core.errors import UserError
from ..core.random_state import generators_kept
from ..tasks import Classification
from .image_parts import ImageData

__all__ = ["FINGERPRINT", "fingerprint", "image_differences", "record_or_compare", "require_same"]

_logger = logging.getLogger(__name__)

FINGERPRINT = "data_fingerprint.json"
FORMAT = "nni-proxyless images 1"
_SAMPLE = 32  # images that are read, however many there are
_GRID = 2  # each as the mean brightness of so many by so many fields per channel
_TOLERANCE = 0.02  # of the deviation over the sample: decoders and processors round in their own ways


def fingerprint(data: ImageData, part: str = "train_plain") -> dict[str, Any]:
    """Of the training images as they are evaluated, or of the test images. No random number is drawn, and at most 34 images are read.

    ``pixels`` is None where an image is another one each time it is read. Labels of test images, and those of a task that does not read them
    all, are those of the sample.

    Raises
    ------
    UserError
        An image has another shape than the others.
    """
    images: Any = getattr(data, part)
    n = min(_SAMPLE, len(images))
    indices = [i * len(images) // n for i in range(n)]
    with generators_kept():
        repeats = _look(data, part, 0) == _look(data, part, 0)
        looks = [_look(data, part, i) for i in indices]
    all_known = part == "train_plain" and data.task.reads_targets
    targets = data.targets if all_known else [label for label, _ in looks]
    if isinstance(data.task, Classification):
        labels = np.ascontiguousarray(np.asarray(targets), dtype=np.int64)
    else:
        labels = np.ascontiguousarray(np.stack([np.asarray(target) for target in targets]))
    return {
        "format": FORMAT,
        "n_images": len(images),
        "num_classes": int(data.num_classes),
        "shape": [int(size) for size in data.shape],
        "labels": hashlib.sha256(labels.tobytes()).hexdigest()[:16],
        "pixels": [fields for _, fields in looks] if repeats else None,
    }


def _look(data: ImageData, part: str, index: int) -> tuple[Any, list[float]]:
    """Target and brightness of an image. Should reading it draw random numbers, they are always the same."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    image, label = getattr(data, part)[index]
    if tuple(image.shape) != tuple(data.shape):
        raise UserError(
            f"data: image {index} of {part} has shape {tuple(image.shape)}; allowed with shape {tuple(data.shape)}: that"
        )
    fields = adaptive_avg_pool2d(image.float(), _GRID)
    target = int(label) if isinstance(data.task, Classification) else np.asarray(label).tolist()
    return target, [round(value, 6) for value in fields.flatten().tolist()]


def image_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Describe how two fingerprints differ; empty if they are equal."""
    found = [
        f"{what} {there[key]} then, {here[key]} now"
        for key, what in (("n_images", "images:"), ("num_classes", "classes:"), ("shape", "shape"))
        if there[key] != here[key]
    ]
    if not found and there["labels"] != here["labels"]:
        found.append("labels: other ones, or in another order")
    if not found and there["pixels"] is not None and here["pixels"] is not None:
        ours, theirs = torch.tensor(here["pixels"]), torch.tensor(there["pixels"])
        allowed = _TOLERANCE * float(theirs.std(correction=0)) + 1e-6
        n_others = int(((ours - theirs).abs() > allowed).any(dim=1).sum())
        if n_others:
            found.append(
                f"pixels: of {len(ours)} images that were looked at, {n_others} are others, or in another order"
            )
    return found


def record_or_compare(folder: Path, data: ImageData, *, goes_on: bool) -> None:
    """Write the fingerprint of a new run; compare with it when the run resumes.

    Raises
    ------
    UserError
        They are other images.
    """
    path = folder / FINGERPRINT
    here = fingerprint(data)
    if goes_on and path.exists():
        _require_same(path, here)
        return
    if goes_on:
        _logger.warning("%s: no %s of an older version: whether these are the images it began with, nobody can tell", folder, FINGERPRINT)  # fmt: skip
    write_text(path, json.dumps(here) + "\n")


def require_same(folder: Path, data: ImageData) -> None:
    """Compare the images with the fingerprint of the search in this folder, if it has one.

    Raises
    ------
    UserError
        They are other images.
    """
    if (folder / FINGERPRINT).exists():
        _require_same(folder / FINGERPRINT, fingerprint(data))


def _require_same(path: Path, here: Mapping[str, Any]) -> None:
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        if there["format"] != FORMAT:
            raise ValueError(f"'format' is not {FORMAT!r}")
        different = image_differences(there, here)
    except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: no readable fingerprint of the images: {error}. Delete it if they are the same"
        ) from error
    if different:
        raise UserError(
            f"data: these are not the images of the search in {path.parent}: {'; '.join(different)}. They would be divided anew, and "
            "what has trained the weights would judge them. Give it its images back, or search again with another output"
        )
