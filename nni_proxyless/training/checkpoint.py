"""The checkpoint of a final training: ``FOLDER/checkpoint/training.ckpt``.

Its layout is that of :mod:`..core.checkpoint_file`. It is written to a temporary file, flushed and renamed: a kill
keeps the previous one.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.checkpoint_file import DamagedError, read_payload, state_of, write_sealed
from ..core.errors import UserError
from ..core.settings_diff import differing

__all__ = ["TrainingCheckpoint", "settings"]

_FIRST_LINE = b"nni-proxyless training 2\n"
_READ = (_FIRST_LINE, b"nni-proxyless training 1\n")  # which had every tensor by itself
# Where the results lie, and what does not change them.
_FREE = ("output", "workers", "checkpoint_every")


def settings(config: Mapping[str, Any], architecture: bytes, processes: int) -> dict[str, Any]:
    """The settings that must be equal for one run to resume another."""
    return {
        **{key: value for key, value in config.items() if key not in _FREE},
        "processes": processes,
        "architecture.json": hashlib.sha256(architecture).hexdigest()[:12],
    }


class TrainingCheckpoint:
    """The checkpoint of the training whose results go to ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.place = folder / "checkpoint"
        self.path = self.place / "training.ckpt"

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def read(self) -> dict[str, Any]:
        """What :meth:`write` has written, tensors on the CPU.

        Raises
        ------
        UserError
            No such file, or it is not whole.
        """
        try:
            with open(self.path, "rb") as file:
                if file.readline(100) not in _READ:
                    raise DamagedError("written by another version of this program, or no checkpoint of a training")
                return state_of(read_payload(file))
        except (OSError, DamagedError) as error:
            raise UserError(
                f"{self.path}: no readable checkpoint: {error}. Delete {self.place} to start over"
            ) from error

    def read_for(self, here: Mapping[str, Any]) -> dict[str, Any] | None:
        """The state to go on from; None where there is none.

        Raises
        ------
        UserError
            It is that of a training with other settings, or damaged.
        """
        if not self.exists:
            return None
        state = self.read()
        if different := differing(state["settings"], here):
            raise UserError(
                f"{self.folder} holds an unfinished training with other settings: {'; '.join(different)}. Go on with that "
                f"one: nni-proxyless train --resume {shlex.quote(str(self.folder))}; or choose another output; or delete {self.place} to "
                "start over"
            )
        return state

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the state: nested dicts, lists, tuples, numbers, texts, None and tensors."""
        self.place.mkdir(parents=True, exist_ok=True)
        for left in self.place.glob(".training.ckpt.*"):
            left.unlink(missing_ok=True)
        temporary = self.place / f".training.ckpt.{os.getpid()}"
        try:
            write_sealed(temporary, _FIRST_LINE, state)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Once the results are written; the checkpoint itself first, so that a kill in between leaves none."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.place, ignore_errors=True)
