"""Arguments of a space that come from its preset where they are not given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["given_or_preset"]


def given_or_preset(options: Any, preset: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Name -> what is given, or the preset's where that is None.

    Parameters
    ----------
    options
        Has the arguments of the space as attributes.
    """
    return {name: preset[name] if (given := getattr(options, name)) is None else given for name in names}
