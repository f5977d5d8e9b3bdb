"""Pictures with masks: both go through the same geometry, and a mask that does not fit is refused with its name."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nni_proxyless import data
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.fingerprint import fingerprint
from nni_proxyless.data.image_parts import loader, split
from nni_proxyless.data.normalization import IMAGENET
from nni_proxyless.data.validate import make_images
from nni_proxyless.training.batches import EpochBatches, training_loader
from nni_proxyless.training.distributed import Processes

CLASSES, IGNORED = 4, 255
SEGMENTATION = {"name": "nni_proxyless.tasks:Segmentation", "arguments": {}}
# Of a pixel of each class, the last of one without: corners of a cube, so that no mixture of some is another.
COLORS = np.array([[200, 50, 50], [50, 200, 50], [50, 50, 200], [200, 200, 200], [50, 50, 50]], dtype=np.uint8)


def mask_of(i: int, height: int = 48, width: int = 60) -> np.ndarray:
    """Large rectangles of every class, the left upper corner without one. Their edges are those of no pixel of 32."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:25, 29:] = 1
    mask[25:, :19] = 2
    mask[25 + i :, 19:] = 3
    mask[:8, :8] = IGNORED
    return mask


def picture_of(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(COLORS[np.minimum(mask, CLASSES)])


@pytest.fixture
def roads(tmp_path: Path) -> Path:
    """Pictures whose pixels say the class: of gray masks, masks with a palette, of several suffixes."""
    for part, n in (("train", 6), ("val", 3)):
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for i in range(n):
            mask = mask_of(i)
            picture_of(mask).save(tmp_path / part / "images" / f"{i}.png")
            written = Image.fromarray(mask)
            if i % 2:
                written.putpalette([17, 17, 17] * 256)  # one color for all: it is the index that counts
            written.save(tmp_path / part / "masks" / f"{i}.{('png', 'bmp', 'tif')[i % 3]}")
    return tmp_path


def class_by_picture(image: torch.Tensor) -> np.ndarray:
    """The class of each pixel as its color says; -1 between two of them, where a picture is resized."""
    mean, deviation = (np.array(numbers)[:, None, None] for numbers in IMAGENET)
    colors = (image.numpy() * deviation + mean).transpose(1, 2, 0) * 255
    off = np.abs(colors[:, :, None] - COLORS).max(axis=-1)
    by_color = np.array([0, 1, 2, 3, IGNORED])[off.argmin(axis=-1)]
    return np.where(off.min(axis=-1) < 4, by_color, -1)


def test_what_is_given(roads):
    images = make_images(
        "nni_proxyless.data:masks", {"root": str(roads), "image_size": 32, "num_classes": 4}, SEGMENTATION
    )
    assert (len(images.train), len(images.train_plain), len(images.test), images.num_classes) == (6, 6, 3, 4)
    assert images.targets == [None] * 6
    assert images.shape == (3, 32, 32)
    assert images.normalization == {"mean": list(IMAGENET[0]), "std": list(IMAGENET[1])}
    for part in (images.train, images.train_plain, images.test):
        image, mask = part[1]
        assert (type(image), image.dtype, image.shape) == (torch.Tensor, torch.float32, (3, 32, 32))
        assert (type(mask), mask.dtype, mask.shape) == (torch.Tensor, torch.int64, (32, 32))
    assert split(images, alphas=0.34, validation=0.34)
    found = fingerprint(images)
    assert found == fingerprint(images)
    assert found["pixels"] is not None


def test_a_pixel_of_the_mask_is_that_of_the_picture_in_evaluation(roads):
    images = data.masks(root=str(roads), image_size=32, num_classes=4)
    for part, n in ((images.train_plain, 6), (images.test, 3)):
        for i in range(n):
            image, mask = part[i]
            rows, columns = ((np.arange(32) + 0.5) * size // 32 for size in (48, 60))
            nearest = mask_of(i)[rows.astype(int)[:, None], columns.astype(int)]
            assert np.array_equal(mask.numpy(), nearest)
            assert set(mask.unique().tolist()) == {0, 1, 2, 3, IGNORED}
            by_picture = class_by_picture(image)
            sure = by_picture >= 0
            assert sure.mean() > 0.7
            assert (by_picture == mask.numpy())[sure].all()


def test_picture_and_mask_are_cropped_and_mirrored_alike(roads, monkeypatch):
    """Without color jitter, which would change the color that says the class."""
    monkeypatch.setattr("torchvision.transforms.v2.ColorJitter.forward", lambda self, *inputs: inputs)
    images = data.masks(root=str(roads), image_size=32, num_classes=4)
    plain = images.train_plain[2][1]
    torch.manual_seed(0)
    mirrored, parts = 0, []
    for _ in range(60):
        image, mask = images.train[2]
        by_picture = class_by_picture(image)
        sure = by_picture >= 0
        assert sure.mean() > 0.6
        assert (by_picture == mask.numpy())[sure].all()
        assert set(mask.unique().tolist()) <= {0, 1, 2, 3, IGNORED}, "a class between two"
        left, right = ((mask[:, part] == 1).sum() for part in (slice(0, 16), slice(16, 32)))
        mirrored += bool(left > right)
        parts.append(not torch.equal(mask, plain) and not torch.equal(mask, plain.flip(-1)))
    assert 15 < mirrored < 45
    assert sum(parts) > 40


def test_colors_are_jittered_in_training_alone(roads):
    Image.new("RGB", (60, 48), (120, 60, 30)).save(roads / "train" / "images" / "0.png")
    images = data.masks(root=str(roads), image_size=32, num_classes=4)
    assert len({float(images.train[0][0][0, 5, 5]) for _ in range(8)}) == 8
    assert len({float(images.train_plain[0][0][0, 5, 5]) for _ in range(8)}) == 1


def test_loader_processes_change_nothing(roads):
    images = data.masks(root=str(roads), image_size=16, num_classes=4)
    batches = EpochBatches(6, 2, 3, Processes(0, 1, torch.device("cpu")))
    for read in (
        lambda workers: loader(images.test, 2, workers=workers),
        lambda workers: training_loader(images.train, batches, workers),
    ):
        alone, by_two = list(read(0)), list(read(2))
        assert len(alone) == len(by_two) > 1
        for (x, y), (other_x, other_y) in zip(alone, by_two, strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)


def test_pictures_of_other_formats_and_hidden_files(roads, caplog):
    images = roads / "train" / "images"
    with Image.open(images / "1.png") as picture:
        picture.save(images / "1.JPG", quality=100, subsampling=0)
    (images / "1.png").unlink()
    (images / ".DS_Store").write_bytes(b"")
    (images / "notes.txt").write_bytes(b"x")
    (roads / "train" / "masks" / "old").mkdir()
    with caplog.at_level(logging.WARNING, logger="nni_proxyless"):
        found = data.masks(root=str(roads), image_size=16, num_classes=4)
    assert len(found.train) == 6
    assert found.train.pairs.pictures[1].endswith("1.JPG")
    assert found.train.pairs.masks[1].endswith("1.bmp")
    assert [record.getMessage().replace(str(roads), "ROOT") for record in caplog.records] == [
        "data.root: ROOT/train/images: 1 left out, the first: ROOT/train/images/notes.txt",
        "data.root: ROOT/train/masks: 1 left out, the first: ROOT/train/masks/old",
    ]


# -- what is refused -----------------------------------------------------------------------------------------------


def change_mask(part: str, i: int, change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    """Write what ``change`` makes of a mask: an array, or a picture of PIL."""

    def write(root: Path) -> None:
        (path,) = (root / part / "masks").glob(f"{i}.*")
        changed = change(mask_of(i))
        (changed if isinstance(changed, Image.Image) else Image.fromarray(changed)).save(path)

    return write


def tagged(part: str, kind: str, name: str, orientation: int) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        (there,) = (root / part / kind).glob("0.*")
        with Image.open(there) as picture:
            picture.load()
        there.unlink()
        picture.save(there.with_name(name), exif=exif)

    return write


def taken(path: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def emptied(path: str) -> Callable[[Path], None]:
    def empty(root: Path) -> None:
        shutil.rmtree(root / path)
        (root / path).mkdir()

    return empty


def copied(path: str, to: str) -> Callable[[Path], None]:
    return lambda root: shutil.copy(root / path, root / to)  # type: ignore[return-value]


def class_at(number: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(mask: np.ndarray) -> np.ndarray:
        mask[-1, -1] = number
        return mask

    return change


MUTATIONS: dict[str, tuple[dict, Callable | None, str]] = {
    "no classes": ({"num_classes": 0}, None, "num_classes is 0; allowed: a whole number, 2 to 255"),
    "one class": ({"num_classes": 1}, None, "num_classes is 1; allowed: a whole number, 2 to 255"),
    "too many classes": ({"num_classes": 256}, None, "num_classes is 256; allowed: a whole number, 2 to 255"),
    "half a class": ({"num_classes": 2.5}, None, "num_classes is 2.5; allowed: a whole number"),
    "no size": ({"image_size": 0}, None, "image_size is 0; allowed: a whole number, 8 or more"),
    "yes as size": ({"image_size": True}, None, "image_size is True; allowed: a whole number, 8 or more"),
    "another folder": ({"root": "/nowhere"}, None, "data.root: '/nowhere/train/images': No such file or directory; expected train/images/*, train/masks/*, val/images/*, val/masks/*"),
    "no home": ({"root": "~nobody-at-all"}, None, "data.root: '~nobody-at-all' is not allowed here"),
    "no folder of images": ({}, taken("train/images"), "data.root: 'ROOT/train/images': No such file or directory"),
    "no folder of masks": ({}, taken("val/masks"), "data.root: 'ROOT/val/masks': No such file or directory"),
    "no val": ({}, taken("val"), "data.root: 'ROOT/val/images': No such file or directory"),
    "no picture at all": ({}, emptied("train/images"), "data.root: no file in 'ROOT/train/images' that could be read; allowed: "),
    "no mask at all": ({}, emptied("val/masks"), "data.root: no file in 'ROOT/val/masks' that could be read; allowed: .bmp, .png, .tif, .tiff"),
    "a picture without mask": ({}, taken("train/masks/3.png"), "data.root: the picture 'ROOT/train/images/3.png' has no mask; allowed: a mask of its name in 'ROOT/train/masks'"),
    "a mask without picture": ({}, taken("val/images/1.png"), "data.root: the mask 'ROOT/val/masks/1.bmp' has no picture; allowed: a picture of its name in 'ROOT/val/images'"),
    "masks as JPEG": ({}, lambda root: [path.rename(path.with_suffix(".jpg")) for path in (root / "val" / "masks").iterdir()], "no file in 'ROOT/val/masks' that could be read"),
    "pictures without masks": ({}, lambda root: [path.unlink() for path in (root / "train" / "masks").glob("*.png")], "'ROOT/train/images/0.png' has no mask, the first of 2 such;"),
    "two pictures of a name": ({}, copied("train/images/3.png", "train/images/3.bmp"), "data.root: 'ROOT/train/images/3.bmp' and 'ROOT/train/images/3.png' have the same name"),
    "two masks of a name": ({}, copied("val/masks/0.png", "val/masks/0.tif"), "'ROOT/val/masks/0.png' and 'ROOT/val/masks/0.tif' have the same name"),
    "a mask of another size": ({}, change_mask("train", 0, lambda mask: mask[:, :-1]), "data: the mask 'ROOT/train/masks/0.png' has 59x48 pixels; allowed: 60x48, as its picture"),
    "a mask on its side": ({}, change_mask("val", 1, lambda mask: mask.T), "data: the mask 'ROOT/val/masks/1.bmp' has 48x60 pixels; allowed: 60x48"),
    "a mask in colors": ({}, change_mask("train", 3, lambda mask: np.stack([mask] * 3, axis=2)), "data: the mask 'ROOT/train/masks/3.png' is of Pillow's mode RGB; allowed: L, 8 bits of gray, or P, a palette"),
    "a mask of 16 bits": ({}, change_mask("train", 0, lambda mask: mask.astype(np.uint16)), "is of Pillow's mode I;16; allowed"),
    "a mask of one bit": ({}, change_mask("train", 0, lambda mask: Image.fromarray(mask).convert("1")), "is of Pillow's mode 1; allowed"),
    "a transparent mask": ({}, change_mask("train", 0, lambda mask: Image.merge("LA", [Image.fromarray(mask)] * 2)), "is of Pillow's mode LA; allowed"),
    "a class too many in the first": ({}, change_mask("train", 0, class_at(4)), "data: the mask 'ROOT/train/masks/0.png' has class 4; allowed with num_classes 4: 0 to 3, and 255 where there is none"),
    "a class too many in the middle": ({}, change_mask("train", 3, class_at(254)), "data: the mask 'ROOT/train/masks/3.png' has class 254"),
    "a class too many in the last": ({}, change_mask("val", 2, class_at(7)), "data: the mask 'ROOT/val/masks/2.tif' has class 7"),
    "0 and 255 for two classes, of three": ({"num_classes": 3}, None, "data: the mask 'ROOT/train/masks/0.png' has class 3; allowed with num_classes 3: 0 to 2"),
    "a damaged mask": ({}, lambda root: (root / "train" / "masks" / "0.png").write_bytes(b"no picture"), "data: the mask 'ROOT/train/masks/0.png' cannot be read: "),
    "a mask cut off": ({}, lambda root: (root / "val" / "masks" / "0.png").write_bytes((root / "val" / "masks" / "0.png").read_bytes()[:60]), "data: the mask 'ROOT/val/masks/0.png' cannot be read: "),
    "a damaged picture": ({}, lambda root: (root / "train" / "images" / "0.png").write_bytes(b"no picture"), "data: the picture 'ROOT/train/images/0.png' cannot be read: "),
    "a turned picture": ({}, tagged("train", "images", "0.png", 3), "data: the picture 'ROOT/train/images/0.png' has the orientation 3 in its EXIF data"),
    "a turned JPEG": ({}, tagged("train", "images", "0.jpg", 2), "data: the picture 'ROOT/train/images/0.jpg' has the orientation 2"),
    "a turned TIFF": ({}, tagged("val", "images", "0.tif", 3), "data: the picture 'ROOT/val/images/0.tif' has the orientation 3"),
    "a turned mask": ({}, tagged("val", "masks", "0.tif", 3), "data: the mask 'ROOT/val/masks/0.tif' has the orientation 3"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_wrong_is_said_in_one_line(roads, mutation):
    arguments, change, said = MUTATIONS[mutation]
    if change is not None:
        change(roads)
    with pytest.raises((UserError, ValueError)) as error:
        data.masks(**{"root": str(roads), "image_size": 16, "num_classes": 4, **arguments})
    assert type(error.value) in (UserError, ValueError)
    assert "\n" not in str(error.value)
    assert said in str(error.value).replace(str(roads), "ROOT")


def test_an_orientation_of_1_is_none(roads):
    tagged("train", "images", "0.jpg", 1)(roads)
    assert len(data.masks(root=str(roads), image_size=16, num_classes=4).train) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_seen_only_when_it_is_read(roads, workers):
    change_mask("train", 1, class_at(9))(roads)
    images = data.masks(root=str(roads), image_size=16, num_classes=4)
    with pytest.raises(UserError) as error:
        list(loader(images.train_plain, 2, workers=workers))
    assert str(error.value) == (
        f"data: the mask '{roads}/train/masks/1.bmp' has class 9; allowed with num_classes 4: 0 to 3, and 255 where there is none"
    )


def test_augmentation_by_timm_is_not_offered(roads):
    """It would turn the picture alone."""
    assert data.masks(root=str(roads), num_classes=4).through is None


def test_the_file_of_the_page_fits_these_pictures(roads, pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "how-to" / "your_data.md").read_text(encoding="utf-8")
    config = yaml.safe_load(re.search(r"```yaml\n# masks.yml\n(.*?)```", page, re.DOTALL)[1])
    assert (config["data"]["name"], config["task"]["name"]) == ("masks", "segmentation")
    arguments = {key: value for key, value in config["data"].items() if key not in ("name", "batch_size", "workers")}
    images = make_images("nni_proxyless.data:masks", arguments | {"root": str(roads)}, SEGMENTATION)
    assert images.num_classes == 4
