"""Pictures that CSV files list: classes, values, labels; and everything that may be wrong with such files."""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path

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
from nni_proxyless.data.image_parts import ImageData, loader, split
from nni_proxyless.data.normalization import IMAGENET
from nni_proxyless.data.validate import make_images
from nni_proxyless.training.batches import EpochBatches, training_loader
from nni_proxyless.training.distributed import Processes

N_TRAIN, N_TEST = 24, 6
COLUMNS = "path,kind,age,height,smiles,hat,tags\n"


def line_of(i: int) -> str:
    """Of picture i, whose red is 8 i."""
    kind = ("dog", "cat", "emu")[i % 3]
    tags = ("hat;red scarf", "red scarf", "", "glasses; hat")[i % 4]
    return f"pictures/{i:02}.png,{kind},{20 + i},{1.5 + i / 100},{i % 2},{i % 3 == 0:d},{tags}\n"


@pytest.fixture
def people(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i in range(N_TRAIN + N_TEST):
        Image.new("RGB", (30, 20), (8 * i, 100, 50)).save(tmp_path / "pictures" / f"{i:02}.png")
    lines = [line_of(i) for i in range(N_TRAIN + N_TEST)]
    (tmp_path / "train.csv").write_text(COLUMNS + "".join(lines[:N_TRAIN]))
    (tmp_path / "test.csv").write_text(COLUMNS + "".join(lines[N_TRAIN:]))
    return tmp_path


def red_of(image: torch.Tensor) -> float:
    return float(image[0].mean()) * IMAGENET[1][0] + IMAGENET[0][0]


# -- targets -------------------------------------------------------------------------------------------------------


def test_classes_are_numbered_in_their_order(people):
    images = make_images("nni_proxyless.data:csv", {"root": str(people), "classes": "kind", "image_size": 32})
    assert (images.num_classes, images.shape) == (3, (3, 32, 32))
    assert list(images.targets) == [(1, 0, 2)[i % 3] for i in range(N_TRAIN)]
    assert [images.test[i][1] for i in range(N_TEST)] == [(1, 0, 2)[i % 3] for i in range(N_TRAIN, N_TRAIN + N_TEST)]
    for i in (0, 7, N_TRAIN - 1):  # each line has its picture
        assert abs(red_of(images.train_plain[i][0]) - 8 * i / 255) < 0.01
    assert abs(red_of(images.test[2][0]) - 8 * (N_TRAIN + 2) / 255) < 0.01
    assert images.train[3][0].shape == (3, 32, 32)
    assert split(images, alphas=0.25, validation=0.25)


@pytest.mark.parametrize(
    ("written", "order"),
    [(("10", "9", "100"), ["9", "10", "100"]), (("10", "9", "b"), ["10", "9", "b"]), (("1.0", "-2", "10.0"), ["-2", "1.0", "10.0"])],
)  # fmt: skip
def test_numbers_of_classes_are_ordered_by_size(people, written, order):
    for name in ("train.csv", "test.csv"):
        text = (people / name).read_text()
        for kind, number in zip(("cat", "dog", "emu"), written, strict=True):
            text = text.replace(f",{kind},", f",{number},")
        (people / name).write_text(text)
    images = data.csv(root=str(people), classes="kind", image_size=16)
    assert images.train.classes == order
    assert images.targets[0] == order.index(written[1])  # a dog


def test_values_go_to_the_task_regression(people):
    arguments = {"root": str(people), "values": ["height", "age"], "image_size": 16}
    images = make_images(
        "nni_proxyless.data:csv", arguments, {"name": "nni_proxyless.tasks:Regression", "arguments": {}}
    )
    assert images.num_classes == 2
    assert images.normalization == {"mean": list(IMAGENET[0]), "std": list(IMAGENET[1])}
    assert len(images.targets) == N_TRAIN
    for i in (0, 5):
        image, target = images.train[i]
        assert (target.dtype, image.dtype) == (torch.float32, torch.float32)
        assert torch.equal(target, torch.tensor([1.5 + i / 100, 20 + i]))
        assert torch.equal(target, images.targets[i])
    assert torch.equal(images.test[1][1], torch.tensor([1.5 + (N_TRAIN + 1) / 100, 20 + N_TRAIN + 1]))
    assert images.task.deviation.shape == (2,)
    assert fingerprint(images)["pixels"] is not None, "the same each time it is read"


@pytest.mark.parametrize("labels", [["smiles", "hat"], "tags"])
def test_labels_go_to_the_task_multi_label(people, labels):
    arguments = {"root": str(people), "labels": labels, "image_size": 16}
    task = {"name": "nni_proxyless.tasks:MultiLabel", "arguments": {}}
    images = make_images("nni_proxyless.data:csv", arguments, task)
    if labels == "tags":  # glasses, hat, red scarf: a space is part of a name where names are separated by ;
        expected = [([0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0])[i % 4] for i in range(N_TRAIN)]
    else:
        expected = [[i % 2, int(i % 3 == 0)] for i in range(N_TRAIN)]
    assert images.num_classes == len(expected[0])
    assert torch.equal(torch.stack(list(images.targets)), torch.tensor(expected).float())
    assert torch.equal(images.train_plain[4][1], torch.tensor(expected[4]).float())


def test_labels_are_separated_by_spaces_where_no_semicolon_is(people):
    for name in ("train.csv", "test.csv"):
        (people / name).write_text((people / name).read_text().replace("; ", " ").replace(";", " "))
    images = data.csv(root=str(people), labels="tags", image_size=16)
    assert images.num_classes == 4  # glasses, hat, red, scarf
    assert images.targets[0].tolist() == [0, 1, 1, 1]


def test_files_as_spreadsheets_write_them(people):
    """A mark of the byte order, quotes, spaces around cells, blank lines, ends of lines of another system, absolute paths, other columns."""
    (people / "train.csv").write_bytes(
        b"\xef\xbb\xbf"
        + f'note, path ,kind\r\n"a, b",pictures/00.png, dog\r\n\r\nx,"{people}/pictures/01.png",cat\r\n'.encode()
    )
    (people / "elsewhere").mkdir()
    (people / "elsewhere" / "t.csv").write_text("kind,path\ncat,pictures/02.png\n")
    images = data.csv(root=str(people), test="elsewhere/t.csv", classes="kind", image_size=16)
    assert (images.targets, len(images.test)) == ([1, 0], 1)
    images = data.csv(root=str(people), test=str(people / "elsewhere" / "t.csv"), classes="kind", image_size=16)
    assert abs(red_of(images.test[0][0]) - 16 / 255) < 0.01


# -- what is done to pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "flip", "flips"),
    [
        ({"values": ["age"]}, None, False),
        ({"values": ["age"]}, True, True),
        ({"values": ["age"]}, False, False),
        ({"labels": ["smiles", "hat"]}, None, True),
        ({"labels": ["smiles", "hat"]}, False, False),
        ({"classes": "kind"}, None, True),
        ({"classes": "kind"}, False, False),
    ],
)
def test_pictures_are_mirrored_where_that_is_allowed(people, target, flip, flips):
    torch.manual_seed(0)
    random.seed(0)
    pixels = np.full((20, 30, 3), 60, dtype=np.uint8)
    pixels[:, :, 2] = np.linspace(60, 120, 30)  # so that any part of it has more blue on the right, however bright
    Image.fromarray(pixels).save(people / "pictures" / "00.png")
    images = data.csv(root=str(people), image_size=16, flip=flip, **target)
    seen = {bool(one[2, :, -1].mean() > one[2, :, 0].mean()) for one in (images.train[0][0] for _ in range(30))}
    assert seen == ({True, False} if flips else {True})


def test_a_picture_with_a_value_is_seen_whole(people):
    """Both ends of it, in training and in evaluation; of one with a class, training sees a part."""
    pixels = np.full((20, 60, 3), 120, dtype=np.uint8)
    pixels[:, :6], pixels[:, -6:] = (250, 0, 0), (0, 0, 250)
    Image.fromarray(pixels).save(people / "pictures" / "00.png")

    def whole(image: torch.Tensor) -> bool:
        return bool(image[0, 8, 0] > image[0, 8, 8] + 0.3 and image[2, 8, -1] > image[2, 8, 8] + 0.3)

    by_value = data.csv(root=str(people), values=["age"], image_size=16)
    assert all(whole(by_value.train[0][0]) for _ in range(20))
    assert whole(by_value.train_plain[0][0])
    assert not torch.equal(by_value.train[0][0], by_value.train[0][0]), "no color jitter"
    by_class = data.csv(root=str(people), classes="kind", image_size=16)
    assert not all(whole(by_class.train[0][0]) for _ in range(20))


@pytest.mark.parametrize("target", [{"values": ["age"]}, {"classes": "kind"}, {"labels": "tags"}])
def test_loader_processes_change_nothing(people, target):
    images = data.csv(root=str(people), image_size=16, **target)
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


@pytest.mark.parametrize("target", [{"values": ["age"]}, {"classes": "kind"}, {"labels": "tags"}])
def test_the_same_images_go_through_other_transforms(people, target):
    images = data.csv(root=str(people), image_size=16, **target)
    other = images.through(lambda picture: "augmented", lambda picture: picture.size)
    assert isinstance(other, ImageData)
    assert (other.train[0][0], other.train_plain[0][0], other.test[0][0]) == ("augmented", (30, 20), (30, 20))
    assert [np.asarray(t).tolist() for t in other.targets] == [np.asarray(t).tolist() for t in images.targets]


# -- what is refused, and what is said -----------------------------------------------------------------------------

CLASSES, VALUES, LABELS, TAGS = {"classes": "kind"}, {"values": ["age", "height"]}, {"labels": ["smiles", "hat"]}, {"labels": "tags"}  # fmt: skip
HERE = "data.train: 'ROOT/train.csv'"
THERE = "data.test: 'ROOT/test.csv'"
MUTATIONS = {
    # arguments
    "nothing to learn": ({}, None, "none of classes, values, labels given; allowed: one of classes, values, labels"),
    "two things to learn": (CLASSES | VALUES, None, "classes and values given; allowed: one of"),
    "all three": (CLASSES | VALUES | LABELS, None, "classes and values and labels given; allowed: one of"),
    "no values": ({"values": []}, None, "values is []; allowed"),
    "a text as values": ({"values": "age"}, None, "values is 'age'; allowed: a list of names of columns"),
    "a number as a label": ({"labels": ["hat", 3]}, None, "labels is ['hat', 3]; allowed: a list of names of columns"),
    "a list as classes": ({"classes": ["kind"]}, None, "classes is ['kind']; allowed: the name of a column"),
    "a column twice": ({"values": ["age", "age"]}, None, "the column 'age' is named twice"),
    "the paths as classes": ({"classes": "path"}, None, "the column 'path' is named twice"),
    "no size": (CLASSES | {"image_size": 0}, None, "image_size is 0; allowed: a whole number, 8 or more"),
    "half a size": (CLASSES | {"image_size": 16.5}, None, "image_size is 16.5; allowed: a whole number"),
    "one label": ({"labels": ["hat"]}, None, "data.labels: [hat]; allowed: two columns or more"),
    "a misspelt column": ({"classes": "kinds"}, None, f"{HERE}, line 1: no column 'kinds'; the columns: 'path', 'kind', 'age', 'height', 'smiles', 'hat', 'tags'. Did you mean 'kind'?"),
    "a misspelt column of values": ({"values": ["age", "heigth"]}, None, "no column 'heigth'"),
    "a misspelt column of paths": (CLASSES | {"picture": "paths"}, None, "no column 'paths'; the columns: 'path'"),
    "a file that is not there": (CLASSES | {"test": "tst.csv"}, None, "data.test: 'ROOT/tst.csv' cannot be read: No such file or directory"),
    "a folder as file": (CLASSES | {"train": "pictures"}, None, "data.train: 'ROOT/pictures' cannot be read: Is a directory"),
    "no home": (CLASSES | {"root": "~nobody-at-all/x"}, None, "data.root: '~nobody-at-all/x' is not allowed here"),
    "a picture as file": (CLASSES | {"train": "pictures/00.png"}, None, "invalid start byte at byte 0; allowed: a text file in UTF-8"),
    # files: (name, what is replaced, by what)
    "an empty file": (CLASSES, ("train.csv", None, ""), f"{HERE}, line 1: no header; allowed: the names of the columns, 'path' among them"),
    "a header alone": (CLASSES, ("train.csv", None, COLUMNS), f"{HERE}: a header and no picture; allowed: a line per picture"),
    "no header": (CLASSES, ("train.csv", COLUMNS, ""), f"{HERE}, line 1: no column 'path'"),
    "cells between semicolons": (CLASSES, ("train.csv", COLUMNS, COLUMNS.replace(",", ";")), "no column 'path'; the columns: 'path;kind;age"),
    "a column of the name twice": (CLASSES, ("train.csv", "age", "kind"), f"{HERE}, line 1: 2 columns 'kind'"),
    "a column missing in one": (VALUES, ("test.csv", "height", "size"), f"{THERE}, line 1: no column 'height'"),
    "an open quote": (CLASSES, ("train.csv", ",dog", ',"dog'), f"{HERE}, line "),
    "Latin-1": (CLASSES, ("train.csv", "dog", b"d\xf6g"), "allowed: a text file in UTF-8"),
    # cells
    "a cell too few": (CLASSES, ("train.csv", "01.png,cat,", "01.png,"), f"{HERE}, line 3: 6 cells, from 'pictures/01.png' on; allowed: 7, as in the header"),
    "a cell too many": (VALUES, ("test.csv", "25.png,cat,45,", "25.png,cat,45,1,"), f"{THERE}, line 3: 8 cells"),
    "a comma in a number": (VALUES, ("train.csv", ",1.51,", ",1,51,"), f"{HERE}, line 3: 8 cells"),
    "an empty path": (CLASSES, ("train.csv", "pictures/02.png", ""), f"{HERE}, line 4, column 'path': ''; allowed: the path of a picture"),
    "a picture that is not there": (CLASSES, ("train.csv", "/03.png", "/99.png"), f"{HERE}, line 5, column 'path': no picture 'ROOT/pictures/99.png'; allowed: paths relative to 'ROOT', or absolute ones"),
    "pictures that are not there": (CLASSES, ("test.csv", "pictures", "images"), f"{THERE}, line 2, column 'path': no picture 'ROOT/images/24.png', the first of 6 such;"),
    "a folder as picture": (CLASSES, ("train.csv", "pictures/00.png", "pictures"), "no picture 'ROOT/pictures';"),
    "two lines in a path": (CLASSES, ("train.csv", "pictures/00.png", '"a\nb.png"'), "no picture 'ROOT/a\\nb.png';"),
    "a word as value": (VALUES, ("train.csv", "cat,21,", "cat,young,"), f"{HERE}, line 3, column 'age': 'young'; allowed: a finite number"),
    "no value": (VALUES, ("train.csv", "cat,21,", "cat,,"), f"{HERE}, line 3, column 'age': ''; allowed: a finite number"),
    "a value that is no number": (VALUES, ("test.csv", ",1.75,", ",nan,"), f"{THERE}, line 3, column 'height': 'nan'; allowed: a finite number"),
    "an infinite value": (VALUES, ("train.csv", ",1.51,", ",-inf,"), "column 'height': '-inf'; allowed: a finite number"),
    "a value beyond 32 bits": (VALUES, ("train.csv", ",1.51,", ",1e39,"), "column 'height': '1e39'; allowed: a finite number"),
    "a value of Python's": (VALUES, ("train.csv", ",1.51,", ",1_51,"), "column 'height': '1_51'; allowed: a finite number"),
    "a label of 2": (LABELS, ("train.csv", "1.51,1,", "1.51,2,"), f"{HERE}, line 3, column 'smiles': '2'; allowed: 0 or 1"),
    "a label of -1": (LABELS, ("test.csv", "1.75,1,", "1.75,-1,"), f"{THERE}, line 3, column 'smiles': '-1'; allowed: 0 or 1"),
    "a label in words": (LABELS, ("train.csv", "1.51,1,", "1.51,yes,"), "column 'smiles': 'yes'; allowed: 0 or 1"),
    "an empty label": (LABELS, ("train.csv", "1.51,1,", "1.51,,"), "column 'smiles': ''; allowed: 0 or 1"),
    "an unknown class": (CLASSES, ("test.csv", "25.png,cat", "25.png,catt"), f"{THERE}, line 3, column 'kind': 'catt'; allowed: the classes of {HERE}. Did you mean 'cat'?"),
    "no class": (CLASSES, ("train.csv", "01.png,cat", "01.png,"), f"{HERE}, line 3, column 'kind': ''; allowed: a class"),
    "no class in the test": (CLASSES, ("test.csv", "25.png,cat", "25.png, "), f"{THERE}, line 3, column 'kind': ''; allowed: a class"),
    "one class": (CLASSES, ("train.csv", re.compile("dog|cat|emu"), "dog"), f"{HERE}, column 'kind': 'dog' in every line; allowed: two classes or more"),
    "an unknown label": (TAGS, ("test.csv", "glasses", "glases"), "column 'tags': 'glases; hat'; allowed: labels of"),
    "one name of a label": (TAGS, ("train.csv", re.compile("red scarf|glasses"), "hat"), f"{HERE}, column 'tags': 'hat' alone; allowed: two labels or more"),
    "no name of a label": (TAGS, ("train.csv", re.compile("(hat|red scarf|glasses)(; ?)?"), ""), f"{HERE}, column 'tags': "),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_wrong_is_said_in_one_line(people, mutation):
    arguments, change, said = MUTATIONS[mutation]
    if change is not None:
        name, old, new = change
        text = (people / name).read_bytes()
        if old is None:
            changed = new.encode()
        elif isinstance(old, re.Pattern):
            head, _, rest = text.partition(b"\n")
            changed = head + b"\n" + re.sub(old.pattern.encode(), new.encode(), rest)
        else:
            changed = text.replace(old.encode(), new if isinstance(new, bytes) else new.encode())
        assert changed != text, "the mutation changes nothing"
        (people / name).write_bytes(changed)
    with pytest.raises((UserError, ValueError)) as error:
        data.csv(**{"root": str(people), **arguments})
    assert type(error.value) in (UserError, ValueError)
    assert "\n" not in str(error.value)
    assert said in str(error.value).replace(str(people), "ROOT")


def test_what_is_right_is_refused_by_none_of_these(people):
    for arguments in (CLASSES, VALUES, LABELS, TAGS):
        assert len(data.csv(root=str(people), **arguments).train) == N_TRAIN


def test_a_task_that_learns_something_else_is_refused(people):
    for arguments, task, said in (
        (CLASSES, "Regression", "an int as values; allowed: a tensor of torch.float32 of shape (3,)"),
        (VALUES, "Classification", "targets that are no classes"),
        (VALUES, "MultiLabel", "labels that are neither 0 nor 1; allowed: those"),
    ):
        with pytest.raises(UserError) as error:
            make_images("nni_proxyless.data:csv", {"root": str(people), "image_size": 16, **arguments}, {"name": f"nni_proxyless.tasks:{task}", "arguments": {}})  # fmt: skip
        assert said in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named(people, workers):
    (people / "pictures" / "25.png").write_bytes(b"no picture")
    for arguments in (VALUES, CLASSES):
        images = data.csv(root=str(people), image_size=16, **arguments)
        with pytest.raises(UserError, match=r"data: the picture '.*pictures/25.png' cannot be read") as error:
            list(loader(images.test, 2, workers=workers))
        assert "Traceback" not in str(error.value)


def test_pictures_that_stand_twice_are_counted(people, caplog):
    text = (people / "train.csv").read_text()
    (people / "train.csv").write_text(text + line_of(3) + line_of(4).replace("pictures/", "pictures/../pictures/"))
    (people / "test.csv").write_text((people / "test.csv").read_text() + line_of(7))
    with caplog.at_level(logging.WARNING, logger="nni_proxyless"):
        images = data.csv(root=str(people), classes="kind", image_size=16)
    assert len(images.train) == N_TRAIN + 2
    assert [record.getMessage().replace(str(people), "ROOT") for record in caplog.records] == [
        f"{HERE}: 2 pictures more than once, the first: ROOT/pictures/03.png",
        f"{THERE}: 1 pictures of the training images too, so the test says too much; the first: ROOT/pictures/07.png",
    ]


# -- configuration and page ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["csv", "masks", "torchvision"])
def test_arguments_are_known_without_an_import(name):
    """As ``check`` and the reference read them, and as an import says."""
    read = read_signature("nni_proxyless.data", name)
    assert read is not None
    imported = parameter_types(getattr(data, name))
    assert imported.pop("return") is ImageData
    assert read.types == imported


def blocks(page: Path) -> dict[str, str]:
    """The files of a page by the names in their first lines."""
    found = re.findall(r"```yaml\n# (\S+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return dict(found)


@pytest.mark.parametrize("name", ["ages.yml", "kinds.yml", "tags.yml"])
def test_the_files_of_the_page_fit_these_pictures(people, pytestconfig, name):
    config = yaml.safe_load(blocks(pytestconfig.rootpath / "docs" / "how-to" / "your_data.md")[name])
    own = {key: value for key, value in config["data"].items() if key not in ("name", "batch_size", "workers")}
    task = config.get("task", {"name": "classification"})["name"]
    cls = {"classification": "Classification", "regression": "Regression", "multi-label": "MultiLabel"}
    assert config["data"]["name"] == "csv"
    images = make_images(
        "nni_proxyless.data:csv", own | {"root": str(people)}, {"name": f"nni_proxyless.tasks:{cls[task]}", "arguments": {}}
    )  # fmt: skip
    assert images.num_classes == {"ages.yml": 2, "kinds.yml": 3, "tags.yml": 3}[name]


def test_the_error_of_the_page_is_what_is_said(people, pytestconfig, monkeypatch):
    monkeypatch.chdir(people.parent)
    text = (people / "train.csv").read_text()
    (people / "train.csv").write_text(text.replace("cat,21,", "cat,young,"))
    with pytest.raises(UserError) as error:
        data.csv(root=people.name, values=["age"])
    page = (pytestconfig.rootpath / "docs" / "how-to" / "your_data.md").read_text(encoding="utf-8")
    said = str(error.value).replace(people.name, "people")
    assert f"    nni-proxyless: {said}\n" in page
