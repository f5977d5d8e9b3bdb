"""Format numbers for readers; ``–`` stands for unknown."""

from __future__ import annotations

import math
from typing import Any

from ..latency.digits import in_words

__all__ = ["UNKNOWN", "amount", "count", "duration", "figure", "given"]

UNKNOWN = "–"


def figure(value: float | None, style: str = "ms") -> str:
    """By style.

    ``ms`` and any other cost: three digits after the point, or three significant ones; ``%`` a share; ``points`` a difference of two shares, in hundredths; ``error`` that of
    a share or a difference
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if style == "%":
        return f"{100 * value:.2f} %"
    if style == "error":
        return f"{100 * value:.2f}"
    return f"{100 * value:+.2f}" if style == "points" else in_words(value)


def amount(value: float | str | None, unit: str) -> str:
    """With its unit; a share such as ``60%`` as it was asked for."""
    return value if isinstance(value, str) else UNKNOWN if value is None else f"{figure(value)} {unit}"


def count(n: int | None) -> str:
    """Of multiply-adds and parameters, in thousands or millions."""
    if not n:
        return UNKNOWN
    return f"{n / 1e6:.2f} M" if n >= 1e6 else f"{n / 1e3:.1f} k"


def duration(seconds: float | None) -> str:
    """In hours and minutes, or minutes and seconds."""
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def given(value: Any) -> str:
    """As it is."""
    return UNKNOWN if value is None else str(value)
