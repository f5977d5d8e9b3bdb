"""Conditions under which a part of a space runs, put together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from nni.mutable import Mutable
from nni.nas.nn.pytorch import Repeat

from .operation import Conditions

__all__ = ["all_of", "both", "by_choices", "depths_of", "reached"]


def both(conditions: Conditions, label: str, choices: tuple[object, ...]) -> Conditions | None:
    """Both at once; None if that cannot be: a label may stand at several places, and has one choice everywhere."""
    found = dict(conditions)
    found[label] = tuple(choice for choice in found.get(label, choices) if choice in choices)
    return tuple(found.items()) if found[label] else None


def all_of(conditions: Conditions, *more: tuple[str, tuple[object, ...]]) -> Conditions | None:
    """The same of several."""
    found: Conditions | None = conditions
    for label, choices in more:
        found = None if found is None else both(found, label, choices)
    return found


def depths_of(repeat: Repeat) -> list[int]:
    """All depths that it may have, some several times."""
    return [depth for _, depth in by_choices(repeat)]


def by_choices(repeat: Repeat) -> Iterator[tuple[dict[str, Any], int]]:
    """The choices that a depth depends on, in all their combinations, and the depth."""
    depth = repeat.depth_choice
    if not isinstance(depth, Mutable):
        yield {}, int(depth)
        return
    leaves: dict[str, Any] = dict(depth.simplify())
    for values in itertools.product(*(leaf.values for leaf in leaves.values())):
        chosen = dict(zip(leaves, values, strict=True))
        yield chosen, int(depth.freeze(chosen))


def reached(conditions: Conditions, repeat: Repeat, i: int) -> list[Conditions]:
    """When block i of a ``Repeat`` runs: of these, one holds then, and else none."""
    found: dict[tuple[tuple[str, Any], ...], list[Any]] = {}  # choices of all labels but the last -> those of the last
    depths = list(by_choices(repeat))
    if all(i < depth for _, depth in depths):
        return [conditions]
    for chosen, depth in depths:
        *others, (label, value) = chosen.items()
        if i < depth:
            found.setdefault(tuple(others), []).append((label, value))
    terms = [
        all_of(conditions, *((label, (value,)) for label, value in others), (last[0][0], tuple(v for _, v in last)))
        for others, last in found.items()
    ]
    return [term for term in terms if term is not None]
