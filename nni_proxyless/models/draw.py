"""Draw networks as the papers do: one row each, from the images to the classifier.

    width of a block    channels of its output, the same scale in all rows
    height              expansion
    color               kernel
    a dotted line       a block that the search left out

Networks of trees are drawn otherwise, :mod:`.draw_trees`.

One unit of the axes is an inch of the picture. Labels stay text in an SVG, and the same network
gives the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UserError
from ..search_spaces.tree_layout import kernel_of
from .architecture import Architecture
from .block_diagram import Block, NetworkDiagram, Stage, diagram_of_architecture
from .draw_trees import COLORS, NO_KERNEL, color_of, draw_tree_network, has_trees, look_of, size_of_trees

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "draw_beside", "draw_networks", "require_picture", "save_picture"]

_logger = logging.getLogger(__name__)

LEFT_OUT = "a dotted line"
MARKS = {"SE": "squeeze-and-excitation", "RE": "ReLU", "HS": "hard-swish", "SW": "swish", "MI": "Mish"}  # of labels
ENDINGS = (".svg", ".png")

# Inches.
MARGIN, GAP, STAGE_GAP, PITCH, STAGE_MIN = 0.25, 0.05, 0.22, 0.17, 0.5
WIDEST, ALL_WIDTHS = 0.9, 6.5  # of one block, and of all blocks of a network together
TALLEST, LABEL, NOTES, TITLE, LEGEND, INPUT = 0.84, 0.66, 0.52, 0.34, 0.4, 0.78
SAMPLE_GAP = 0.05
PLAIN_WIDTH = 0.3  # feature mix and classifier: as wide as they are, they would be half of the picture


def draw_networks(diagrams: Sequence[NetworkDiagram], title: str = "") -> Figure:
    """A picture of one network, or of several on the same scales, a row each, with a legend.

    Parameters
    ----------
    diagrams
        One or more.
    title
        Over all of them.
    """
    from matplotlib.figure import Figure  # no window, and no state outside this function

    rows = [diagram for diagram in diagrams if not has_trees(diagram)]
    searched = [block for diagram in rows for block in diagram.blocks if _to_scale(block)]
    inch_per_channel = min(
        WIDEST / max((block.channels for block in searched), default=1),
        *(ALL_WIDTHS / sum(block.channels for block in diagram.blocks if _to_scale(block)) for diagram in rows),
        math.inf,
    )
    inch_per_expansion = TALLEST / max(6.0, *(block.expansion or 1 for block in searched), 0)
    label = max(LABEL, *(_reach(block, inch_per_expansion) - TALLEST / 2 for block in searched), 0)
    legend = _legend(diagrams, inch_per_channel)
    sizes = [
        size_of_trees(diagram)
        if has_trees(diagram)
        else (_row_width(diagram, inch_per_channel), TITLE + label + TALLEST + NOTES)
        for diagram in diagrams
    ]
    above = MARGIN + (0.3 if title else 0)
    height = above + sum(tall for _, tall in sizes) + LEGEND
    width = max(2 * MARGIN + sum(w + SAMPLE_GAP for w, _, _ in legend), *(wide for wide, _ in sizes))
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    if title:
        axes.text(MARGIN, height - MARGIN, title, fontsize=12, fontweight="bold", va="center")
    top = height - above
    for r, (diagram, (_, tall)) in enumerate(zip(diagrams, sizes, strict=True)):
        if has_trees(diagram):
            draw_tree_network(axes, diagram, r, top)
        else:
            _draw_row(axes, diagram, r, top, label, inch_per_channel, inch_per_expansion)
        top -= tall
    _draw_legend(axes, legend)
    return figure


def save_picture(figure: Figure, path: Path) -> None:
    """Write an SVG with text as text, or a PNG, by the ending; without date, so that equal pictures are equal files."""
    from matplotlib import rc_context

    require_picture(path, "picture")
    path.parent.mkdir(parents=True, exist_ok=True)
    # "none": text is no outline of letters. The salt goes into names inside the file, by chance otherwise.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "nni-proxyless"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def require_picture(path: Path, option: str) -> None:
    """Refuse a suffix that is not a picture format."""
    if path.suffix not in ENDINGS:
        raise UserError(f"{option} {path}: '{path.suffix}' is not allowed here; allowed: {', '.join(ENDINGS)}")


def draw_beside(architecture_path: Path) -> None:
    """``network.svg`` beside an ``architecture.json``, where its network has blocks to draw.

    Errors are logged: a search that has written its network must not fail because of a picture.
    """
    try:
        path = architecture_path.with_name("network.svg")
        path.unlink(missing_ok=True)  # of another network
        if Architecture.read(architecture_path).network is not None:
            save_picture(draw_networks([diagram_of_architecture(architecture_path)]), path)
    except Exception as error:
        _logger.warning("%s: no picture of the network: %s", architecture_path, error)


def _to_scale(block: Block) -> bool:
    return block.kernel is not None


def _reach(block: Block, inch_per_expansion: float) -> float:
    """From the middle of a block to the end of its label, in inches."""
    return inch_per_expansion * (block.expansion or 1) / 2 + 0.05 + 0.066 * len(block.label)


def _width(block: Block, inch_per_channel: float) -> float:
    return block.channels * inch_per_channel if _to_scale(block) else 0.0 if block.skipped else PLAIN_WIDTH


def _stage_width(stage: Stage, inch_per_channel: float) -> float:
    slots = [max(_width(block, inch_per_channel), PITCH) for block in stage.blocks]
    return max(sum(slots) + GAP * (len(slots) - 1), STAGE_MIN if stage.notes else PITCH)


def _row_width(diagram: NetworkDiagram, inch_per_channel: float) -> float:
    stages = sum(_stage_width(stage, inch_per_channel) for stage in diagram.stages)
    # Name and figures, in letters of that many inches, must also find room.
    words = 0.09 * len(diagram.name) + 0.07 * len(diagram.figures) + 0.2
    return 2 * MARGIN + max(INPUT + stages + STAGE_GAP * (len(diagram.stages) - 1), words)


def _draw_row(
    axes: Axes,
    diagram: NetworkDiagram,
    r: int,
    top: float,
    label: float,
    inch_per_channel: float,
    inch_per_expansion: float,
) -> None:
    """A network from left to right, below ``top``, with so much room for labels."""
    from matplotlib.patches import Rectangle

    middle = top - TITLE - label - TALLEST / 2
    under = middle - TALLEST / 2 - 0.07
    name = axes.text(MARGIN, top - 0.1, diagram.name, fontsize=10, fontweight="bold", va="center")
    axes.annotate(
        diagram.figures, (1, 0), xycoords=name, xytext=(8, 0), textcoords="offset points", fontsize=9, va="bottom"
    )
    axes.text(MARGIN, middle, diagram.source, fontsize=8, va="center")
    x = begin = MARGIN + INPUT
    n = 0
    for s, stage in enumerate(diagram.stages):
        room = _stage_width(stage, inch_per_channel)
        slots = [max(_width(block, inch_per_channel), PITCH) for block in stage.blocks]
        at = x + (room - sum(slots) - GAP * (len(slots) - 1)) / 2
        for block, slot in zip(stage.blocks, slots, strict=True):
            center = at + slot / 2
            wide, tall = _width(block, inch_per_channel), inch_per_expansion * (block.expansion or 1)
            if block.skipped:
                axes.plot([at, at + slot], [middle, middle], color="white", linewidth=3, zorder=1)
                line = axes.plot(
                    [at, at + slot], [middle, middle], color="black", linewidth=1, linestyle=":", zorder=2
                )[0]
                line.set_gid(f"net{r}-block{n}-skip")
                tall = 0.0
            else:
                axes.add_patch(Rectangle(
                    (center - wide / 2, middle - tall / 2), wide, tall, facecolor=color_of(block.kernel), edgecolor="black",
                    linewidth=0.6, zorder=3, gid=f"net{r}-block{n}",
                ))  # fmt: skip
            axes.text(center, middle + tall / 2 + 0.05, block.label, fontsize=8, rotation=90, ha="center", va="bottom",
                      color="dimgray" if block.skipped else "black")  # fmt: skip
            at += slot + GAP
            n += 1
        axes.text(x + room / 2, under, "\n".join(stage.notes), fontsize=7.5, ha="center", va="top", linespacing=1.15)
        x += room + STAGE_GAP
        if s < len(diagram.stages) - 1:
            boundary = x - STAGE_GAP / 2
            axes.plot(
                [boundary] * 2,
                [under - 0.28, middle + TALLEST / 2],
                color="gray",
                linewidth=0.6,
                dashes=(3, 3),
                zorder=0,
            )
    axes.plot([begin - 0.06, x - STAGE_GAP], [middle, middle], color="black", linewidth=1, zorder=0)


def _in_legend(operation: str) -> tuple[int, str, int]:
    """Those without weights first; by kernel."""
    kind = operation.rstrip("0123456789")
    return ("id", "avg", "max", "dw", "dil").index(kind), kind, kernel_of(operation) or 0


def _legend(diagrams: Sequence[NetworkDiagram], inch_per_channel: float) -> list[tuple[float, str, str]]:
    """The legend of color, height and width: samples and words, each as inches, color or operation, and text; one of the last two is empty."""
    blocks = [block for diagram in diagrams for block in diagram.blocks]

    def words(text: str, after: float = 0.1) -> tuple[float, str, str]:
        return 0.06 * len(text) + after, "", text

    kernels = sorted({block.kernel for block in blocks if block.kernel is not None})
    operations = sorted({name for block in blocks for name in block.operations}, key=_in_legend)
    items = [words("kernel")] if kernels else []
    for kernel in kernels:
        items += [(0.18, color_of(kernel), ""), words(f"{kernel}x{kernel}")]
    for name in operations:
        items += [(0.18, name, ""), words(name)]
    if kernels:
        items += [(0.18, NO_KERNEL, ""), words("not to scale"), words("", 0.1)]
        items += [words("height: expansion, the number after MB", 0.25), words("width: channels")]
        channels = 2 ** math.floor(math.log2(0.6 / inch_per_channel))
        items += [(channels * inch_per_channel, "white", ""), words(f"{channels}", 0.25)]
    if any(block.skipped for block in blocks):
        items += [(0.2, LEFT_OUT, ""), words("left out")]
    marks = {mark for block in blocks if _to_scale(block) for mark in block.label.split()[2:]}
    items += [words(f"{mark}: {MARKS[mark]}", 0.15) for mark in sorted(marks & MARKS.keys())]
    return items


def _draw_legend(axes: Axes, items: Sequence[tuple[float, str, str]]) -> None:
    from matplotlib.patches import Rectangle

    middle, x = LEGEND / 2, MARGIN
    for width, color, text in items:
        if text:
            axes.text(x, middle, text, fontsize=8, va="center")
        elif color == LEFT_OUT:
            axes.plot([x, x + width], [middle] * 2, color="black", linewidth=1, linestyle=":")
        elif color:
            face, hatch = look_of(color) if kernel_of(color) else (color, "")
            axes.add_patch(
                Rectangle(
                    (x, middle - 0.08), width, 0.16, facecolor=face, hatch=hatch, edgecolor="black", linewidth=0.6
                )
            )
        x += width + (0 if text else SAMPLE_GAP)
