"""A heat map of the probabilities of one choice: epochs to the right, a row per candidate, brighter where it is more probable.

A search draws thousands of these. Pillow, which comes with matplotlib, takes a few milliseconds for one where matplotlib's own axes
take a tenth of a second.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw_heat_map", "place_of"]

# Pixels.
ROW, WIDTH, ABOVE, BELOW = 22, 420, 30, 44
GAP, PERCENT, SCALE, MARGIN = 6, 42, 10, 10
SIZE, TITLE = 12, 14  # of letters
LONGEST = 28  # of a candidate's name, in letters; of a longer one the middle is left out
TICKS = 8  # at most


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
    from PIL import Image, ImageDraw

    names = [_shortened(name) for name in candidates]
    left, n, epochs = _left(names), *over_time.shape
    bottom, right = ABOVE + ROW * n, left + WIDTH
    width = right + GAP + PERCENT + SCALE + GAP + _width("0", SIZE) + MARGIN
    picture = Image.new("RGB", (width, bottom + BELOW), "white")
    cells = Image.fromarray(_colors(over_time)).resize((WIDTH, ROW * n), Image.Resampling.NEAREST)
    picture.paste(cells, (left, ABOVE))
    scale = Image.fromarray(_colors(np.linspace(1, 0, ROW * n)[:, None])).resize((SCALE, ROW * n))
    picture.paste(scale, (right + GAP + PERCENT, ABOVE))

    draw = ImageDraw.Draw(picture)

    def write(x: float, y: float, text: str, anchor: str, size: int = SIZE) -> None:
        draw.text((x, y), text, fill="black", font=_font(size), anchor=anchor)

    write(left, ABOVE / 2, label, "lm", TITLE)
    for row, (name, probability) in enumerate(zip(names, over_time[:, -1], strict=True)):
        middle = ABOVE + ROW * (row + 0.5)
        write(left - GAP, middle, name, "rm")
        write(right + GAP, middle, "" if math.isnan(probability) else f"{100 * probability:.0f} %", "lm")
    for epoch in _ticks(epochs):
        x = left + WIDTH * (epoch - 0.5) / epochs
        draw.line((x, bottom, x, bottom + 4), fill="black")
        write(x, bottom + GAP, f"{epoch}", "ma")
    write(left + WIDTH / 2, bottom + BELOW - GAP, "epoch", "ms")
    for text, y in (("1", ABOVE + SIZE / 2), ("0", bottom - SIZE / 2)):
        write(width - MARGIN, y, text, "rm")
    return np.asarray(picture)


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
