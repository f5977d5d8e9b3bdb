"""How searches whose best answer is known are told, from the recorded result alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nni_proxyless.models.draw import save_picture

from ..common import record
from ..common.planted import LAYERS
from .networks import N_TRAIN, allowed


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Over seeds of one strategy and target; the standard error of the regret with them."""
    found = {
        name: statistics.mean(float(row[name]) for row in rows)
        for name in ("rank", "regret", "within_noise", "most_probable_fits", "seconds", "regret_anywhere")
    }
    found["is_best"] = statistics.mean(float(row["rank"] == 1) for row in rows)
    found["top_5"] = statistics.mean(float(row["rank"] <= 5) for row in rows)
    several = len(rows) > 1
    found["error"] = statistics.stdev(row["regret"] for row in rows) / len(rows) ** 0.5 if several else math.nan
    return found


def by_strategy(result: dict[str, Any], share: float | None) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(row["strategy"] for row in result["searches"])
    of = {n: [row for row in result["searches"] if (row["strategy"], row["target"]) == (n, share)] for n in names}
    return {name: means(rows) for name, rows in of.items() if rows}


def of_target(share: float | None) -> str:
    return "accuracy alone" if share is None else f"at most {share:.0%} of the largest"


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    truth = result["truth"]
    accuracies = allowed(truth, None)
    order = sorted(accuracies, key=lambda name: -accuracies[name])
    trainings = min(map(len, truth["accuracies"].values()))
    lines = [
        *record.head(result), "", "# Planted candidates", "",
        f"{LAYERS} choices of 4 candidates, weights still, batches of {result['planted_batch']} images.", "",
        *record.table(
            ("strategy", "block", "steps of the logits", "seeds with all found", "choices found"),
            [
                (row["strategy"], "x + branch" if row["residual"] else "branch", row["steps"],
                 f"{sum(n == LAYERS for n in row['found'])} of {len(row['found'])}",
                 f"{statistics.mean(row['found']) / LAYERS:.2f}")
                for row in result["planted"]
            ],
        ),
        "", *record.bars_table(result["bars"]), "", "# All networks of a small space", "",
        f"{len(order)} networks on the digits, {N_TRAIN} images to train on, {result['judging_images']} to judge by, {trainings} trainings "
        f"each. Mean accuracy {accuracies[order[-1]]:.4f} to {accuracies[order[0]]:.4f}, standard deviation "
        f"{statistics.stdev(accuracies.values()):.4f}. Best: "
        + ", ".join(f"{name} {accuracies[name]:.4f}" for name in order[:5])
        + ". The one that looks best has also been lucky: regrets are too large by about the noise, for all alike.",
    ]  # fmt: skip
    for drawn in result["chance"]:
        share = drawn["target"]
        rows: list[tuple[object, ...]] = [
            (
                name, f"{m['rank']:.1f}", f"{m['is_best']:.2f}", f"{m['top_5']:.2f}", f"{m['within_noise']:.2f}",
                f"{m['regret']:.4f}" + ("" if math.isnan(m["error"]) else f" ± {m['error']:.4f}"),
                "" if share is None else f"{m['regret_anywhere']:.4f}", f"{m['most_probable_fits']:.2f}", f"{m['seconds']:.1f}",
            )
            for name, m in by_strategy(result, share).items()
        ]  # fmt: skip
        rows += [
            ("a random network", f"{drawn['rank']:.1f}", f"{drawn['is_best']:.2f}", f"{drawn['top_5']:.2f}",
             f"{drawn['within_noise']:.2f}", f"{drawn['regret']:.4f}", "", "", ""),
            (f"the best of {drawn['draws']} random ones, trained", "", "", "", "",
             f"{drawn['regret_of_best_of_draws']:.4f}", "", "", ""),
        ]  # fmt: skip
        if share is not None:
            close = drawn["near"]
            rows += [
                (f"a random one of the {close['networks']} near the target", "", "", "", "", f"{close['regret']:.4f}", "", "", ""),
                ("the best of several of these, trained", "", "", "", "", f"{close['regret_of_best_of_draws']:.4f}", "", "", ""),
            ]  # fmt: skip
        lines += [
            "", f"**{of_target(share)}**: {drawn['networks']} networks, the best is {drawn['best']} with {drawn['best_accuracy']:.4f}; "
            f"noise of a difference of two of the ten best {drawn['noise']:.4f}.", "",
            *record.table(
                ("strategy", "rank", "the best", "top 5", "within noise of the best", "regret", "regret, not near", "within the target unasked", "CPU s"), rows
            ),
        ]  # fmt: skip
    lines += ["", *sentences(result)]
    return lines


def sentences(result: dict[str, Any]) -> list[str]:
    """What does not win, from the figures."""
    worse, better, n, better_near, n_near = [], [], 0, 0, 0
    for drawn in result["chance"]:
        for name, m in by_strategy(result, drawn["target"]).items():
            n += 1
            where = f"{name} ({of_target(drawn['target'])})"
            if m["regret"] >= drawn["regret"]:
                worse.append(where)
            if m["regret"] < drawn["regret_of_best_of_draws"]:
                better.append(where)
            if drawn["target"] is not None:
                n_near += 1
                better_near += m["regret"] < drawn["near"]["regret_of_best_of_draws"]
    return [
        "*Regret*: best accuracy minus that of the network found, mean over seeds and its standard error. What is found is the most "
        "probable network within the target and near it; *not near*: the most probable one within it, whatever it costs. *Within the "
        "target unasked*: how often the most probable network of all is within it.",
        "",
        f"Of {n} rows, the regret is below that of the best of as many random networks as a search's steps would train in "
        f"{len(better)}" + (f" ({', '.join(better)})" if 0 < len(better) < n else "") + ". "
        + (f"No better than one random network: {', '.join(worse)}." if worse else "All are better than one random network.")
        + (f" Of the {n_near} rows with a target, the best of as many random networks near the target has the larger regret in {better_near}." if n_near else ""),
    ]  # fmt: skip


COLOURS = {
    "two-path": "#a8480f", "full": "#d98e04", "reinforce": "#7b4fa3", "dsnas": "#3b6ea5", "nni-proxyless": "#4c9a6a",
}  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """All networks by multiply-adds and accuracy; and the regret of every search, by target."""
    from matplotlib.figure import Figure

    truth, largest = result["truth"], max(result["truth"]["macs"].values())
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    all_nets, *panels = figure.subplots(1, 1 + len(result["chance"]), width_ratios=[1.5] + [1] * len(result["chance"]))
    accuracies = allowed(truth, None)
    all_nets.plot(
        [truth["macs"][name] / 1e3 for name in accuracies], [*accuracies.values()], "o", color="#6b6b6b", markersize=4
    )
    for drawn in result["chance"]:
        if drawn["target"] is not None:
            all_nets.axvline(drawn["target"] * largest / 1e3, color="#b0b0b0", linestyle="--", linewidth=1)
    all_nets.set(
        xlabel="thousand multiply-adds",
        ylabel="accuracy, trained from scratch",
        title=f"all {len(accuracies)} networks",
    )
    top = max(max((row["regret"] for row in result["searches"]), default=0), *(d["regret"] for d in result["chance"]))
    for axes, drawn in zip(panels, result["chance"], strict=True):
        found = by_strategy(result, drawn["target"])
        axes.axhspan(0, drawn["noise"], color="#dddddd")
        axes.axhline(drawn["regret"], color="black", linestyle="--", linewidth=1)
        axes.axhline(drawn["regret_of_best_of_draws"], color="black", linestyle=":", linewidth=1)
        if drawn["target"] is not None:
            axes.axhline(drawn["near"]["regret_of_best_of_draws"], color="#8c8c8c", linewidth=1)
        for i, (name, m) in enumerate(found.items()):
            rows = [r for r in result["searches"] if (r["strategy"], r["target"]) == (name, drawn["target"])]
            axes.plot([i] * len(rows), [r["regret"] for r in rows], "o", color=COLOURS[name], alpha=0.5, markersize=5)
            axes.plot([i - 0.3, i + 0.3], [m["regret"]] * 2, color=COLOURS[name], linewidth=2)
        axes.set_xticks(range(len(found)), list(found), rotation=60, ha="right")
        axes.set(
            ylim=(-0.03 * top, 1.05 * top),
            title="accuracy alone" if drawn["target"] is None else f"≤ {drawn['target']:.0%} of the largest",
        )
        axes.tick_params(labelleft=axes is panels[0])
    panels[0].set_ylabel("regret in accuracy")
    figure.supxlabel(
        "dashed: a random network; dotted: the best of several; gray line: of several near the target; gray area: noise of the trainings",
        fontsize=9,
    )
    save_picture(figure, path)
