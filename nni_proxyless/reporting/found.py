"""What was found, and where: a trial of an NNI experiment, or a folder with results."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from ..derive import Architecture
from ..errors import UserError

__all__ = ["FAILED_STATES", "Found", "find_folders"]

FAILED_STATES = ("FAILED", "SYS_CANCELED", "USER_CANCELED", "UNKNOWN")


@dataclass(frozen=True)
class Found:
    """One search, or one final training: a trial of an experiment, or a folder.

    Attributes
    ----------
    name
        Trial id, or name of the folder.
    state
        NNI's state of the trial; SUCCEEDED for a folder with results.
    folder
        Where its files are.
    """

    name: str
    state: str
    folder: Path

    @functools.cached_property
    def architecture(self) -> Architecture | None:
        path = self.folder / "architecture.json"
        return Architecture.read(path) if self.state == "SUCCEEDED" and path.exists() else None

    @property
    def final_accuracy(self) -> float | None:
        for path in (self.folder / "final" / "result.json", self.folder / "result.json"):  # of a search, of a training
            if path.exists():
                return float(json.loads(path.read_text(encoding="utf-8"))["accuracy"])
        return None

    @property
    def reason(self) -> str:
        """The last thing that a failed trial said."""
        path = self.folder / "trial.stderr"
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
        return lines[-1] if lines else "it left no message"


def find_folders(root: Path) -> list[Found]:
    """All results at or below a folder."""
    found = [Found(str(path.parent.relative_to(root)) if path.parent != root else root.name, "SUCCEEDED", path.parent)
             for path in sorted(root.rglob("architecture.json"))]  # fmt: skip
    if not found:
        raise UserError(f"report: no architecture.json in or below '{root}'")
    return found
