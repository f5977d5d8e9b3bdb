"""Images in memory, read whole batches at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.utils.data import Dataset

__all__ = ["TensorImages"]


class TensorImages(Dataset):
    """Images in memory, shape (n, channels, height, width), with their classes, or with vectors of numbers.

    A loader reads whole batches at once. A transform is given images one by one, unless it has a method ``of_batch`` that gives the
    same for many, as :class:`.random_affine.RandomAffine` has.
    """

    def __init__(self, images: torch.Tensor, targets: torch.Tensor, transform: Callable | None = None):
        self.images, self.targets, self.transform = images, targets, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), self._targets_of([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, Any]]:
        """What torch's loaders ask for where they find it: the same as one by one, in the same order."""
        if self.transform is not None and not hasattr(self.transform, "of_batch"):
            return [self[index] for index in indices]
        images = self.images[indices]
        if self.transform is not None:
            images = self.transform.of_batch(images)
        return list(zip(images.unbind(), self._targets_of(indices), strict=True))

    @property
    def draws_in_turn(self) -> bool:
        """Whether :meth:`in_turn` is there for its transform."""
        return self.transform is None or hasattr(self.transform, "draw")

    def in_turn(self, indices: list[int], seed: Callable[[int], None]) -> list[tuple[torch.Tensor, Any]]:
        """As :meth:`__getitems__`, with ``seed(place)`` called before the random numbers of each image are drawn."""
        images, transform = self.images[indices], cast(Any, self.transform)
        if transform is not None:
            drawn = []
            for place, image in enumerate(images):
                seed(place)
                drawn.append(transform.draw(*image.shape[-2:]))
            images = transform.of_batch(images, drawn)
        return list(zip(images.unbind(), self._targets_of(indices), strict=True))

    def _targets_of(self, indices: list[int]) -> Any:
        targets = self.targets[indices]
        are_classes = targets.ndim == 1 and not targets.is_floating_point()
        return targets.tolist() if are_classes else targets.unbind()
