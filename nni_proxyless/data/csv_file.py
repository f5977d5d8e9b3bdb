"""Pictures that a CSV file lists, with a class, with numbers, or with labels each.

train.csv, test.csv -> table: paths, lines, cells -> targets, every cell looked at -> data sets, pictures read when they are asked for
"""

from __future__ import annotations

import csv as csv_format
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..core.errors import UserError, did_you_mean, on_one_line, shown
from ..core.user_path import user_path
from .image_folder import ImageFolder, Pictures, read_picture
from .image_parts import ImageData
from .target_columns import finite, image_data, in_order, target_columns, zero_or_one

__all__ = ["csv"]

_logger = logging.getLogger(__name__)


def csv(
    *,
    root: str,
    train: str = "train.csv",
    test: str = "test.csv",
    picture: str = "path",
    classes: str | None = None,
    values: list[str] | None = None,
    labels: list[str] | str | None = None,
    image_size: int = 224,
    flip: bool | None = None,
) -> ImageData:
    """Pictures that two CSV files list, one for training and one for the test: UTF-8, cells separated by commas, names of columns in the first line.

    One of ``classes`` (task classification), ``values`` (task regression) and ``labels`` (task multi-label) says what is to be learned. Where it
    is classes or labels, pictures are cropped and flipped in training, and evaluated, as those of ``folder``. A value may change with the crop, the
    scale or the mirroring of a picture: with ``values``, the whole picture is resized to the square in training and in evaluation, with 0.4 of
    color jitter in training and nothing else.

    Parameters
    ----------
    root
        Folder that ``train``, ``test`` and the paths in them are relative to.
    train, test
        The files.
    picture
        Column of the pictures' paths, relative to ``root`` or absolute.
    classes
        Column of the class, a name or a number. Classes are numbered from 0 on in their order, of names by letters, of numbers by size.
    values
        Columns of numbers.
    labels
        Columns of 0 and 1, one per label; or, as text, one column of names separated by ``;``, or by spaces if ``;`` is nowhere in it.
    image_size
        Side of the squares that the network sees.
    flip
        Whether half of the training images are mirrored; None: with classes and labels, not with values.

    Raises
    ------
    UserError
        A file, a column, a cell or a picture is missing or not what it has to be. The message names file, line and column.
    """
    target, columns = target_columns(picture, image_size, classes=classes, values=values, labels=labels)
    base = user_path(root, "data.root")
    tables = [_read(base, part, name, picture, columns) for part, name in (("train", train), ("test", test))]
    by_name = _labels_by_name if isinstance(labels, str) else _labels
    of_train, of_test = {"classes": _classes, "values": _values, "labels": by_name}[target](*tables)
    _say_what_stands_twice(*tables)
    return image_data(of_train, of_test, target=target, image_size=image_size, flip=flip)


# -- the files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """A file whose pictures are all there.

    Attributes
    ----------
    where
        The argument that names it, and its path, for people.
    columns
        Names of the columns of the targets.
    paths, lines, cells
        Of every picture: its path, its line in the file, and what stands in these columns.
    """

    where: str
    columns: list[str]
    paths: list[str]
    lines: list[int]
    cells: list[list[str]]

    def refusal(self, row: int, column: int, allowed: str) -> UserError:
        cell = shown(self.cells[row][column])
        return UserError(f"{self.where}, line {self.lines[row]}, column '{self.columns[column]}': {cell}; allowed: {allowed}")  # fmt: skip


def _read(root: Path, part: str, name: str, picture: str, columns: list[str]) -> _Table:
    path = root / user_path(name, f"data.{part}")
    where = f"data.{part}: '{path}'"
    table = _Table(where, columns, [], [], [])
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv_format.reader(file, strict=True)
            try:
                _fill(table, reader, root, picture)
            except csv_format.Error as error:
                raise UserError(f"{where}, line {reader.line_num}: {error}; allowed: cells separated by commas, quoted by \"") from error  # fmt: skip
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: {error.reason} at byte {error.start}; allowed: a text file in UTF-8") from error
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}; allowed: a CSV file") from error
    if not table.paths:
        raise UserError(f"{where}: a header and no picture; allowed: a line per picture")
    missing = [row for row, one in enumerate(table.paths) if not os.path.isfile(one)]
    if missing:
        row, more = missing[0], f", the first of {len(missing)} such" if len(missing) > 1 else ""
        raise UserError(
            f"{where}, line {table.lines[row]}, column '{picture}': no picture '{on_one_line(table.paths[row])}'{more}; allowed: paths relative to "
            f"'{root}', or absolute ones"
        )
    return table


def _fill(table: _Table, reader: Any, root: Path, picture: str) -> None:
    header = [cell.strip() for cell in next(reader, [])]
    if not any(header):
        raise UserError(f"{table.where}, line 1: no header; allowed: the names of the columns, '{picture}' among them")
    for name in (picture, *table.columns):
        if header.count(name) != 1:
            what = f"no column '{name}'" if name not in header else f"{header.count(name)} columns '{name}'"
            raise UserError(
                f"{table.where}, line 1: {what}; the columns: {', '.join(map(shown, header))}.{did_you_mean(name, header)}"
            )
    at, places = header.index(picture), [header.index(name) for name in table.columns]
    for row in reader:
        if not row:
            continue
        line = reader.line_num
        if len(row) != len(header):
            raise UserError(
                f"{table.where}, line {line}: {len(row)} cells, from {shown(row[0])} on; allowed: {len(header)}, as in the header"
            )
        if not row[at].strip():
            raise UserError(f"{table.where}, line {line}, column '{picture}': {row[at]!r}; allowed: the path of a picture")  # fmt: skip
        table.paths.append(os.path.join(root, row[at].strip()))
        table.lines.append(line)
        table.cells.append([row[place].strip() for place in places])


def _say_what_stands_twice(train: _Table, test: _Table) -> None:
    """One line of the log for each file, and for both: a picture in both is judged by what it has trained."""
    known = [[os.path.normpath(path) for path in table.paths] for table in (train, test)]
    for table, paths in zip((train, test), known, strict=True):
        if twice := [path for path, n in Counter(paths).items() if n > 1]:
            _logger.warning("%s: %d pictures more than once, the first: %s", table.where, len(twice), twice[0])
    in_train = set(known[0])
    if both := [path for path in dict.fromkeys(known[1]) if path in in_train]:
        _logger.warning(
            "%s: %d pictures of the training images too, so the test says too much; the first: %s",
            test.where, len(both), both[0],
        )  # fmt: skip


# -- targets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _OfClasses:
    pictures: Pictures

    @property
    def targets(self) -> Sequence[int]:
        return self.pictures.targets

    @property
    def n_outputs(self) -> int:
        return len(self.pictures.classes)

    def through(self, transform: Callable) -> Dataset:
        return ImageFolder(self.pictures, transform)


@dataclass(frozen=True)
class _OfNumbers:
    """Numbers of every picture, shape (n, numbers), float32."""

    paths: list[str]
    numbers: Tensor

    @property
    def targets(self) -> Sequence[Tensor]:
        return self.numbers.unbind()

    @property
    def n_outputs(self) -> int:
        return self.numbers.shape[1]

    def through(self, transform: Callable) -> Dataset:
        return _PicturesWithNumbers(self, transform)


class _PicturesWithNumbers(Dataset):
    """Pictures through a transform, each with a float32 tensor of shape (numbers,)."""

    def __init__(self, pictures: _OfNumbers, transform: Callable[[Image.Image], Any]):
        self.pictures, self.transform = pictures, transform

    def __len__(self) -> int:
        return len(self.pictures.paths)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return self.transform(read_picture(self.pictures.paths[index])), self.pictures.numbers[index]


def _classes(train: _Table, test: _Table) -> tuple[Any, Any]:
    _no_empty_cell(train, test)
    names = in_order({cells[0] for cells in train.cells})
    if len(names) < 2:
        raise UserError(
            f"{train.where}, column '{train.columns[0]}': {shown(names[0])} in every line; allowed: two classes or more"
        )
    numbers = {name: number for number, name in enumerate(names)}
    for row, (name,) in enumerate(test.cells):
        if name not in numbers:
            raise test.refusal(row, 0, f"the classes of {train.where}.{did_you_mean(name, names)}")

    def of(table: _Table) -> _OfClasses:
        return _OfClasses(Pictures(table.paths, [numbers[name] for (name,) in table.cells], names))

    return of(train), of(test)


def _no_empty_cell(*tables: _Table) -> None:
    for table in tables:
        for row, cells in enumerate(table.cells):
            if not cells[0]:
                raise table.refusal(row, 0, "a class")


def _values(train: _Table, test: _Table) -> tuple[Any, Any]:
    return _numbers(train, finite, "a finite number"), _numbers(test, finite, "a finite number")


def _labels(train: _Table, test: _Table) -> tuple[Any, Any]:
    if len(train.columns) < 2:
        raise UserError(f"data.labels: [{train.columns[0]}]; allowed: two columns or more, or, as text, one of names; one of 0 and 1 is for classes")  # fmt: skip
    return _numbers(train, zero_or_one, "0 or 1"), _numbers(test, zero_or_one, "0 or 1")


def _numbers(table: _Table, number_of: Callable[[str], float | None], allowed: str) -> _OfNumbers:
    rows = []
    for row, cells in enumerate(table.cells):
        numbers = [number_of(cell) for cell in cells]
        if None in numbers:
            raise table.refusal(row, numbers.index(None), allowed)
        rows.append(numbers)
    return _OfNumbers(table.paths, torch.tensor(rows, dtype=torch.float32))


def _labels_by_name(train: _Table, test: _Table) -> tuple[Any, Any]:
    separator = ";" if any(";" in cells[0] for table in (train, test) for cells in table.cells) else None

    def names_in(cell: str) -> list[str]:
        return [name.strip() for name in cell.split(separator) if name.strip()]

    names = sorted({name for (cell,) in train.cells for name in names_in(cell)})
    if len(names) < 2:
        there = f"{shown(names[0])} alone" if names else "no name at all"
        raise UserError(f"{train.where}, column '{train.columns[0]}': {there}; allowed: two labels or more")
    places = {name: place for place, name in enumerate(names)}
    found = []
    for table in (train, test):
        numbers = torch.zeros(len(table.paths), len(names))
        for row, (cell,) in enumerate(table.cells):
            for name in names_in(cell):
                if name not in places:
                    raise table.refusal(
                        row, 0, f"labels of {train.where}, of which {shown(name)} is none.{did_you_mean(name, names)}"
                    )
                numbers[row, places[name]] = 1
        found.append(_OfNumbers(table.paths, numbers))
    return found[0], found[1]
