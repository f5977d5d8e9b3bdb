"""Files of annotations as COCO has them: which pictures there are, how large they are, and the boxes in each.

    train.json -> images, categories, annotations, every entry looked at -> paths, sizes, boxes

https://cocodataset.org/#format-data, object detection. Other keys than those below are left aside.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError, on_one_line, shown

__all__ = ["Annotated", "read_annotations"]

_logger = logging.getLogger(__name__)

LARGEST = 2**20  # pixels of a side: what no picture has
SLACK = 1.0  # pixels by which tools that round let a box reach beyond its picture; they are cut off
KINDS = {int: "a whole number", str: "text", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class Annotated:
    """Pictures and the boxes in them.

    Attributes
    ----------
    where
        The file, for people.
    paths
        Of the pictures, in the order of the file.
    sizes
        (width, height) of each, as the file says.
    boxes
        Of each picture, shape (boxes, 5): number of the category from 0 on, then x1, y1, x2, y2 in its pixels; float64.
    categories
        Names, in ascending order of their ids.
    ids
        Of the categories, ascending.
    """

    where: str
    paths: list[str]
    sizes: list[tuple[int, int]]
    boxes: list[np.ndarray]
    categories: list[str]
    ids: list[int]


def read_annotations(key: str, path: Path, folder: Path, max_boxes: int) -> Annotated:
    """Read such a file.

    Parameters
    ----------
    key
        Of the configuration, which names the file.
    folder
        What ``file_name`` is relative to.
    max_boxes
        Of a picture.

    Raises
    ------
    UserError
        The file, a picture or a key is missing, or an entry is not what it has to be. The message names file and entry.
    """
    where = f"{key}: '{path}'"
    content = _content(where, path)
    names = _categories(where, content["categories"])
    ids = sorted(names)
    numbers = {one: number for number, one in enumerate(ids)}
    pictures = _pictures(where, content["images"], folder)
    found: dict[int | str, list[tuple[float, ...]]] = {one: [] for one in pictures}
    n_crowds = n_empty = 0
    for place, entry in _entries(where, "annotations", content["annotations"]):
        picture, category = _value(place, entry, "image_id", int, str), _value(place, entry, "category_id", int)
        if picture not in pictures:
            raise UserError(f"{place}: image_id {shown(picture)}; allowed: the id of an entry of images")
        if category not in numbers:
            raise UserError(f"{place}: category_id {category}; allowed: {_few(ids)}, the ids of categories")
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise UserError(f"{place}: iscrowd {shown(crowd)}; allowed: 0 or 1")
        if crowd:
            n_crowds += 1
            continue
        path_of, size = pictures[picture]
        box = _box(place, _value(place, entry, "bbox", list), size)
        if box is None:
            n_empty += 1
            continue
        found[picture].append((numbers[category], *box))
        if len(found[picture]) > max_boxes:
            n = sum(_is_box_of(picture, one) for one in content["annotations"])
            raise UserError(
                f"{where}: the picture '{path_of}' has {n} boxes; allowed with max_boxes {max_boxes}: up to that many"
            )
    counts = Counter(int(row[0]) for rows in found.values() for row in rows)
    if not counts:
        raise UserError(f"{where}: no box in any picture; allowed: one or more annotations without iscrowd")
    if n_crowds:
        _logger.info("%s: %d boxes of crowds left out", where, n_crowds)
    if n_empty:
        _logger.warning("%s: %d boxes without width or height left out", where, n_empty)
    if without := [one for one in ids if numbers[one] not in counts]:
        _logger.warning("%s: no box of %d of %d categories, the first: %s", where, len(without), len(ids), on_one_line(names[without[0]]))  # fmt: skip
    return Annotated(
        where, [path for path, _ in pictures.values()], [size for _, size in pictures.values()],
        [np.array(rows, dtype=np.float64).reshape(-1, 5) for rows in found.values()], [names[one] for one in ids], ids,
    )  # fmt: skip


def _content(where: str, path: Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"{where}: is no JSON that could be read: nested too deeply") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such
        raise UserError(f"{where}: is no JSON that could be read: {on_one_line(str(error))}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: {_kind(content)}; allowed: an object with images, annotations and categories, as COCO has it"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            is_there = f"{key} is {_kind(content[key])}" if key in content else f"no key '{key}'"
            raise UserError(f"{where}: {is_there}; allowed: images, annotations and categories, a list each")
    return content


def _categories(where: str, entries: list) -> dict[int, str]:
    names: dict[int, str] = {}
    for place, entry in _entries(where, "categories", entries):
        number, name = _value(place, entry, "id", int), _value(place, entry, "name", str)
        if number in names:
            raise UserError(f"{place}: id {number} is there already; allowed: one entry of an id")
        names[number] = name
    if not names:
        raise UserError(f"{where}: categories is empty; allowed: one or more")
    return names


def _pictures(where: str, entries: list, folder: Path) -> dict[int | str, tuple[str, tuple[int, int]]]:
    """Id -> path, and width and height."""
    found: dict[int | str, tuple[str, tuple[int, int]]] = {}
    names: set[str] = set()
    listed: dict[str, set[str]] = {}  # a folder is looked into once: it may be far away
    for place, entry in _entries(where, "images", entries):
        number, name = _value(place, entry, "id", int, str), _value(place, entry, "file_name", str)
        if number in found:
            raise UserError(f"{place}: id {shown(number)} is there already; allowed: one entry of an id")
        normal = os.path.normpath(name)
        if not name or "\0" in name or os.path.isabs(name) or normal.split(os.sep)[0] in ("..", "."):
            raise UserError(f"{place}: file_name {shown(name)}; allowed: a path inside of '{folder}'")
        if normal in names:
            raise UserError(f"{place}: file_name {shown(name)} is there already; allowed: one entry of a picture")
        path = os.path.join(folder, normal)
        inside, alone = os.path.split(path)
        if inside not in listed:
            try:
                listed[inside] = set(os.listdir(inside))
            except OSError as error:
                raise UserError(f"{place}: file_name {shown(name)}: '{inside}': {error.strerror}") from error
        if alone not in listed[inside]:
            raise UserError(f"{place}: file_name {shown(name)}; there is no '{path}'")
        width, height = (_value(place, entry, key, int) for key in ("width", "height"))
        for key, pixels in (("width", width), ("height", height)):
            if not 1 <= pixels <= LARGEST:
                raise UserError(f"{place}: {key} {shown(pixels)}; allowed: 1 or more, the pixels of the picture")
        names.add(normal)
        found[number] = path, (width, height)
    if not found:
        raise UserError(f"{where}: images is empty; allowed: one or more")
    return found


def _is_box_of(picture: int | str, entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("image_id") == picture and not entry.get("iscrowd", 0)


def _box(place: str, given: list, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 of a box that the file has as x, y, width and height; None of one without width or height, of which COCO itself has two."""
    numbers = [float(one) for one in given if _is_number(one)]
    if len(numbers) != 4 or len(given) != 4:
        raise UserError(
            f"{place}: bbox {shown(given)}; allowed: four finite numbers, x and y of its left upper corner, width and height"
        )
    x, y, width, height = numbers
    if width < 0 or height < 0:
        raise UserError(f"{place}: bbox {shown(given)} has no area; allowed: a width and a height above 0")
    if min(x, y) < -SLACK or x + width > size[0] + SLACK or y + height > size[1] + SLACK:
        raise UserError(f"{place}: bbox {shown(given)} reaches outside; allowed in a picture of {size[0]}x{size[1]}: boxes inside of it")  # fmt: skip
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + width, size[0]), min(y + height, size[1])
    if width == 0 or height == 0:
        return None
    if np.float32(x1 / size[0]) >= np.float32(x2 / size[0]) or np.float32(y1 / size[1]) >= np.float32(y2 / size[1]):
        raise UserError(f"{place}: bbox {shown(given)} has no area; allowed in a picture of {size[0]}x{size[1]}: one inside of it")  # fmt: skip
    return x1, y1, float(x2), float(y2)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 10**9 and math.isfinite(value)  # fmt: skip


def _entries(where: str, key: str, entries: list) -> Iterator[tuple[str, dict]]:
    """Each with its place, for people."""
    for index, entry in enumerate(entries):
        place = f"{where}, {key}[{index}]"
        if not isinstance(entry, dict):
            raise UserError(f"{place}: {_kind(entry)}; allowed: an object")
        yield place, entry


def _value(place: str, entry: dict, key: str, *kinds: type) -> Any:
    if key not in entry:
        raise UserError(f"{place}: no key '{key}'; allowed: {' or '.join(KINDS[kind] for kind in kinds)}")
    value = entry[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise UserError(f"{place}: {key} {shown(value)}; allowed: {' or '.join(KINDS[kind] for kind in kinds)}")
    return value


def _kind(value: Any) -> str:
    """A value of JSON, for people."""
    return KINDS.get(type(value), shown(value))


def _few(values: list[int]) -> str:
    return ", ".join(map(str, values)) if len(values) <= 10 else f"{', '.join(map(str, values[:9]))}, …, {values[-1]}"
