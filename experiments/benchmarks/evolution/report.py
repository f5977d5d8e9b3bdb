"""What is made of the searches: tables and a picture, from the recorded result alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nni_proxyless.models.draw import save_picture

from ..common import record
from ..search_by_runtime.report import paired

NAMES = {
    "early exit": "`EarlyExitEvolution`",
    "no early exit": "the same without a bound",
    "random": "random draws within the bound",
    "regularized": "NNI's `RegularizedEvolution` with a filter",
    "selection": "a regression on the choices, solved for budgets",
}
FIRST = "early exit"
COLORS = {
    "early exit": "#3b6ea5",
    "no early exit": "#85aed6",
    "random": "#777777",
    "regularized": "#a8480f",
    "selection": "#3f7f4f",
}

Search = Mapping[str, Any]


def values(searches: Iterable[Search], method: str, bound: float, key: str, i: int) -> list[float]:
    """Of every seed, in their order, after the i-th number of networks."""
    return [s[key][i] for s in searches if s["method"] == method and s["bound"] == bound]


def share_table(searches: Sequence[Search], bounds: Sequence[float], networks: Sequence[int]) -> list[str]:
    """Share of the true front's hypervolume that each method has, in per cent: mean over seeds with its standard error."""
    methods = list(dict.fromkeys(s["method"] for s in searches))
    rows = [
        (f"{bound:.0%}", n, *(_mean([100 * v for v in values(searches, m, bound, "hypervolume", i)]) for m in methods))
        for bound in bounds
        for i, n in enumerate(networks)
    ]
    return record.table(("bound", "networks", *(NAMES.get(m, m) for m in methods)), rows)


def compared(result: Mapping[str, Any], key: str, scale: float, *, last: bool = False) -> list[str]:
    """By how much ``EarlyExitEvolution`` is above each other method, paired by seed; ``last``: after the largest number of networks alone."""
    networks = list(enumerate(result["setting"]["networks"]))
    rows = []
    for bound in result["setting"]["bounds"]:
        for method in [m for m in result["methods"] if m != FIRST]:
            for i, n in networks[-1:] if last else networks:
                mine, other = (values(result["searches"], m, bound, key, i) for m in (FIRST, method))
                d = paired([scale * (a - b) for a, b in zip(mine, other, strict=True)])
                p = "" if d["p"] is None else f"{d['p']:.2g}"
                difference = f"{d['difference']:+.2f} ± {d['standard_error']:.2f}"
                rows.append((f"{bound:.0%}", n, NAMES[method], difference, p, f"{d['detectable']:.2f}"))
    return record.table(("bound", "networks", "less", "difference", "p", "would be seen"), rows)


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    setting, last = result["setting"], len(result["setting"]["networks"]) - 1
    known = [
        (
            f"{bound:.0%}", of["within"], f"{of['best']:.2f}", f"{100 * saved['mean']:.1f} ± {100 * saved['standard_error']:.1f}",
            *(_mean(values(result["searches"], m, bound, "best", last)) for m in result["methods"]),
        )
        for bound in setting["bounds"]
        for of, saved in [(result["bounds"][f"{bound:g}"], result["saved"][f"{bound:g}"])]
    ]  # fmt: skip
    populations = ", ".join(f"{NAMES[m]} {of['population']}" for m, of in result["methods"].items() if of["population"])
    lines = [
        *record.head(result), "",
        f"{len(setting['seeds'])} seeds. A bound is a share of the multiply-adds of the largest network. Population: {populations}. Means with standard errors over seeds; differences are paired by "
        "seed (t-test, two-sided); *would be seen*: in 80 % of such experiments.", "",
        "Share of the true front's hypervolume that the networks trained so far have, per cent; error and multiply-adds, up to the worst error within the bound and to the bound:", "",
        *share_table(result["searches"], setting["bounds"], setting["networks"]), "",
        "`EarlyExitEvolution` less another, in points of that share:", "", *compared(result, "hypervolume", 100), "",
        f"What early exit has saved, per cent of random draws, and the best accuracy within the bound after {setting['networks'][last]} networks, per cent:", "",
        *record.table(("bound", "networks within", "best of all", "draws saved, %", *(NAMES[m] for m in result["methods"])), known), "",
        "`EarlyExitEvolution` less another, in points of accuracy of the best:", "", *compared(result, "best", 1, last=True), "",
    ]  # fmt: skip
    whole = []
    for bound in setting["bounds"]:
        with_it, without = (
            values(result["searches"], m, bound, "whole_hypervolume", last) for m in (FIRST, "no early exit")
        )
        d = paired([100 * (a - b) for a, b in zip(with_it, without, strict=True)])
        whole.append(
            (f"{bound:.0%}", *(_mean([100 * v for v in of]) for of in (with_it, without)), f"{d['difference']:+.2f}")
        )
    return [
        *lines,
        f"The same share over the whole space, the bound left out, after {setting['networks'][last]} networks, as the paper's figure 6 has it:", "",
        *record.table(("bound", NAMES[FIRST], NAMES["no early exit"], "difference"), whole),
    ]  # fmt: skip


def _mean(numbers: Sequence[float]) -> str:
    return f"{statistics.mean(numbers):.2f} ± {statistics.stdev(numbers) / len(numbers) ** 0.5:.2f}"


def picture(result: dict[str, Any], path: Path) -> None:
    """A panel per bound: what is missing of the true front's hypervolume, over networks trained."""
    from matplotlib.figure import Figure

    setting = result["setting"]
    figure = Figure(figsize=(2.4 * len(setting["bounds"]) + 1, 2.9), layout="constrained")
    panels = figure.subplots(1, len(setting["bounds"]), sharey=True, squeeze=False)[0]
    for axes, bound in zip(panels, setting["bounds"], strict=True):
        for method in result["methods"]:
            missing = [
                [100 * (1 - v) for v in values(result["searches"], method, bound, "hypervolume", i)]
                for i in range(len(setting["networks"]))
            ]
            errors = [statistics.stdev(of) / len(of) ** 0.5 for of in missing]
            axes.errorbar(
                setting["networks"], [statistics.mean(of) for of in missing], errors, marker="o", markersize=3, linewidth=1,
                color=COLORS[method], label=method,
            )  # fmt: skip
        axes.set(title=f"bound {bound:.0%}", xlabel="networks trained", xscale="log", yscale="log")
        axes.set_xticks(setting["networks"], [str(n) for n in setting["networks"]])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("missing of the true front's\nhypervolume, %")
    panels[-1].legend(frameon=False, fontsize=7)
    save_picture(figure, path)
