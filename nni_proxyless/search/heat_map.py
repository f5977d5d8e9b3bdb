"""Heat maps of probabilities: epochs to the right, brighter where more probable; a row per candidate of a choice, or per choice.

A search draws thousands of the first kind. Pillow, which comes with matplotlib, takes a few milliseconds for one where matplotlib's own axes
take a tenth of a second.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.label_parts import part_of

__all__ = ["draw_choices", "draw_heat_map", "place_of"]

# Pixels.
ROW, WIDTH, ABOVE, BELOW = 22, 420, 30, 44
GAP, PERCENT, SCALE, MARGIN = 6, 42, 10, 10
SIZE, TITLE = 12, 14  # of letters
LONGEST = 28  # of a candidate's name, in letters; of a longer one the middle is left out
TICKS = 8  # at most
MANY_TALL, MANY_ROW = 1300, 6  # of a row per choice: about so tall, no row taller


def draw_heat_map(label: str, candidates: Sequence[str], over_time: np.ndarray) -> np.ndarray:
    """A picture of one choice, shape (height, width, 3), one byte per color.

    Parameters
    ----------
    label
        Of the choice; the title.
    candidates
        Their names, from above.
    over_time
        Probabilities, shape (candidates, epochs), the first epoch being 1; NaN where one is not known, which stays white. The
        last ones also stand there as numbers.
    """
    names = [_shortened(name) for name in candidates]
    picture = _Map(label, over_time, _left(names), ROW)
    for row, (name, probability) in enumerate(zip(names, over_time[:, -1], strict=True)):
        shown = "" if math.isnan(probability) else f"{100 * probability:.0f} %"
        picture.write_row(row, name, shown)
    return picture.finished()


def draw_choices(title: str, labels: Sequence[str], over_time: np.ndarray) -> np.ndarray:
    """A picture of many choices, a thin row each, shape (height, width, 3), one byte per color.

    Parameters
    ----------
    labels
        Of the choices, from above. The part of the network that they are in stands at its first row, where there is room.
    over_time
        A probability of each, shape (choices, epochs), as in :func:`draw_heat_map`.
    """
    parts = [_shortened(part_of(label)) for label in labels]
    height = min(MANY_ROW, max(1, MANY_TALL // len(labels)))
    picture = _Map(title, over_time, _left(sorted(set(parts))), height)
    room = -1.0
    for row, part in enumerate(parts):
        if height * row >= room and (row == 0 or part != parts[row - 1]):
            picture.write_row(row, part)
            room = height * row + SIZE + 2
    return picture.finished()


class _Map:
    """The cells, the scale of colors and the axis of epochs; ``row`` is how tall a row is."""

    def __init__(self, title: str, over_time: np.ndarray, left: int, row: int):
        from PIL import Image, ImageDraw

        n, epochs = over_time.shape
        self.left, self.right, self.row = left, left + WIDTH, row
        self.bottom = ABOVE + row * n
        width = self.right + GAP + PERCENT + SCALE + GAP + _width("0", SIZE) + MARGIN
        self._picture = Image.new("RGB", (width, self.bottom + BELOW), "white")
        cells = Image.fromarray(_colors(over_time)).resize((WIDTH, row * n), Image.Resampling.NEAREST)
        self._picture.paste(cells, (left, ABOVE))
        scale = Image.fromarray(_colors(np.linspace(1, 0, row * n)[:, None])).resize((SCALE, row * n))
        self._picture.paste(scale, (self.right + GAP + PERCENT, ABOVE))
        self._draw = ImageDraw.Draw(self._picture)
        self._write(left, ABOVE / 2, title, "lm", TITLE)
        for epoch in _ticks(epochs):
            x = left + WIDTH * (epoch - 0.5) / epochs
            self._draw.line((x, self.bottom, x, self.bottom + 4), fill="black")
            self._write(x, self.bottom + GAP, f"{epoch}", "ma")
        self._write(left + WIDTH / 2, self.bottom + BELOW - GAP, "epoch", "ms")
        for text, y in (("1", ABOVE + SIZE / 2), ("0", self.bottom - SIZE / 2)):
            self._write(width - MARGIN, y, text, "rm")

    def write_row(self, row: int, name: str, value: str = "") -> None:
        """What stands on the left and on the right of a row."""
        middle = ABOVE + self.row * (row + 0.5)
        self._write(self.left - GAP, middle, name, "rm")
        self._write(self.right + GAP, middle, value, "lm")

    def finished(self) -> np.ndarray:
        return np.asarray(self._picture)

    def _write(self, x: float, y: float, text: str, anchor: str, size: int = SIZE) -> None:
        self._draw.text((x, y), text, fill="black", font=_font(size), anchor=anchor)


def place_of(candidates: Sequence[str], epochs: int, row: int, epoch: int) -> tuple[int, int]:
    """Where the middle of a candidate's cell is in an epoch of so many, from 1 on: (y, x), in pixels."""
    left = _left([_shortened(name) for name in candidates])
    return int(ABOVE + ROW * (row + 0.5)), int(left + WIDTH * (epoch - 0.5) / epochs)


def _left(names: Sequence[str]) -> int:
    return MARGIN + max(_width(name, SIZE) for name in names) + GAP


def _colors(probabilities: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    colors = colormaps["viridis"](probabilities, bytes=True)[..., :3]
    colors[np.isnan(probabilities)] = 255
    return colors


def _ticks(epochs: int) -> range:
    """Epochs with a number below: 1, 2, 3, … or 5, 10, 15, … and so on, as many as there is room for."""
    step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if epochs / (s * 10**p) <= TICKS)
    return range(step, epochs + 1, step)


@functools.cache
def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _width(text: str, size: int) -> int:
    return math.ceil(_font(size).getlength(text))


def _shortened(name: str) -> str:
    if len(name) <= LONGEST:
        return name
    half = (LONGEST - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
