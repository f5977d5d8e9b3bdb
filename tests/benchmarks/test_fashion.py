"""Images that benchmarks train on and judge by, on files in the layout of Fashion-MNIST."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from experiments.benchmarks.common.fashion import part_of_fashion_mnist
from nni_proxyless.data import fashion_mnist


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """40 training and 10 test images, of every class as many, where Fashion-MNIST is looked for first."""
    raw = tmp_path / ".cache" / "nni-proxyless" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for seed, (prefix, count) in enumerate((("train", 40), ("t10k", 10))):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count))
        )


def stacked(images) -> tuple[torch.Tensor, list[int]]:
    each = [images[i] for i in range(len(images))]
    return torch.stack([image for image, _ in each]), [int(target) for _, target in each]


def the_same(found, expected) -> bool:
    (x, y), (x0, y0) = stacked(found), stacked(expected)
    return torch.equal(x, x0) and y == y0


def test_images_are_those_that_are_read_one_by_one():
    part, whole = part_of_fashion_mnist(20), fashion_mnist(n_train=20)
    assert the_same(part.train_plain, whole.train_plain)
    assert the_same(part.test, whole.test)
    assert list(part.targets) == list(whole.targets)


def test_training_images_are_shifted_by_two_pixels_and_mirrored():
    part = part_of_fashion_mnist(20)
    plain, allowed = part.train_plain[0][0], []
    for image in (plain, plain.flip(-1)):
        allowed += [image.roll((dy, dx), (1, 2)) for dy in range(-2, 3) for dx in range(-2, 3)]
    images = [part.train[0][0] for _ in range(200)]
    seen = {next(i for i, one in enumerate(allowed) if torch.equal(image, one)) for image in images}
    assert len(seen) > 30  # of 50


def test_those_left_over_judge_and_those_that_train_do_not():
    part, everything = part_of_fashion_mnist(20, n_more_test=15), fashion_mnist()
    assert len(part.test) == 25
    assert the_same(torch.utils.data.Subset(part.test, range(10)), everything.test)
    trained = {image.numpy().tobytes() for image in stacked(part.train_plain)[0]}
    of_training = {image.numpy().tobytes() for image in stacked(everything.train_plain)[0]}
    more = {image.numpy().tobytes() for image in stacked(part.test)[0][10:]}
    assert len(more) == 15
    assert more <= of_training - trained


def test_more_than_are_left_is_an_error():
    with pytest.raises(ValueError, match="n_more_test is 21; allowed: 0 to 20, the training images that are left over"):
        part_of_fashion_mnist(20, n_more_test=21)
    assert len(part_of_fashion_mnist(40).train) == 40
