"""``nni-proxyless reference``: the nets that a search has to beat."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import UserError

__all__ = ["add_reference_command"]

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)  # of the published MobileNetV2s


def add_reference_command(commands: Any) -> None:
    """Add ``reference`` to the commands of the parser."""
    reference = commands.add_parser(
        "reference", help="MobileNetV2 at several widths, for the images of a derived net",
        description="Write nets picked by hand: MobileNetV2 for images that are halved five times, else MobileNetV2's block "
        "(3x3, expansion 6) in the skeleton of the net's own space. Their weights are fresh; train them with nni-proxyless "
        "train … weights=scratch.",
    )  # fmt: skip
    reference.add_argument("net", type=Path, metavar="architecture.json | RUN", help="of a search, or its folder")
    reference.add_argument("--widths", type=float, nargs="+", default=WIDTHS, metavar="W",
                           help=f"channels are multiplied by; default: {' '.join(str(w) for w in WIDTHS)}")  # fmt: skip
    reference.add_argument("--output", type=Path, metavar="DIR", help="default: reference/ beside architecture.json")
    reference.set_defaults(run=_reference)


def _reference(arguments: argparse.Namespace) -> int:
    from ..architecture import Architecture
    from ..reference import reference_nets, write_reference_nets

    for width in arguments.widths:
        if not 0 < width <= 10:
            raise UserError(f"--widths: {width} is not allowed here; allowed: more than 0, up to 10")
    path = arguments.net / "architecture.json" if arguments.net.is_dir() else arguments.net
    searched = Architecture.read(path)
    nets, beside = reference_nets(searched, sorted(set(arguments.widths)))
    paths = write_reference_nets(nets, arguments.output or path.parent / "reference")
    rows = [("width", "MACs", "params", "measured ms")]
    rows += [_row(f"{net.search['width']}", net, net.latency["measured_ms"]) for net in nets]
    rows.append(_row("the searched net", searched, beside))
    columns = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, columns, strict=True)))
    print(f"structure: {nets[0].search['structure']}")
    for path in paths:
        print(f"architecture: {path}")
    return 0


def _row(name: str, net: Any, ms: float | None) -> tuple[str, str, str, str]:
    return name, f"{net.macs / 1e6:.2f} M", f"{net.n_params / 1e3:.1f} k", "-" if ms is None else f"{ms:.3f}"
