"""Names in a configuration -> classes: entry points, or ``package.module:Class`` for anything that can be imported."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from .errors import did_you_mean

__all__ = ["load", "names"]


def names(group: str) -> list[str]:
    """What is registered under an entry-point group, by this package and by others."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """The object behind a name.

    Raises
    ------
    ValueError
        Unknown name, or one that does not import; the message says what is allowed.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"'{name}' does not import: {error}") from error
    for entry in entry_points(group=group):
        if entry.name == name:
            return entry.load()
    allowed = names(group)
    raise ValueError(f"'{name}' is unknown; allowed: {', '.join(allowed)}, or package.module:Class.{did_you_mean(name, allowed)}")
