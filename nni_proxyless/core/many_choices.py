"""What is shown of the probabilities of a space of many choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MOST_SHOWN", "mean_probs"]

MOST_SHOWN = 100  # choices that are shown one by one; of more, what they have in common


def mean_probs(probs: Mapping[str, Mapping[Any, float]]) -> dict[str, float]:
    """Name of a candidate -> its mean probability over the choices that have it."""
    found: dict[str, list[float]] = {}
    for distribution in probs.values():
        for candidate, p in distribution.items():
            found.setdefault(str(candidate), []).append(p)
    return {candidate: sum(values) / len(values) for candidate, values in found.items()}
