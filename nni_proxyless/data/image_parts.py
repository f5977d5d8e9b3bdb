"""Images of a task, and their division into three disjoint parts: for weights, for alphas, for validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from ..core.errors import UserError
from ..tasks import Classification, Task
from .normalization import Statistics

if TYPE_CHECKING:
    from ..latency.operation import Shape

__all__ = ["SPLIT_SEED", "ImageData", "Parts", "kinds_in_order", "loader", "split"]

SPLIT_SEED = 0  # fixed, as in the official code: a search's seed must not change what it is judged on


@dataclass(frozen=True)
class ImageData:
    """Images, with what is to be learned from them.

    Attributes
    ----------
    train
        Training images as they are trained on, augmented.
    train_plain
        The same images in the same order, as they are evaluated.
    test
        Images that no search sees.
    targets
        What is to be learned of every training image: its class, or what the task says.
    num_classes
        How many classes there are; of a task without classes, how many numbers a network answers.
    shape
        Of one image, (channels, height, width).
    through
        The same task through other transforms, from a PIL picture to a normalized tensor: ``through(augment, plain)`` for
        training and for evaluation. None where the images are no pictures.
    statistics
        Mean and standard deviation per channel, of pixels from 0 to 1; None: those that
        :func:`.normalization.preprocessing` knows of.
    meant_for
        Name of the task that targets of this kind are for, for people; None: nobody has said.
    task
        What is learned; it has seen the images. A data set leaves it alone: ``task`` of ``search.yml`` says it.
    """

    train: Dataset
    train_plain: Dataset
    test: Dataset
    targets: Sequence[Any]
    num_classes: int
    shape: Shape
    through: Callable[[Callable, Callable], ImageData] | None = None
    statistics: Statistics | None = None
    meant_for: str | None = None
    task: Task = dataclasses.field(default_factory=Classification)

    def __post_init__(self) -> None:
        if type(self.task) is Classification and self.task.class_weights is None:  # as it is without a task
            self.task.begin(self.num_classes, self.shape, self.targets)

    @property
    def normalization(self) -> dict[str, list[float]]:
        """``statistics`` as ``mean`` and ``std``, for the ``data`` of an architecture; empty where there are none."""
        if self.statistics is None:
            return {}
        return {name: [float(v) for v in values] for name, values in zip(("mean", "std"), self.statistics, strict=True)}


@dataclass(frozen=True)
class Parts:
    """Three disjoint parts of the training images.

    Attributes
    ----------
    weights, weights_plain
        As they are trained on, and as they are evaluated.
    alphas, validation
        Not augmented.
    all_but_validation
        Weights and alphas together, augmented: for a method that trains both on the same images.
    """

    weights: Dataset
    weights_plain: Dataset
    alphas: Dataset
    validation: Dataset
    all_but_validation: Dataset


def kinds_in_order(data: ImageData) -> Iterator[tuple[str, np.ndarray]]:
    """Kinds of training images that are divided in the same proportions, by the task: each with its images, in an order that depends on
    the data alone."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data.targets))
    for kind, of in data.task.kinds(data.targets).items():
        yield kind, order[of[order]]


def split(data: ImageData, *, alphas: float, validation: float) -> Parts:
    """Divide the training images, every class, or whatever kinds the task says, in the same proportions.

    The division depends on the data alone, not on the seed of the search. Images for the alphas and for validation are
    not augmented, as in the official code (mit-han-lab/proxylessnas at bf58b5c).

    Parameters
    ----------
    data
        What to divide.
    alphas, validation
        Shares of the training images, greater than 0; the rest trains the weights.

    Raises
    ------
    UserError
        A class has too few images for three parts.
    """
    parts: dict[str, list[int]] = {"alphas": [], "validation": [], "weights": []}
    for kind, members in kinds_in_order(data):
        n_alphas, n_validation = round(alphas * len(members)), round(validation * len(members))
        if not (n_alphas and n_validation and n_alphas + n_validation < len(members)):
            raise UserError(
                f"data: {kind} has {len(members)} images: too few for three parts with alphas {alphas} and validation {validation}"
            )
        parts["alphas"] += members[:n_alphas].tolist()
        parts["validation"] += members[n_alphas : n_alphas + n_validation].tolist()
        parts["weights"] += members[n_alphas + n_validation :].tolist()
    for indices in parts.values():
        indices.sort()
    return Parts(
        weights=Subset(data.train, parts["weights"]),
        weights_plain=Subset(data.train_plain, parts["weights"]),
        alphas=Subset(data.train_plain, parts["alphas"]),
        validation=Subset(data.train_plain, parts["validation"]),
        all_but_validation=Subset(data.train, sorted(parts["weights"] + parts["alphas"])),
    )


def loader(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int | None = None,
    workers: int = 0,
    pin_memory: bool = False,
    factory: Callable[..., Any] = DataLoader,
) -> Any:
    """A loader whose order depends on ``seed`` and nothing else: shuffled with a seed, in order without.

    With a seed an incomplete last batch is dropped, unless it is the only one.
    """
    shuffle = seed is not None
    return factory(
        dataset,
        batch_size,
        shuffle=shuffle,
        drop_last=shuffle and len(dataset) >= batch_size,  # type: ignore[arg-type]  # torch's Dataset need have no length, ours has
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed or 0),
    )
