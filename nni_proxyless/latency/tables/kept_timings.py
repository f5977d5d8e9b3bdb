"""The timings of a build that is under way, so that one that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.atomic_files import write_text
from ..digits import significant

__all__ = ["KeptTimings", "Run"]

Run = list[tuple[str, float]]
"""Key and milliseconds of what was timed in one step; the key of what a network takes beside its operations is empty."""


class KeptTimings:
    """The timings so far, one line per step, in a file if one is given.

    Parameters
    ----------
    path
        If it exists and is of the same build, its steps are taken over, but for one that was cut off; otherwise it is begun anew.
    build
        What makes it the same build.
    keys
        All that a step may hold.

    Attributes
    ----------
    runs
        What was timed in each step.
    """

    def __init__(self, path: str | Path | None, build: Mapping[str, Any], keys: Sequence[str]):
        self.path = None if path is None else Path(path)
        self.keys = list(keys)
        self.numbers = {key: i for i, key in enumerate(self.keys)}
        head = hashlib.sha256(json.dumps(build, sort_keys=True, default=str).encode()).hexdigest()
        self.runs = [] if self.path is None else self._read(head)
        if self.path is not None and not self.runs:
            write_text(self.path, head + "\n")

    def _read(self, head: str) -> list[Run]:
        assert self.path is not None
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        first, *lines = text.split("\n")
        if first != head:
            return []
        runs: list[Run] = []
        for line in lines:
            try:
                runs.append([(self.keys[i], float(ms)) for i, ms in json.loads(line)])
            except (ValueError, TypeError, IndexError):
                break  # cut off by the kill
        write_text(self.path, "\n".join([first, *lines[: len(runs)]]) + "\n")
        return runs

    def add(self, run: Run) -> None:
        """Keep one step more."""
        run = [(key, significant(ms)) for key, ms in run]  # what a build that goes on reads
        self.runs.append(run)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([[self.numbers[key], ms] for key, ms in run]) + "\n")
