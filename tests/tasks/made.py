"""Made data of each task: a bright disc or square on noise, of random place and size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from nni_proxyless.data import ImageData, TensorImages

SIDE = 16


def values(n: int = 320) -> ImageData:
    """The radius of the shape, in pixels, and its brightness."""
    train, test = ((images, torch.stack([radius, light], dim=1)) for images, _, _, radius, light in _parts(n))
    sets = TensorImages(*train), TensorImages(*test)
    return ImageData(sets[0], sets[0], sets[1], list(train[1]), 2, (1, SIDE, SIDE))


def unlike_values(n: int = 320) -> ImageData:
    """The same, the brightness in other units, of which it has thousandths."""
    known = values(n)
    units = torch.tensor([100.0, 1e-3])
    sets = [TensorImages(part.images, part.targets * units) for part in (known.train, known.test)]
    return ImageData(sets[0], sets[0], sets[1], list(sets[0].targets), 2, known.shape)


def labels(n: int = 320) -> ImageData:
    """Whether it is a square, whether it is large, whether it is bright."""
    train, test = (
        (images, torch.stack([kind, (radius > 4).long(), (light > 1.2).long()], dim=1).float())
        for images, _, kind, radius, light in _parts(n)
    )
    sets = TensorImages(*train), TensorImages(*test)
    return ImageData(sets[0], sets[0], sets[1], list(train[1]), 3, (1, SIDE, SIDE))


def masks(n: int = 320) -> ImageData:
    """Background, disc or square of each pixel; the pixels of the edge of the image do not count."""
    train, test = ((images, mask) for images, mask, *_ in _parts(n))
    sets = TensorDataset(*train), TensorDataset(*test)
    return ImageData(sets[0], sets[0], sets[1], [None] * n, 3, (1, SIDE, SIDE))


def boxes(n: int = 160) -> ImageData:
    """A box around the disc or the square, which has a color of its own; two rows of an image, of which one is left over."""
    sets = []
    for images, mask, kind, *_ in _parts(n):
        targets = torch.tensor([-1.0, 0, 0, 0, 0]).repeat(len(images), 2, 1)
        for target, of_pixels, one in zip(targets, mask, kind, strict=True):
            rows, columns = ((of_pixels.remainder(255) > 0).any(dim=dim).nonzero()[:, 0] for dim in (1, 0))
            target[0] = torch.tensor([one, columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        colors = torch.tensor([[1.0, 0.4, 0.1], [0.1, 0.4, 1.0]])[kind]
        sets.append(TensorImages(images * colors[:, :, None, None], targets))
    return ImageData(sets[0], sets[0], sets[1], list(sets[0].targets), 2, (3, SIDE, SIDE))


def _parts(n: int) -> list[tuple[Tensor, ...]]:
    return [_shapes(n, 0), _shapes(n // 2, 1)]


def _shapes(n: int, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(2, n, 1, 1, generator=generator) * 6 + 5
    radius = torch.rand(n, generator=generator) * 4 + 2
    light = torch.rand(n, generator=generator) * 0.8 + 0.8
    kind = torch.randint(0, 2, (n,), generator=generator)
    pixels = torch.arange(float(SIDE))
    down, across = (pixels[:, None] - place[0]).abs(), (pixels - place[1]).abs()
    disc = (down**2 + across**2).sqrt() <= radius[:, None, None]
    square = torch.maximum(down, across.expand_as(disc)) <= radius[:, None, None]
    inside = torch.where(kind[:, None, None] == 0, disc, square)
    images = inside * light[:, None, None] + 0.1 * torch.randn(n, SIDE, SIDE, generator=generator)
    mask = inside.long() * (kind + 1)[:, None, None]
    mask[:, [0, -1]] = 255
    return images[:, None], mask, kind, radius, light
