"""Describe in which settings two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["differences"]

_EXCERPT = 60


def differences(here: Mapping[Any, Any], there: Mapping[Any, Any], place: str = "there") -> list[str]:
    """A sentence per setting that is another one, by its dotted path, in the order in which they stand.

    A setting that one side lacks counts as None there: it may be of an older version.

    Parameters
    ----------
    here, there
        Nested dicts of plain values: what is asked for, and what was found.
    place
        Where ``there`` is: ``'there'``, ``'in the checkpoint'``.
    """
    return _differences(here, there, "", place)


def _differences(here: Any, there: Any, path: str, place: str) -> list[str]:
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        sentences = []
        for key in [*here, *(key for key in there if key not in here)]:
            below = f"{path}.{key}" if path else str(key)
            if key in here and key in there:
                sentences += _differences(here[key], there[key], below, place)
            elif not _is_unset(here.get(key, there.get(key))):
                sentences.append(f"{below} is only {'here' if key in here else place}")
        return sentences
    texts = repr(here), repr(there)
    if here == there or texts[0] == texts[1]:  # NaN equals nothing, its text does
        return []
    ours, theirs = _excerpts(*texts)
    return [f"{path} is {ours} here, {theirs} {place}"]


def _is_unset(value: Any) -> bool:
    """None, or nothing but None in it."""
    return all(map(_is_unset, value.values())) if isinstance(value, Mapping) else value is None


def _excerpts(ours: str, theirs: str) -> list[str]:
    """Cut long texts to the part in which they differ."""
    common = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    start = common - _EXCERPT // 2 if common > _EXCERPT - 10 else 0
    return [
        ("…" if start else "") + text[start : start + _EXCERPT] + ("…" if len(text) > start + _EXCERPT else "")
        for text in (ours, theirs)
    ]
