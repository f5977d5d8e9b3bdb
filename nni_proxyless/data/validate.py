"""Check the result of a user's own data function or space before it is used.

Labels that begin at 1, or a space without a choice, would otherwise fail late, with an unrelated message in the middle
of a training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..config import registry
from ..core.errors import UserError
from ..core.merit import CLASSIFICATION
from ..core.random_state import generators_kept
from ..tasks import Classification, Task
from ..tasks.check import problem_of_answers, problem_of_kinds, target_problem
from ..tasks.labels import class_of
from ..tasks.make import make_task
from .image_parts import ImageData
from .labels import CheckedLabels, CheckedTargets, labels_in_memory, problem_of_labels
from .tensor_images import TensorImages

__all__ = ["make_images"]


def make_images(
    name: str, arguments: Mapping[str, Any], task: Mapping[str, Any] = CLASSIFICATION
) -> ImageData:  # fmt: skip
    """Load the images that a name stands for, for a task, which gets to see them.

    Parameters
    ----------
    name, arguments
        Of the data set.
    task
        ``{'name': …, 'arguments': {…}}``, what is to be learned of them.

    Raises
    ------
    UserError
        What the function gives is no ``ImageData``, or its parts do not fit each other or the task. The message names all of them. Where
        classes are known only once their images are read, the data sets that are returned raise it then.
    """
    found, made = registry.load("nni_proxyless.datasets", name), make_task(task)
    try:
        data = found(**arguments)
    except ValueError as error:
        if not found.__module__.startswith("nni_proxyless."):
            raise  # of somebody's function, which wants to know where
        raise UserError(f"data: {name}: {error}") from error
    return _checked(data, name, made)


def _checked(data: Any, name: str, task: Task) -> ImageData:
    """The same images, each target looked at: now where it lies in memory, else when its image is read."""
    if not isinstance(data, ImageData):
        raise UserError(f"data: {name} gives a {type(data).__name__}; allowed: nni_proxyless.data.ImageData")
    data = dataclasses.replace(data, task=task)
    with generators_kept():  # a look must not change a search
        problems = _problems(data)
        parts: dict[str, Any] = {}
        if not problems:
            problems, parts = _labels(data, name) if isinstance(task, Classification) else _targets_of_task(data, name)
    if problems:
        hint = f". They are meant for task {data.meant_for}" if data.meant_for else ""
        raise UserError("\n".join(f"data: {name} gives {problem}{hint}" for problem in problems))
    if (through := data.through) is not None:
        parts["through"] = lambda augment, plain: _checked(through(augment, plain), name, task)
    data = dataclasses.replace(data, **parts)
    try:
        task.begin(data.num_classes, data.shape, data.targets)
    except Exception as error:  # of somebody's class
        raise UserError(f"task: {error or type(error).__name__}") from error
    with generators_kept():
        targets = torch.utils.data.default_collate([data.train_plain[index][1] for index in _some(data.train_plain)])
    if problem := problem_of_kinds(task, data.targets) or problem_of_answers(task, targets):
        raise UserError(f"task: {type(task).__name__}: {problem}")
    return data


def _problems(data: ImageData) -> list[str]:
    for part in ("train", "train_plain", "test"):
        if not hasattr(getattr(data, part), "__len__"):
            return [f"a {type(getattr(data, part)).__name__} without a length as {part}; allowed: a data set with one"]
    if len(data.shape) != 3:
        return [f"shape {tuple(data.shape)}; allowed: (channels, height, width)"]
    data.task.n_outputs, data.task.image_shape = data.num_classes, tuple(data.shape)
    of_classes = isinstance(data.task, Classification)
    targets: Any = _targets(data) if of_classes else data.targets
    if targets is None:
        return ["targets that are no classes; allowed: one int per training image, in a list or a tensor of shape (n,)"]
    sizes: dict[str, int] = {"train": len(data.train), "train_plain": len(data.train_plain), "targets": len(targets)}  # type: ignore[arg-type]  # as looked at above
    if len(set(sizes.values())) > 1 or not sizes["train"]:
        return [
            f"{', '.join(f'{name} with {size}' for name, size in sizes.items())} entries; allowed: the same images in the same "
            "order in all three"
        ]
    problems = []
    classes = np.unique(targets) if of_classes else np.arange(data.num_classes)
    if classes.tolist() != list(range(data.num_classes)):
        return [
            f"targets with {len(classes)} classes from {classes[0]} to {classes[-1]}; allowed with num_classes "
            f"{data.num_classes}: 0 to {data.num_classes - 1}, each at least once"
        ]
    # Not of ``train``: what augments an image may have a generator of its own, and a look must not change a search.
    for part in ("train_plain", "test"):
        images: Any = getattr(data, part)
        if not len(images):
            problems.append(f"no image in {part}; allowed: one or more")
            continue
        for index in _some(images):
            found = _of_item(images[index], data)
            if found:
                problems += [f"{problem} in {part}{f', image {index}' if index else ''}" for problem in found]
                break
    return problems


def _targets(data: ImageData) -> np.ndarray | None:
    """Shape (n,), whole numbers; None if they are none."""
    given: Any = data.targets
    try:
        targets = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given)
    except (TypeError, ValueError, RuntimeError):
        return None
    if targets.ndim != 1 or targets.dtype.kind not in "iuf" or (targets != np.floor(targets)).any():
        return None
    return targets.astype(np.int64)


def _labels(data: ImageData, name: str) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with the classes that lie in memory; and the parts whose classes have to be looked at as they are read."""
    problems, parts = [], {}
    targets = _targets(data)
    trusted: type | None = None  # a class whose ``targets`` are what it gives
    for part in ("train_plain", "train", "test"):
        images: Any = getattr(data, part)
        expected = None if part == "test" else targets
        labels, sure = labels_in_memory(images)
        if labels is not None and not sure:
            if part == "train":
                sure = type(images) is trusted
            else:
                sure = all(class_of(images[i][1]) == labels[i] for i in _some(images))
        if part == "train_plain" and sure:
            trusted = type(images)
        if labels is None or not sure:
            parts[part] = CheckedLabels(images, name, part, data.num_classes, expected)
            if part != "train":
                for i in _some(images):
                    parts[part][i]  # raises what is wrong with it
        elif problem := problem_of_labels(labels, data.num_classes, expected):
            problems.append(f"{problem} in {part}")
    return problems, parts


def _targets_of_task(data: ImageData, name: str) -> tuple[list[str], dict[str, Any]]:
    """The same of a task without classes."""
    if data.task.reads_targets:
        for index, target in enumerate(data.targets):
            if problem := target_problem(data.task, target):
                return [f"{problem} in targets, image {index}"], {}
    parts = {}
    for part in ("train_plain", "train", "test"):
        images: Any = getattr(data, part)
        if isinstance(images, TensorImages):
            for index, target in enumerate(images.targets):
                if problem := target_problem(data.task, target):
                    return [f"{problem} in {part}, image {index}"], {}
        else:
            parts[part] = CheckedTargets(images, name, part, data.task)
    return [], parts


def _some(images: Any) -> list[int]:
    """The first, the middle and the last."""
    return sorted({0, len(images) // 2, len(images) - 1})


def _of_item(item: Any, data: ImageData) -> list[str]:
    """What is wrong with an entry of a data set."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        return [f"a {type(item).__name__}; allowed: an image and its class"]
    image, label = item
    if not isinstance(image, torch.Tensor) or image.dtype != torch.float32:
        what = f"{image.dtype} tensors" if isinstance(image, torch.Tensor) else f"a {type(image).__name__}"
        return [f"{what} as images; allowed: tensors of torch.float32"]
    if tuple(image.shape) != tuple(data.shape):
        return [f"images of shape {tuple(image.shape)}; allowed with shape {tuple(data.shape)}: that"]
    if not bool(image.isfinite().all()):
        return ["images with pixels that are no numbers; allowed: finite ones"]
    problem = target_problem(data.task, label)
    return [] if problem is None else [problem]
