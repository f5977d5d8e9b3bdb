"""Names -> what they stand for: entry points, or ``package.module:Class`` for anything that can be imported.

A module may lie in the current folder: there the command looks last, as ``python -m`` looks first. So nothing that is
installed is shadowed, and a file beside ``search.yml`` needs no package.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from importlib.metadata import entry_points
from typing import Any

from .errors import did_you_mean

__all__ = ["load", "names", "value_of"]


def names(group: str) -> list[str]:
    """What is registered under an entry-point group, by this package and by others."""
    return sorted({entry.name for entry in entry_points(group=group)})


def value_of(group: str, name: str) -> str | None:
    """What a registered name stands for, as ``package.module:Class``; None for one that is not registered."""
    return next((entry.value for entry in entry_points(group=group) if entry.name == name), None)


def load(group: str, name: str) -> Any:
    """The object behind a name.

    Raises
    ------
    ValueError
        Unknown name, or one that does not import; the message says what is allowed.
    """
    if ":" in name:
        found = _imported(name)
    else:
        for entry in entry_points(group=group):
            if entry.name == name:
                break
        else:
            _refuse_by_name(group, name)
            allowed = names(group)
            raise ValueError(
                f"'{name}' is unknown; allowed: {', '.join(allowed)}, or package.module:Class.{did_you_mean(name, allowed)}"
            )
        try:
            found = entry.load()
        except Exception as error:  # somebody else's package
            raise ValueError(f"'{name}' does not import: entry point {entry.value}: {_error_text(error)}") from error
    return found


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        more = ""
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            more = f"; allowed: a module that is installed, or one in the current folder, {here}"
        raise ValueError(f"'{name}' does not import: {_error_text(error)}{more}") from error
    except Exception as error:  # whatever stands in the user's file
        raise ValueError(f"'{name}' does not import: {_error_text(error)}") from error
    try:
        return getattr(imported, attribute)
    except AttributeError:
        own = [n for n, value in vars(imported).items() if callable(value) and not n.startswith("_")]
        raise ValueError(
            f"'{name}' does not import: module {module} has no '{attribute}'.{did_you_mean(attribute, own)}"
        ) from None


def _error_text(error: Exception) -> str:
    """What an error says, and where in the user's file: without a traceback nobody would know."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_python(frame.filename)]
    if not frames:
        return str(error)
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {type(error).__name__}: {error}"


def _of_python(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen ")


def _refuse_by_name(group: str, name: str) -> None:
    """Say why, for a name that is known and not to be had: ``GROUP.refused``, entry points to a dict name -> reason."""
    for entry in entry_points(group=f"{group}.refused"):
        if entry.name == name:
            raise ValueError(f"'{name}' is refused: {entry.load()[name]}")
