"""What is made of tables that were built and checked: tables and a picture, from the recorded result alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common import record

BARS = {"build_seconds": 180.0, "mean_error": 0.03, "worst_error": 0.08, "spearman": 0.98}
NAMES = {
    "build_seconds": "build, seconds", "mean_error": "mean error", "worst_error": "worst error", "spearman": "Spearman",
}  # fmt: skip


def figures(r: Mapping[str, Any]) -> dict[str, float]:
    """What of a run has a bar."""
    after = r["after"]
    return {"build_seconds": r["build_seconds"], "mean_error": after["mean_error"], "worst_error": after["worst_error"],
            "spearman": after["spearman"][0]}  # fmt: skip


def noise(r: Mapping[str, Any], name: str) -> float:
    """How far a figure of one run may be off: of the rank correlation, the lower half of its 95 % interval; of the mean error,
    twice its standard error over the networks; of the worst, which is one network's, what that one's neighbor has."""
    errors = sorted(abs(n["calibrated_ms"] / n["measured_ms"] - 1) for n in r["networks"])
    if name == "spearman":
        return r["after"]["spearman"][0] - r["after"]["spearman"][1]
    if name == "mean_error":
        return 2 * statistics.stdev(errors) / len(errors) ** 0.5
    return errors[-1] - errors[-2] if name == "worst_error" else 0.0


def bars(runs: Sequence[Mapping[str, Any]], *, short: bool) -> list[dict[str, Any]]:
    """Of the worst run by the default method; seconds are a bar of the whole build only."""
    mine = [r for r in runs if r["method"] == "networks"]
    found = []
    for name, limit in BARS.items() if mine else ():
        if name == "build_seconds" and short:
            continue
        best = name == "spearman"
        worst = (min if best else max)(mine, key=lambda r: figures(r)[name])
        side = {"at_least" if best else "at_most": limit}
        found.append(record.bar(NAMES[name], figures(worst)[name], **side, noise=noise(worst, name)))
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    rows = []
    for r in result["runs"]:
        before, after, c = r["before"], r["after"], r["calibration"]
        low, high = after["spearman"][1:]
        rows.append((
            r["method"] + (f", {r['commit']}" if "commit" in r else ""), f"{r['build_seconds']:.0f}",
            f"{r['measured']['drift']:.2f}, {r['measured']['unrest']:.2f}", f"{r['mean_ms']:.1f}", f"{before['bias']:+.1%}",
            f"{before['mean_error']:.1%}", f"{before['worst_error']:.1%}", f"{after['mean_error']:.2%}", f"{after['worst_error']:.2%}",
            f"{after['spearman'][0]:.4f} ({low:.3f}–{high:.3f})", f"{after['kendall'][0]:.3f}",
            f"{c['fixed_ms']:+.2f} ms + {c['slope']:.3f} t",
        ))  # fmt: skip
    head = ("method", "build, s", "drift, unrest", "mean ms", "predicted: bias", "mean", "worst", "calibrated: mean", "worst",
            "Spearman (95 %)", "Kendall", "calibration")  # fmt: skip
    lines = [*record.head(result), "", *record.table(head, rows)]
    if result["bars"]:
        lines += ["", *record.bars_table(result["bars"])]
    return [
        *lines,
        "",
        "*Drift*: what was timed first, at the end by at the beginning of the build. *Unrest*: how much slower the machine was in the "
        "slow tenth of the build than in the fast one. *Predicted*: the sum of the rows against the network as a whole; *calibrated*: "
        "with the fixed cost and slope that the other networks gave. Bars are of the worst run by the method *networks*. The bias before calibration "
        "is mostly the machine, which has changed its speed between the two commands. Operations timed one by one (*isolated*) rank "
        "networks less well than those timed inside of networks, and that method is not the default.",
    ]  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Predicted and calibrated against measured, of the last run of each method."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    last = {r["method"]: r for r in result["runs"]}
    figure = Figure(figsize=(4.4 * len(last), 4.4), layout="constrained")
    for axes, (method, r) in zip(figure.subplots(1, len(last), squeeze=False)[0], last.items(), strict=True):
        measured, predicted, calibrated = (
            [n[f"{name}_ms"] for n in r["networks"]] for name in ("measured", "predicted", "calibrated")
        )
        ends = [min(*measured, *predicted), max(*measured, *predicted)]
        axes.plot(ends, ends, color="#6b6b6b", linewidth=1, zorder=0)
        axes.plot(measured, predicted, "x", color="#a8480f", markersize=5, label="predicted: sum of rows")
        axes.plot(measured, calibrated, "o", color="#3b6ea5", markersize=4, label="calibrated on other networks")
        axes.set(xlabel="measured, ms", ylabel="from the table, ms", title=f"method {method}")
        axes.set_aspect("equal")
        axes.legend(fontsize=8)
    save_picture(figure, path)
