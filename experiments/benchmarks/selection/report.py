"""What is made of the study: a table and a picture, from the recorded result alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nni_proxyless.models.draw import save_picture

from ..common import record


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    methods = list(dict.fromkeys(cell["method"] for cell in result["cells"]))
    by_row: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cell in result["cells"]:
        by_row.setdefault((cell["budget"], cell["r"], cell["networks"]), {})[cell["method"]] = cell
    rows = []
    for (budget, r, networks), of in by_row.items():
        best = max(cell["accuracy"] for cell in of.values())
        shown = [
            f"{'**' * (of[m]['accuracy'] == best)}{of[m]['accuracy']:.2f}{'**' * (of[m]['accuracy'] == best)} ± {of[m]['standard_error']:.2f} "
            f"({of[m]['judged']:.0f})"
            for m in methods
        ]
        rows.append((f"{budget:.0%}", f"{r:g}", networks, f"{of[methods[0]]['cross_validated']:+.2f}", *shown))
    chance = [
        (
            f"{float(share):.0%}",
            c["networks"],
            f"{c['mean']:.2f}",
            f"{c['best_of_2']:.2f}",
            f"{c['best_of_3']:.2f}",
            f"{c['maximum']:.2f}",
        )
        for share, c in result["chance"].items()
    ]
    return [
        *record.head(result), "",
        "Random networks of a budget, which is a share of the multiply-adds of the largest network; accuracies in per cent by the table:", "",
        *record.table(("budget", "networks", "mean", "best of 2", "best of 3", "maximum"), chance), "",
        f"What each method finds, mean over {result['setting']['judges']} judges of a correlation r with the truth, with the standard error; in "
        f"brackets how many verdicts it has asked for, those by {result['again']} times the images as so many. The best of a row is bold. *As the fit tells*: the "
        "cross-validated correlation of verdicts with what their choices predict, which is all that a user sees of r.", "",
        *record.table(("budget", "r", "networks", "r as the fit tells", *methods), rows),
    ]  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """A panel per budget and correlation: accuracy over verdicts, a line per method; chance as dotted lines."""
    from matplotlib.figure import Figure

    setting, cells = result["setting"], result["cells"]
    budgets, correlations = setting["budgets"], setting["correlations"]
    figure = Figure(figsize=(2.9 * len(correlations), 2.5 * len(budgets)), layout="constrained")
    panels = figure.subplots(len(budgets), len(correlations), sharex=True, sharey="row", squeeze=False)
    for line, budget in zip(panels, budgets, strict=True):
        chance = result["chance"][format(budget, "g")]
        for axes, r in zip(line, correlations, strict=True):
            for i, method in enumerate(dict.fromkeys(cell["method"] for cell in cells)):
                mine = [cell for cell in cells if (cell["budget"], cell["r"], cell["method"]) == (budget, r, method)]
                axes.errorbar(
                    [cell["judged"] for cell in mine], [cell["accuracy"] for cell in mine], [cell["standard_error"] for cell in mine],
                    marker="o", markersize=3, color=f"C{i}", label=method, linewidth=1,
                )  # fmt: skip
            axes.axhline(chance["best_of_3"], color="#6b6b6b", linestyle=":", linewidth=1, label="best of three")
            axes.axhline(chance["maximum"], color="#6b6b6b", linewidth=1, label="best of all")
            axes.set_title(f"budget {budget:.0%}, r {r:g}", fontsize=9)
            axes.set_xscale("log")
            axes.set_xticks(setting["networks"], [str(n) for n in setting["networks"]])
            axes.minorticks_off()
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("accuracy, %")
    for axes in panels[-1]:
        axes.set_xlabel("verdicts")
    panels[0][0].legend(frameon=False, fontsize=7, ncols=2)
    save_picture(figure, path)
