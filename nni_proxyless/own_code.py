"""What a user's own function or class has given, looked at before it is used.

A data set whose labels begin at 1, or a space without a choice, would otherwise be noticed late, or by somebody else's
message in the middle of a training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import registry
from .data import ImageData
from .errors import UserError

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

__all__ = ["make_images", "make_space"]


def make_images(name: str, arguments: Mapping[str, Any]) -> ImageData:
    """The images behind a name.

    Raises
    ------
    UserError
        What the function gives is no ``ImageData``, or its parts do not fit each other. The message names all of them.
    """
    found = registry.load("nni_proxyless.datasets", name)(**arguments)
    problems = _problems(found)
    if problems:
        raise UserError("\n".join(f"data: {name} gives {problem}" for problem in problems))
    return found


def make_space(name: str, arguments: Mapping[str, Any]) -> ModelSpace:
    """The space behind a name.

    Raises
    ------
    UserError
        It is no model space, or there is nothing to choose in it.
    """
    from nni.nas.nn.pytorch import ModelSpace  # here: it takes seconds, and a training of images does without

    space = registry.load("nni_proxyless.search_spaces", name)(**arguments)
    if not isinstance(space, ModelSpace):
        raise UserError(f"space: {name} gives a {type(space).__name__}; allowed: a ModelSpace of NNI")
    if not any(len(getattr(choice, "values", ())) > 1 for choice in space.simplify().values()):
        raise UserError(
            f"space: {name} has no choice, so there is nothing to search; allowed: a ModelSpace with a LayerChoice, InputChoice "
            "or Repeat of two candidates or more"
        )
    return space


def _problems(data: Any) -> list[str]:
    if not isinstance(data, ImageData):
        return [f"a {type(data).__name__}; allowed: nni_proxyless.data.ImageData"]
    sizes: dict[str, int] = {name: len(getattr(data, name)) for name in ("train", "train_plain", "targets")}
    if len(set(sizes.values())) > 1 or not sizes["train"]:
        return [
            f"{', '.join(f'{name} with {size}' for name, size in sizes.items())} entries; allowed: the same images in the same "
            "order in all three"
        ]
    problems = []
    classes = np.unique(np.asarray(data.targets))
    if classes.tolist() != list(range(data.num_classes)):
        problems.append(
            f"targets with {len(classes)} classes from {classes[0]} to {classes[-1]}; allowed with num_classes "
            f"{data.num_classes}: 0 to {data.num_classes - 1}, each at least once"
        )
    # Not of ``train``: what augments an image draws random numbers, and a look must not change a search.
    plain: Any = data.train_plain
    test: Any = data.test
    for part, images in (("train_plain", plain), ("test", test)):
        if not len(images):
            problems.append(f"no image in {part}; allowed: one or more")
            continue
        problems += [f"{problem} in {part}" for problem in _of_item(images[0], data)]
    if not problems and int(plain[0][1]) != int(data.targets[0]):
        problems.append(
            f"a first image of class {int(plain[0][1])} in train_plain and {int(data.targets[0])} in targets; allowed: the "
            "same order"
        )
    return problems


def _of_item(item: Any, data: ImageData) -> list[str]:
    """What is wrong with an entry of a data set."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        return [f"a {type(item).__name__}; allowed: an image and its class"]
    image, target = item
    if not isinstance(image, torch.Tensor) or not image.is_floating_point():
        what = f"{image.dtype} tensors" if isinstance(image, torch.Tensor) else f"a {type(image).__name__}"
        return [f"{what} as images; allowed: tensors of floating-point numbers"]
    if tuple(image.shape) != tuple(data.shape):
        return [f"images of shape {tuple(image.shape)}; allowed with shape {tuple(data.shape)}: that"]
    if not 0 <= int(target) < data.num_classes:
        return [f"class {int(target)}; allowed with num_classes {data.num_classes}: 0 to {data.num_classes - 1}"]
    return []
