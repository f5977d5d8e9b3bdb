"""Data sets and their three disjoint parts."""

from __future__ import annotations

import gzip
import shutil
import struct
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision.transforms import v2

from nni_proxyless import data
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.datasets import DEBIAN_FASHION_MNIST
from nni_proxyless.data.image_parts import loader
from nni_proxyless.data.pictures_in_memory import PicturesInMemory
from nni_proxyless.training.batches import EpochBatches, training_loader
from nni_proxyless.training.distributed import Processes


def test_parts_are_disjoint_and_complete_and_hold_every_class_in_proportion():
    digits = data.digits()
    parts = data.split(digits, alphas=0.2, validation=0.1)
    indices = [set(part.indices) for part in (parts.weights, parts.alphas, parts.validation)]
    assert sum(map(len, indices)) == len(set.union(*indices)) == len(digits.targets) == 1438
    assert parts.weights.indices == parts.weights_plain.indices
    for part, share in zip(indices, (0.7, 0.2, 0.1), strict=True):
        counts = Counter(digits.targets[i] for i in part)
        for label, total in Counter(digits.targets).items():
            assert abs(counts[label] - share * total) <= 1


def test_the_division_does_not_depend_on_the_global_seed_and_augments_weights_only():
    torch.manual_seed(1)
    np.random.seed(1)
    parts = data.split(data.digits(), alphas=0.2, validation=0.2)
    torch.manual_seed(2)
    np.random.seed(2)
    assert data.split(data.digits(), alphas=0.2, validation=0.2).validation.indices == parts.validation.indices
    for part in (parts.weights, parts.weights_plain, parts.alphas, parts.validation):
        assert torch.equal(part[0][0], part[0][0]) == (part is not parts.weights)


def test_test_images_are_none_of_the_training_images():
    digits = data.digits()
    test = {digits.test[i][0].numpy().tobytes() for i in range(len(digits.test))}
    assert len(test) == 359
    assert not any(digits.train_plain[i][0].numpy().tobytes() in test for i in range(len(digits.train_plain)))


def test_too_few_images_of_a_class_are_refused():
    with pytest.raises(
        UserError, match=r"class 0 has 2 images: too few for three parts with alphas 0.2 and validation 0.2"
    ):
        data.split(data.synthetic(n_images=20), alphas=0.2, validation=0.2)


def test_a_loader_with_a_seed_repeats_its_order():
    images = data.synthetic(n_images=40)
    orders = [[int(y) for _, ys in data.loader(images.train, 8, seed=3) for y in ys] for _ in range(2)]
    assert orders[0] == orders[1] != sorted(orders[0])


def test_image_folder(tmp_path):
    for part, count in (("train", 6), ("val", 2)):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (50, 40), (i * 20, 0, 0)).save(tmp_path / part / label / f"{i}.png")
    images = data.folder(root=str(tmp_path), image_size=32)
    assert (images.num_classes, images.shape, images.targets) == (2, (3, 32, 32), [0] * 6 + [1] * 6)
    for part in (images.train, images.train_plain, images.test):
        assert part[0][0].shape == (3, 32, 32)
    shutil.rmtree(tmp_path / "val" / "dog")
    with pytest.raises(UserError, match=r"hold different classes: \['dog'\]"):
        data.folder(root=str(tmp_path))
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(UserError, match=r"no folder '.*val'; expected .*train/CLASS"):
        data.folder(root=str(tmp_path))


def test_cifar10_reads_files_of_its_layout(tmp_path, monkeypatch):
    """torchvision's reader on synthetic files; only the check of their content is switched off."""
    import pickle

    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]}
        (base / name).write_bytes(pickle.dumps(batch))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    images = data.cifar10(root=str(tmp_path), download=False)
    assert (len(images.train), len(images.test), images.shape, images.num_classes) == (100, 20, (3, 32, 32), 10)
    assert images.train[0][0].shape == (3, 32, 32)


def test_fashion_mnist_reads_files_of_its_layout(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 30), ("t10k", 10)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count))
        )
    images = data.fashion_mnist(root=str(tmp_path), download=False)
    assert (len(images.train), len(images.test), images.train[0][0].shape) == (30, 10, (1, 32, 32))


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_takes_debians_package(tmp_path):
    (tmp_path / "FashionMNIST" / "raw").mkdir(parents=True)  # as a download that failed leaves it
    images = data.fashion_mnist(root=str(tmp_path))
    assert (len(images.train), len(images.test)) == (60_000, 10_000)
    with gzip.open(DEBIAN_FASHION_MNIST / "train-labels-idx1-ubyte.gz") as labels:
        assert list(labels.read()[8:18]) == list(images.targets[:10])


def test_missing_files_are_said_so(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"data: CIFAR100 is not in '.*'"):
        data.cifar100(root=str(tmp_path), download=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=str(tmp_path / "cifar")):
        data.cifar10(root="~/cifar", download=False)


class Drawn:
    """Pictures as torchvision keeps them in memory, and gives them one by one."""

    def __init__(self, data, transform):
        self.data, self.transform = data, transform
        self.targets = list(range(len(data)))

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        picture = self.data[index]
        picture = Image.fromarray(picture if isinstance(picture, np.ndarray) else picture.numpy())
        return self.transform(picture), self.targets[index]


@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3)])
@pytest.mark.parametrize("random", [True, False])
def test_pictures_in_memory_are_the_same_in_batches_and_one_by_one(shape, random):
    """Pixels, labels and memory format of a loader's batches, and the state of randomness after them, to the bit."""
    data = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    channels = shape[2] if len(shape) == 3 else 1
    drawing = [v2.RandomCrop(shape[0], padding=4), v2.RandomHorizontalFlip()] if random else []
    usual = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.4] * channels, [0.3] * channels)]
    transforms = [*drawing, v2.Pad(2), *usual]
    pictures = Drawn(data if channels == 3 else torch.from_numpy(data), v2.Compose(transforms))
    fast = PicturesInMemory(pictures, transforms)
    assert fast.draws_in_turn

    def batches(images) -> tuple[list, torch.Tensor]:
        torch.manual_seed(0)
        return list(loader(images, 6, seed=1)), torch.get_rng_state()

    of_fast, of_slow = batches(Subset(fast, range(1, 20))), batches(Subset(pictures, range(1, 20)))
    assert torch.equal(of_fast[1], of_slow[1])
    alone = Processes(0, 1, torch.device("cpu"))  # and in a final training, where each picture has a seed of its own
    for one, images in ((of_fast, fast), (of_slow, pictures)):
        one[0].extend(training_loader(Subset(images, range(1, 20)), EpochBatches(19, 6, 3, alone), workers=0))
    for (images, labels), (same, same_labels) in zip(of_fast[0], of_slow[0], strict=True):
        assert type(images) is torch.Tensor
        assert torch.equal(images, same)
        assert images.stride() == same.stride()
        assert torch.equal(labels, same_labels)
    assert not PicturesInMemory(pictures, [v2.ColorJitter(0.5), *usual]).draws_in_turn
