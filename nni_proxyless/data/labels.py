"""Classes of a data set's images: all at once where they lie in memory, else each as its image is read.

A wrong label among the test images would silently count as a wrong answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from ..core.errors import UserError
from ..tasks import Task
from ..tasks.check import target_problem
from ..tasks.labels import class_of
from .image_folder import ImageFolder

__all__ = ["CheckedLabels", "CheckedTargets", "labels_in_memory", "problem_of_labels"]


def labels_in_memory(images: Any) -> tuple[np.ndarray | None, bool]:
    """The class of every image, shape (n,), without reading an image; None if it is not known.

    Returns
    -------
    labels
        As the data set has them in memory.
    sure
        Whether reading an image gives the same. Of a class that is nobody's we know, ``targets`` may be what it makes others of.
    """
    labels: Any
    if isinstance(images, Subset):
        labels, sure = labels_in_memory(images.dataset)
        return (None if labels is None else labels[np.asarray(images.indices, dtype=np.int64)]), sure
    if isinstance(images, ConcatDataset):
        parts = [labels_in_memory(part) for part in images.datasets]
        if any(labels is None for labels, _ in parts):
            return None, False
        return np.concatenate([labels for labels, _ in parts if labels is not None]), all(sure for _, sure in parts)
    if isinstance(images, (list, tuple)):
        labels, sure = [item[1] for item in images if isinstance(item, (list, tuple)) and len(item) == 2], True
    elif isinstance(images, TensorDataset):
        labels, sure = images.tensors[1:2], type(images).__getitem__ is TensorDataset.__getitem__
        labels = labels[0] if labels else None
    elif getattr(images, "target_transform", None) is not None:
        return None, False
    else:
        labels = getattr(images, "targets", getattr(images, "labels", None))
        module = type(images).__module__
        sure = isinstance(images, ImageFolder) or module.startswith(("torchvision.datasets.", "nni_proxyless."))
    try:
        found = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError):  # of several lengths, on another device, …
        return None, False
    if found.shape != (len(images),) or found.dtype.kind not in "iu":
        return None, False
    return found.astype(np.int64), sure


def problem_of_labels(labels: np.ndarray, num_classes: int, targets: np.ndarray | None) -> str | None:
    """The problem with the classes of a part, or None.

    Parameters
    ----------
    labels
        Shape (n,).
    targets
        What they ought to be; None where nobody has said.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        return _out_of_range(int(labels[wrong[0]]), int(wrong[0]), num_classes, len(wrong))
    if targets is not None and len(wrong := np.flatnonzero(labels != targets)):
        return _other_class(int(labels[wrong[0]]), int(targets[wrong[0]]), int(wrong[0]), len(wrong))
    return None


def _out_of_range(label: int, index: int, num_classes: int, n: int = 1) -> str:
    more = f", the first of {n} such," if n > 1 else ""
    return f"class {label} of image {index}{more}; allowed with num_classes {num_classes}: 0 to {num_classes - 1}"


def _other_class(label: int, target: int, index: int, n: int = 1) -> str:
    more = f", the first of {n} such," if n > 1 else ""
    return f"class {label} of image {index}{more} which has class {target} in targets; allowed: the same images in the same order"


class CheckedTargets(Dataset):
    """Images whose targets are those of a task without classes; each is checked as it is read.

    Parameters
    ----------
    name
        Of the data set, and of the part of it that these are, for people.
    """

    def __init__(self, images: Any, name: str, part: str, task: Task):
        self.images, self.name, self.part, self.task = images, name, part, task

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image, target = self.images[index]
        if problem := target_problem(self.task, target):
            raise UserError(f"data: {self.name} gives {problem} in {self.part}, image {index}")
        return image, target


class CheckedLabels(Dataset):
    """Images whose classes are known only once they are read; each is checked then.

    Parameters
    ----------
    name
        Of the data set, and of the part of it that these are, for people.
    targets
        Classes as they ought to be; None where nobody has said.
    """

    def __init__(self, images: Any, name: str, part: str, num_classes: int, targets: np.ndarray | None):
        self.images, self.name, self.part = images, name, part
        self.num_classes, self.targets = num_classes, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image, label = self.images[index]
        number = class_of(label)
        if number is None:
            problem: str | None = f"class {label!r} of image {index}; allowed: an int, or a tensor of one int64"
        elif not 0 <= number < self.num_classes:
            problem = _out_of_range(number, int(index), self.num_classes)
        elif self.targets is not None and number != self.targets[index]:
            problem = _other_class(number, int(self.targets[index]), int(index))
        else:
            return image, label
        raise UserError(f"data: {self.name} gives {problem} in {self.part}")
