"""Small charts as SVG for the inside of an HTML page: lines over epochs, and points beside a diagonal.

Colors, strokes and letters are those of the page's style sheet, by class, so that they follow it into the dark and onto paper.
Coordinates are written by hand, since a picture of matplotlib is ten times as large and knows no style sheets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "Point", "line_chart", "scatter_chart", "ticks"]

WIDTH, HEIGHT = 300, 168
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 26
SIDE = 380


@dataclass(frozen=True)
class Line:
    """Name and values, one per epoch; None or no number leaves a gap. ``style`` is a class of the style sheet."""

    name: str
    values: Sequence[float | None]
    style: str


@dataclass(frozen=True)
class Point:
    """One network: coordinates, words, the place in the page to which it leads, and a class of the style sheet."""

    x: float
    y: float
    words: str
    anchor: str
    style: str


def line_chart(lines: Sequence[Line], label: str, *, level: float | None = None, percent: bool = False) -> str:
    """Lines over epochs, from 1 on.

    Parameters
    ----------
    label
        The text for a reader who sees no picture.
    level
        A horizontal line, such as a target.
    percent
        Whether values are shares.
    """
    n = max(len(line.values) for line in lines)
    known = [value for line in lines for value in line.values if value is not None and math.isfinite(value)]
    if level is not None:
        known.append(level)
    low, high = _widened(known)
    x = _Scale(1, max(n, 2), LEFT, WIDTH - RIGHT)
    y = _Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = []
    for value in ticks(low, high, 5):
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        text = f"{100 * value:.4g} %" if percent else f"{value:.4g}"
        parts.append(f'<text class="tick end" x="{LEFT - 5}" y="{y(value) + 3.5:.1f}">{text}</text>')
    for value in ticks(1, max(n, 2), 5):
        if value == int(value) >= 1:
            parts.append(f'<text class="tick middle" x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 13}">{value:.0f}</text>')
    parts.append(f'<text class="tick end" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}">epoch</text>')
    if level is not None:
        parts.append(f'<path class="level" d="M{LEFT} {y(level):.1f}H{WIDTH - RIGHT}"/>')
    for line in lines:
        path, begun = "", False
        for i, height in enumerate(line.values, start=1):
            if height is None or not math.isfinite(height):
                begun = False
                continue
            path += f"{'L' if begun else 'M'}{x(i):.1f} {y(height):.1f}"
            begun = True
        parts.append(f'<path class="line {line.style}" d="{path}"/>')
        if n == 1 and path:  # a line of one point is not seen
            parts.append(f'<circle class="dot {line.style}" cx="{x(1):.1f}" cy="{y(line.values[0] or 0):.1f}" r="3"/>')
    return _svg(WIDTH, HEIGHT, label, parts)


def scatter_chart(points: Sequence[Point], label: str, x_label: str, y_label: str) -> str:
    """Points on two equal axes, with their diagonal; each leads to its place in the page."""
    low, high = _widened([value for point in points for value in (point.x, point.y)])
    x = _Scale(low, high, LEFT, SIDE - RIGHT)
    y = _Scale(low, high, SIDE - BOTTOM - 14, TOP)
    bottom = SIDE - BOTTOM - 14
    parts = []
    for value in ticks(low, high, 6):
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{SIDE - RIGHT}M{x(value):.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 5}" y="{y(value) + 3.5:.1f}">{value:.4g}</text>')
        parts.append(f'<text class="tick middle" x="{x(value):.1f}" y="{bottom + 13}">{value:.4g}</text>')
    parts.append(f'<path class="level" d="M{x(low):.1f} {y(low):.1f}L{x(high):.1f} {y(high):.1f}"/>')
    middle = (LEFT + SIDE - RIGHT) / 2
    parts.append(f'<text class="middle" x="{middle}" y="{SIDE - 6}">{escape(x_label)}</text>')
    turned = f"translate(11 {(TOP + bottom) / 2}) rotate(-90)"
    parts.append(f'<text class="middle" transform="{turned}">{escape(y_label)}</text>')
    for point in points:
        shape = f'<circle class="dot {point.style}" cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="4"/>'
        title = f"<title>{escape(point.words)}</title>"
        parts.append(f'<a href="#{point.anchor}" aria-label="{escape(point.words)}">{title}{shape}</a>')
    return _svg(SIDE, SIDE, label, parts)


def ticks(low: float, high: float, n: int) -> list[float]:
    """At most n + 1 round values from low to high, at 1, 2 or 5 times a power of ten."""
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    values: list[float] = []
    while (first + len(values)) * step <= high + 1e-9 * step:
        values.append(round((first + len(values)) * step, 12))
    return values


class _Scale:
    """From values to coordinates."""

    def __init__(self, low: float, high: float, begin: float, end: float):
        self.low, self.begin = low, begin
        self.factor = (end - begin) / (high - low)

    def __call__(self, value: float) -> float:
        return self.begin + (value - self.low) * self.factor


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """Range with a little room; something also around a single value, or none."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    words = escape(label)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{words}">{"".join(parts)}</svg>'
    )
