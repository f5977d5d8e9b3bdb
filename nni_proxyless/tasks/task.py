"""The contract of a task.

    task of search.yml -> Task -> begin(images) -> targets are checked, images divided, networks trained and judged by it

A task is no LightningModule: the search trains by Lightning (:mod:`..search.evaluator`), the final training by a loop of its own that
needs neither Lightning nor NNI, and both ask the same task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.merit import Merit

if TYPE_CHECKING:  # it takes a second, and a classification needs none of its own
    from torchmetrics import Metric

__all__ = ["Task", "together"]

FEWEST = 20  # images of a kind that are divided in the same proportions; kinds of fewer are taken together


class Task:
    """What is learned from images.

    A task of your own inherits this, and is named in ``search.yml`` as ``task: package.module:Class``, or registered under the entry-point group
    ``nni_proxyless.tasks``. Arguments of its constructor are keys of the section ``task``; they must be plain, as ``architecture.json``
    keeps them. It has to say :attr:`merit`, :meth:`loss`, :meth:`metric` and :meth:`problem_of_target`; the rest has defaults.

    A batch is (images, targets): images of shape (n, channels, height, width), float32 and normalized, and what torch's default collation makes
    of n targets.

    Attributes
    ----------
    merit
        Name and direction of what :meth:`metric` comes to.
    mixes
        Whether images and targets may be mixed, by mixup and CutMix of timm: only where targets are classes that weigh the same.
    apart
        Whether answers, the numbers of the last dimension, have units of their own, so that each is held against itself; else against the largest of
        all.
    answers
        What a network answers with, in the plural, for people.
    reads_targets
        Whether :meth:`begin` and :meth:`kinds` read the targets of the training images; else a data set may give None for each.
    n_outputs
        How many numbers a network answers per image, or per pixel: ``num_classes`` of the images.
    image_shape
        (channels, height, width).
    """

    merit: Merit
    mixes: bool = False
    apart: bool = False
    answers: str = "outputs"
    reads_targets: bool = True
    n_outputs: int
    image_shape: tuple[int, ...]

    def begin(self, n_outputs: int, image_shape: Sequence[int], targets: Sequence[Any]) -> None:
        """Get to know the images, before anything else is asked.

        Parameters
        ----------
        targets
            One per training image; of some data sets of your own they may be placeholders.
        """
        self.n_outputs, self.image_shape = n_outputs, tuple(image_shape)

    def problem_of_target(self, target: Any) -> str | None:
        """What is wrong with the target of an image, and what is allowed; None if nothing is."""
        raise NotImplementedError  # every task says it; check.py asks before anything is trained

    def output_shape(self) -> tuple[int, ...]:
        """Of what a network answers per image; a vector of ``n_outputs`` numbers unless a task says otherwise."""
        return (self.n_outputs,)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The mean loss of a batch, differentiable; at least 0.

        Parameters
        ----------
        outputs
            Shape (n, *output_shape).
        smoothing
            ``label_smoothing``, where the task has labels to smooth; others leave it alone.
        """
        raise NotImplementedError  # every task says it; check.py asks before anything is trained

    def summed_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The same, without smoothing, as a sum over the images."""
        return self.loss(outputs, targets) * len(outputs)

    def metric(self) -> Metric:
        """A metric of torchmetrics whose ``update(outputs, targets)`` takes batches, and whose ``compute()`` is the figure of merit: one number."""
        raise NotImplementedError  # every task says it; check.py asks before anything is trained

    def reward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What ``update: reinforce`` of ProxylessNAS takes for an accuracy of a batch: from 0 to 1, more is better.

        exp(-loss) unless a task says otherwise: where the loss is a negative log-likelihood, the geometric mean of the likelihood.
        """
        return torch.exp(-self.loss(outputs, targets))

    def kinds(self, targets: Sequence[Any]) -> Mapping[str, np.ndarray]:
        """Images that are divided in the same proportions: name -> whether each training image is one, shape (n,), each in one of them."""
        return {"the images": np.ones(len(targets), dtype=bool)}

    def space_of(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and arguments of the space whose networks do this task, from those of a space of networks that answer one vector per image.

        A task with a head of its own names a space here that holds the given one as its backbone.
        """
        return name, dict(arguments)


def together(kinds: Mapping[str, np.ndarray], name: str = "other images") -> dict[str, np.ndarray]:
    """The same kinds; those of fewer than twenty images as one, which joins the largest if that is too few as well."""
    kept = {kind: of for kind, of in kinds.items() if of.sum() >= FEWEST}
    rest = [of for kind, of in kinds.items() if kind not in kept]
    if not rest:
        return dict(kinds)
    joined = np.logical_or.reduce(rest)
    if joined.sum() >= FEWEST or not kept:
        return {**kept, name: joined}
    largest = max(kept, key=lambda kind: kept[kind].sum())
    return {**kept, largest: kept[largest] | joined}
