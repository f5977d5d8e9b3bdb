"""Expand paths as a shell does: ``~/run``, ``~anna/images``, ``$SCRATCH/run``.

A shell sees to it itself only at the beginning of a word, so neither in a file nor in ``output=~/run``. Whoever takes a path from a
file or a command line takes it through here; else a folder called ``~`` comes of it. A container's user may have neither a name nor
a home.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from .errors import UserError

__all__ = ["expand_path", "of_another_machine", "path_argument", "text_argument", "user_path"]

_elsewhere: ContextVar[bool] = ContextVar("elsewhere", default=False)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


def expand_path(text: str) -> str:
    """The path with the home folder and environment variables put in.

    A ``$`` in the name of an existing path is kept.

    Raises
    ------
    ValueError
        A user without a home, or a variable that is not set, or empty: ``$SCRATCH/run`` would be ``/run``.
    """
    if _elsewhere.get():
        return text
    names = [plain or braced for plain, braced in _VARIABLE.findall(text)]
    missing = [name for name in names if not os.environ.get(name)]
    if missing and not os.path.lexists(text):
        raise ValueError(f"a path; the environment variable {missing[0]} is not set")
    path = os.path.expanduser(text if missing else os.path.expandvars(text))
    if path.startswith("~"):
        name = path.partition("/")[0]
        raise ValueError(
            f"a path; {name} is no home folder that is known here{' (HOME is not set)' if name == '~' else ''}"
        )
    return path


@contextmanager
def of_another_machine() -> Iterator[None]:
    """Whatever is read meanwhile is for another machine, which has other homes and variables: paths stay what they are."""
    token = _elsewhere.set(True)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def user_path(text: str, where: str) -> Path:
    """The same as a path; ``where`` it stands, for the message.

    Raises
    ------
    UserError
        See :func:`expand_path`.
    """
    try:
        return Path(expand_path(text))
    except ValueError as error:
        raise UserError(f"{where}: {text!r} is not allowed here; allowed: {error}") from error


def text_argument(text: str) -> str:
    """Convert a word of the command line that may be a path, or a name."""
    try:
        return expand_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed here; allowed: {error}") from error


def path_argument(text: str) -> Path:
    """Convert a path of the command line."""
    return Path(text_argument(text))
