"""``nni-proxyless draw``: draw networks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.user_path import path_argument, text_argument

__all__ = ["add_draw_command"]


def add_draw_command(commands: Any) -> None:
    """Add ``draw`` to the commands of the parser."""
    draw = commands.add_parser(
        "draw", help="draw derived and published networks, block by block",
        description="Draw networks as the papers do: blocks from input to classifier, width by channels, height by expansion, "
        "color by kernel. Several networks stand one below the other, on the same scales.",
    )  # fmt: skip
    draw.add_argument("networks", nargs="+", type=text_argument, metavar="architecture.json | DIR | NAME",
                      help="of a folder without an architecture.json all below it; NAME: a published network, such as "
                      "proxyless_mobile")  # fmt: skip
    draw.add_argument("--output", type=path_argument, metavar="PICTURE",
                      help="its ending, .svg or .png, says what it is; default: network.svg and network.png, networks.… of "
                      "several, beside the first network, or here for a published one")  # fmt: skip
    draw.add_argument("--title", default="", help="over the picture")
    draw.set_defaults(run=_draw)


def _draw(arguments: argparse.Namespace) -> int:
    from ..models.block_diagram import find_diagrams
    from ..models.draw import draw_networks, require_picture, save_picture

    if arguments.output is not None:
        require_picture(arguments.output, "--output")
    diagrams = find_diagrams(arguments.networks)
    figure = draw_networks(diagrams, arguments.title)
    for path in [arguments.output] if arguments.output is not None else _beside(arguments.networks, len(diagrams)):
        save_picture(figure, path)
        print(f"picture: {path}")
    return 0


def _beside(names: Sequence[str], n: int) -> list[Path]:
    """One network's picture is called as the search calls its own; that of several does not take its place."""
    first = Path(names[0])
    if first.exists():
        stem = (first if first.is_dir() else first.parent) / ("network" if n == 1 else "networks")
    else:
        stem = Path(names[0] if n == 1 else "networks")
    return [stem.with_name(f"{stem.name}{ending}") for ending in (".svg", ".png")]
