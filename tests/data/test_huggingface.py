"""Data sets that the package datasets has saved: classes, values, labels; and everything that may be wrong with them."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nni_proxyless import data
from nni_proxyless.core.errors import UserError
from nni_proxyless.core.ranges import parameter_types
from nni_proxyless.core.signatures import read_signature
from nni_proxyless.data.fingerprint import fingerprint
from nni_proxyless.data.image_folder import read_picture
from nni_proxyless.data.image_parts import ImageData, loader, split
from nni_proxyless.data.normalization import IMAGENET
from nni_proxyless.data.validate import make_images
from nni_proxyless.training.batches import EpochBatches, training_loader
from nni_proxyless.training.distributed import Processes

N_TRAIN, N_TEST = 24, 6
NAME = "nni_proxyless.data:huggingface"
KINDS = ["dog", "cat", "yak", "emu"]  # no picture is of a yak
TAGS = ["scarf", "glasses", "hat"]
TAGS_OF = ([2, 0], [0], [], [1, 2])  # of picture i: i % 4


@pytest.fixture
def hf() -> Any:
    return pytest.importorskip("datasets")


def picture(i: int) -> Image.Image:
    """The i-th, whose red is 8 i."""
    return Image.new("RGB", (30, 20), (8 * i, 100, 50))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def columns_of(numbers: range) -> dict[str, list[Any]]:
    return {
        "image": [picture(i) for i in numbers],
        "kind": [(0, 1, 3)[i % 3] for i in numbers],
        "word": [("dog", "cat", "emu")[i % 3] for i in numbers],
        "number": [(10, 9, 100)[i % 3] for i in numbers],
        "age": [20 + i for i in numbers],
        "height": [1.5 + i / 100 for i in numbers],
        "smiles": [i % 2 for i in numbers],
        "hat": [i % 3 == 0 for i in numbers],
        "tags": [TAGS_OF[i % 4] for i in numbers],
        "words": [[TAGS[tag] for tag in TAGS_OF[i % 4]] for i in numbers],
    }


Change = Callable[[Any, dict[str, list[Any]]], None]


@pytest.fixture
def write(hf, tmp_path) -> Callable[..., Path]:
    """Save both parts; ``change`` may change the columns of one, ``casts`` their types."""

    def written(part: str = "train", change: Change | None = None, casts: dict[str, Any] | None = None) -> Path:
        parts = {}
        for name, numbers in (("train", range(N_TRAIN)), ("test", range(N_TRAIN, N_TRAIN + N_TEST))):
            columns = columns_of(numbers)
            types = {"image": hf.Image(), "kind": hf.ClassLabel(names=KINDS), "tags": hf.Sequence(hf.ClassLabel(names=TAGS))}  # fmt: skip
            if name == part:
                if change is not None:
                    change(hf, columns)
                types |= casts or {}
            made = hf.Dataset.from_dict(columns)
            for column, kind in types.items():
                if column in columns and kind is not None:
                    made = made.cast_column(column, kind)
            parts[name] = made
        hf.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
        return tmp_path / "saved"

    return written


def red_of(image: torch.Tensor) -> float:
    return float(image[0].mean()) * IMAGENET[1][0] + IMAGENET[0][0]


# -- targets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "order"),
    [("kind", ["dog", "cat", "emu"]), ("word", ["cat", "dog", "emu"]), ("number", ["9", "10", "100"])],
)
def test_classes_are_numbered_in_their_order(write, column, order, caplog):
    root = write()
    with caplog.at_level(logging.WARNING, logger="nni_proxyless"):
        images = make_images(NAME, {"root": str(root), "classes": column, "image_size": 32})
    names = {"number": ("10", "9", "100")}.get(column, ("dog", "cat", "emu"))
    assert (images.num_classes, images.shape) == (3, (3, 32, 32))
    assert list(images.targets) == [order.index(names[i % 3]) for i in range(N_TRAIN)]
    assert [images.test[i][1] for i in range(N_TEST)] == [order.index(names[i % 3]) for i in range(N_TEST)]
    for i in (0, 7, N_TRAIN - 1):  # each row has its picture
        assert abs(red_of(images.train_plain[i][0]) - 8 * i / 255) < 0.01
    assert abs(red_of(images.test[2][0]) - 8 * (N_TRAIN + 2) / 255) < 0.01
    assert split(images, alphas=0.25, validation=0.25)
    said = "data.train: split 'train' of 'ROOT', column 'kind': 1 of 4 classes left out, which no picture has; the first: yak"
    assert [r.getMessage().replace(str(root), "ROOT") for r in caplog.records] == ([said] if column == "kind" else [])


def test_values_go_to_the_task_regression(write):
    arguments = {"root": str(write()), "values": ["height", "age"], "image_size": 16}
    images = make_images(NAME, arguments, {"name": "regression", "arguments": {}})
    assert images.num_classes == 2
    assert images.normalization == {"mean": list(IMAGENET[0]), "std": list(IMAGENET[1])}
    assert len(images.targets) == N_TRAIN
    for i in (0, 5):
        image, target = images.train[i]
        assert (target.dtype, image.dtype) == (torch.float32, torch.float32)
        assert torch.equal(target, torch.tensor([1.5 + i / 100, 20 + i]))
        assert torch.equal(target, images.targets[i])
    assert torch.equal(images.test[1][1], torch.tensor([1.5 + (N_TRAIN + 1) / 100, 20 + N_TRAIN + 1]))
    assert fingerprint(images)["pixels"] is not None, "the same each time it is read"


@pytest.mark.parametrize("labels", [["smiles", "hat"], "tags", "words"])
def test_labels_go_to_the_task_multi_label(write, labels):
    arguments = {"root": str(write()), "labels": labels, "image_size": 16}
    images = make_images(NAME, arguments, {"name": "multi-label", "arguments": {}})
    if isinstance(labels, list):
        expected = [[i % 2, int(i % 3 == 0)] for i in range(N_TRAIN + N_TEST)]
    else:
        order = TAGS if labels == "tags" else sorted(TAGS)
        expected = [[int(name in [TAGS[t] for t in TAGS_OF[i % 4]]) for name in order] for i in range(N_TRAIN + N_TEST)]
    assert images.num_classes == len(expected[0])
    assert torch.equal(torch.stack(list(images.targets)), torch.tensor(expected[:N_TRAIN]).float())
    assert torch.equal(images.test[1][1], torch.tensor(expected[N_TRAIN + 1]).float())


def test_a_test_whose_classes_are_in_another_order_is_read_by_their_names(hf, write):
    def other(hf: Any, columns: dict[str, list[Any]]) -> None:
        columns["kind"] = [(2, 1, 0)[i % 3] for i in range(N_TEST)]

    root = write("test", other, {"kind": hf.ClassLabel(names=["emu", "cat", "dog"])})
    images = data.huggingface(root=str(root), classes="kind", image_size=16)
    assert [images.test[i][1] for i in range(N_TEST)] == [0, 1, 2, 0, 1, 2]


# -- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_are_read_as_those_of_a_folder(hf, write, tmp_path):
    """Upright, 16 bits scaled, on white where they are transparent, whatever datasets would make of them; from bytes and from files."""
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16))
    given = [
        encoded(picture(3), "JPEG", exif=exif), encoded(deep), encoded(Image.new("RGBA", (9, 5), (200, 0, 0, 0))),
        encoded(Image.new("L", (4, 6), 77)), encoded(Image.new("CMYK", (5, 5), (1, 200, 3, 4)), "TIFF"),
    ]  # fmt: skip

    def change(hf: Any, columns: dict[str, list[Any]]) -> None:
        columns["image"] = [{"bytes": one, "path": None} for one in given] + columns["image"][len(given) :]

    images = data.huggingface(root=str(write(change=change)), classes="word", image_size=16)
    images = images.through(lambda picture: picture, lambda picture: picture)
    for i, one in enumerate(given):
        path = tmp_path / f"{i}"
        path.write_bytes(one)
        expected, found = read_picture(path), images.train[i][0]
        assert (found.mode, found.size) == ("RGB", expected.size)
        assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert images.train[0][0].size == (20, 30), "upright"
    assert images.train[2][0].getpixel((0, 0)) == (255, 255, 255), "on white"


@pytest.mark.parametrize("kind", ["dicts of bytes", "bytes", "files", "undecoded", "another mode"])
def test_columns_of_pictures(hf, write, tmp_path, kind):
    casts: dict[str, Any] = {"image": None}

    def change(hf: Any, columns: dict[str, list[Any]]) -> None:
        png = [encoded(one) for one in columns["image"]]
        if kind == "files":
            for i, one in enumerate(png):
                (tmp_path / f"{i}.png").write_bytes(one)
            columns["image"] = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(len(png))]
            casts["image"] = hf.Image(decode=False)
        elif kind == "bytes":
            columns["image"] = png
        elif kind == "dicts of bytes":
            columns["image"] = [{"bytes": one, "path": "a.png"} for one in png]
        else:
            casts["image"] = hf.Image(decode=False) if kind == "undecoded" else hf.Image(mode="L")

    images = data.huggingface(root=str(write(change=change, casts=casts)), values=["age"], image_size=16)
    assert abs(red_of(images.train_plain[7][0]) - 56 / 255) < 0.01


def test_a_format_that_was_saved_along_changes_nothing(hf, tmp_path, write):
    saved = hf.load_from_disk(str(write())).with_format("numpy", columns=["age"])
    saved.save_to_disk(str(tmp_path / "formatted"))
    images = data.huggingface(root=str(tmp_path / "formatted"), values=["age", "height"], image_size=16)
    assert images.targets[3].tolist() == pytest.approx([23, 1.53])
    assert abs(red_of(images.train_plain[3][0]) - 24 / 255) < 0.01


def test_rows_chosen_before_they_were_saved(hf, tmp_path, write):
    saved = hf.load_from_disk(str(write()))
    saved["train"] = saved["train"].select(range(23, -1, -2))
    saved.save_to_disk(str(tmp_path / "chosen"), num_shards={"train": 3, "test": 1})
    images = data.huggingface(root=str(tmp_path / "chosen"), values=["age"], image_size=16)
    assert [int(target) for target in images.targets] == list(range(43, 19, -2))
    assert abs(red_of(images.train_plain[1][0]) - 8 * 21 / 255) < 0.01


@pytest.mark.parametrize("target", [{"values": ["age"]}, {"classes": "kind"}, {"labels": "tags"}])
def test_loader_processes_change_nothing(write, target):
    images = data.huggingface(root=str(write()), image_size=16, **target)
    for read in (
        lambda workers: loader(images.test, 4, workers=workers),
        lambda workers: training_loader(
            images.train, EpochBatches(N_TRAIN, 6, 3, Processes(0, 1, torch.device("cpu"))), workers
        ),
    ):
        alone, by_two = list(read(0)), list(read(2))
        assert len(alone) == len(by_two) > 1
        for (x, y), (other_x, other_y) in zip(alone, by_two, strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)
    again = pickle.loads(pickle.dumps(images.test))  # as processes that are not forked get them
    assert torch.equal(again[3][0], images.test[3][0])


@pytest.mark.parametrize("target", [{"values": ["age"]}, {"classes": "kind"}, {"labels": ["smiles", "hat"]}])
def test_the_same_images_go_through_other_transforms(write, target):
    images = data.huggingface(root=str(write()), image_size=16, **target)
    other = images.through(lambda picture: "augmented", lambda picture: picture.size)
    assert isinstance(other, ImageData)
    assert (other.train[0][0], other.train_plain[0][0], other.test[0][0]) == ("augmented", (30, 20), (30, 20))
    assert [np.asarray(t).tolist() for t in other.targets] == [np.asarray(t).tolist() for t in images.targets]


# -- what is refused -----------------------------------------------------------------------------------------------


def cell(column: str, row: int, value: Any) -> Change:
    def change(hf: Any, columns: dict[str, list[Any]]) -> None:
        columns[column][row] = value

    return change


def every(column: str, value: Any) -> Change:
    def change(hf: Any, columns: dict[str, list[Any]]) -> None:
        columns[column] = [value] * len(columns["age"])

    return change


def without(*names: str) -> Change:
    def change(hf: Any, columns: dict[str, list[Any]]) -> None:
        for name in names:
            del columns[name]

    return change


CLASSES, WORDS, VALUES, LABELS, LISTS = {"classes": "kind"}, {"classes": "word"}, {"values": ["age", "height"]}, {"labels": ["smiles", "hat"]}, {"labels": "tags"}  # fmt: skip
HERE = "data.train: split 'train' of 'ROOT'"
THERE = "data.test: split 'test' of 'ROOT'"
MUTATIONS: dict[str, tuple[dict[str, Any], str, Change | None, str]] = {
    # arguments
    "nothing to learn": ({}, "train", None, "none of classes, values, labels given; allowed: one of classes, values, labels"),
    "two things to learn": (CLASSES | VALUES, "train", None, "classes and values given; allowed: one of"),
    "a text as values": ({"values": "age"}, "train", None, "values is 'age'; allowed: a list of names of columns"),
    "the pictures as classes": ({"classes": "image"}, "train", None, "the column 'image' is named twice"),
    "no size": (CLASSES | {"image_size": 0}, "train", None, "image_size is 0; allowed: a whole number, 8 or more"),
    "one label": ({"labels": ["hat"]}, "train", None, "labels is ['hat']; allowed: two columns or more"),
    "one split": (CLASSES | {"test": "train"}, "train", None, "train and test are both 'train'; allowed: two splits"),
    # splits and columns
    "a folder that is not there": (CLASSES | {"root": "ROOT/savd"}, "train", None, "data.root: no folder 'ROOT/savd'; allowed: a folder that DatasetDict.save_to_disk"),
    "another folder": (CLASSES | {"root": "ROOT/.."}, "train", None, "data.root: 'ROOT/..' is no saved data set, or damaged: Directory"),
    "a split alone": (CLASSES | {"root": "ROOT/train"}, "train", None, "data.root: 'ROOT/train' is one data set without splits"),
    "an address as folder": (CLASSES | {"root": "hf://datasets/beans"}, "train", None, "data.root: no folder 'hf:/datasets/beans'"),
    "an unknown split": (CLASSES | {"test": "tst"}, "train", None, "data.test: no split 'tst' in 'ROOT'; the splits: 'train', 'test'. Did you mean 'test'?"),
    "a misspelt column": ({"classes": "kindd"}, "train", None, f"{HERE}: no column 'kindd'; the columns: 'image', 'kind', 'word', 'number', 'age', 'height', 'smiles', 'hat', 'tags', 'words'. Did you mean 'kind'?"),
    "a misspelt column of values": ({"values": ["age", "heigth"]}, "train", None, "no column 'heigth'"),
    "a misspelt column of pictures": (CLASSES | {"picture": "img"}, "train", None, f"{HERE}: no column 'img'; the columns: 'image'"),
    "a column missing in the test": (VALUES, "test", without("height"), f"{THERE}: no column 'height'"),
    # types
    "numbers as pictures": (CLASSES | {"picture": "age"}, "train", None, f"{HERE}: column 'age' is int; allowed: Image, binary"),
    "paths as pictures": (CLASSES | {"picture": "word"}, "train", None, f"{HERE}: column 'word' is string; allowed: Image, binary"),
    "floats as classes": ({"classes": "height"}, "train", None, "column 'height' is float; allowed: ClassLabel, string, int, bool"),
    "lists as classes": ({"classes": "tags"}, "train", None, "column 'tags' is list of ClassLabel; allowed: ClassLabel, string"),
    "words as values": ({"values": ["age", "word"]}, "train", None, "column 'word' is string; allowed: int, float"),
    "classes as values": ({"values": ["kind"]}, "train", None, "column 'kind' is ClassLabel; allowed: int, float"),
    "words as labels": ({"labels": ["hat", "word"]}, "train", None, "column 'word' is string; allowed: int, float, bool"),
    "a column of classes as lists": ({"labels": "kind"}, "train", None, "column 'kind' is ClassLabel; allowed: list of ClassLabel, list of string"),
    "lists of numbers": ({"labels": "scores"}, "train", every("scores", [0.5]), "column 'scores' is list of float; allowed: list of ClassLabel, list of string"),
    "another type in the test": (WORDS, "test", every("word", 3), f"{THERE}: column 'word' is int; allowed: string, as in split 'train' of 'ROOT'"),
    # cells
    "no class": (WORDS, "train", cell("word", 2, None), f"{HERE}, row 2, column 'word': None; allowed: a class"),
    "an empty class": (WORDS, "test", cell("word", 2, " "), f"{THERE}, row 2, column 'word': ' '; allowed: a class"),
    "a class that is not known": (CLASSES, "test", cell("kind", 1, -1), f"{THERE}, row 1, column 'kind': -1; allowed: a class, 0 to 3"),
    "a class of the test alone": (CLASSES, "test", cell("kind", 4, 2), f"{THERE}, row 4, column 'kind': 'yak'; allowed: the classes of split 'train' of 'ROOT'."),
    "a misspelt class": (WORDS, "test", cell("word", 4, "catt"), "column 'word': 'catt'; allowed: the classes of split 'train' of 'ROOT'. Did you mean 'cat'?"),
    "one class": (WORDS, "train", every("word", "dog"), f"{HERE}, column 'word': 'dog' in every row; allowed: two classes or more"),
    "no value": (VALUES, "train", cell("age", 3, None), f"{HERE}, row 3, column 'age': None; allowed: a finite number"),
    "a value that is no number": (VALUES, "test", cell("height", 5, float("nan")), f"{THERE}, row 5, column 'height': nan; allowed: a finite number"),
    "a value beyond 32 bits": (VALUES, "train", cell("height", 0, 1e39), "column 'height': 1e+39; allowed: a finite number"),
    "a label of 2": (LABELS, "train", cell("smiles", 3, 2), f"{HERE}, row 3, column 'smiles': 2; allowed: 0 or 1"),
    "no list of labels": (LISTS, "train", cell("tags", 3, None), f"{HERE}, row 3, column 'tags': None; allowed: a list of labels, 0 to 2"),
    "a label that is not known": (LISTS, "test", cell("tags", 3, [0, -1]), f"{THERE}, row 3, column 'tags': [0, -1]; allowed: a list of labels, 0 to 2"),
    "a label of the test alone": ({"labels": "words"}, "test", cell("words", 3, ["hatt"]), f"{THERE}, row 3, column 'words': 'hatt'; allowed: the labels of split 'train' of 'ROOT'. Did you mean 'hat'?"),
    "one name of a label": ({"labels": "words"}, "train", every("words", ["hat"]), f"{HERE}, column 'words': 'hat' alone; allowed: two labels or more"),
    "no name of a label": (LISTS, "train", every("tags", []), f"{HERE}, column 'tags': no label at all; allowed: two labels or more"),
    "no picture": (CLASSES, "train", cell("image", 4, None), f"{HERE}, row 4, column 'image': no picture; allowed: the bytes of a picture, or the path of one on this machine"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_wrong_is_said_in_one_line(write, mutation):
    arguments, part, change, said = MUTATIONS[mutation]
    root = str(write(part, change))
    given = {"root": "ROOT", "image_size": 16, **arguments}
    with pytest.raises((UserError, ValueError)) as error:
        data.huggingface(**given | {"root": given["root"].replace("ROOT", root)})
    assert type(error.value) in (UserError, ValueError)
    assert "\n" not in str(error.value)
    assert said in str(error.value).replace(root, "ROOT")


def test_what_is_right_is_refused_by_none_of_these(write):
    root = str(write())
    for arguments in (CLASSES, WORDS, VALUES, LABELS, LISTS):
        assert len(data.huggingface(root=root, **arguments).train) == N_TRAIN


def test_nothing_is_fetched_from_the_network(hf, write):
    """A picture that is an address is refused before anything would look it up."""
    address = "https://example.com/a.png"

    def change(hf: Any, columns: dict[str, list[Any]]) -> None:
        columns["image"] = [{"bytes": encoded(one), "path": None} for one in columns["image"]]
        columns["image"][5] = columns["image"][9] = {"bytes": None, "path": address}

    root = write(change=change, casts={"image": None})
    with pytest.raises(UserError) as error:
        data.huggingface(root=str(root), classes="word")
    said = f"{HERE}, row 5, column 'image': no picture '{address}', the first of 2 such; allowed: the bytes"
    assert said in str(error.value).replace(str(root), "ROOT")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named(write, workers):
    def change(hf: Any, columns: dict[str, list[Any]]) -> None:
        columns["image"] = [{"bytes": encoded(one), "path": None} for one in columns["image"]]
        columns["image"][3]["bytes"] = b"no picture"

    root = write("test", change)
    images = data.huggingface(root=str(root), classes="kind", image_size=16)
    with pytest.raises(UserError) as error:
        list(loader(images.test, 2, workers=workers))
    said = "data: the picture in row 3 of split 'test' of 'ROOT' cannot be read: cannot identify image file; mend it or take it away"
    assert str(error.value).replace(str(root), "ROOT") == said


@pytest.mark.parametrize("shards", [None, 1])
def test_an_empty_split_is_refused(hf, write, tmp_path, shards):
    """That datasets wrote without a file, which it cannot read again; or with a file of no row."""
    saved = hf.load_from_disk(str(write()))
    saved["test"] = saved["test"].select([])
    saved.save_to_disk(str(tmp_path / "empty"), num_shards={"train": 1, "test": 1})
    if shards is None:
        state = tmp_path / "empty" / "test" / "state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"_data_files": []}))
    with pytest.raises(UserError, match=r"split 'test' of '.*empty' has no row; allowed: a row per picture$"):
        data.huggingface(root=str(tmp_path / "empty"), classes="kind")


def test_a_damaged_folder_is_refused(write):
    root = write()
    (root / "train" / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="is no saved data set, or damaged: ") as error:
        data.huggingface(root=str(root), classes="kind")
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    said = "data: huggingface needs the package datasets, which is missing; pip install 'nni-proxyless[huggingface]'"
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        data.huggingface(root=str(tmp_path), classes="kind")


def test_a_folder_of_the_packages_name_is_not_the_package(monkeypatch, tmp_path):
    (tmp_path / "datasets").mkdir()
    for name in [name for name in sys.modules if name.split(".")[0] == "datasets"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="needs the package datasets, which does not import: cannot import name"):
        data.huggingface(root=str(tmp_path), classes="kind")
    sys.modules.pop("datasets", None)


# -- configuration and page ----------------------------------------------------------------------------------------


def test_arguments_are_known_without_an_import():
    read = read_signature("nni_proxyless.data", "huggingface")
    assert read is not None
    imported = parameter_types(data.huggingface)
    assert imported.pop("return") is ImageData
    assert read.types == imported


def test_the_name_stays_a_function():
    """A module of the same name would take its place once it is imported."""
    assert callable(data.huggingface)
    assert callable(data.huggingface)


def test_the_file_of_the_page_fits_these_pictures(hf, write, tmp_path, pytestconfig):
    hf.load_from_disk(str(write())).rename_column("kind", "label").save_to_disk(str(tmp_path / "renamed"))
    page = (pytestconfig.rootpath / "docs" / "how-to" / "your_data.md").read_text(encoding="utf-8")
    config = yaml.safe_load(re.search(r"```yaml\n# saved.yml\n(.*?)```", page, re.DOTALL)[1])
    assert config["data"]["name"] == "huggingface"
    own = {key: value for key, value in config["data"].items() if key not in ("name", "batch_size", "workers")}
    assert make_images(NAME, own | {"root": str(tmp_path / "renamed")}).num_classes == 3
