"""Format numbers for readers; ``–`` stands for unknown."""

from __future__ import annotations

import math
from typing import Any

from ..core.merit import Merit
from ..latency.digits import in_words

__all__ = [
    "UNKNOWN",
    "amount",
    "better_or_worse",
    "count",
    "duration",
    "figure",
    "given",
    "merit_difference",
    "merit_error",
    "merit_figure",
]

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


def merit_figure(value: float | None, merit: Merit) -> str:
    """A figure of merit: a share in percent, another one with four significant digits."""
    if merit.is_share or value is None or not math.isfinite(value):
        return figure(value, "%")
    return merit.in_words(value)


def merit_error(value: float, merit: Merit) -> str:
    """Its standard error, or that of a difference: of a share in hundredths."""
    return figure(value, "error") if merit.is_share else f"{value:.2g}"


def merit_difference(value: float, error: float | None, merit: Merit) -> str:
    """``+1.23 ± 0.40`` points of a share of which more is better; else the difference in its own unit, and whether that is better or worse."""
    more = "" if error is None else f" ± {merit_error(error, merit)}"
    if merit.is_share and merit.higher_is_better:
        return figure(value, "points") + more
    size = figure(abs(value), "error") if merit.is_share else f"{abs(value):.3g}"
    return f"{size}{more} {better_or_worse(value, merit)}"


def better_or_worse(difference: float, merit: Merit) -> str:
    """In which direction a difference of two figures of merit is."""
    return "better" if merit.score(difference) >= 0 else "worse"
