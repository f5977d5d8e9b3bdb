"""Bars of a search at ImageNet's size, and how it is told; from the recorded result alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common import record

PIXELS = 224
# Bars. A short run is not over the first tens of steps, in which every candidate gets its momentum and its buffers.
GROWTH = {"long": 0.01, "short": 0.05}
TIME = {"proxyless": 1.25, "dsnas": 1.15}


def bars(runs: Sequence[dict[str, Any]], form: str) -> list[dict[str, Any]]:
    found = []
    for r in runs:
        name = f"{r['strategy']}, {r['processes']} process{'es' if r['processes'] > 1 else ''}"
        worst = max(r["growth"], key=lambda g: g["share"] - g["noise"])
        found.append(
            record.bar(f"{name}: growth of memory", worst["share"], at_most=GROWTH[form], noise=worst["noise"])
        )
        well = r["left_a_net"] and r["processes_that_trained"] == r["processes"] and not r["processes_left_over"]
        same = well and len(set(r["steps"])) == 1
        found.append(
            record.bar(f"{name}: searched to the end, equal steps, no process left over", float(same), at_least=1)
        )
        if r["processes"] == 1:
            value, noise = mean_and_noise(r["ratios"])
            found.append(
                record.bar(f"{name}: time of a step by a plain one", value, at_most=TIME[r["strategy"]], noise=noise)
            )
    return found


def mean_and_noise(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and twice its standard error."""
    if len(values) < 2:
        raise SystemExit(f"scale: {len(values)} turn(s) of search and plain steps; 2 or more are needed: more --steps")
    return statistics.mean(values), 2 * statistics.stdev(values) / len(values) ** 0.5


# -- the report ----------------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    s = result["settings"]
    rows = []
    for r in result["runs"]:
        ratio, noise = mean_and_noise(r["ratios"])
        grown = max(r["growth"], key=lambda g: g["share"])
        rows.append((
            r["strategy"], r["processes"], max(r["steps"]), f"{statistics.mean(map(statistics.mean, r['resident_mib'])):.0f}",
            f"{max(r['peak_mib']):.0f}", f"{grown['share']:+.2%} ± {grown['noise']:.2%}", f"{ratio:.2f} ± {noise:.2f}",
            f"{r['processes'] / ratio:.2f}", f"{r['processes'] * s['batch'] / ratio / r['plain_seconds']:.1f}", f"{r['seconds']:.0f}",
        ))  # fmt: skip
    return [
        *record.head(result),
        "",
        f"The ImageNet space, 21 choices, {PIXELS} pixels, batches of {s['batch']} per process, one thread each; noise as images.",
        "",
        *record.table(
            ("strategy", "processes", "steps each", "resident MiB", "peak MiB", "growth", "step by plain step", "images by plain images",
             "images/s", "seconds"),
            rows,
        ),
        "",
        *record.bars_table(result["bars"]),
        "",
        "*Resident*: mean of a process between two steps, images and libraries included, which processes share; *peak*: the most of any. *Growth*: "
        "over the second half of the search, of the process that grew most. *Step by plain step*: of the search stage, data, "
        "logging and, with ProxylessNAS, an architecture step after every 5th batch included; the judging of the network after every "
        "epoch not. *Images by plain images*: all processes together, per second, against one process that trains plainly and has "
        "the machine for itself. ± is twice the standard error. *Seconds*: of the whole command, its start and the halts included.",
        "",
        f"More processes than cores show that it works and what it takes in memory, not a gain: this machine has "
        f"{result['machine']['cores']} logical cores, which may be two threads of one. A step of several processes also sends all gradients "
        "of a path from one to the other, which at such small batches is much of it.",
    ]  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Memory over the steps of every run; images per second against plain training."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = {"proxyless": "#a8480f", "dsnas": "#3b6ea5"}
    styles = {1: "-", 2: "--", 4: ":"}
    for r in result["runs"]:
        for i, mib in enumerate(r["resident_mib"]):
            label = f"{r['strategy']}, {r['processes']}" if i == 0 else None
            left.plot(mib, styles.get(r["processes"], "-."), color=colours[r["strategy"]], linewidth=1, label=label)
    left.set(xlabel="step", ylabel="resident memory of a process, MiB", ylim=(0, None))
    left.legend(fontsize=8, title="strategy, processes", title_fontsize=8, loc="lower right")
    names = []
    for i, r in enumerate(result["runs"]):
        ratio, noise = mean_and_noise(r["ratios"])
        right.bar(i, r["processes"] / ratio, yerr=r["processes"] * noise / ratio**2, color=colours[r["strategy"]])
        names.append(f"{r['strategy']}\n{r['processes']}")
    right.axhline(1, color="#6b6b6b", linewidth=1)
    right.set_xticks(range(len(names)), names, fontsize=8)
    right.set(ylabel="images by those of plain training")
    save_picture(figure, path)
