"""What a score is worth against accuracy after training, and how that is told; from the recorded result alone."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import stats

from nni_proxyless.models.draw import save_picture

from ..common import record

BAND = 0.15  # costs that differ by less than this share of the larger are about equal


# -- what a score is worth -----------------------------------------------------------------------------------------------


def tau(score: Sequence[float], final: Sequence[float], resamples: int) -> dict[str, float]:
    """Kendall's tau-b with its p-value (no association) and a bootstrap 95 % interval over networks.

    A score that is the same for all networks says nothing: 0.
    """
    found = stats.kendalltau(score, final)
    # Tau-b is the correlation of the signs of all differences: as such a resample takes microseconds.
    a, b = (np.sign(np.subtract.outer(values, values)) for values in (score, final))

    def of(i: Any) -> float:
        x, y = a[np.ix_(i, i)], b[np.ix_(i, i)]
        return float((x * y).sum() / max(1.0, math.sqrt((x * x).sum() * (y * y).sum())))

    drawn = [of(i) for i in np.random.default_rng(0).integers(len(a), size=(resamples, len(a)))]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "tau": float(np.nan_to_num(found.statistic)), "p": float(np.nan_to_num(found.pvalue, nan=1.0)),
        "low": float(low), "high": float(high),
    }  # fmt: skip


def tau_in_band(score: Sequence[float], final: Sequence[float], macs: Sequence[float]) -> dict[str, float]:
    """The same over pairs of networks of about equal cost alone: right pairs less wrong ones, by all that can be told apart."""
    pairs = [
        (i, j) for i, j in itertools.combinations(range(len(macs)), 2)
        if abs(macs[i] - macs[j]) < BAND * max(macs[i], macs[j]) and final[i] != final[j]
    ]  # fmt: skip
    agree = [(score[i] - score[j]) * (final[i] - final[j]) for i, j in pairs]
    told = [a for a in agree if a != 0]
    return {
        "tau": (sum(a > 0 for a in told) - sum(a < 0 for a in told)) / max(1, len(pairs)),
        "pairs": len(pairs),
    }


def judged(score: Sequence[float], result: dict[str, Any], resamples: int) -> dict[str, Any]:
    """What one score is worth against the mean accuracy after training."""
    final = [statistics.mean(network["final"]) for network in result["networks"]]
    macs = [network["macs"] for network in result["networks"]]
    return {**tau(score, final, resamples), "in_band": tau_in_band(score, final, macs)}


# -- the report ----------------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    sizes, networks = SimpleNamespace(**result["sizes"]), result["networks"]
    final = [statistics.mean(network["final"]) for network in networks]
    macs = [network["macs"] / 1e6 for network in networks]
    control = result["control"]
    rows = [("multiply-adds", "", "", *_cells(result["cost"]))]
    rows += [
        (s["strategy"], s["seed"], when, *_cells(s["worth"][when]))
        for s in result["supernets"] for when in s["accuracies"]
    ]  # fmt: skip
    return [
        *record.head(result), "",
        f"{len(networks)} networks of {min(macs):.2f} to {max(macs):.2f} million multiply-adds, {sizes.images} images of Fashion-MNIST "
        f"to train on, {sizes.epochs} epochs, {len(networks[0]['final'])} trainings each: accuracy {min(final):.4f} to {max(final):.4f} on "
        f"{sizes.test} test images, standard deviation {statistics.stdev(final):.4f}, noise of one mean {result['noise']:.4f}. Supernets: "
        f"{sizes.warmup} epochs of pretraining and {sizes.search} of search, without a latency target, judged on {sizes.validation} images. "
        f"*About equal cost*: pairs whose multiply-adds differ by less than {BAND:.0%}.", "",
        *record.table(
            ("score", "seed", "when", "tau", "95 % interval", "p", "tau at about equal cost (pairs)", "mean accuracy"),
            [
                (*row, "" if row[1] == "" else f"{statistics.mean(_accuracies(result, row)):.3f}") for row in rows
            ],
        ),
        "",
        f"Between one training and another of the same networks tau is {control['tau']:+.2f} ({control['low']:+.2f} to {control['high']:+.2f}), "
        f"{_in_band(control)} at about equal cost: about what the noise of the trainings allows. " + sentence(result),
    ]  # fmt: skip


def _accuracies(result: dict[str, Any], row: Sequence[Any]) -> list[float]:
    return next(s for s in result["supernets"] if [s["strategy"], s["seed"]] == [*row[:2]])["accuracies"][row[2]]


def _cells(worth: dict[str, Any]) -> tuple[str, ...]:
    return f"{worth['tau']:+.2f}", f"{worth['low']:+.2f} to {worth['high']:+.2f}", f"{worth['p']:.2g}", _in_band(worth)


def _in_band(worth: dict[str, Any]) -> str:
    found = worth["in_band"]
    return f"{found['tau']:+.2f} ({found['pairs']})" if found["pairs"] else "no such pairs"


def sentence(result: dict[str, Any]) -> str:
    """Who predicts better than cost, from the figures."""
    cost = result["cost"]["tau"]
    said = []
    for name in dict.fromkeys(s["strategy"] for s in result["supernets"]):
        for when in ("after pretraining", "after the search"):
            worths = [s["worth"][when] for s in result["supernets"] if s["strategy"] == name]
            better, worse = sum(w["low"] > cost for w in worths), sum(w["high"] < cost for w in worths)
            told = [w["in_band"]["tau"] for w in worths if w["in_band"]["pairs"]]
            equal = f", {statistics.mean(told):+.2f} at about equal cost" if told else ""
            said.append(
                f"{name} {when} {statistics.mean(w['tau'] for w in worths):+.2f}{equal} (interval above cost in {better} of "
                f"{len(worths)}, below it in {worse})"
            )
    return f"Mean over seeds, where multiply-adds have {cost:+.2f}: " + "; ".join(said) + "."


COLOURS = {0: "#a8480f", 1: "#3b6ea5", 2: "#4c9a6a"}


def picture(result: dict[str, Any], path: Path) -> None:
    """One panel per supernet: accuracy with inherited weights at the end of the search, and after training."""
    from matplotlib.figure import Figure

    names = [*dict.fromkeys(s["strategy"] for s in result["supernets"])]
    columns = min(4, 1 + len(names))
    lines = -(-(1 + len(names)) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.8 * lines), layout="constrained")
    by_cost, *panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
    for empty in panels[len(names) :]:
        empty.remove()
    final = [statistics.mean(network["final"]) for network in result["networks"]]
    by_cost.plot([network["macs"] / 1e6 for network in result["networks"]], final, "o", color="#6b6b6b")
    by_cost.set(
        xlabel="million multiply-adds",
        ylabel="accuracy after training",
        title=f"cost, tau {result['cost']['tau']:+.2f}",
    )
    when = "after the search"
    for axes, name in zip(panels, names, strict=False):
        of = [s for s in result["supernets"] if s["strategy"] == name]
        for i, supernet in enumerate(of):
            label = f"seed {supernet['seed']}, tau {supernet['worth'][when]['tau']:+.2f}"
            axes.plot(supernet["accuracies"][when], final, "os^"[i % 3], color=COLOURS[i % 3], label=label, alpha=0.8)
        axes.set(xlabel="accuracy with inherited weights", title=name)
        axes.legend(fontsize=8)
    save_picture(figure, path)
