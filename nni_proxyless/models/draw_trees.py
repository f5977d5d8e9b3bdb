"""Draw a network of trees: a row per stage, all blocks of one size, and a block enlarged that says which cell is which choice.

One unit of the axes is an inch of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..search_spaces.tree_layout import EDGES, kernel_of, labels_of_blocks
from .block_diagram import Block, NetworkDiagram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLORS", "NO_KERNEL", "color_of", "draw_tree_network", "has_trees", "look_of", "size_of_trees"]

# Told apart by people who see no red, no green or no blue, and lighter to darker, so also without any color.
COLORS = {1: "#ffffff", 3: "#f9dc7c", 5: "#56a9d9", 7: "#a8480f", 9: "#3d1452"}
OTHER_KERNEL, NO_KERNEL = "#8f8f8f", "#e4e4e4"

# Inches.
CELL, GAP, ABOVE, BELOW, ROW_GAP = 0.17, 0.09, 0.16, 0.16, 0.22
TITLE, STAGE, INPUT, PLAIN, MARGIN = 0.34, 0.85, 0.62, 0.3, 0.25
KEY_WIDE, KEY_TALL, KEY_WORDS = 0.66, 0.22, 6.8
SIDE = 4  # cells of a block in each direction
BLOCK = SIDE * CELL
ROW = ABOVE + BLOCK + BELOW + ROW_GAP
LEFT = MARGIN + STAGE + INPUT + PLAIN + 0.15  # of the first block

KEY = """\
The block, enlarged. The name of a block and what stands in a cell are the label of a choice, such as stage1.{first}.half1.0
Each half x of the channels becomes x + norm(left branch + right branch). A branch is its wide cell
below, and then the sum of the two cells over it, which both get what the wide one gives.
Over a block is its number in the stage, below it the channels of its output."""


def has_trees(diagram: NetworkDiagram) -> bool:
    return any(block.operations for block in diagram.blocks)


def size_of_trees(diagram: NetworkDiagram) -> tuple[float, float]:
    """Width and height of a network, its title and the enlarged block included."""
    depths = _depths(diagram)
    wide = LEFT + max(depths) * (BLOCK + GAP) + GAP + 2 * PLAIN + MARGIN
    key = LEFT + SIDE * KEY_WIDE + 0.2 + KEY_WORDS
    return max(wide, key), TITLE + ROW * len(depths) + SIDE * KEY_TALL + 2 * ROW_GAP


def draw_tree_network(axes: Axes, diagram: NetworkDiagram, r: int, top: float) -> None:
    """The r-th network of a picture, below ``top``."""
    from matplotlib.patches import Rectangle

    name = axes.text(MARGIN, top - 0.1, diagram.name, fontsize=10, fontweight="bold", va="center")
    axes.annotate(
        diagram.figures, (1, 0), xycoords=name, xytext=(8, 0), textcoords="offset points", fontsize=9, va="bottom"
    )
    numbers = iter(label.partition(".")[2] for label in labels_of_blocks(_depths(diagram)))
    trees = [stage for stage in diagram.stages if stage.blocks[0].operations]
    n = 1
    for row, stage in enumerate(trees):
        bottom = top - TITLE - row * ROW - ABOVE - BLOCK
        axes.text(MARGIN, bottom + BLOCK / 2, f"stage{row + 1}\n{stage.notes[0]}", fontsize=8, va="center")
        end = LEFT + len(stage.blocks) * (BLOCK + GAP)
        axes.plot([LEFT - GAP, end], [bottom + BLOCK / 2] * 2, color="black", linewidth=1, zorder=0)
        for b, block in enumerate(stage.blocks):
            left = LEFT + b * (BLOCK + GAP)
            axes.add_patch(Rectangle(
                (left, bottom), BLOCK, BLOCK, facecolor="white", edgecolor="black", linewidth=1, zorder=3, gid=f"net{r}-block{n}",
            ))  # fmt: skip
            for i, ((x, y, wide), operation) in enumerate(zip(_cells(), block.operations, strict=True)):
                color, hatch = look_of(operation)
                axes.add_patch(Rectangle(
                    (left + CELL * x, bottom + CELL * y), CELL * wide, CELL, facecolor=color, hatch=hatch, edgecolor="black",
                    linewidth=0.4, zorder=4, gid=f"net{r}-tree{n}-{i}-{operation}",
                ))  # fmt: skip
            # The halves are told apart by a heavier line.
            axes.plot([left, left + BLOCK], [bottom + BLOCK / 2] * 2, color="black", linewidth=1.4, zorder=5)
            axes.text(left + BLOCK / 2, bottom + BLOCK + 0.04, next(numbers), fontsize=7, ha="center", va="bottom")
            axes.text(left + BLOCK / 2, bottom - 0.04, f"{block.channels}", fontsize=7, ha="center", va="top")
            n += 1
        if row == 0:
            axes.text(MARGIN + STAGE, bottom + BLOCK / 2, diagram.source, fontsize=8, va="center")
            _draw_plain(axes, diagram.blocks[0], LEFT - GAP - PLAIN, bottom + BLOCK / 2, f"net{r}-block0")
        if row == len(trees) - 1:
            _draw_plain(axes, diagram.blocks[-1], end, bottom + BLOCK / 2, f"net{r}-block{n}")
    _draw_key(axes, top - TITLE - ROW * len(trees) - ROW_GAP / 2, len(f"{max(_depths(diagram)) - 1}"))


def look_of(operation: str) -> tuple[str, str]:
    """Color and hatching of an operation; those with weights have the color of their kernel."""
    for kind, color, hatch in (("id", "white", ""), ("avg", "#d3d3d3", ""), ("max", "#8f8f8f", "")):
        if operation.startswith(kind):
            return color, hatch
    return color_of(kernel_of(operation)), "////" if operation.startswith("dil") else ""


def color_of(kernel: int | None) -> str:
    return NO_KERNEL if kernel is None else COLORS.get(kernel, OTHER_KERNEL)


def _depths(diagram: NetworkDiagram) -> list[int]:
    return [len(stage.blocks) for stage in diagram.stages if stage.blocks[0].operations]


def _cells() -> Iterator[tuple[int, int, int]]:
    """Column, row from below and width of the cells, in the order of :data:`.EDGES`."""
    for half in range(2):
        for branch in range(2):
            yield from ((2 * branch, 2 * half, 2), (2 * branch, 2 * half + 1, 1), (2 * branch + 1, 2 * half + 1, 1))


def _draw_plain(axes: Axes, block: Block, left: float, middle: float, gid: str) -> None:
    """Stem or classifier."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(
        (left, middle - 0.1), PLAIN, 0.2, facecolor=NO_KERNEL, edgecolor="black", linewidth=0.6, zorder=3, gid=gid,
    ))  # fmt: skip
    words = block.label.replace(", ", "\n").replace(" ", "\n", 1)
    axes.text(left + PLAIN / 2, middle + 0.14, words, fontsize=6.5, ha="center", va="bottom")
    axes.text(left + PLAIN / 2, middle - 0.14, f"{block.channels}", fontsize=7, ha="center", va="top")


def _draw_key(axes: Axes, top: float, digits: int) -> None:
    from matplotlib.patches import Rectangle

    bottom = top - SIDE * KEY_TALL
    for (x, y, wide), path in zip(_cells(), EDGES, strict=True):
        left, low = LEFT + KEY_WIDE * x, bottom + KEY_TALL * y
        axes.add_patch(
            Rectangle((left, low), KEY_WIDE * wide, KEY_TALL, facecolor="white", edgecolor="black", linewidth=0.6)
        )
        axes.text(left + KEY_WIDE * wide / 2, low + KEY_TALL / 2, f"half{path}", fontsize=7.5, ha="center", va="center")
    middle = bottom + 2 * KEY_TALL
    axes.plot([LEFT, LEFT + SIDE * KEY_WIDE], [middle] * 2, color="black", linewidth=1.4)
    words = KEY.format(first="0" * digits)
    axes.text(LEFT + SIDE * KEY_WIDE + 0.2, middle, words, fontsize=8, va="center", linespacing=1.3)
