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


def part_of_fashion_mnist(n_train: int = 10_000, n_more_test: int = 0) -> ImageData:
    """So many training images of Fashion-MNIST, of every class as many, and all test images.

    Parameters
    ----------
    n_train
        A multiple of 10, up to 60,000.
    n_more_test
        So many of the training images that are left over are test images too. Where one of two equally good networks is right and the other
        is not for a tenth of all images, 10,000 of them make a difference of 0.3 points (standard deviation), 60,000 one of 0.13.

    Raises
    ------
    ValueError
        There are not so many.
    """
    data = fashion_mnist()
    used = fashion_mnist(n_train=n_train).train_plain.indices if n_train < len(data.targets) else range(n_train)  # type: ignore[attr-defined]
    left = sorted(set(range(len(data.targets))) - set(used))
    if not 0 <= n_more_test <= len(left):
        raise ValueError(
            f"n_more_test is {n_more_test}; allowed: 0 to {len(left)}, the training images that are left over"
        )
    train, test = in_memory(data.train_plain), in_memory(data.test)
    more = left[:n_more_test]
    images, targets = train.images[list(used)], train.targets[list(used)]
    return dataclasses.replace(
        data,
        train=TensorImages(images, targets, shifted_and_flipped),
        train_plain=TensorImages(images, targets),
        test=TensorImages(torch.cat([test.images, train.images[more]]), torch.cat([test.targets, train.targets[more]])),
        targets=targets.tolist(),
        through=None,
    )


def in_memory(images: Any) -> TensorImages:
    """What a data set of torchvision gives one by one, all at once."""
    pictures = images.pictures
    return TensorImages(pictures.transform(pictures.data.unsqueeze(1)), torch.as_tensor(pictures.targets))
