"""The timings of a build that is under way, so that one that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.atomic_files import write_text
from ..digits import significant

__all__ = ["KeptTimings", "Run", "digests_in"]

BLOCK = 2**20  # bytes of a file that are read at once
NO_STEPS = re.compile(r"(?:[0-9a-f]{64})?\s*")  # a head at most

_logger = logging.getLogger(__name__)

Run = list[tuple[str, float]]
"""Key and milliseconds of what was timed in one step; the key of what a network takes beside its operations is empty."""


class KeptTimings:
    """The timings so far, one line per step, in a file if one is given.

    Parameters
    ----------
    path
        If it exists and is of the same build, its steps are taken over, but for one that was cut off; otherwise it is begun anew, and
        what another build has left there is set aside under another name.
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
            if not NO_STEPS.fullmatch(text):
                self._set_aside()
            return []
        runs: list[Run] = []
        for line in lines:
            try:
                runs.append([(self.keys[i], float(ms)) for i, ms in json.loads(line)])
            except (ValueError, TypeError, IndexError):
                break  # cut off by the kill
        write_text(self.path, "\n".join([first, *lines[: len(runs)]]) + "\n")
        return runs

    def _set_aside(self) -> None:
        """Leave the timings of another build beside the file, under a name that nothing has yet."""
        assert self.path is not None
        names = (f"{self.path.name}.of_another_build{f'_{i}' if i > 1 else ''}" for i in itertools.count(1))
        aside = next(path for name in names if not os.path.lexists(path := self.path.with_name(name)))
        self.path.rename(aside)
        _logger.warning(
            "latencies: %s is of another build, with other settings or a program that was changed since: it is now %s, and this build begins anew",
            self.path,
            aside,
        )

    def cut(self, n: int) -> None:
        """Keep the first ``n`` steps alone."""
        if n < len(self.runs):
            del self.runs[n:]
            if self.path is not None:
                head, *lines = self.path.read_text(encoding="utf-8").split("\n")
                write_text(self.path, "\n".join([head, *lines[:n]]) + "\n")

    def add(self, run: Run) -> None:
        """Keep one step more."""
        run = [(key, significant(ms)) for key, ms in run]  # what a build that goes on reads
        self.runs.append(run)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([[self.numbers[key], ms] for key, ms in run]) + "\n")


def digests_in(command: object) -> dict[str, str]:
    """Word -> digest of the file that it names, for those words of a command that name one.

    A build by a program is the same one only with the same program: the words say which file it is, not what is in it.

    Parameters
    ----------
    command
        A list of words, or a text that is taken apart as a shell does it; the first word may be in ``PATH``. Anything else has none.
    """
    try:
        words = shlex.split(command) if isinstance(command, str) else [*command] if isinstance(command, list) else []
    except ValueError:  # another runtime may have an option of that name
        return {}
    paths = {str(word): str(word) for word in words}
    if paths:
        program = next(iter(paths))
        paths[program] = shutil.which(program) or program
    return {word: _digest(path) for word, path in paths.items() if os.path.isfile(path)}


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except PermissionError:  # it may be executed, and not read
        about = os.stat(path)
        return f"{about.st_size} bytes of {about.st_mtime_ns}"
    return digest.hexdigest()
