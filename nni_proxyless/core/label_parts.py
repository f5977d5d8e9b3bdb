"""Parts of a network, by the labels of its choices: ``stage1.00`` is that of ``stage1.00.half0.0``."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["by_part", "part_of"]


def part_of(label: str) -> str:
    """What stands before the second dot of a label."""
    return ".".join(label.split(".")[:2])


def by_part(labels: Iterable[str]) -> dict[str, list[str]]:
    """Part -> its labels, in the order in which they are given."""
    found: dict[str, list[str]] = {}
    for label in labels:
        found.setdefault(part_of(label), []).append(label)
    return found
