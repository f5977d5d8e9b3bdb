"""Folders of pictures: every picture as a viewer shows it, in torchvision's order, and nothing left out without a word."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from nni_proxyless import data
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.image_folder import Pictures, read_picture

RAMP = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8) * 3  # dark above left, bright below right
GRAY = Image.fromarray(RAMP)
COLORS = Image.fromarray(np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=2))


def seen(path: Path) -> np.ndarray:
    picture = read_picture(path)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def gray(numbers: np.ndarray) -> np.ndarray:
    return np.repeat(numbers[..., None], 3, axis=2).astype(int)


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("l.png", GRAY),
        ("16-bit.png", Image.fromarray(RAMP.astype(np.uint16) * 257)),
        ("16-bit.tif", Image.fromarray(RAMP.astype(np.uint16) * 257)),
        ("32-bit-mode.tif", Image.fromarray(RAMP.astype(np.int32) * 257)),
        ("palette.png", GRAY.convert("P")),
        ("palette.gif", GRAY),
        ("gray.pgm", GRAY),
        ("UPPER.PNG", GRAY),
    ],
)
def test_gray_pictures_of_every_depth_are_the_same_picture(tmp_path, name, picture):
    picture.save(tmp_path / name)
    assert np.array_equal(seen(tmp_path / name), gray(RAMP))


def test_what_is_transparent_is_white(tmp_path):
    drawn = 255 - RAMP.astype(int)  # black ink of this strength on white paper
    ink = Image.new("L", GRAY.size, 0)
    for name, picture in {
        "la.png": Image.merge("LA", [ink, GRAY]),
        "rgba.png": Image.merge("RGBA", [ink, ink, ink, GRAY]),
        "rgba.tif": Image.merge("RGBA", [ink, ink, ink, GRAY]),
    }.items():
        picture.save(tmp_path / name)
        assert np.array_equal(seen(tmp_path / name), gray(drawn)), name
    indices = Image.fromarray((RAMP > 60).astype(np.uint8)).convert("P")
    indices.putpalette([10, 20, 30, 40, 50, 60])
    indices.save(tmp_path / "p.png", transparency=0)
    expected = np.where((RAMP > 60)[..., None], [40, 50, 60], [255, 255, 255])
    assert np.array_equal(seen(tmp_path / "p.png"), expected)
    COLORS.save(tmp_path / "rgb.png", transparency=(0, 255, 0))  # the color of its first pixel
    expected = np.asarray(COLORS).astype(int)
    expected[(expected == [0, 255, 0]).all(axis=2)] = 255
    assert np.array_equal(seen(tmp_path / "rgb.png"), expected)
    opaque = COLORS.convert("RGBA")
    opaque.save(tmp_path / "opaque.png")
    assert np.array_equal(seen(tmp_path / "opaque.png"), np.asarray(COLORS))


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg"])
@pytest.mark.parametrize(
    ("orientation", "as_stored"),
    [(2, Image.Transpose.FLIP_LEFT_RIGHT), (3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270)],
)  # fmt: skip
def test_a_picture_stands_upright(tmp_path, name, orientation, as_stored):
    stored = COLORS.transpose(as_stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / name, exif=exif, **({"quality": 100, "subsampling": 0} if name == "x.jpg" else {}))
    assert np.abs(seen(tmp_path / name) - np.asarray(COLORS)).max() <= (4 if name == "x.jpg" else 0)


def test_other_modes_and_animations(tmp_path):
    dots = GRAY.convert("1")
    dots.save(tmp_path / "1.png")
    assert np.array_equal(seen(tmp_path / "1.png"), gray(np.asarray(dots) * 255))
    COLORS.convert("CMYK").save(tmp_path / "cmyk.tif")
    assert np.array_equal(seen(tmp_path / "cmyk.tif"), np.asarray(COLORS))
    black = Image.new("L", GRAY.size, 0)
    GRAY.save(tmp_path / "moves.gif", save_all=True, append_images=[black, black])
    assert np.array_equal(seen(tmp_path / "moves.gif"), gray(RAMP))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (RAMP.astype(np.float32), "its pixels go from 0 to 204 (F), and nothing says what is white"),
        (RAMP.astype(np.int32) - 5, "its pixels go from -5 to 199 (I)"),
        (RAMP.astype(np.int32) * 1000, "its pixels go from 0 to 204000 (I)"),
    ],
)
def test_numbers_without_a_white_are_refused(tmp_path, numbers, said):
    Image.fromarray(numbers).save(tmp_path / "x.tif")
    with pytest.raises(UserError) as error:
        read_picture(tmp_path / "x.tif")
    assert said in str(error.value)
    assert str(tmp_path / "x.tif") in str(error.value)


def made(root: Path) -> Path:
    for part, count in (("train", 6), ("val", 2)):
        for label in ("a", "b"):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                COLORS.save(root / part / label / f"{i}.jpg")
    return root


def test_the_order_and_the_pixels_of_ordinary_pictures_are_torchvisions(tmp_path):
    made(tmp_path)
    for name in ("b/10.jpg", "b/z/1.PNG", "b/Z/1.jpg", "b/0.5.jpg", "B/1.jpg"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        COLORS.save(tmp_path / "train" / name)
    ours, theirs = Pictures.of(tmp_path / "train"), datasets.ImageFolder(tmp_path / "train")
    assert list(zip(ours.paths, ours.targets, strict=True)) == theirs.samples
    assert ours.classes == theirs.classes == ["B", "a", "b"]
    assert np.array_equal(seen(Path(ours.paths[0])), np.asarray(theirs[0][0]))


def test_what_is_no_picture_is_left_out_and_named(tmp_path, caplog):
    train = made(tmp_path) / "train"
    (train / "a" / "._3.jpg").write_bytes(b"\0\5\26\7")  # left by a Mac
    (train / "a" / ".DS_Store").write_bytes(b"")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (train / name).mkdir()
        shutil.copy(train / "a" / "0.jpg", train / name / "0.jpg")
    for name in ("notes.txt", "Thumbs.db", "clip.mp4", "more.txt"):
        (train / "b" / name).write_bytes(b"x")
    shutil.copy(train / "a" / "0.jpg", train / "stray.jpg")
    with caplog.at_level(logging.WARNING, logger="nni_proxyless"):
        images = data.folder(root=str(tmp_path), image_size=32)
    assert (images.num_classes, len(images.train), len(images.test)) == (2, 12, 4)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"data.root: {train}: 8 left out (3 hidden, 2 .txt, ")
    for words in ("1 .db", "1 .mp4", "1 beside the folders of classes", f"the first: {train}"):
        assert words in said


def test_folders_without_pictures_are_named(tmp_path):
    train = made(tmp_path) / "train"
    (train / "c").mkdir()
    (train / "c" / "x.svg").write_bytes(b"")
    with pytest.raises(UserError, match=r"data.root: no picture in '.*train/c'; allowed: .*\.jpg"):
        data.folder(root=str(tmp_path))
    for label in "abc":
        shutil.rmtree(train / label)
    with pytest.raises(UserError, match=r"data.root: no folder of a class in '.*train'"):
        data.folder(root=str(tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named_also_by_a_loader_process(tmp_path, workers):
    path = made(tmp_path) / "train" / "a" / "3.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    images = data.folder(root=str(tmp_path), image_size=32)
    with pytest.raises(UserError) as error:
        list(data.loader(images.train_plain, 4, workers=workers))
    assert str(error.value).startswith(f"data: the picture '{path}' cannot be read: ")
    assert str(error.value).endswith("; mend it or take it away")
    assert "Traceback" not in str(error.value)


def test_a_user_without_a_home(monkeypatch, tmp_path):
    """As in a container that runs under a number that no file knows."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    no_home = r" is not allowed here; allowed: a path; ~ is no home folder that is known here \(HOME is not set\)"
    for function in (data.cifar10, data.cifar100, data.fashion_mnist):
        with pytest.raises(UserError, match=rf"data.root: '~/.cache/nni-proxyless'{no_home}"):
            function(download=False)
    with pytest.raises(
        UserError, match=r"data.root: '~nobody-at-all/x' .*; ~nobody-at-all is no home folder that is known"
    ):
        data.folder(root="~nobody-at-all/x")
    from nni_proxyless.report.nni_database import known_experiments

    with pytest.raises(UserError, match=rf"NNI's list of experiments: '~/nni-experiments'{no_home}"):
        known_experiments()
