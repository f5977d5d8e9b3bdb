"""A checkpoint: a dict of tensors and plain values in one file with a checksum, and the one before it.

Layout::

    nni-proxyless … 2               a first line of the caller's: what this is, and the version of its format
    4f53cda1...                     SHA-256 of the payload, hexadecimal
    (payload)                       torch.save of a dict; read with weights_only, so no code of the file ever runs

All tensors of one type lie in the payload as one, see :mod:`.packing`: torch takes as long for a tensor of a few numbers as for a large
one, and a supernet with its optimizer has thousands. A payload without that, of an earlier version, is read as it is.

One write of :class:`Checkpoints`, with what a kill after each step leaves behind:

==================================  =====================================================================
temporary file written, synced      NAME.ckpt (good), NAME.previous.ckpt
NAME.ckpt -> NAME.previous.ckpt     NAME.previous.ckpt (good)
temporary -> NAME.ckpt              NAME.ckpt (good, new), NAME.previous.ckpt (good)
==================================  =====================================================================
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["CheckpointError", "Checkpoints", "DamagedError", "read_payload", "state_of", "write_with_digest"]

_logger = logging.getLogger(__name__)


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says which file and why."""


class DamagedError(Exception):
    """The file is truncated or changed; the message says which, without the name of the file."""


def write_with_digest(path: Path, first_line: bytes, state: Mapping[str, Any]) -> None:
    """Write the file and flush it to the disk. The caller passes a temporary path and renames the file afterwards.

    Parameters
    ----------
    first_line
        Ends with a line feed.
    state
        Nested dicts, lists, tuples, numbers, texts, None and tensors.
    """
    import torch

    from .packing import pack

    # To memory first: torch.save to a full disk dies in the middle of a zip file with an error that names no disk.
    buffer = io.BytesIO()
    torch.save(pack(dict(state)), buffer)
    with open(path, "wb") as file:
        file.write(first_line + hashlib.sha256(buffer.getbuffer()).hexdigest().encode() + b"\n")
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def read_payload(file: BinaryIO) -> bytes:
    """Read the payload after the first line and verify its digest.

    Raises
    ------
    DamagedError
        Truncated or changed.
    """
    digest, payload = file.readline(65), file.read()
    if len(digest) < 65:
        raise DamagedError("truncated within the second line")
    if digest != hashlib.sha256(payload).hexdigest().encode() + b"\n":
        raise DamagedError("truncated or changed: the content does not have the digest that was written with it")
    return payload


def state_of(payload: bytes) -> dict[str, Any]:
    """Decode a payload; tensors come back on the CPU.

    Raises
    ------
    DamagedError
        Not a dict of tensors and plain values.
    """
    import torch  # here: whether there is a checkpoint is asked without it

    from .packing import is_packed, unpack

    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        if is_packed(state):
            state = unpack(state)
    except Exception as error:  # torch promises no particular one
        reason = (str(error).splitlines() or [""])[0]
        raise DamagedError(f"not loadable: {type(error).__name__}: {reason}") from error
    if not isinstance(state, dict):
        raise DamagedError(f"holds a {type(state).__name__} in the place of a dict")
    return state


class Checkpoints:
    """The checkpoints of one run: the newest, and the one before it.

    One process writes at a time; what it has written or read itself it does not verify again.

    Parameters
    ----------
    folder
        Made by the first write.
    name
        Of the files: ``NAME.ckpt``, ``NAME.previous.ckpt`` and, of one that was found damaged, ``NAME.damaged.ckpt``.
    magic
        How the first line of a file begins; the version follows.
    version
        Of the format that is written.
    also_read
        Earlier versions whose files are read, too.
    """

    def __init__(self, folder: str | Path, name: str, magic: bytes, version: int, also_read: Collection[int] = ()):
        self.folder = Path(folder)
        self.current = self.folder / f"{name}.ckpt"
        self.previous = self.folder / f"{name}.previous.ckpt"
        self.damaged = self.folder / f"{name}.damaged.ckpt"
        self._magic, self._version = magic, version
        self._first_line = magic + b"%d\n" % version
        self._read = {self._first_line, *(magic + b"%d\n" % old for old in also_read)}
        self._temporary = re.compile(re.escape(f".{name}.ckpt.") + r"\d+\.tmp")
        self._current_is_good: bool | None = None  # None: nobody has looked

    @property
    def exists(self) -> bool:
        """Whether there is a file to go on from, whole or not."""
        return self.current.exists() or self.previous.exists()

    def write(self, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint; a kill or an error at any moment leaves one that :meth:`read` finds.

        Parameters
        ----------
        state
            Nested dicts, lists, tuples, str, int, float, bool, None and tensors.

        Raises
        ------
        CheckpointError
            A file in the way that is not this program's; it is left as it is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_temporaries()
        temporary = self.folder / f".{self.current.name}.{os.getpid()}.tmp"
        try:
            write_with_digest(temporary, self._first_line, state)
            self._keep_previous()
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
                state = state_of(self._payload(path))
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
                    self._check_first_line(path, file)
            except (FileNotFoundError, CheckpointError):
                continue
            except DamagedError:
                pass
            path.unlink()

    def _keep_previous(self) -> None:
        """Move the newest checkpoint to the place before it, or, where it is damaged, out of the way."""
        if not self.current.exists():
            return
        good = self._current_is_good
        if good is None:
            try:
                self._payload(self.current)
                good = True
            except DamagedError as error:
                _logger.warning("%s: %s; moved to %s", self.current, error, self.damaged)
        if not good:
            os.replace(self.current, self.damaged)
            return
        if self.previous.exists():
            try:
                with open(self.previous, "rb") as file:
                    self._check_first_line(self.previous, file)
            except DamagedError:
                pass
        os.replace(self.current, self.previous)

    def _remove_temporaries(self) -> None:
        """Remove what earlier kills have left, by our own pattern only."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if self._temporary.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        """Bring the renames to the disk; POSIX only, no other system can open a folder."""
        if os.name == "posix":
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _payload(self, path: Path) -> bytes:
        """The payload of a checkpoint, its digest verified."""
        with open(path, "rb") as file:
            self._check_first_line(path, file)
            return read_payload(file)

    def _check_first_line(self, path: Path, file: BinaryIO) -> None:
        """Read the first line; raise CheckpointError where the file is not ours, DamagedError where it ends too early."""
        line = file.readline(len(self._magic) + 20)
        if line in self._read:
            return
        if self._first_line.startswith(line):
            raise DamagedError("truncated within the first line" if line else "the file is empty")
        version = re.fullmatch(re.escape(self._magic) + rb"(\d+)\n", line)
        if version:
            writer = "a newer" if int(version[1]) > self._version else "an older"
            raise CheckpointError(
                f"{path}: a checkpoint of format {int(version[1])}, written by {writer} version of this program; this one reads "
                f"format {self._version}. Go on with that version, or choose another folder"
            )
        raise CheckpointError(f"{path}: not a checkpoint of this program; move it away, or choose another folder")
