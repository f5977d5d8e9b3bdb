"""The checkpoint of a final training: ``FOLDER/checkpoint/training.ckpt``.

How it is written and verified, with the one before it in reserve: :mod:`..core.checkpoint_file`.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.checkpoint_file import CheckpointError, Checkpoints
from ..core.errors import UserError
from ..core.settings_diff import differences

__all__ = ["TrainingCheckpoint", "settings"]

SHA256 = "sha256 of the teacher's weights"
# Where the results lie, and what does not change them.
_FREE = ("output", "workers", "checkpoint_every")


def settings(
    config: Mapping[str, Any], architecture: bytes, processes: int, teacher_sha256: str | None = None
) -> dict[str, Any]:
    """The settings that must be equal for one run to resume another.

    Of the space's original model as a teacher, the weights themselves, wherever they lie; None in the place of a section that asks for no teacher, as
    older versions had it.
    """
    taught = config["distillation"]
    if not taught["weight"]:
        taught = None
    elif taught["teacher"] is None:
        taught = {**taught, "weights": None}
    return {
        **{key: value for key, value in config.items() if key not in _FREE},
        "distillation": taught,
        **({SHA256: teacher_sha256} if teacher_sha256 else {}),
        "processes": processes,
        "architecture.json": hashlib.sha256(architecture).hexdigest()[:12],
    }


class TrainingCheckpoint:
    """The checkpoint of the training whose results go to ``folder``. Format 1, which is read too, had every tensor by itself."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.place = folder / "checkpoint"
        self._files = Checkpoints(self.place, "training", b"nni-proxyless training ", version=2, also_read=(1,))
        self.path = self._files.current

    @property
    def exists(self) -> bool:
        return self._files.exists

    def read(self) -> dict[str, Any]:
        """The newest that :meth:`write` has written and that is whole, tensors on the CPU.

        Raises
        ------
        UserError
            There is none.
        """
        try:
            state = self._files.read()
        except (OSError, CheckpointError) as error:
            raise UserError(f"{error}. Delete {self.place} to start over") from error
        if state is None:
            raise UserError(f"{self.path}: no checkpoint there")
        for of in ("config", "settings"):  # of older versions, in which the teacher's share stayed
            if isinstance(taught := state.get(of, {}).get("distillation"), dict):
                taught.setdefault("anneal", False)
        return state

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
        there = state["settings"]
        here = {key: value for key, value in here.items() if key in there or key != SHA256}  # older ones have none
        if different := differences(here, there):
            raise UserError(
                f"{self.folder} holds an unfinished training with other settings: {'; '.join(different)}. Go on with that "
                f"one: nni-proxyless train --resume {shlex.quote(str(self.folder))}; or choose another output; or delete {self.place} to "
                "start over"
            )
        return state

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the state: nested dicts, lists, tuples, numbers, texts, None and tensors."""
        try:
            self._files.write(state)
        except CheckpointError as error:
            raise UserError(str(error)) from error

    def remove(self) -> None:
        """Once the results are written; the newest goes last, so that a kill in between leaves no older one."""
        self._files.clear()
        shutil.rmtree(self.place, ignore_errors=True)
