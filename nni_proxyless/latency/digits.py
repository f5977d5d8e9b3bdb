"""Round and format numbers by significant digits: fixed decimals would lose costs in seconds or joules.

Standard library only: ``nni-proxyless latency export`` copies this file to the target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["DIGITS", "distinct_in_words", "in_words", "significant"]

DIGITS = 12
"""Significant digits of a number in a file of costs: what is read again is the same to 5e-12 of itself, and written again the same."""


def significant(value: float, digits: int = DIGITS) -> float:
    """The nearest number of that many significant digits; what is no number stays so."""
    return float(f"{value:.{digits - 1}e}") if math.isfinite(value) else value


def in_words(value: float, sign: str = "", digits: int = 3) -> str:
    """For a person: ``12.346``, but ``0.0123``, ``0.0120`` and ``1.23e-05``; with ``sign='+'`` a plus before what is positive.

    So many digits after the point, where that shows as many significant ones.
    """
    enough = value == 0 or not math.isfinite(value) or significant(abs(value), digits) >= 0.1
    if enough:
        return f"{value:{sign}.{digits}f}"
    zeros = "#" if abs(value) >= 1e-3 else ""  # so that milliseconds of small networks stand in columns
    return f"{value:{sign}{zeros}.{digits}g}"


def distinct_in_words(values: Sequence[float]) -> list[str]:
    """As :func:`in_words`, with as many more digits as tell them apart."""
    texts = ([in_words(value, digits=digits) for value in values] for digits in range(3, 18))
    return next(
        (some for some in texts if len(set(some)) == len(values)), [in_words(value, digits=17) for value in values]
    )
