"""What is made of the searches: tables and a picture, from the recorded result alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nni_proxyless.models.draw import save_picture

from ..common import record
from ..evolution.report import COLORS, FIRST, NAMES
from ..search_by_runtime.report import paired

FIGURES = {
    "hypervolume": ("Share of the hypervolume of all networks judged, log-loss and multiply-adds, per cent:", 100.0),
    "true_hypervolume": ("What the front is worth by the table: share of the true front's hypervolume, error and multiply-adds, per cent:", 100.0),
    "best": ("Accuracy of the network of the least log-loss by the table, per cent:", 1.0),
}  # fmt: skip


def values(result: Mapping[str, Any], method: str, figure: str, i: int) -> list[float]:
    """Of every supernet, in their order, after the i-th number of verdicts."""
    return [FIGURES[figure][1] * one["methods"][method][figure][i] for one in result["supernets"]]


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    supernets = result["supernets"]
    methods = list(supernets[0]["methods"])
    correlations = ", ".join(f"{one['correlation']:.2f}" for one in supernets)
    lines = [
        *record.head(result), "",
        f"{len(supernets)} supernets, a seed each. The bound is {result['bound']:.0%} of the multiply-adds of the largest network. Log-losses agree with errors by the table, over all "
        f"{sum(one['judged'] for one in supernets)} networks judged, by {correlations}. Means with standard errors over supernets; differences are paired (t-test, two-sided); "
        "*would be seen*: in 80 % of such experiments.", "",
    ]  # fmt: skip
    for figure, (title, _) in FIGURES.items():
        rows = [
            (n, *(_mean(values(result, method, figure, i)) for method in methods))
            for i, n in enumerate(result["networks"])
        ]
        lines += [title, "", *record.table(("verdicts", *(NAMES[method] for method in methods)), rows), ""]
        if len(supernets) > 1:
            lines += ["`EarlyExitEvolution` less another:", "", *_compared(result, figure), ""]
    return lines


def _compared(result: Mapping[str, Any], figure: str) -> list[str]:
    rows = []
    for method in [m for m in result["supernets"][0]["methods"] if m != FIRST]:
        for i, n in enumerate(result["networks"]):
            mine, other = (values(result, m, figure, i) for m in (FIRST, method))
            d = paired([a - b for a, b in zip(mine, other, strict=True)])
            p = "" if d["p"] is None else f"{d['p']:.2g}"
            rows.append((NAMES[method], n, f"{d['difference']:+.2f} ± {d['standard_error']:.2f}", p, f"{d['detectable']:.2f}"))  # fmt: skip
    return record.table(("less", "verdicts", "difference", "p", "would be seen"), rows)


def _mean(numbers: list[float]) -> str:
    if len(numbers) < 2:
        return f"{numbers[0]:.2f}"
    return f"{statistics.mean(numbers):.2f} ± {statistics.stdev(numbers) / len(numbers) ** 0.5:.2f}"


def picture(result: dict[str, Any], path: Path) -> None:
    """Hypervolume by the verdicts and by the table, over verdicts, by method."""
    from matplotlib.figure import Figure

    drawn = {"hypervolume": "by the supernet", "true_hypervolume": "of its front, by the table"}
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(drawn)), drawn.items(), strict=True):
        for method in result["supernets"][0]["methods"]:
            means = [statistics.mean(values(result, method, name, i)) for i in range(len(result["networks"]))]
            axes.plot(result["networks"], means, marker="o", markersize=3, linewidth=1, color=COLORS[method], label=method)  # fmt: skip
        axes.set(title=title, xlabel="verdicts", ylabel="hypervolume, %")
        axes.set_xticks(result["networks"])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].legend(frameon=False, fontsize=7)
    save_picture(figure, path)
