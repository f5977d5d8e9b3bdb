"""Data sets of torchvision by name, read by torchvision from small files in its own layouts; only checks of checksums are switched off."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision import datasets

from nni_proxyless import data
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.image_parts import loader
from nni_proxyless.data.normalization import IMAGENET
from nni_proxyless.data.torchvision_sets import KNOWN, REFUSED
from nni_proxyless.data.validate import make_images
from nni_proxyless.training.batches import EpochBatches, training_loader
from nni_proxyless.training.distributed import Processes

from .torchvision_files import WRITERS, N, idx, mnist

NOT_RUN = {
    "CIFAR10",
    "CIFAR100",
}  # their files are pickles; tests/data/test_data.py reads the same class in another data set
IN_MEMORY = [name for name in WRITERS if KNOWN[name].side]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict]:
    """Writes the files of a set; the arguments that read them."""
    for module in ("svhn", "stl10", "flowers102"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *args: True)

    def write(name: str) -> dict:
        WRITERS[name](tmp_path / name)
        return {"dataset": name, "root": str(tmp_path / name), "download": False}

    return write


def test_every_known_set_is_written_here_or_named():
    assert KNOWN.keys() == WRITERS.keys() | NOT_RUN
    assert not KNOWN.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_torchvision_has_the_set_and_its_parts(name):
    """By its signature, and by the words of its page on ``split``."""
    cls = getattr(datasets, name)
    parameters = inspect.signature(cls).parameters
    assert ("train" in parameters) != ("split" in parameters)
    if "split" in parameters:
        code = inspect.getsource(cls)
        for split in (*KNOWN[name].train, KNOWN[name].test):
            assert re.search(rf"[\"']{split}[\"']", code), split
    assert hasattr(datasets, name)
    assert all(hasattr(datasets, refused) for refused in REFUSED)


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_and_classes_are_torchvisions(written, name):
    arguments = written(name)
    images = data.torchvision(**arguments)
    side = {"MNIST": 28, "KMNIST": 28, "FashionMNIST": 28, "QMNIST": 28, "USPS": 16, "SVHN": 32, "STL10": 96}.get(
        name, 224
    )
    assert images.shape == (1 if name in ("MNIST", "KMNIST", "FashionMNIST", "QMNIST", "USPS") else 3, side, side)
    cls = getattr(datasets, name)
    if "train" in inspect.signature(cls).parameters:
        parts = [[{"train": True}], [{"train": False}]]
    else:
        parts = [[{"split": split} for split in KNOWN[name].train], [{"split": KNOWN[name].test}]]
    for part, given in ((images.train_plain, parts[0]), (images.test, parts[1])):
        theirs = [item for one in given for item in cls(arguments["root"], download=False, **one)]
        assert len(part) == len(theirs) > 1
        assert [part[i][1] for i in range(len(part))] == [int(label) for _, label in theirs]
        if side != 224:
            mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in images.statistics)
            for i in (0, len(part) - 1):
                found = ((part[i][0] * std + mean) * 255).round().numpy()
                theirs_now = np.asarray(theirs[i][0])
                assert np.array_equal(
                    found, theirs_now[None] if theirs_now.ndim == 2 else theirs_now.transpose(2, 0, 1)
                )
    assert list(images.targets) == [images.train_plain[i][1] for i in range(len(images.train_plain))]
    assert len(set(images.targets)) > 1
    image, label = images.train[1]
    assert (image.shape, image.dtype, label) == (images.shape, torch.float32, images.targets[1])


def test_validation_images_train_too(written):
    images = data.torchvision(**written("Flowers102"))
    assert images.targets == [2, 0, 4, 1, 11, 10]
    red = float(images.train_plain[4][0][0].mean()) * IMAGENET[1][0] + IMAGENET[0][0]
    assert abs(red - 120 / 255) < 0.02
    assert [images.test[i][1] for i in range(3)] == [3, 5, 6]


@pytest.mark.parametrize("name", ["MNIST", "SVHN"])
def test_a_set_passes_the_checks_of_images(written, name):
    images = make_images("nni_proxyless.data:torchvision", written(name))
    assert (images.num_classes, len(images.train), len(images.test)) == (10, N, N // 2)


@pytest.mark.parametrize("name", ["StanfordCars", "USPS", "Imagenette"])
def test_what_is_there_is_not_fetched(written, name, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: pytest.fail("the network was asked"))
    assert len(data.torchvision(**written(name) | {"download": True}, image_size=32).train) > 1


def test_what_is_not_there_is_fetched(tmp_path, monkeypatch):
    """By torchvision's own function, which here writes files instead."""
    asked = []

    def download(self):
        asked.append(self.root)
        mnist("MNIST")(Path(self.root))

    monkeypatch.setattr(datasets.MNIST, "download", download)
    with pytest.raises(UserError, match=r"data: MNIST is not in '.*'"):
        data.torchvision(dataset="MNIST", root=str(tmp_path), download=False)
    assert asked == []
    assert len(data.torchvision(dataset="MNIST", root=str(tmp_path)).train) == N
    assert asked == [tmp_path]


def test_one_channel_is_normalized_by_the_training_images(written):
    images = data.torchvision(**written("MNIST"))
    every = torch.stack([images.train_plain[i][0] for i in range(N)])
    assert abs(float(every.mean())) < 1e-3
    assert abs(float(every.std()) - 1) < 1e-3
    (mean,), (deviation,) = images.statistics
    assert images.normalization == {"mean": [mean], "std": [deviation]}
    assert data.torchvision(**written("SVHN")).statistics == IMAGENET


@pytest.mark.parametrize(
    ("name", "flips"), [("KMNIST", False), ("FashionMNIST", True), ("GTSRB", False), ("DTD", True)]
)
def test_digits_letters_and_signs_are_not_mirrored(written, name, flips, tmp_path):
    arguments = written(name)
    ramp = np.repeat(np.linspace(60, 140, 28).astype(np.uint8)[None], 28, axis=0)  # brighter on the right
    if KNOWN[name].side:
        idx(tmp_path / name / name / "raw" / "train-images-idx3-ubyte", np.stack([ramp] * N))
    else:
        for path in (tmp_path / name).rglob("*.*"):
            if path.suffix in (".jpg", ".ppm"):
                Image.fromarray(np.repeat(ramp[..., None], 3, axis=2)).save(path)
    torch.manual_seed(0)
    random.seed(0)
    images = data.torchvision(**arguments, image_size=None if KNOWN[name].side else 32)
    edges = (8, -9) if KNOWN[name].side else (2, -3)  # within what a shift leaves there
    seen = {
        bool(one[0, 8:-8, edges[1]].mean() > one[0, 8:-8, edges[0]].mean())
        for one in (images.train[0][0] for _ in range(40))
    }
    assert seen == ({True, False} if flips else {True})


@pytest.mark.parametrize("name", ["MNIST", "SVHN", "DTD"])
def test_another_size(written, name):
    images = data.torchvision(**written(name), image_size=48)
    assert images.shape[1:] == (48, 48)
    for part in (images.train, images.train_plain, images.test):
        assert tuple(part[0][0].shape) == images.shape
    assert len(list(loader(images.train, 3))) > 0


@pytest.mark.parametrize("name", ["MNIST", "STL10", "Flowers102"])
def test_loader_processes_change_nothing(written, name):
    images = data.torchvision(**written(name), image_size=None if KNOWN[name].side else 32)
    batches = EpochBatches(len(images.train), 2, 3, Processes(0, 1, torch.device("cpu")))
    for read in (
        lambda workers: loader(images.test, 2, workers=workers),
        lambda workers: training_loader(images.train, batches, workers),
    ):
        alone, by_two = list(read(0)), list(read(2))
        assert len(alone) == len(by_two) > 1
        for (x, y), (other_x, other_y) in zip(alone, by_two, strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)


@pytest.mark.parametrize("name", IN_MEMORY)
def test_a_batch_in_memory_is_what_its_pictures_are(written, name):
    images = data.torchvision(**written(name))
    assert images.train.draws_in_turn
    torch.manual_seed(0)
    together = images.train.__getitems__([5, 2, 2])
    torch.manual_seed(0)
    alone = [images.train[i] for i in (5, 2, 2)]
    for (image, label), (other, other_label) in zip(together, alone, strict=True):
        assert torch.equal(image, other)
        assert label == other_label


@pytest.mark.parametrize("name", ["MNIST", "SVHN", "DTD"])
def test_the_same_images_go_through_other_transforms(written, name):
    images = data.torchvision(**written(name))
    other = images.through(lambda picture: "augmented", lambda picture: picture)
    assert other.train[0][0] == "augmented"
    assert isinstance(other.test[0][0], Image.Image)
    assert other.targets == images.targets


# -- what is refused -----------------------------------------------------------------------------------------------

LIST = f"allowed: {', '.join(KNOWN)}"


def cut(path: str, to: int) -> Callable[[Path], object]:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:to])


MUTATIONS: dict[str, tuple[str, dict, Callable[[Path], object] | None, str]] = {
    "another case": ("MNIST", {"dataset": "mnist"}, None, f"dataset is 'mnist'; {LIST}."),
    "misspelt": ("SVHN", {"dataset": "SHVN"}, None, f"dataset is 'SHVN'; {LIST}. Did you mean 'SVHN'?"),
    "nothing of the kind": ("SVHN", {"dataset": "os"}, None, f"dataset is 'os'; {LIST}."),
    "a data set of detection": ("SVHN", {"dataset": "VOCDetection"}, None, f"dataset is 'VOCDetection'; {LIST}."),
    "a set without a test part": ("SVHN", {"dataset": "EuroSAT"}, None, "dataset is 'EuroSAT', which has no test images of its own: divide its files into two folders, and name the data set folder; allowed: "),
    "a set of six": ("SVHN", {"dataset": "EMNIST"}, None, "dataset is 'EMNIST', which is six data sets"),
    "a set with a reader here": ("SVHN", {"dataset": "ImageNet"}, None, "dataset is 'ImageNet', which is read by the data set folder"),
    "no size": ("SVHN", {"image_size": 0}, None, "image_size is 0; allowed: a whole number, 8 or more, or none"),
    "half a size": ("SVHN", {"image_size": 32.5}, None, "image_size is 32.5; allowed: a whole number"),
    "no home": ("SVHN", {"root": "~nobody-at-all"}, None, "data.root: '~nobody-at-all' is not allowed here"),
    "another folder": ("MNIST", {"root": "/nowhere"}, None, "data: MNIST is not in '/nowhere', or damaged: Dataset not found."),
    "no textures": ("DTD", {"root": "/nowhere"}, None, "data: DTD is not in '/nowhere', or damaged: Dataset not found."),
    "no pictures of the test": ("MNIST", {}, lambda root: (root / "MNIST/raw/t10k-images-idx3-ubyte").unlink(), "data: MNIST is not in 'ROOT', or damaged: "),
    "pixels cut off": ("MNIST", {}, cut("MNIST/raw/train-images-idx3-ubyte", 500), "data: MNIST is not in 'ROOT', or damaged: "),
    "an empty file": ("KMNIST", {}, cut("KMNIST/raw/train-labels-idx1-ubyte", 0), "data: KMNIST is not in 'ROOT', or damaged: "),
    "text for numbers": ("SVHN", {}, lambda root: (root / "train_32x32.mat").write_text("no matrix, but a text that is long enough for a header" * 9), "data: SVHN is not in 'ROOT', or damaged: "),
    "no text for numbers": ("USPS", {}, lambda root: (root / "usps.bz2").write_bytes(b"x"), "data: USPS is not in 'ROOT', or damaged: "),
    "no list of textures": ("DTD", {}, lambda root: (root / "dtd/dtd/labels/val1.txt").unlink(), "data: DTD is not in 'ROOT', or damaged: "),
    "cars can be had no more": ("SVHN", {"dataset": "StanfordCars", "download": True}, None, "data: StanfordCars is not in 'ROOT', or damaged: The original URL is broken"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_wrong_is_said_in_one_line(written, mutation, tmp_path):
    name, arguments, change, said = MUTATIONS[mutation]
    right = written(name)
    if change is not None:
        change(tmp_path / name)
    with pytest.raises((UserError, ValueError)) as error:
        data.torchvision(**{**right, **arguments})
    assert type(error.value) in (UserError, ValueError)
    assert "\n" not in str(error.value)
    assert said in str(error.value).replace(right["root"], "ROOT")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named(written, workers, tmp_path):
    arguments = written("DTD")
    (tmp_path / "DTD" / "dtd" / "dtd" / "images" / "b" / "4.jpg").write_bytes(b"no picture")
    images = data.torchvision(**arguments, image_size=32)
    with pytest.raises(
        UserError, match=r"data: picture 3 of DTD cannot be read: .*4.jpg.*; mend it, or fetch"
    ) as error:
        list(loader(images.train_plain, 2, workers=workers))
    assert "Traceback" not in str(error.value)


def test_the_file_of_the_page_is_read(written, pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "how-to" / "your_data.md").read_text(encoding="utf-8")
    config = yaml.safe_load(re.search(r"```yaml\n# svhn.yml\n(.*?)```", page, re.DOTALL)[1])
    assert (config["data"]["name"], config["data"]["dataset"]) == ("torchvision", "SVHN")
    own = {key: value for key, value in config["data"].items() if key not in ("name", "batch_size", "workers")}
    assert data.torchvision(**own, **{k: v for k, v in written("SVHN").items() if k != "dataset"}).num_classes == 10
