"""Pictures of torchvision that lie in memory, whole batches at once: the same to the bit as one by one, from the same random numbers.

One by one, a picture of 28x28 pixels takes a quarter of a millisecond, nearly all of it the calls and not the pixels: more than a small
network takes to see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

__all__ = ["PicturesInMemory"]

_OF_MANY = (v2.ToImage, v2.Pad, v2.ToDtype, v2.Normalize)  # do the same to each, and draw nothing


class PicturesInMemory(Dataset):
    """A data set of torchvision, read by a loader in whole batches where its transforms are known here.

    Parameters
    ----------
    pictures
        Has ``data``, 8-bit pictures of shape (n, height, width) or (n, height, width, channels), and ``targets``.
    transforms
        What ``pictures`` puts each through, one after the other.
    """

    def __init__(self, pictures: Any, transforms: Sequence[Any]):
        self.pictures, self.targets, self.transforms = pictures, pictures.targets, list(transforms)
        self.draws_in_turn = all(
            type(one) in (*_OF_MANY, v2.RandomHorizontalFlip) or _is_plain_crop(one) for one in transforms
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.pictures[index]
        return image, int(label)

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """What torch's loaders ask for where they find it: the same as one by one, in the same order."""
        return self.in_turn(indices, _nothing) if self.draws_in_turn else [self[index] for index in indices]

    def in_turn(self, indices: list[int], seed: Callable[[int], None]) -> list[tuple[Tensor, int]]:
        """The same where ``draws_in_turn``, with ``seed(place)`` called before the random numbers of each picture are drawn."""
        images = torch.from_numpy(np.asarray(self.pictures.data[indices]))
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        # Image by image, as if each had gone through all of them before the next one.
        drawn = []
        for place in range(len(indices)):
            seed(place)
            drawn.append([_draw(one, images[0]) for one in self.transforms])
        for one, parameters in zip(self.transforms, zip(*drawn, strict=True), strict=True):
            images = _through(one, images, parameters)
        return [(image, int(self.targets[index])) for image, index in zip(images.unbind(), indices, strict=True)]


def _nothing(place: int) -> None:
    """No seed: numbers are drawn as they come."""


def _is_plain_crop(transform: Any) -> bool:
    return type(transform) is v2.RandomCrop and not transform.pad_if_needed and transform.padding_mode == "constant"


def _draw(transform: Any, image: Tensor) -> Any:
    """The random numbers of one image, as the transform itself draws them."""
    if isinstance(transform, v2.RandomHorizontalFlip):
        return bool(torch.rand(1) < transform.p)
    if isinstance(transform, v2.RandomCrop):
        # Public since torchvision 0.21; its name before.
        return (getattr(transform, "make_params", None) or transform._get_params)([image])
    return None


def _through(transform: Any, images: Tensor, drawn: Sequence[Any]) -> Tensor:
    if isinstance(transform, v2.RandomHorizontalFlip):
        return torch.where(torch.tensor(drawn).view(-1, 1, 1, 1), images.flip(-1), images)
    if isinstance(transform, v2.RandomCrop):
        if drawn[0]["needs_pad"]:
            images = v2.functional.pad(images, drawn[0]["padding"], fill=0)
        height, width = transform.size
        tops, lefts = ([one[side] for one in drawn] for side in ("top", "left"))
        parts = zip(images.unbind(), tops, lefts, strict=True)
        return torch.stack([image[:, top : top + height, left : left + width] for image, top, left in parts])
    if isinstance(transform, v2.ToImage):
        return images
    return transform(tv_tensors.Image(images)).as_subclass(Tensor)
