"""A part of Fashion-MNIST in memory, as benchmarks train on it: decoding its images took most of an epoch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from nni_proxyless.data import ImageData, TensorImages, fashion_mnist


def shifted_and_flipped(image: torch.Tensor) -> torch.Tensor:
    """By up to two pixels, into the two that :func:`fashion_mnist` has padded; every second one as in a mirror."""
    image = image.flip(-1) if torch.rand(()) < 0.5 else image
    return image.roll(torch.randint(-2, 3, (2,)).tolist(), (1, 2))


def part_of_fashion_mnist(n_train: int = 10_000) -> ImageData:
    """So many training images of Fashion-MNIST, of every class as many, and all test images."""
    data = fashion_mnist(n_train=n_train if n_train < 60_000 else None)

    def in_memory(images: Any, transform: Any = None) -> TensorImages:
        tensors, targets = zip(*images, strict=True)
        return TensorImages(torch.stack(tensors), torch.tensor(targets), transform)

    return dataclasses.replace(
        data,
        train=in_memory(data.train_plain, shifted_and_flipped),
        train_plain=in_memory(data.train_plain),
        test=in_memory(data.test),
    )
