"""Describe in which settings two configurations differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["differing"]


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A phrase per setting, by its dotted path, in the order of the paths."""
    ours, theirs = _flat(here), _flat(there)
    return [
        f"{key} is {theirs.get(key)} there, {ours.get(key)} here"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
