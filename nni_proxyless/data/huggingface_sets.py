"""Pictures that the package datasets of Hugging Face has saved in a folder, with a class, with numbers, or with labels each.

    folder of DatasetDict.save_to_disk -> splits: undecoded pictures, cells -> targets, every cell looked at -> data sets, pictures decoded
    when they are asked for

Pictures are decoded here, not by datasets: it would fetch those that are addresses from the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..core.errors import UserError, did_you_mean, shown
from ..core.user_path import user_path
from .image_parts import ImageData
from .saved_splits import Split, Undecoded, read_splits
from .target_columns import finite, image_data, in_order, target_columns, zero_or_one

__all__ = ["huggingface"]

_logger = logging.getLogger(__name__)


def huggingface(
    *,
    root: str,
    train: str = "train",
    test: str = "test",
    picture: str = "image",
    classes: str | None = None,
    values: list[str] | None = None,
    labels: list[str] | str | None = None,
    image_size: int = 224,
    flip: bool | None = None,
) -> ImageData:
    """Pictures that the package datasets of Hugging Face has saved in a folder by ``DatasetDict.save_to_disk``; nothing is downloaded.

    One of ``classes`` (task classification), ``values`` (task regression) and ``labels`` (task multi-label) says what is to be learned. Pictures
    go through the transforms of ``csv``, and are read as those of ``folder``: a ``mode`` that the column has is left aside.

    Parameters
    ----------
    root
        The folder.
    train, test
        Names of its splits.
    picture
        Column of pictures: ``Image``, or the bytes of their files.
    classes
        Column of the class: ``ClassLabel``, text, or whole numbers. Those of the training images are numbered from 0 on: of a ``ClassLabel`` in
        its order, of text by letters, of numbers by size.
    values
        Columns of numbers.
    labels
        Columns of 0 and 1, one per label; or, as text, one column of lists of ``ClassLabel`` or text. Labels are numbered as classes are.
    image_size
        Side of the squares that the network sees.
    flip
        Whether half of the training images are mirrored; None: with classes and labels, not with values.

    Raises
    ------
    UserError
        The package, the folder, a split, a column, a cell or a picture is missing or not what it has to be. The message names split, row, counted
        from 0, and column.
    """
    target, columns = target_columns(picture, image_size, classes=classes, values=values, labels=labels)
    if train == test:
        raise ValueError(f"train and test are both {train!r}; allowed: two splits, as Dataset.train_test_split makes")
    if target == "labels" and isinstance(labels, list) and len(labels) < 2:
        raise ValueError(f"labels is {labels!r}; allowed: two columns or more, or, as text, one of lists; one of 0 and 1 is for classes")  # fmt: skip
    kind = "lists of labels" if isinstance(labels, str) else target
    parts = read_splits(user_path(root, "data.root"), train, test, picture, columns, kind)
    targets_of = {"classes": _classes, "values": _values, "labels": _labels, "lists of labels": _lists_of_labels}
    of_train, of_test = targets_of[kind](*parts)
    return image_data(of_train, of_test, target=target, image_size=image_size, flip=flip)


@dataclass(frozen=True)
class _Part:
    """Pictures with their targets: classes, or float32 of shape (n, n_outputs)."""

    pictures: Undecoded
    numbers: list[int] | Tensor
    n_outputs: int

    @property
    def targets(self) -> Sequence[Any]:
        return self.numbers.unbind() if isinstance(self.numbers, Tensor) else self.numbers

    def through(self, transform: Callable) -> Dataset:
        return _Pictures(self.pictures, self.numbers, transform)


class _Pictures(Dataset):
    """Pictures through a transform, each with its class, or with a float32 tensor of shape (n_outputs,)."""

    def __init__(self, pictures: Undecoded, targets: list[int] | Tensor, transform: Callable[[Image.Image], Any]):
        self.pictures, self.targets, self.transform = pictures, targets, transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.transform(self.pictures.read(int(index))), self.targets[index]


def _classes(train: Split, test: Split) -> tuple[_Part, _Part]:
    _of_one_type(train, test)
    of_train, of_test = (_all_named(split) for split in (train, test))
    names = _names_in_order(train, set(of_train), "classes")
    if len(names) < 2:
        raise UserError(f"data.train: {train.where}, column '{train.columns[0]}': {shown(names[0])} in every row; allowed: two classes or more")  # fmt: skip
    numbers = {name: number for number, name in enumerate(names)}
    for row, name in enumerate(of_test):
        if name not in numbers:
            raise UserError(
                f"{test.at(row, test.columns[0])}: {shown(name)}; allowed: the classes of {train.where}.{did_you_mean(name, names)}"
            )
    return (
        _Part(train.pictures, [numbers[name] for name in of_train], len(names)),
        _Part(test.pictures, [numbers[name] for name in of_test], len(names)),
    )


def _of_one_type(train: Split, test: Split) -> None:
    if train.types[0] != test.types[0]:
        raise UserError(
            f"data.test: {test.where}: column '{test.columns[0]}' is {test.types[0]}; allowed: {train.types[0]}, as in {train.where}"
        )


def _all_named(split: Split) -> list[str]:
    """The class of every row."""
    found = []
    for row, cell in enumerate(split.cells[0]):
        if (name := _name(split, cell)) is None:
            raise split.refusal(row, 0, _allowed_names(split, "a class"))
        found.append(name)
    return found


def _name(split: Split, cell: Any) -> str | None:
    """Of a class or a label; None where there is none, as where a ``ClassLabel`` is -1."""
    if cell is None or not split.names:
        return None if cell is None or not str(cell).strip() else str(cell)
    return split.names[cell] if 0 <= cell < len(split.names) else None


def _allowed_names(split: Split, what: str) -> str:
    return f"{what}, 0 to {len(split.names) - 1}" if split.names else what


def _names_in_order(train: Split, there: set[str], what: str) -> list[str]:
    """Those that training images have; one line of the log counts the others that a ``ClassLabel`` has."""
    if not train.names:
        return in_order(there)
    if left_out := [name for name in train.names if name not in there]:
        _logger.warning(
            "data.train: %s, column '%s': %d of %d %s left out, which no picture has; the first: %s",
            train.where, train.columns[0], len(left_out), len(train.names), what, left_out[0],
        )  # fmt: skip
    return [name for name in train.names if name in there]


def _values(train: Split, test: Split) -> tuple[_Part, _Part]:
    return _numbers(train, finite, "a finite number"), _numbers(test, finite, "a finite number")


def _labels(train: Split, test: Split) -> tuple[_Part, _Part]:
    return _numbers(train, zero_or_one, "0 or 1"), _numbers(test, zero_or_one, "0 or 1")


def _numbers(split: Split, number_of: Callable[[float], float | None], allowed: str) -> _Part:
    columns = []
    for column, cells in enumerate(split.cells):
        numbers = [None if cell is None else number_of(cell) for cell in cells]
        if None in numbers:
            raise split.refusal(numbers.index(None), column, allowed)
        columns.append(numbers)
    return _Part(split.pictures, torch.tensor(columns, dtype=torch.float32).T.contiguous(), len(columns))


def _lists_of_labels(train: Split, test: Split) -> tuple[_Part, _Part]:
    _of_one_type(train, test)
    found = []
    for split in (train, test):
        rows = []
        for row, cell in enumerate(split.cells[0]):
            names = [name for one in cell or [] if (name := _name(split, one)) is not None]
            if cell is None or len(names) < len(cell):
                raise split.refusal(row, 0, _allowed_names(split, "a list of labels"))
            rows.append(names)
        found.append(rows)
    labels = _names_in_order(train, {name for names in found[0] for name in names}, "labels")
    if len(labels) < 2:
        there = f"{shown(labels[0])} alone" if labels else "no label at all"
        raise UserError(f"data.train: {train.where}, column '{train.columns[0]}': {there}; allowed: two labels or more")
    places = {name: place for place, name in enumerate(labels)}
    parts = []
    for split, rows in zip((train, test), found, strict=True):
        numbers = torch.zeros(len(rows), len(labels))
        for row, names in enumerate(rows):
            for name in names:
                if name not in places:
                    raise UserError(
                        f"{split.at(row, split.columns[0])}: {shown(name)}; allowed: the labels of {train.where}."
                        f"{did_you_mean(name, labels)}"
                    )
                numbers[row, places[name]] = 1
        parts.append(_Part(split.pictures, numbers, len(labels)))
    return parts[0], parts[1]
