"""The file from which a search goes on: written in one step, verified when read, the one before it in reserve.

Its layout is that of :mod:`nni_proxyless.core.checkpoint_file`. One write, with what a kill after each step leaves behind:

==================================  =====================================================================
temporary file written, synced      search.ckpt (good), search.previous.ckpt
search.ckpt -> search.previous      search.previous.ckpt (good)
temporary -> search.ckpt            search.ckpt (good, new), search.previous.ckpt (good)
==================================  =====================================================================
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nni_proxyless.core.checkpoint_file import DamagedError, read_payload, state_of, write_sealed

__all__ = ["CheckpointError", "CheckpointFolder", "differences"]

_logger = logging.getLogger(__name__)

_MAGIC = b"nni-proxyless checkpoint "
_VERSION = 4  # 1 had no state of the method, and paths of one process only; 2, which is read too, each tensor by itself; 3, which one flipped bit makes a 2, is none
_FIRST_LINE = _MAGIC + b"%d\n" % _VERSION
_READ = (_FIRST_LINE, _MAGIC + b"2\n")
_TEMPORARY = re.compile(r"\.search\.ckpt\.\d+\.tmp")
_ALLOWED = "dict, list, tuple, str, int, float, bool, None, torch.Tensor"
_EXCERPT = 60


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says which file and why."""


class CheckpointFolder:
    """The checkpoints of one search: the newest, and the one before it.

    One process writes at a time; what it has written or read itself it does not verify again.

    Parameters
    ----------
    folder
        Made by the first write.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.current = self.folder / "search.ckpt"
        self.previous = self.folder / "search.previous.ckpt"
        self.damaged = self.folder / "search.damaged.ckpt"
        self._current_is_good: bool | None = None  # None: nobody has looked

    def write(self, state: dict[str, Any]) -> Path:
        """Write a checkpoint; a kill or an error at any moment leaves one that :meth:`read` finds.

        Parameters
        ----------
        state
            Nested dicts (an ``OrderedDict`` is stored as one), lists, tuples, str, int, float, bool, None and dense
            tensors (subclasses such as ``nn.Parameter`` are stored as plain tensors without gradient).

        Raises
        ------
        TypeError
            Anything else in ``state``; the message names its place.
        CheckpointError
            A file in the way that is not this program's; it is left as it is.
        """
        if not isinstance(state, dict):
            raise TypeError(f"the checkpoint is a {type(state).__name__}; allowed: dict")
        plain = _plain(state, "")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_temporaries()
        temporary = self.folder / f".search.ckpt.{os.getpid()}.tmp"
        try:
            write_sealed(temporary, _FIRST_LINE, plain)
            self._make_way()
            os.replace(temporary, self.current)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._current_is_good = True
        self._sync_folder()
        return self.current

    def read(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, its tensors on the CPU; None where there is none.

        Raises
        ------
        CheckpointError
            A file is not this program's or of a newer format, or there are files but none is whole.
        """
        damage = []
        for path in (self.current, self.previous):
            try:
                state = _load(path)
            except FileNotFoundError:
                continue  # of the two only the newest is missing: killed between two renames
            except DamagedError as error:
                damage.append(f"{path}: {error}")
                if path == self.current:
                    self._current_is_good = False
                continue
            if path == self.current:
                self._current_is_good = True
            if damage:
                _logger.warning("%s; going on from the checkpoint before it, %s", damage[0], path)
            return state
        if damage:
            raise CheckpointError("; ".join(damage) + "; no other checkpoint to go on from")
        return None

    def clear(self) -> None:
        """Remove the checkpoints; files in their places that are not this program's stay."""
        self._remove_temporaries()
        self.damaged.unlink(missing_ok=True)
        # The newest last: a kill in between must not leave the older one as the newest.
        for path in (self.previous, self.current):
            try:
                with open(path, "rb") as file:
                    _check_first_line(path, file)
            except (FileNotFoundError, CheckpointError):
                continue
            except DamagedError:
                pass
            path.unlink()

    def _make_way(self) -> None:
        """Move the newest checkpoint to the place before it, or, where it is damaged, out of the way."""
        if not self.current.exists():
            return
        good = self._current_is_good
        if good is None:
            try:
                _payload(self.current)
                good = True
            except DamagedError as error:
                _logger.warning("%s: %s; moved to %s", self.current, error, self.damaged)
        if not good:
            os.replace(self.current, self.damaged)
            return
        if self.previous.exists():
            try:
                with open(self.previous, "rb") as file:
                    _check_first_line(self.previous, file)
            except DamagedError:
                pass
        os.replace(self.current, self.previous)

    def _remove_temporaries(self) -> None:
        """Remove what earlier kills have left, by our own pattern only."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        """Bring the renames to the disk; POSIX only, no other system can open a folder."""
        if os.name == "posix":
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def differences(expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> list[str]:
    """Compare two descriptions of a search, one sentence per difference; an empty list if they are the same.

    Parameters
    ----------
    expected
        Of the search that runs here: nested mappings of plain values.
    found
        The same from a checkpoint.
    """
    return _differences(expected, found, "")


def _differences(here: Any, there: Any, path: str) -> list[str]:
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        sentences = []
        for key in [*here, *(key for key in there if key not in here)]:
            place = _below(path, key)
            if key not in there:
                sentences.append(f"{place} is only here")
            elif key not in here:
                sentences.append(f"{place} is only in the checkpoint")
            else:
                sentences += _differences(here[key], there[key], place)
        return sentences
    texts = repr(here), repr(there)
    if here == there or texts[0] == texts[1]:  # NaN equals nothing, its text does
        return []
    ours, theirs = _excerpts(*texts)
    return [f"{path} is {ours} here, {theirs} in the checkpoint"]


def _excerpts(ours: str, theirs: str) -> list[str]:
    """Cut long texts to the part in which they differ."""
    common = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    start = common - _EXCERPT // 2 if common > _EXCERPT - 10 else 0
    return [
        ("…" if start else "") + text[start : start + _EXCERPT] + ("…" if len(text) > start + _EXCERPT else "")
        for text in (ours, theirs)
    ]


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _plain(value: Any, path: str) -> Any:
    """A copy of the structure that holds plain types only; tensors share their memory with the original.

    Types are compared exactly: ``numpy.float64`` is a float, a ``Counter`` is a dict, yet neither would come back as
    what it was.
    """
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value, path)
    if kind is list or kind is tuple:
        return kind(_plain(item, _below(path, i)) for i, item in enumerate(value))
    if kind is dict or kind is OrderedDict:
        for key in value:
            if key is not None and type(key) not in (str, int, float, bool):
                raise TypeError(
                    f"{path or 'the checkpoint'} has a key {key!r}, a {type(key).__name__}; allowed: str, int, float, bool, None"
                )
        return {key: _plain(item, _below(path, key)) for key, item in value.items()}
    raise TypeError(f"{path} is a {kind.__name__}; allowed: {_ALLOWED}")


def _plain_tensor(tensor: torch.Tensor, path: str) -> torch.Tensor:
    # Wrapper subclasses (DTensor) hold their values in other tensors: as a plain tensor they would be empty.
    if tensor.layout is not torch.strided or tensor.is_meta or hasattr(tensor, "__tensor_flatten__"):
        raise TypeError(
            f"{path} is a {type(tensor).__name__} of layout {tensor.layout} on {tensor.device}; allowed: dense tensors with values"
        )
    plain = tensor.detach().as_subclass(torch.Tensor)
    # torch.save writes the whole storage behind a view.
    is_view = plain.untyped_storage().nbytes() != plain.numel() * plain.element_size()
    return plain.clone() if is_view else plain


def _check_first_line(path: Path, file: io.BufferedReader) -> None:
    """Read the first line; raise CheckpointError where the file is not ours, DamagedError where it ends too early."""
    line = file.readline(len(_MAGIC) + 20)
    if line in _READ:
        return
    if _FIRST_LINE.startswith(line):
        raise DamagedError("truncated within the first line" if line else "the file is empty")
    version = re.fullmatch(re.escape(_MAGIC) + rb"(\d+)\n", line)
    if version:
        writer = "a newer" if int(version[1]) > _VERSION else "an older"
        raise CheckpointError(
            f"{path}: a checkpoint of format {int(version[1])}, written by {writer} version of this program; this one reads "
            f"format {_VERSION}. Go on with that version, or choose another folder"
        )
    raise CheckpointError(f"{path}: not a checkpoint of this program; move it away, or choose another folder")


def _payload(path: Path) -> bytes:
    """The payload of a checkpoint, its digest verified."""
    with open(path, "rb") as file:
        _check_first_line(path, file)
        return read_payload(file)


def _load(path: Path) -> dict[str, Any]:
    return state_of(_payload(path))
