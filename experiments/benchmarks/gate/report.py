"""What is made of the trainings: tables and a picture, from the recorded result alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from nni_proxyless.models.draw import save_picture

from ..common import record


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    setting = result["setting"]
    grid = setting["grid"]
    rows = []
    for space, found in result["spaces"].items():
        accuracies = [100 * statistics.mean(network["accuracies"]) for network in found["networks"]]
        macs, c = [network["macs"] / 1e6 for network in found["networks"]], found["compared"]
        rows.append((
            space, f"{min(macs):.2f} to {max(macs):.2f}", f"{statistics.mean(accuracies):.2f}", f"{min(accuracies):.2f} to {max(accuracies):.2f}",
            f"{100 * c['between']:.2f}", f"{100 * c['noise']:.2f}", f"{c['ratio']:.2f} ({c['low']:.2f} to {c['high']:.2f})", f"{c['p']:.2g}",
            f"{found['seconds'] / 60:.0f}",
        ))  # fmt: skip
    return [
        *record.head(result), "",
        f"{setting['networks']} random networks of each space that cost about as many multiply-adds, {setting['trainings']} trainings each: "
        f"{grid['images']:,} images, {grid['final_epochs']} epochs in batches of {grid['batch_size']}, accuracy in per cent on the test images and "
        f"{grid['n_more_test']:,} more that trained nothing. Deviation between networks and noise of one training in points, with the 95 % interval of "
        "their ratio.", "",
        *record.table(
            ("space", "M multiply-adds", "mean", "networks", "deviation between", "noise", "ratio", "p of no difference", "CPU minutes"), rows
        ),
        "", *record.bars_table(result["bars"]),
    ]  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """A column per space: every network as a line from one training to another, the best above."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 2.2 * len(result["spaces"]), 4.2), layout="constrained")
    axes = figure.add_subplot()
    for column, (space, found) in enumerate(result["spaces"].items()):
        ordered = sorted(found["networks"], key=lambda network: statistics.mean(network["accuracies"]))
        for i, network in enumerate(ordered):
            x = column + 0.7 * i / max(1, len(ordered) - 1)
            y = [100 * accuracy for accuracy in network["accuracies"]]
            axes.plot([x] * len(y), y, "o-", color=f"C{column}", markersize=3, linewidth=1)
        axes.text(column, axes.get_ylim()[1], f"{space}: {found['compared']['ratio']:.1f}", va="bottom")
    axes.set(xticks=[], ylabel="accuracy, %")
    axes.set_xlabel("networks of equal multiply-adds, by space")
    axes.spines[["top", "right"]].set_visible(False)
    save_picture(figure, path)
