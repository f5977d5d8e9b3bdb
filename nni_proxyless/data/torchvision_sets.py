"""Data sets of torchvision by the names of their classes: those for classification that have test images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import ConcatDataset, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from ..core.errors import UserError, did_you_mean, shown
from ..core.user_path import user_path
from .image_parts import ImageData
from .normalization import IMAGENET, Statistics
from .pictures_in_memory import PicturesInMemory

__all__ = ["torchvision"]


@dataclass(frozen=True)
class _Known:
    """What cannot be asked of a class of torchvision.

    Attributes
    ----------
    classes
        How many there are.
    side
        Of its pictures, all squares in memory; None: files of many sizes.
    flip
        Whether a mirrored picture is of the same class.
    train, test
        Values of ``split``, all of which together train, and the one that tests; unused where the class takes ``train=True`` or False.
    """

    classes: int
    side: int | None = None
    flip: bool = True
    train: tuple[str, ...] = ("train",)
    test: str = "test"


KNOWN: dict[str, _Known] = {
    "CIFAR10": _Known(10, 32),
    "CIFAR100": _Known(100, 32),
    "Country211": _Known(211, train=("train", "valid")),
    "DTD": _Known(47, train=("train", "val")),
    "FashionMNIST": _Known(10, 28),
    "FGVCAircraft": _Known(100, train=("trainval",)),
    "Flowers102": _Known(102, train=("train", "val")),
    "Food101": _Known(101),
    "GTSRB": _Known(43, flip=False),
    "Imagenette": _Known(10, test="val"),
    "KMNIST": _Known(10, 28, flip=False),
    "MNIST": _Known(10, 28, flip=False),
    "OxfordIIITPet": _Known(37, train=("trainval",)),
    "QMNIST": _Known(10, 28, flip=False),
    "RenderedSST2": _Known(2, flip=False, train=("train", "val")),
    "StanfordCars": _Known(196),
    "STL10": _Known(10, 96),
    "SVHN": _Known(10, 32, flip=False),
    "USPS": _Known(10, 16, flip=False),
}
_NO_TEST = "has no test images of its own: divide its files into two folders, and name the data set folder"
REFUSED = {
    "Caltech101": _NO_TEST,
    "Caltech256": _NO_TEST,
    "CelebA": "has many labels per image: write them to a CSV file, and name the data set csv",
    "CLEVRClassification": "has test images without classes",
    "EMNIST": "is six data sets, of which its argument split chooses one",
    "EuroSAT": _NO_TEST,
    "ImageNet": "is read by the data set folder",
    "SEMEION": _NO_TEST,
    "SUN397": _NO_TEST,
}


def torchvision(
    *, dataset: str, root: str = "~/.cache/nni-proxyless", download: bool = True, image_size: int | None = None
) -> ImageData:
    """A data set of torchvision for classification, by the name of its class, such as SVHN.

    Where it has a part for validation, that is trained on too: a search holds out images of its own. Training crops and flips by chance; digits,
    letters and signs are not flipped. Three channels are normalized as ImageNet is; one channel by mean and deviation of the training images.

    Parameters
    ----------
    dataset
        CIFAR10, CIFAR100, Country211, DTD, FashionMNIST, FGVCAircraft, Flowers102, Food101, GTSRB, Imagenette, KMNIST, MNIST, OxfordIIITPet,
        QMNIST, RenderedSST2, StanfordCars, STL10, SVHN or USPS.
    root
        Folder that holds, or will hold, the files of torchvision.
    download
        Download missing files.
    image_size
        Side of the squares that the network sees; None: that of the pictures if all have the same (28, 32, …), else 224.

    Raises
    ------
    UserError
        The files are not there, or damaged, or cannot be downloaded.
    """
    if dataset not in KNOWN:
        if dataset in REFUSED:
            raise ValueError(f"dataset is {dataset!r}, which {REFUSED[dataset]}; allowed: {', '.join(KNOWN)}")
        raise ValueError(f"dataset is {shown(dataset)}; allowed: {', '.join(KNOWN)}.{did_you_mean(dataset, KNOWN)}")
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 8):
        raise ValueError(f"image_size is {image_size!r}; allowed: a whole number, 8 or more, or none")
    known = KNOWN[dataset]
    train, test = (_parts(dataset, known, root, download, of_test=of_test) for of_test in (False, True))
    if known.side is None:
        return _of_files(dataset, known, train, test, image_size or 224)
    return _in_memory(known, train, test, image_size or known.side)


def _parts(dataset: str, known: _Known, root: str, download: bool, *, of_test: bool) -> list[Any]:
    """What the class of torchvision makes of its training, or of its test images."""
    cls = getattr(datasets, dataset)
    taken = inspect.signature(cls).parameters
    path = user_path(root, "data.root")
    arguments: list[dict[str, Any]] = [{"train": not of_test}]
    if "train" not in taken:
        arguments = [{"split": split} for split in ((known.test,) if of_test else known.train)]
    try:
        return [_made(cls, path, download, one) for one in arguments]
    except MemoryError:
        raise
    except Exception as error:  # each of them has readers of its own, which raise what they like
        said = (str(error) or type(error).__name__).strip().partition("\n")[0]
        raise UserError(f"data: {dataset} is not in '{path}', or damaged: {said}") from error


def _made(cls: Any, path: Path, download: bool, arguments: dict[str, Any]) -> Any:
    """What is there is read first: StanfordCars, which can be downloaded no more, refuses to try."""
    try:
        return cls(path, download=False, **arguments)
    except Exception:  # each set has an error of its own where its files are not there
        if not download:
            raise
    return cls(path, download=True, **arguments)


def _classes_of(dataset: Any) -> list[int]:
    """Of every picture, without reading it."""
    for name in ("targets", "labels", "_labels"):
        if (found := getattr(dataset, name, None)) is not None:
            numbers = np.asarray(found)
            return [
                int(number) for number in (numbers[:, 0] if numbers.ndim == 2 else numbers)
            ]  # QMNIST has eight of each
    return [int(number) for _, number in dataset._samples]


# -- pictures in memory --------------------------------------------------------------------------------------------


class _Array:
    """8-bit pictures, shape (n, height, width) or (n, height, width, 3), as :class:`PicturesInMemory` wants them."""

    def __init__(self, data: np.ndarray, targets: list[int], transform: Callable[[Image.Image], Any]):
        self.data, self.targets, self.transform = data, targets, transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(np.ascontiguousarray(self.data[index]))), self.targets[index]


def _in_memory(known: _Known, train: list[Any], test: list[Any], side: int) -> ImageData:
    (of_train,), (of_test,) = train, test
    pixels, classes = _pixels(of_train), _classes_of(of_train)
    pixels_of_test, classes_of_test = _pixels(of_test), _classes_of(of_test)
    channels = 1 if pixels.ndim == 3 else 3
    statistics = _statistics(pixels) if channels == 1 else IMAGENET

    def build(augment: Sequence[Callable], plain: Sequence[Callable]) -> ImageData:
        def images(pixels: np.ndarray, classes: list[int], transforms: Sequence[Callable]) -> Dataset:
            return PicturesInMemory(_Array(pixels, classes, v2.Compose(transforms)), transforms)

        return ImageData(
            images(pixels, classes, augment), images(pixels, classes, plain), images(pixels_of_test, classes_of_test, plain), classes,
            known.classes, (channels, side, side), lambda augment, plain: build([augment], [plain]), statistics,
        )  # fmt: skip

    resize = [] if side == known.side else [v2.Resize((side, side))]
    flips = [v2.RandomHorizontalFlip()] if known.flip else []
    normalize = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*statistics)]
    return build([*resize, v2.RandomCrop(side, padding=side // 8), *flips, *normalize], [*resize, *normalize])


def _pixels(dataset: Any) -> np.ndarray:
    """Shape (n, height, width) or (n, height, width, 3); SVHN and STL10 have the channels first."""
    pixels = np.asarray(dataset.data)
    return pixels.transpose(0, 2, 3, 1) if pixels.ndim == 4 and pixels.shape[1] == 3 else pixels


def _statistics(pixels: np.ndarray) -> Statistics:
    """Mean and standard deviation of 8-bit pixels of one channel, from 0 to 1, to four digits."""
    counts = np.bincount(pixels.reshape(-1), minlength=256)
    levels = np.arange(256) / 255
    mean = float((counts * levels).sum() / counts.sum())
    deviation = float(np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum()))
    return (round(mean, 4),), (round(deviation, 4),)


# -- pictures in files ---------------------------------------------------------------------------------------------


class _Files(Dataset):
    """Pictures of torchvision through a transform, with their classes.

    Attributes
    ----------
    targets
        Their classes.
    """

    def __init__(self, dataset: str, parts: list[Any], targets: list[int], transform: Callable[[Image.Image], Any]):
        self.pictures: Dataset = ConcatDataset(parts)
        self.dataset, self.targets, self.transform = dataset, targets, transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        try:
            picture, label = self.pictures[index]
        except (MemoryError, IndexError):
            raise
        except Exception as error:  # decoders raise what they like
            raise UserError(
                f"data: picture {index} of {self.dataset} cannot be read: {error or type(error).__name__}; mend it, or fetch the data set anew"
            ) from error
        return self.transform(picture), int(label)


def _of_files(dataset: str, known: _Known, train: list[Any], test: list[Any], side: int) -> ImageData:
    size = (3, side, side)
    classes, classes_of_test = ([number for part in parts for number in _classes_of(part)] for parts in (train, test))

    def through(augment: Callable, plain: Callable) -> ImageData:
        return ImageData(
            _Files(dataset, train, classes, augment), _Files(dataset, train, classes, plain), _Files(dataset, test, classes_of_test, plain),
            classes, known.classes, size, through, IMAGENET,
        )  # fmt: skip

    mean, std = IMAGENET
    stats: dict[str, Any] = {"mean": mean, "std": std}
    hflip = 0.5 if known.flip else 0.0
    return through(
        create_transform(size, is_training=True, color_jitter=0.4, auto_augment=None, hflip=hflip, **stats),
        create_transform(size, is_training=False, crop_pct=1.0, **stats),
    )
