"""Splits that the package datasets of Hugging Face has saved: pictures that are not yet decoded, and the cells of some columns.

folder of DatasetDict.save_to_disk -> splits -> columns of the right types, pictures that are all there
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.errors import UserError, did_you_mean, on_one_line, shown
from .image_folder import read_picture

__all__ = ["Split", "Undecoded", "read_splits"]

_SAVED = "a folder that DatasetDict.save_to_disk of the package datasets has written"
_TYPES = {
    "classes": ("ClassLabel", "string", "int", "bool"),
    "values": ("int", "float"),
    "labels": ("int", "float", "bool"),
    "lists of labels": ("list of ClassLabel", "list of string"),
}


@dataclass(frozen=True)
class Undecoded:
    """Pictures of a split.

    Attributes
    ----------
    where
        The split and its folder, for people.
    rows, column
        A data set of one column, of dicts of bytes and path.
    """

    where: str
    rows: Any
    column: str

    def read(self, row: int) -> Image.Image:
        cell = self.rows[row][self.column]
        source = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
        return read_picture(source, f"in row {row} of {self.where}")


@dataclass(frozen=True)
class Split:
    """A split whose pictures are all there, though not yet decoded.

    Attributes
    ----------
    part
        train or test.
    pictures
        One per row.
    columns, types, cells
        Of every column of targets: its name, its type, and what stands in every row.
    names
        Of the classes where the column of the targets is of ``ClassLabel``, in its order; else empty.
    """

    part: str
    pictures: Undecoded
    columns: list[str]
    types: list[str]
    cells: list[list[Any]]
    names: list[str]

    @property
    def where(self) -> str:
        return self.pictures.where

    def at(self, row: int, column: str) -> str:
        return f"data.{self.part}: {self.where}, row {row}, column '{column}'"

    def refusal(self, row: int, column: int, allowed: str) -> UserError:
        cell = shown(self.cells[column][row])
        return UserError(f"{self.at(row, self.columns[column])}: {cell}; allowed: {allowed}")


def read_splits(root: Path, train: str, test: str, picture: str, columns: list[str], kind: str) -> list[Split]:
    """The splits of training and of the test.

    Parameters
    ----------
    root
        The folder.
    train, test
        Names of the splits.
    picture, columns
        Names of the column of pictures, and of those of targets.
    kind
        classes, values, labels or lists of labels, which says what types the columns of targets may have.

    Raises
    ------
    UserError
        The package, the folder, a split, a column or a picture is missing or not what it has to be.
    """
    package = _package()
    splits = _load(package, root)
    found = []
    for part, name in (("train", train), ("test", test)):
        if name not in splits:
            there = f"the splits: {', '.join(map(shown, splits))}.{did_you_mean(name, splits)}"
            raise UserError(f"data.{part}: no split {shown(name)} in '{root}'; {there}")
        where = f"split {shown(name)} of '{root}'"
        found.append(_read(package, splits[name], part, where, picture, columns, kind))
    return found


def _package() -> Any:
    try:
        import datasets
        from datasets import DatasetDict, load_from_disk  # noqa: F401  # a folder of this name imports too, without them
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "datasets"
        why = "which is missing" if missing else f"which does not import: {error}"
        raise UserError(f"data: huggingface needs the package datasets, {why}; pip install 'nni-proxyless[huggingface]'") from error  # fmt: skip
    return datasets


def _load(package: Any, root: Path) -> Any:
    """The splits by name; nothing of them is read yet."""
    if not root.is_dir():
        raise UserError(f"data.root: no folder '{root}'; allowed: {_SAVED}")
    try:
        splits = package.load_from_disk(str(root.absolute()))
    except MemoryError:
        raise
    except Exception as error:  # files that are damaged, each in its way
        if (name := _empty_split(root)) is not None:
            raise UserError(
                f"data.root: split {shown(name)} of '{root}' has no row; allowed: a row per picture"
            ) from error
        why = on_one_line((str(error) or type(error).__name__).strip().partition("\n")[0])
        raise UserError(f"data.root: '{root}' is no saved data set, or damaged: {why}; allowed: {_SAVED}") from error
    if not isinstance(splits, package.DatasetDict):
        raise UserError(
            f"data.root: '{root}' is one data set without splits; allowed: {_SAVED}; Dataset.train_test_split makes one of it"
        )
    return splits


def _empty_split(root: Path) -> str | None:
    """A split that was saved without a row, which datasets itself cannot read; None if there is none."""
    for state in sorted(root.glob("*/state.json")):
        try:
            if json.loads(state.read_text(encoding="utf-8"))["_data_files"] == []:
                return state.parent.name
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _read(package: Any, split: Any, part: str, where: str, picture: str, columns: list[str], kind: str) -> Split:
    for name in (picture, *columns):
        if name not in split.column_names:
            there = f"the columns: {', '.join(map(shown, split.column_names))}.{did_you_mean(name, split.column_names)}"
            raise UserError(f"data.{part}: {where}: no column '{name}'; {there}")
    if not len(split):
        raise UserError(f"data.{part}: {where} has no row; allowed: a row per picture")
    types = [_type(package, split.features[name]) for name in columns]
    for name, found, allowed in [
        (picture, _type(package, split.features[picture]), ("Image", "binary")),
        *((name, found, _TYPES[kind]) for name, found in zip(columns, types, strict=True)),
    ]:
        if found not in allowed:
            raise UserError(f"data.{part}: {where}: column '{name}' is {found}; allowed: {', '.join(allowed)}")
    label = getattr(split.features[columns[-1]], "feature", split.features[columns[-1]])
    names = list(label.names) if isinstance(label, package.ClassLabel) else []
    rows = split.select_columns([picture]).cast_column(picture, package.Image(decode=False)).with_format(None)
    table = split.select_columns(columns).with_format("arrow")[:]
    cells = [table.column(name).to_pylist() for name in columns]
    read = Split(part, Undecoded(where, rows, picture), columns, types, cells, names)
    _all_pictures_are_there(read)
    return read


def _type(package: Any, feature: Any) -> str:
    """The type of a column as the messages have it."""
    if isinstance(feature, package.ClassLabel | package.Image):
        return type(feature).__name__
    if isinstance(feature, package.Value):
        dtype = feature.dtype.removeprefix("u").removeprefix("large_").removesuffix("_view")
        return dtype.rstrip("0123456789") if dtype.startswith(("int", "float")) else dtype
    if isinstance(feature, dict):
        return "Image" if {"bytes"} <= set(feature) <= {"bytes", "path"} else "dict"
    if (of := getattr(feature, "feature", None)) is not None:
        return f"list of {_type(package, of)}"
    return type(feature).__name__


def _all_pictures_are_there(split: Split) -> None:
    """Whether each has bytes, or the path of a file; the bytes themselves are not read."""
    import pyarrow.compute

    column = split.pictures.column
    pictures = split.pictures.rows.with_format("arrow")[:].column(column)
    without_bytes = pyarrow.compute.struct_field(pictures, "bytes").is_null().to_pylist()
    missing = []
    for row in (row for row, without in enumerate(without_bytes) if without):
        path = (pictures[row].as_py() or {}).get("path")
        if path is None or not os.path.isfile(path):
            missing.append((row, path))
    if missing:
        row, path = missing[0]
        what = "no picture" if path is None else f"no picture '{on_one_line(path)}'"
        more = f", the first of {len(missing)} such" if len(missing) > 1 else ""
        raise UserError(
            f"{split.at(row, column)}: {what}{more}; allowed: the bytes of a picture, or the path of one on this machine"
        )
