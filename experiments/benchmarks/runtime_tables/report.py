"""Tables of every runtime: bars, tables and a picture, from the record alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common import record

BARS = {"build_seconds": 300.0, "mean_error": 0.02, "worst_error": 0.06, "spearman": 0.99}
NAMES = {
    "build_seconds": "build, seconds", "mean_error": "mean error", "worst_error": "worst error", "spearman": "Spearman",
}  # fmt: skip
SPACE_NAMES = {"small": "`small`, 32x32", "imagenet": "ImageNet space, 224x224", "tiny": "a tiny space, 16x16"}

Cell = Mapping[str, Any]


def whole(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Those whose three steps are done, in a fixed order."""
    order = {name: i for i, name in enumerate(SPACE_NAMES)}
    names = sorted(cells, key=lambda name: order.get(name.partition(":")[0], len(order)))
    return {name: cells[name] for name in names if {"build", "check", "again"} <= set(cells[name])}


def figures(cell: Cell) -> dict[str, float]:
    """What of a cell has a bar; errors are those after calibration, as ``latency check`` stores it in the table."""
    after = cell["check"]["after"]
    return {
        "build_seconds": cell["build"]["seconds"], "mean_error": after["mean_error"], "worst_error": after["worst_error"],
        "spearman": after["spearman"][0],
    }  # fmt: skip


def noise(cell: Cell, name: str) -> float:
    """How far a figure may be off because networks were timed once: by what the second timing of the same networks says.

    A table without error would be as far from one timing as half of the difference of two, in variance: 0.71 of the mean and of the
    worst of it. Of the rank correlation, the lower half of its 95 % interval over networks.
    """
    apart = cell["again"]["apart"]
    if name == "spearman":
        return cell["check"]["after"]["spearman"][0] - cell["check"]["after"]["spearman"][1]
    return 0.5**0.5 * apart[name] if name != "build_seconds" else 0.0


def bars(cells: Mapping[str, Cell]) -> list[dict[str, Any]]:
    """Four of every cell."""
    found = []
    for name, cell in whole(cells).items():
        for figure, limit in BARS.items():
            side = {"at_least" if figure == "spearman" else "at_most": limit}
            found.append(
                record.bar(f"{name}, {NAMES[figure]}", figures(cell)[figure], **side, noise=noise(cell, figure))
            )
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    lines = record.head(result)
    cells = whole(result["cells"])
    for space, title in SPACE_NAMES.items():
        rows = [_row(name, cell) for name, cell in cells.items() if name.partition(":")[0] == space]
        if rows:
            lines += ["", f"{title}, batch 1, one thread:", "", *record.table(HEAD, rows)]
    if result["bars"]:
        lines += ["", *record.bars_table(result["bars"])]
    return [
        *lines,
        "",
        "*As built*: sums of rows against networks that the table was not made from. *Calibrated*: with the fixed cost and slope that as many "
        "other networks gave. *Second timing*: of the same networks, prepared anew, against the first, after the median of their ratio: "
        "no table can be closer to one timing than about 0.7 of that. *Cross-validated*: what the build itself says of its fit, before any "
        "check. Bars are of calibrated figures. A bar is within noise where it is missed by less than the second timing is apart.",
    ]  # fmt: skip


HEAD = (
    "runtime", "date", "method", "build, s", "networks", "ms", "cross-validated: mean", "as built: bias", "mean", "worst", "calibrated: mean",
    "worst", "Spearman (95 %)", "second timing: mean", "worst", "Spearman",
)  # fmt: skip


def _row(name: str, cell: Cell) -> tuple[str, ...]:
    build, check, apart = cell["build"], cell["check"], cell["again"]["apart"]
    before, after, ms = check["before"], check["after"], check["measured_ms"]
    said, digits = build["measured"], 3 if min(ms) < 1 else 1
    value, low, high = after["spearman"]
    return (
        name.partition(":")[2], check["date"], build["method"], f"{build['seconds']:.0f}", str(said.get("networks", "")),
        f"{min(ms):.{digits}f} to {max(ms):.{digits}f}", f"{said['mean_error']:.2%}" if "mean_error" in said else "",
        f"{before['bias']:+.1%}", f"{before['mean_error']:.2%}", f"{before['worst_error']:.1%}",
        f"{after['mean_error']:.2%}", f"{after['worst_error']:.1%}", f"{value:.3f} ({low:.3f}–{high:.3f})",
        f"{apart['mean_error']:.2%}", f"{apart['worst_error']:.1%}", f"{apart['spearman'][0]:.3f}",
    )  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Calibrated milliseconds over measured ones, each by their mean; a panel per runtime, a row per space."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    cells = whole(result["cells"])
    spaces = list(dict.fromkeys(name.partition(":")[0] for name in cells)) or ["small"]
    targets = list(dict.fromkeys(name.partition(":")[2] for name in cells)) or ["none"]
    figure = Figure(figsize=(2.3 * len(targets), 2.6 * len(spaces)), layout="constrained")
    for i, row in enumerate(figure.subplots(len(spaces), len(targets), squeeze=False)):
        for axes, target in zip(row, targets, strict=True):
            cell = cells.get(f"{spaces[i]}:{target}")
            if cell is None:
                axes.set_axis_off()
                continue
            measured, calibrated = cell["check"]["measured_ms"], cell["check"]["calibrated_ms"]
            center = statistics.mean(measured)
            x, y = ([ms / center for ms in values] for values in (measured, calibrated))
            ends = [min(*x, *y), max(*x, *y)]
            axes.plot(ends, ends, color="#6b6b6b", linewidth=1, zorder=0)
            axes.plot(x, y, "o", color="#3b6ea5", markersize=3)
            after = cell["check"]["after"]
            axes.set_title(f"{target}\n{after['mean_error']:.1%}, {after['spearman'][0]:.3f}", fontsize=8)
            axes.set_aspect("equal")
            axes.tick_params(labelsize=7)
        row[0].set_ylabel(f"{spaces[i]}: from the table", fontsize=8)
    figure.supxlabel("measured, by the mean of all", fontsize=8)
    save_picture(figure, path)
