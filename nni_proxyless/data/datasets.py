"""Data sets that are known by name, and helpers for others.

A data set is a function that returns :class:`ImageData`. Further ones are registered under the entry-point group
``nni_proxyless.datasets``, or named in ``search.yml`` as ``package.module:function``.
"""

from __future__ import annotations

import dataclasses
import gzip
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.data import create_transform
from torch.utils.data import Subset
from torchvision import datasets
from torchvision.transforms import v2

from ..core.errors import UserError
from ..core.user_path import user_path
from .image_folder import ImageFolder, Pictures
from .image_parts import SPLIT_SEED, ImageData
from .normalization import CIFAR, FASHION_MNIST, IMAGENET
from .pictures_in_memory import PicturesInMemory
from .random_affine import RandomAffine
from .tensor_images import TensorImages

if TYPE_CHECKING:  # it needs NNI
    from ..latency.operation import Shape

__all__ = ["TensorImages", "cifar10", "cifar100", "digits", "fashion_mnist", "folder", "synthetic"]  # fmt: skip

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


# -- the data sets -------------------------------------------------------------------------------------------------


def digits(*, image_size: int = 16) -> ImageData:
    """scikit-learn's 1,797 scanned digits, 8x8, enlarged; shipped with the package, nothing to download.

    1,438 train, 359 test, every class in the same proportions.

    Parameters
    ----------
    image_size
        Side of the enlarged images.
    """
    if image_size < 8:
        raise ValueError(f"image_size is {image_size}; allowed: 8 or more")
    from sklearn.datasets import load_digits  # here: it takes a second, which other data sets need not wait

    scans = load_digits()
    images = torch.from_numpy(scans.images).float().unsqueeze(1) / 16
    images = torch.nn.functional.interpolate(
        images, size=(image_size, image_size), mode="bilinear", align_corners=False
    )
    images = (images - images.mean()) / images.std()
    targets = torch.from_numpy(scans.target).long()

    test = np.zeros(len(targets), dtype=bool)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(targets))
    for label in range(10):
        members = order[targets.numpy()[order] == label]
        test[members[: round(0.2 * len(members))]] = True
    train = torch.from_numpy(~test)

    blank = float(images.min())  # the background, so that a shifted digit has no edge
    augment = RandomAffine(degrees=10, translate=(1 / 8, 1 / 8), scale=(0.9, 1.1), fill=blank)
    return ImageData(
        train=TensorImages(images[train], targets[train], augment),
        train_plain=TensorImages(images[train], targets[train]),
        test=TensorImages(images[~train], targets[~train]),
        targets=targets[train].tolist(),
        num_classes=10,
        shape=(1, image_size, image_size),
    )


def fashion_mnist(
    *, root: str = "~/.cache/nni-proxyless", download: bool = True, n_train: int | None = None
) -> ImageData:
    """Fashion-MNIST through torchvision: 60,000 train, 10,000 test, 28x28 padded to 32x32.

    Where Debian's package ``dataset-fashion-mnist`` is installed, its files are taken and nothing is downloaded.

    Parameters
    ----------
    root
        Folder that holds, or will hold, ``FashionMNIST/raw``.
    download
        Download missing files.
    n_train
        Use this many training images, equally many of every class; None: all.
    """
    raw = user_path(root, "data.root") / "FashionMNIST" / "raw"
    there = raw.is_dir() and any(raw.iterdir())  # a download that failed leaves an empty folder
    if not there and DEBIAN_FASHION_MNIST.is_dir():
        try:
            raw.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=raw.parent) as unpacked:
                for archive in DEBIAN_FASHION_MNIST.glob("*.gz"):
                    with gzip.open(archive) as source, open(Path(unpacked) / archive.stem, "wb") as target:
                        shutil.copyfileobj(source, target)
                shutil.copytree(unpacked, raw, dirs_exist_ok=True)
        except OSError as error:
            raise UserError(f"data.root: '{raw}' cannot be written: {error}") from error
    normalize = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*FASHION_MNIST)]
    augment = [v2.RandomCrop(28, padding=2), v2.RandomHorizontalFlip(), v2.Pad(2), *normalize]
    pad = [v2.Pad(2)]
    data = _torchvision(datasets.FashionMNIST, root, download, augment, [*pad, *normalize], 10, (1, 32, 32), pad)
    return data if n_train is None else _part(data, n_train)


def cifar10(*, root: str = "~/.cache/nni-proxyless", download: bool = True) -> ImageData:
    """CIFAR-10 through torchvision: 50,000 train, 10,000 test, 32x32. Arguments as for Fashion-MNIST."""
    return _cifar(datasets.CIFAR10, root, download, 10)


def cifar100(*, root: str = "~/.cache/nni-proxyless", download: bool = True) -> ImageData:
    """CIFAR-100 through torchvision: 50,000 train, 10,000 test, 32x32. Arguments as for Fashion-MNIST."""
    return _cifar(datasets.CIFAR100, root, download, 100)


def folder(*, root: str, image_size: int = 224) -> ImageData:
    """A folder of images: ``root/train/CLASS/*`` and ``root/val/CLASS/*``, as ImageNet is usually laid out.

    Parameters
    ----------
    root
        The folder.
    image_size
        Side of the squares that the network sees. Training crops at random scales; evaluation resizes to 256/224 of it
        and takes the center.
    """
    path = user_path(root, "data.root")
    for part in ("train", "val"):
        if not (path / part).is_dir():
            raise UserError(
                f"data.root: no folder '{path / part}'; expected {path}/train/CLASS/* and {path}/val/CLASS/*"
            )
    size = (3, image_size, image_size)
    mean, std = IMAGENET
    stats: dict[str, Any] = {"mean": mean, "std": std}
    augment = create_transform(size, is_training=True, color_jitter=0.4, auto_augment=None, **stats)
    plain = create_transform(size, is_training=False, crop_pct=224 / 256, **stats)

    train, test = Pictures.of(path / "train"), Pictures.of(path / "val")
    if train.classes != test.classes:
        raise UserError(
            f"data.root: {path}/train and {path}/val hold different classes: {sorted(set(train.classes) ^ set(test.classes))}"
        )

    def through(augment: Callable, plain: Callable) -> ImageData:
        return ImageData(
            ImageFolder(train, augment), ImageFolder(train, plain), ImageFolder(test, plain), train.targets,
            len(train.classes), size, through,
        )  # fmt: skip

    return through(augment, plain)


def synthetic(
    *, n_images: int = 1024, num_classes: int = 10, channels: int = 3, image_size: int = 32, seed: int = 0
) -> ImageData:
    """Noise with labels, for benchmarks and tests: nothing can be learned from it.

    Parameters
    ----------
    n_images
        Training images; there are as many test images.
    num_classes, channels, image_size, seed
        Number of classes, shape of the images, seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (channels, image_size, image_size)

    def noise() -> TensorImages:
        return TensorImages(torch.randn(n_images, *shape, generator=generator), torch.arange(n_images) % num_classes)

    train = noise()
    return ImageData(train, train, noise(), train.targets.tolist(), num_classes, shape)


def _cifar(cls: Any, root: str, download: bool, num_classes: int) -> ImageData:
    normalize = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(*CIFAR),
    ]
    augment = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *normalize]
    return _torchvision(cls, root, download, augment, normalize, num_classes, (3, 32, 32))


def _part(data: ImageData, n_train: int) -> ImageData:
    """The same task with fewer training images: the first ones of every class."""
    each = n_train // data.num_classes
    targets = np.asarray(data.targets)
    most = min(np.bincount(targets).tolist())
    if n_train % data.num_classes or not 1 <= each <= most:
        raise ValueError(
            f"n_train is {n_train}; allowed: a multiple of {data.num_classes}, up to {most * data.num_classes}"
        )
    chosen = np.sort(np.concatenate([np.flatnonzero(targets == label)[:each] for label in range(data.num_classes)]))
    through = data.through
    return dataclasses.replace(
        data,
        train=Subset(data.train, chosen.tolist()),
        train_plain=Subset(data.train_plain, chosen.tolist()),
        targets=targets[chosen].tolist(),
        through=through and (lambda augment, plain: _part(through(augment, plain), n_train)),
    )


def _torchvision(
    cls: Any, root: str, download: bool, augment: list, plain: list, num_classes: int, shape: Shape,
    always: Sequence[Callable] = (),
) -> ImageData:  # fmt: skip
    """A data set of torchvision; ``always`` is what pictures go through before any transform but our own."""
    path = user_path(root, "data.root")

    def build(augment: list, plain: list) -> ImageData:
        of_augmented, of_plain = v2.Compose(augment), v2.Compose(plain)
        try:
            train = PicturesInMemory(cls(path, train=True, transform=of_augmented, download=download), augment)
            train_plain = PicturesInMemory(cls(path, train=True, transform=of_plain), plain)
            test = PicturesInMemory(cls(path, train=False, transform=of_plain), plain)
        except (RuntimeError, OSError) as error:
            raise UserError(f"data: {cls.__name__} is not in '{path}': {error}") from error
        return ImageData(train, train_plain, test, [int(t) for t in train.targets], num_classes, shape, through)

    def through(augment: Callable, plain: Callable) -> ImageData:
        return build([*always, augment], [*always, plain])

    return build(augment, plain)
