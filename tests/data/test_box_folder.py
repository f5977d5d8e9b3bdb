"""Pictures with boxes: both go through the same geometry, and what does not fit is refused with its file and entry."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from nni_proxyless import data
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.fingerprint import fingerprint
from nni_proxyless.data.image_parts import loader, split
from nni_proxyless.data.normalization import IMAGENET
from nni_proxyless.data.validate import make_images
from nni_proxyless.training.batches import EpochBatches, training_loader
from nni_proxyless.training.distributed import Processes

DETECTION = {"name": "nni_proxyless.tasks:Detection", "arguments": {}}
WIDTH, HEIGHT, SIDE = 60, 48, 32
IDS = [3, 40, 7]  # as they stand in the file; classes are numbered in ascending order
COLORS = {3: (230, 20, 20), 7: (20, 230, 20), 40: (20, 20, 230)}
BACKGROUND = (20, 20, 20)


def boxes_in(i: int) -> list[tuple[int, list[int]]]:
    """Category and box, x, y, width, height, of each rectangle of a picture; the last of three has none."""
    if i % 3 == 2:
        return []
    return [(IDS[i % 3], [4 + i, 6, 20, 16]), (IDS[(i + 1) % 3], [32, 24 + i, 24, 12]), (40, [0, 30, 10, 18])]


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """Pictures whose colors say where boxes are and of what category: COCO's format, as other tools write it."""
    for part, n in (("train", 6), ("val", 3)):
        (tmp_path / part).mkdir()
        images, annotations = [], []
        for i in range(n):
            pixels = np.full((HEIGHT, WIDTH, 3), BACKGROUND, dtype=np.uint8)
            for category, (x, y, width, height) in boxes_in(i):
                pixels[y : y + height, x : x + width] = COLORS[category]
                annotations.append({"id": len(annotations), "image_id": 100 + i, "category_id": category, "bbox": [x, y, float(width), height], "area": 1, "iscrowd": 0, "segmentation": []})  # fmt: skip
            Image.fromarray(pixels).save(tmp_path / part / f"{i}.png")
            images.append({"id": 100 + i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT, "license": 1})
        categories = [{"id": one, "name": f"kind {one}", "supercategory": "toy"} for one in IDS]
        write(tmp_path, part, {"info": {}, "images": images, "annotations": annotations, "categories": categories})
    return tmp_path


def write(root: Path, part: str, content: Any) -> None:
    (root / f"{part}.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def read(root: Path, part: str) -> Any:
    return json.loads((root / f"{part}.json").read_text())


def made(toys: Path, **arguments: Any) -> data.ImageData:
    return data.boxes(**{"root": str(toys), "image_size": SIDE, "max_boxes": 5, **arguments})


def checked(toys: Path, **arguments: Any) -> data.ImageData:
    """As a search has them."""
    given = {"root": str(toys), "image_size": SIDE, "max_boxes": 5, **arguments}
    return make_images("nni_proxyless.data:boxes", given, DETECTION)


def rows_of(target: Tensor) -> Tensor:
    there = target[:, 0] >= 0
    assert torch.equal(target[~there], torch.tensor([-1.0, 0, 0, 0, 0]).expand(int((~there).sum()), 5))
    return target[there]


def test_what_is_given(toys):
    images = checked(toys)
    assert (len(images.train), len(images.train_plain), len(images.test), images.num_classes) == (6, 6, 3, 3)
    assert images.shape == (3, SIDE, SIDE)
    assert images.normalization == {"mean": list(IMAGENET[0]), "std": list(IMAGENET[1])}
    for part in (images.train, images.train_plain, images.test):
        for index in range(len(part)):
            image, target = part[index]
            assert (type(image), image.dtype, image.shape) == (Tensor, torch.float32, (3, SIDE, SIDE))
            assert (type(target), target.dtype, target.shape) == (Tensor, torch.float32, (5, 5))
    assert all(torch.equal(target, images.train_plain[i][1]) for i, target in enumerate(images.targets))
    assert split(images, alphas=0.34, validation=0.34)
    found = fingerprint(images)
    assert found == fingerprint(images)
    assert found["pixels"] is not None
    content = read(toys, "train")
    content["annotations"][3]["bbox"][0] += 1
    write(toys, "train", content)
    assert fingerprint(checked(toys))["labels"] != found["labels"], "all boxes count"


def test_classes_are_the_categories_by_their_ids_and_boxes_are_those_of_the_square(toys):
    images = made(toys)
    target = rows_of(images.train_plain[1][1])
    assert target[:, 0].tolist() == [2, 1, 2], "of 40, 7, 40 among 3, 7, 40"
    x, y = SIDE / WIDTH, SIDE / HEIGHT
    expected = [[5 * x, 6 * y, 25 * x, 22 * y], [32 * x, 25 * y, 56 * x, 37 * y], [0, 30 * y, 10 * x, 32]]
    assert torch.allclose(target[:, 1:], torch.tensor(expected))
    assert not len(rows_of(images.train_plain[2][1])), "a picture without a box is kept"


def by_color(image: Tensor, target: Tensor) -> int:
    """How many boxes there are; each is of the color of its class inside, and no such pixel is beyond it."""
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in IMAGENET)
    pixels = (image * deviation + mean) * 255
    rows = rows_of(target)
    covered = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for number, *box in rows.tolist():
        x1, y1, x2, y2 = (round(edge) for edge in box)
        inside = pixels[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].flatten(1)
        if inside.numel():
            assert int(inside.mean(dim=1).argmax()) == int(number)
            assert float(inside[int(number)].min()) > 130
        covered[max(0, y1 - 1) : y2 + 1, max(0, x1 - 1) : x2 + 1] = True
    bright = pixels.amax(dim=0) > 120
    assert not (bright & ~covered).any()
    return len(rows)


def test_a_box_is_where_its_pixels_are_in_evaluation(toys):
    images = made(toys)
    for part in (images.train_plain, images.test):
        assert [by_color(*part[i]) for i in range(3)] == [3, 3, 0]


def test_picture_and_boxes_are_cut_and_mirrored_alike(toys, monkeypatch):
    """Without color jitter, which would change the color that says the class. Of one box, since a cut leaves pixels of a box whose center it has lost."""
    monkeypatch.setattr("torchvision.transforms.v2.ColorJitter.forward", lambda self, image: image)
    content = read(toys, "train")
    for i in range(6):
        pixels = np.full((HEIGHT, WIDTH, 3), BACKGROUND, dtype=np.uint8)
        pixels[10:40, 8:28] = COLORS[3]
        Image.fromarray(pixels).save(toys / "train" / f"{i}.png")
    content["annotations"] = [{"image_id": 100 + i, "category_id": 3, "bbox": [8, 10, 20, 30]} for i in range(6)]
    write(toys, "train", content)
    images = made(toys)
    plain = images.train_plain[0][1]
    torch.manual_seed(0)
    mirrored = cut = 0
    for _ in range(80):
        image, target = images.train[0]
        assert by_color(image, target) == 1, "a cut keeps the center of a box"
        mirrored += float(target[0, 1] + target[0, 3]) > SIDE
        cut += not torch.equal(target, plain)
    assert 15 < mirrored < 65
    assert cut > 50


def test_augmented_boxes_are_sound(toys):
    images = checked(toys, max_boxes=3)
    torch.manual_seed(0)
    counts = {len(rows_of(images.train[i][1])) for _ in range(30) for i in range(6)}
    assert counts == {0, 1, 2, 3}, "checked as they are read"


def test_a_box_at_the_edge_stays_whatever_the_sides_are(toys, monkeypatch):
    """224 / 416 * 416 is more than 224 in 32 bits."""
    monkeypatch.setattr("torchvision.transforms.v2.RandomIoUCrop.forward", lambda self, *given: given)
    content = read(toys, "train")
    Image.fromarray(np.zeros((416, 416, 3), dtype=np.uint8)).save(toys / "train" / "0.png")
    content["images"][0].update(width=416, height=416)
    others = [one for one in content["annotations"] if one["image_id"] != 100]
    content["annotations"] = [*others, {"image_id": 100, "category_id": 3, "bbox": [0, 100, 416, 316]}]
    write(toys, "train", content)
    images = made(toys, image_size=224)
    for _ in range(8):
        (row,) = rows_of(images.train[0][1])
        assert row[1:].tolist() == pytest.approx([0, 100 * 224 / 416, 224, 224])


def test_colors_are_jittered_in_training_alone(toys):
    images = made(toys)
    torch.manual_seed(0)
    assert len({float(images.train[2][0][0, 5, 5]) for _ in range(8)}) > 4
    assert len({float(images.train_plain[2][0][0, 5, 5]) for _ in range(8)}) == 1


def test_loader_processes_change_nothing(toys):
    images = made(toys)
    batches = EpochBatches(6, 2, 3, Processes(0, 1, torch.device("cpu")))
    for load in (
        lambda workers: loader(images.test, 2, workers=workers),
        lambda workers: training_loader(images.train, batches, workers),
    ):
        alone, by_two = list(load(0)), list(load(2))
        assert len(alone) == len(by_two) > 1
        for one, other in zip(alone, by_two, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_crowds_are_left_out_and_what_tools_round_is_cut(toys, caplog):
    content = read(toys, "train")
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["bbox"] = [50.5, -0.4, 10.2, 20]
    del content["annotations"][2]["iscrowd"], content["annotations"][2]["id"]
    content["categories"].append({"id": 90, "name": "never seen"})
    write(toys, "train", content)
    write(toys, "val", read(toys, "val") | {"categories": content["categories"]})
    with caplog.at_level(logging.INFO, logger="nni_proxyless"):
        images = made(toys)
    assert images.num_classes == 4
    first = rows_of(images.train_plain[0][1])
    assert len(first) == 2
    assert torch.allclose(first[0], torch.tensor([2, 50.5 * SIDE / WIDTH, 0, SIDE, 19.6 * SIDE / HEIGHT]))
    said = [record.getMessage().replace(str(toys), "ROOT") for record in caplog.records]
    assert said == [
        "data.train_annotations: 'ROOT/train.json': 1 boxes of crowds left out",
        "data.train_annotations: 'ROOT/train.json': no box of 1 of 4 categories, the first: never seen",
        "data.val_annotations: 'ROOT/val.json': no box of 1 of 4 categories, the first: never seen",
    ]


def test_boxes_without_width_or_height_are_left_out_and_counted(toys, caplog):
    """COCO's own training file has two."""
    content = read(toys, "train")
    content["annotations"][0]["bbox"][3] = 0.0
    content["annotations"][1].update(iscrowd=1, bbox=[])
    write(toys, "train", content)
    with caplog.at_level(logging.INFO, logger="nni_proxyless"):
        images = made(toys)
    assert len(rows_of(images.train_plain[0][1])) == 1
    said = [record.getMessage().replace(str(toys), "ROOT") for record in caplog.records]
    assert said == [
        "data.train_annotations: 'ROOT/train.json': 1 boxes of crowds left out",
        "data.train_annotations: 'ROOT/train.json': 1 boxes without width or height left out",
    ]


def test_other_layouts(toys):
    """Annotations in a folder of their own, as COCO has them; or beside the pictures; pictures in folders below."""
    (toys / "annotations").mkdir()
    (toys / "train.json").rename(toys / "annotations" / "instances_train2017.json")
    (toys / "train").rename(toys / "train2017")
    (toys / "val.json").rename(toys / "val" / "_annotations.coco.json")
    (toys / "train2017" / "below").mkdir()
    (toys / "train2017" / "0.png").rename(toys / "train2017" / "below" / "0.png")
    path = toys / "annotations" / "instances_train2017.json"
    path.write_text("\ufeff" + path.read_text().replace('"0.png"', '"below/0.png"'), encoding="utf-8")
    arguments = {"train": "train2017", "train_annotations": "annotations/instances_train2017.json", "val_annotations": "val/_annotations.coco.json"}  # fmt: skip
    images = made(toys, **arguments)
    assert [by_color(*images.train_plain[i]) for i in range(3)] == [3, 3, 0]


# -- what is refused -----------------------------------------------------------------------------------------------


def changed(part: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Write what ``change`` makes of the content of a file of annotations; None: what it has changed in it."""

    def apply(root: Path) -> None:
        content = read(root, part)
        result = change(content)
        write(root, part, content if result is None else result)

    return apply


def with_key(kind: str, index: int, **values: Any) -> Callable[[Path], None]:
    return changed("train", lambda content: content[kind][index].update(values))


def without_key(kind: str, index: int, key: str) -> Callable[[Path], None]:
    return changed("train", lambda content: content[kind][index].pop(key) and None)


def box(*numbers: Any) -> Callable[[Path], None]:
    return with_key("annotations", 1, bbox=list(numbers))


def text(part: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: write(root, part, (root / f"{part}.json").read_text().replace(old, new, 1))


def turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "val" / "0.png").save(root / "val" / "0.png", exif=exif)


def resized(root: Path) -> None:
    Image.open(root / "train" / "0.png").resize((48, 60)).save(root / "train" / "0.png")


TRAIN = "data.train_annotations: 'ROOT/train.json'"
LISTS = "allowed: images, annotations and categories, a list each"
MUTATIONS: dict[str, tuple[dict, Callable | None, str]] = {
    "no size": ({"image_size": 0}, None, "image_size is 0; allowed: a whole number, 8 or more"),
    "half a size": ({"image_size": 32.5}, None, "image_size is 32.5; allowed: a whole number"),
    "yes as size": ({"image_size": True}, None, "image_size is True; allowed: a whole number"),
    "no boxes allowed": ({"max_boxes": 0}, None, "max_boxes is 0; allowed: a whole number, 1 or more"),
    "one file for both": ({"val_annotations": "train.json"}, None, "'train.json' is for train and for val; allowed: a file of each"),
    "no home": ({"root": "~nobody-at-all"}, None, "data.root: '~nobody-at-all' is not allowed here"),
    "another folder": ({"root": "/nowhere"}, None, "data.train_annotations: '/nowhere/train.json': No such file or directory"),
    "no file of train": ({}, lambda root: (root / "train.json").unlink(), f"{TRAIN}: No such file or directory"),
    "no file of val": ({}, lambda root: (root / "val.json").unlink(), "data.val_annotations: 'ROOT/val.json': No such file or directory"),
    "a folder as file": ({"train_annotations": "train"}, None, "data.train_annotations: 'ROOT/train': Is a directory"),
    "another folder of pictures": ({"train": "training", "train_annotations": "train.json"}, None, f"{TRAIN}, images[0]: file_name '0.png': 'ROOT/training': No such file or directory"),
    "an empty file": ({}, changed("train", lambda _: ""), f"{TRAIN}: is no JSON that could be read: Expecting value"),
    "a file cut off": ({}, lambda root: write(root, "train", (root / "train.json").read_text()[:300]), f"{TRAIN}: is no JSON that could be read: "),
    "a picture as file": ({"train_annotations": "train/0.png"}, None, "data.train_annotations: 'ROOT/train/0.png': is no JSON that could be read: 'utf-8' codec"),
    "nested without end": ({}, changed("train", lambda _: "[" * 200_000), f"{TRAIN}: is no JSON that could be read: nested too deeply"),
    "a list as file": ({}, changed("train", lambda content: content["annotations"]), f"{TRAIN}: a list; allowed: an object with images, annotations and categories"),
    "null as file": ({}, changed("train", lambda _: "null"), f"{TRAIN}: None; allowed: an object"),
    "no images": ({}, changed("train", lambda content: content.pop("images") and None), f"{TRAIN}: no key 'images'; {LISTS}"),
    "no annotations": ({}, changed("train", lambda content: content.pop("annotations") and None), f"{TRAIN}: no key 'annotations'; {LISTS}"),
    "no categories": ({}, changed("train", lambda content: content.pop("categories") and None), f"{TRAIN}: no key 'categories'; {LISTS}"),
    "images by name": ({}, changed("train", lambda content: content.update(images={"0.png": {}})), f"{TRAIN}: images is an object; {LISTS}"),
    "images empty": ({}, changed("train", lambda content: content.update(images=[])), f"{TRAIN}: images is empty; allowed: one or more"),
    "categories empty": ({}, changed("train", lambda content: content.update(categories=[])), f"{TRAIN}: categories is empty; allowed: one or more"),
    "no box at all": ({}, changed("train", lambda content: content.update(annotations=[])), f"{TRAIN}: no box in any picture; allowed: one or more annotations without iscrowd"),
    "crowds alone": ({}, changed("val", lambda content: [one.update(iscrowd=1) for one in content["annotations"]] and None), "data.val_annotations: 'ROOT/val.json': no box in any picture"),
    "a name as image": ({}, changed("train", lambda content: content["images"].insert(2, "2.png")), f"{TRAIN}, images[2]: text; allowed: an object"),
    "an image without id": ({}, without_key("images", 1, "id"), f"{TRAIN}, images[1]: no key 'id'; allowed: a whole number or text"),
    "an image without name": ({}, without_key("images", 1, "file_name"), f"{TRAIN}, images[1]: no key 'file_name'; allowed: text"),
    "an image without width": ({}, without_key("images", 1, "width"), f"{TRAIN}, images[1]: no key 'width'; allowed: a whole number"),
    "a list as id": ({}, with_key("images", 1, id=[1]), f"{TRAIN}, images[1]: id [1]; allowed: a whole number or text"),
    "an id twice": ({}, with_key("images", 1, id=100), f"{TRAIN}, images[1]: id 100 is there already; allowed: one entry of an id"),
    "a picture twice": ({}, with_key("images", 1, file_name="./0.png"), f"{TRAIN}, images[1]: file_name './0.png' is there already; allowed: one entry of a picture"),
    "a number as name": ({}, with_key("images", 1, file_name=1), f"{TRAIN}, images[1]: file_name 1; allowed: text"),
    "no picture of a name": ({}, with_key("images", 1, file_name="9.png"), f"{TRAIN}, images[1]: file_name '9.png'; there is no 'ROOT/train/9.png'"),
    "a picture outside": ({}, with_key("images", 1, file_name="../val/1.png"), f"{TRAIN}, images[1]: file_name '../val/1.png'; allowed: a path inside of 'ROOT/train'"),
    "a picture outside, on a detour": ({}, with_key("images", 1, file_name="a/../../val/1.png"), "images[1]: file_name 'a/../../val/1.png'; allowed: a path inside of"),
    "an absolute path": ({}, with_key("images", 1, file_name="/etc/passwd"), "images[1]: file_name '/etc/passwd'; allowed: a path inside of"),
    "an empty name": ({}, with_key("images", 1, file_name=""), "images[1]: file_name ''; allowed: a path inside of"),
    "a name that ends": ({}, with_key("images", 1, file_name="1.png\0"), "images[1]: file_name '1.png\\x00'; allowed: a path inside of"),
    "a folder that is none": ({}, with_key("images", 1, file_name="a/1.png"), "images[1]: file_name 'a/1.png': 'ROOT/train/a': No such file or directory"),
    "no width": ({}, with_key("images", 1, width=0), f"{TRAIN}, images[1]: width 0; allowed: 1 or more"),
    "a height as text": ({}, with_key("images", 1, height="48"), f"{TRAIN}, images[1]: height '48'; allowed: a whole number"),
    "a huge height": ({}, with_key("images", 1, height=10**400), f"{TRAIN}, images[1]: height 1000000"),
    "a number as annotation": ({}, changed("train", lambda content: content["annotations"].insert(1, 5)), f"{TRAIN}, annotations[1]: a whole number; allowed: an object"),
    "an annotation of no image": ({}, with_key("annotations", 1, image_id=7), f"{TRAIN}, annotations[1]: image_id 7; allowed: the id of an entry of images"),
    "an annotation without image": ({}, without_key("annotations", 1, "image_id"), f"{TRAIN}, annotations[1]: no key 'image_id'"),
    "an annotation without category": ({}, without_key("annotations", 1, "category_id"), f"{TRAIN}, annotations[1]: no key 'category_id'; allowed: a whole number"),
    "an annotation without box": ({}, without_key("annotations", 1, "bbox"), f"{TRAIN}, annotations[1]: no key 'bbox'; allowed: a list"),
    "an unknown category": ({}, with_key("annotations", 1, category_id=4), f"{TRAIN}, annotations[1]: category_id 4; allowed: 3, 7, 40, the ids of categories"),
    "a category by its name": ({}, with_key("annotations", 1, category_id="kind 3"), f"{TRAIN}, annotations[1]: category_id 'kind 3'; allowed: a whole number"),
    "a crowd of two": ({}, with_key("annotations", 1, iscrowd=2), f"{TRAIN}, annotations[1]: iscrowd 2; allowed: 0 or 1"),
    "a box of three": ({}, box(1, 2, 3), f"{TRAIN}, annotations[1]: bbox [1, 2, 3]; allowed: four finite numbers, x and y of its left upper corner, width and height"),
    "a box of five": ({}, box(1, 2, 3, 4, 5), "annotations[1]: bbox [1, 2, 3, 4, 5]; allowed: four finite numbers"),
    "a box of text": ({}, box(1, 2, "3", 4), "annotations[1]: bbox [1, 2, '3', 4]; allowed: four finite numbers"),
    "a box of truth": ({}, box(1, 2, True, 4), "annotations[1]: bbox [1, 2, True, 4]; allowed: four finite numbers"),
    "a box by name": ({}, with_key("annotations", 1, bbox={"x": 1}), "annotations[1]: bbox {'x': 1}; allowed: a list"),
    "a box that is no number": ({}, text("train", "[4, 6, 20.0, 16]", "[4, NaN, 20, 16]"), f"{TRAIN}, annotations[0]: bbox [4, nan, 20, 16]; allowed: four finite numbers"),
    "an infinite box": ({}, text("train", "[4, 6, 20.0, 16]", "[4, 6, 1e999, 16]"), "annotations[0]: bbox [4, 6, inf, 16]; allowed: four finite numbers"),
    "a box without end": ({}, box(1, 2, 10**400, 4), "; allowed: four finite numbers"),
    "a box of less than no width": ({}, box(5, 5, -1, 4), f"{TRAIN}, annotations[1]: bbox [5, 5, -1, 4] has no area; allowed: a width and a height above 0"),
    "boxes without width alone": ({}, changed("train", lambda content: [one.update(bbox=[5, 5, 0, 4]) for one in content["annotations"]] and None), f"{TRAIN}: no box in any picture"),
    "a box of corners": ({}, box(30, 20, 10, -4), "annotations[1]: bbox [30, 20, 10, -4] has no area; allowed: a width and a height above 0"),
    "a box beyond the right": ({}, box(50, 5, 12, 4), f"{TRAIN}, annotations[1]: bbox [50, 5, 12, 4] reaches outside; allowed in a picture of 60x48: boxes inside of it"),
    "a box beyond the top": ({}, box(5, -2, 12, 14), "annotations[1]: bbox [5, -2, 12, 14] reaches outside"),
    "a box at the edge": ({}, box(60, 5, 1, 4), "annotations[1]: bbox [60, 5, 1, 4] has no area; allowed in a picture of 60x48: one inside of it"),
    "a box as thin as nothing": ({}, box(50, 5, 1e-9, 4), "annotations[1]: bbox [50, 5, 1e-09, 4] has no area"),
    "too many boxes": ({"max_boxes": 2}, None, f"{TRAIN}: the picture 'ROOT/train/0.png' has 3 boxes; allowed with max_boxes 2: up to that many"),
    "too many boxes, and a number": ({"max_boxes": 2}, changed("train", lambda content: content["annotations"].append(5)), "has 3 boxes; allowed with max_boxes 2: up to that many"),
    "a category twice": ({}, with_key("categories", 1, id=3), f"{TRAIN}, categories[1]: id 3 is there already; allowed: one entry of an id"),
    "a category without name": ({}, without_key("categories", 1, "name"), f"{TRAIN}, categories[1]: no key 'name'; allowed: text"),
    "a category of another id": ({}, with_key("categories", 0, id=5), "annotations[0]: category_id 3; allowed: 5, 7, 40"),
    "a category more": ({}, changed("val", lambda content: content["categories"].append({"id": 9, "name": "new"})), f"data.val_annotations: 'ROOT/val.json' has category 9 as 'new', {TRAIN} has no category 9; allowed: the same categories in both"),
    "a category less": ({}, changed("train", lambda content: content["categories"].append({"id": 9, "name": "new"})), f"'ROOT/val.json' has no category 9, {TRAIN} has category 9 as 'new'"),
    "a category of another name": ({}, with_key("categories", 0, name="other"), f"'ROOT/val.json' has category 3 as 'kind 3', {TRAIN} has category 3 as 'other'"),
    "a picture of another size": ({}, resized, f"data: the picture 'ROOT/train/0.png' has 48x60 pixels, where {TRAIN} says 60x48; allowed: the same"),
    "a turned picture": ({}, turned, "data: the picture 'ROOT/val/0.png' has the orientation 6 in its EXIF data, by which picture and boxes would be turned apart"),
    "a damaged picture": ({}, lambda root: (root / "train" / "3.png").write_bytes(b"no picture"), "data: the picture 'ROOT/train/3.png' cannot be read: "),
    "no picture at all": ({}, lambda root: shutil.rmtree(root / "val"), "data.val_annotations: 'ROOT/val.json', images[0]: file_name '0.png': 'ROOT/val': No such file or directory"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_wrong_is_said_in_one_line(toys, mutation):
    arguments, change, said = MUTATIONS[mutation]
    if change is not None:
        change(toys)
    with pytest.raises((UserError, ValueError)) as error:
        made(toys, **arguments)
    assert type(error.value) in (UserError, ValueError)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + 3 * len(str(toys))
    assert said in str(error.value).replace(str(toys), "ROOT")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_seen_only_when_it_is_read(toys, workers):
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(toys / "train" / "1.png")
    images, said = made(toys), ""
    try:
        list(loader(images.train_plain, 2, workers=workers))
    except UserError as error:
        said = str(error).replace(str(toys), "ROOT")
        error.__traceback__ = None  # it holds the loader, whose processes wait five seconds where it is collected
    assert said == f"data: the picture 'ROOT/train/1.png' has 60x49 pixels, where {TRAIN} says 60x48; allowed: the same"


def test_augmentation_by_timm_is_not_offered(toys):
    """It would turn the picture alone."""
    assert made(toys).through is None


def test_the_file_of_the_page_fits_these_pictures(toys, pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "how-to" / "your_data.md").read_text(encoding="utf-8")
    config = yaml.safe_load(re.search(r"```yaml\n# boxes.yml\n(.*?)```", page, re.DOTALL)[1])
    assert (config["data"]["name"], config["task"]["name"]) == ("boxes", "detection")
    arguments = {key: value for key, value in config["data"].items() if key not in ("name", "batch_size", "workers")}
    images = make_images("nni_proxyless.data:boxes", arguments | {"root": str(toys)}, DETECTION)
    assert images.num_classes == 3
