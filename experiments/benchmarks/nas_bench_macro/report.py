"""What is made of the cells: tables and a picture, from the recorded result alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nni_proxyless.models.draw import save_picture

from ..common import record

NAMES = {"two-path": "ProxylessNAS, two-path", "dsnas": "DSNAS"}
WAYS = {"by_probabilities": "probabilities", "by_supernet": "supernet"}


def points(found: Mapping[str, Any]) -> str:
    """Mean accuracy with its standard error, in per cent."""
    error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.2f}"
    return f"{found['accuracy']:.2f}{error}"


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    setting = result["setting"]
    chance = [
        (
            f"{float(share):.0%}", c["networks"], f"{c['mean']:.2f}", f"{c['deviation']:.2f}", f"{c['noise']:.2f}", f"{c['best_of_2']:.2f}",
            f"{c['best_of_3']:.2f}", f"{c['maximum']:.2f}",
        )
        for share, c in result["chance"].items()
    ]  # fmt: skip
    lines = [
        *record.head(result), "",
        f"Accuracies in per cent, by the table of NAS-Bench-Macro: means of three trainings by its authors. {len(setting['seeds'])} seed(s). Random "
        "networks take 95 to 100 % of the budget, a share of the multiply-adds of the largest network; the best of two and of three are expected "
        "values over all such sets, by their true accuracies.", "",
        *record.table(("budget", "networks", "mean", "deviation", "noise of a training", "best of 2", "best of 3", "maximum"), chance),
    ]  # fmt: skip
    if result["found"]:
        rows = [
            (
                f"{row['budget']:.0%}", NAMES[row["method"]], WAYS[row["how"]], points(row),
                f"{row['accuracy'] - result['chance'][format(row['budget'], 'g')]['best_of_3']:+.2f}", f"{row['regret']:.2f}",
                f"{row['rank']:.0f} of {row['of']}", "" if row["seconds"] is None else f"{row['seconds'] / 60:.1f}",
            )
            for row in result["found"]
        ]  # fmt: skip
        head = ("budget", "search", "network by", "accuracy, %", "above best of 3", "regret", "rank", "CPU minutes")
        lines += [
            "", f"Searches: {setting['search_epochs']} epochs, {setting['warmup_epochs']} of them for weights alone (DSNAS: one less, and one of its child); "
            f"the supernet judges {setting['n_judged']} networks. ProxylessNAS: one search without a target for all budgets of a seed.",
            "", *record.table(head, rows), "", "How well the verdicts of these searches agree with the table on the networks that were judged: "
            "correlation r and Kendall's tau; the smoothed log-loss on all networks of the budget.", "",
        ]  # fmt: skip
        kinds = {
            "probabilities": "probabilities", "log_loss": "log-loss", "accuracy": "accuracy", "smoothed": "smoothed log-loss",
            "training": "losses of the training", "mixture": "log-loss and training", "cross_validated": "as the fit tells",
        }  # fmt: skip
        agreements = [
            (f"{row['budget']:.0%}", NAMES[row["method"]], *(_agreement(row["worth"].get(kind)) for kind in kinds))
            for row in result["found"] if row["how"] == "by_supernet"
        ]  # fmt: skip
        lines += record.table(("budget", "search", *kinds.values()), agreements)
    if result["recipes"]:
        rows = [
            (
                f"{row['budget']:.0%}", row["recipe"], *(_agreement(row[kind]) for kind in ("log_loss", "accuracy", "smoothed", "cross_validated")),
                f"{row['training_seconds'] / 60:.1f}", f"{row['seconds_per_network']:.1f}",
            )
            for row in result["recipes"]
        ]  # fmt: skip
        head = (
            "budget",
            "recipe",
            "log-loss",
            "accuracy",
            "smoothed log-loss",
            "as the fit tells",
            "CPU minutes",
            "seconds per network",
        )
        lines += [
            "", f"Supernets by single paths, and how their verdicts on {setting['n_verdicts']} random networks of a budget agree with the table: "
            "correlation r and Kendall's tau.", "", *record.table(head, rows),
        ]  # fmt: skip
        methods = list(result["recipes"][0]["selected"])
        rows = [
            (
                f"{row['budget']:.0%}",
                row["recipe"],
                *(f"{points(row['selected'][m])} ({row['selected'][m]['judged']:.0f})" for m in methods),
            )
            for row in result["recipes"]
        ]
        lines += ["", "What ways to use a supernet find, and how many networks they judge for it:", ""]
        lines += record.table(("budget", "recipe", *methods), rows)
    return lines


def _agreement(told: Mapping[str, float] | None) -> str:
    return "" if told is None else f"{told['r']:+.2f}, {told['tau']:+.2f}"


def picture(result: dict[str, Any], path: Path) -> None:
    """Above each budget: what chance finds, the best of all, and what every search has found."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    shares = list(result["chance"])
    for key, marker, label in (("mean", "_", "mean of random networks"), ("best_of_2", "2", "best of two"), ("best_of_3", "3", "best of three"),
                               ("maximum", "*", "best of all")):  # fmt: skip
        axes.plot(
            shares,
            [result["chance"][share][key] for share in shares],
            marker,
            color="#6b6b6b",
            markersize=11,
            label=label,
        )
    rows = result["found"]
    kinds = list(dict.fromkeys((row["method"], row["how"]) for row in rows))
    for i, (method, how) in enumerate(kinds):
        mine = [row for row in rows if (row["method"], row["how"]) == (method, how)]
        x = [shares.index(format(row["budget"], "g")) + 0.12 * (i + 1) for row in mine for _ in row["accuracies"]]
        y = [accuracy for row in mine for accuracy in row["accuracies"]]
        axes.plot(x, y, "o", color=f"C{i}", alpha=0.8, label=f"{NAMES[method]}, by {WAYS[how]}")
    axes.set(xlabel="budget, share of the multiply-adds of the largest network", ylabel="accuracy by the table, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save_picture(figure, path)
