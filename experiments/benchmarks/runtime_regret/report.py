"""What two users get from one supernet by the tables of two runtimes, compared seed by seed; from the record alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression

from nni_proxyless.models.draw import save_picture

from ..common import record
from ..search_by_runtime.report import EAGER, NAMES, SHIPPED, paired

Network = Mapping[str, Any]


def compared(
    networks: Sequence[Network], fronts: Sequence[Sequence[float]], target_ms: Sequence[float]
) -> dict[str, Any]:
    """The user by the shipped runtime's table against the one by eager's, paired by seed.

    Parameters
    ----------
    fronts, target_ms
        Of each seed, accuracies that the first gets for these targets, shortest first.

    Returns
    -------
    dict
        ``accuracy``: of each share, and ``all`` for the mean over shares, the points that the first is better by. ``latency``: of each share, how many times as long
        the second one's networks take, by the shipped runtime's table, as the first target for which the first one's are as accurate, both on average over seeds, of
        which an isotonic regression is the front; with a 95 % interval (bootstrap over seeds).
    """
    found = {(n["share"], n["seed"], n["arm"]): n for n in networks}
    shares, seeds = sorted({n["share"] for n in networks}), list(dict.fromkeys(n["seed"] for n in networks))
    ours, theirs = (
        {share: np.array([found[share, seed, arm]["accuracy"] for seed in seeds]) for share in shares}
        for arm in (SHIPPED, EAGER)
    )
    better = {str(share): ours[share] - theirs[share] for share in shares}
    better["all"] = np.mean(list(better.values()), axis=0)
    ms = {share: np.array([found[share, seed, EAGER]["table_ms"][SHIPPED] for seed in seeds]) for share in shares}
    return {
        "accuracy": {share: paired(d) for share, d in better.items()},
        "latency": {
            str(share): _longer(np.asarray(fronts), np.asarray(target_ms), theirs[share], ms[share]) for share in shares
        },
    }


def _longer(fronts: np.ndarray, target_ms: np.ndarray, accuracy: np.ndarray, ms: np.ndarray) -> dict[str, Any]:
    """How many times as long networks of these accuracies take as others that are as accurate; the latter infinitely long where there are none."""

    def ratio(i: np.ndarray) -> float:
        front = IsotonicRegression().fit_transform(np.arange(len(target_ms)), fronts[i].mean(0))  # chance makes dents
        enough = np.flatnonzero(front >= accuracy[i].mean())
        return float(ms[i].mean() / target_ms[enough[0]]) if len(enough) else 0.0

    draw, n = np.random.default_rng(0), len(accuracy)
    samples = [ratio(draw.integers(n, size=n)) for _ in range(2000)]
    return {"ratio": ratio(np.arange(n)), "interval": np.percentile(samples, [2.5, 97.5]).tolist() if n > 1 else None}


def _percent(share: str) -> str:
    return "all targets" if share == "all" else f"{float(share):.0%}"


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    setting, networks = result["setting"], result["networks"]
    lines = [
        *record.head(result), "",
        f"{len(setting['seeds'])} supernets of NAS-Bench-Macro's space, each of one search with ProxylessNAS without a target; each judges {setting['judged']} random networks "
        "of the whole space. Targets lie so far between the fastest and the slowest network in ONNX Runtime, one image, one thread. Accuracies in per cent, by the "
        f"table of NAS-Bench-Macro; means with standard errors over seeds. Milliseconds by the tables: {result['tables'][SHIPPED]['runtime']}, "
        f"{result['tables'][EAGER]['runtime']}, which rank the networks alike by {result['rank_correlation']:.3f} (Spearman). "
        f"Log-losses agree with the accuracies by {statistics.mean(a['r'] for a in result['agreement']):.2f} (correlation, whole space).", "",
    ]  # fmt: skip
    rows = []
    for share, of in result["chance"].items():
        mine = {arm: [n for n in networks if str(n["share"]) == share and n["arm"] == arm] for arm in (SHIPPED, EAGER)}
        rows.append((
            _percent(share), f"{of['target_ms']:.3f}", f"{of['mean']:.2f}", f"{of['best_of_3']:.2f}" if "best_of_3" in of else "", f"{of['maximum']:.2f}",
            *(_mean([n["accuracy"] for n in mine[arm]]) for arm in mine),
            *(f"{statistics.mean(n['measured_ms'] for n in mine[arm]):.3f}" for arm in mine),
        ))  # fmt: skip
    lines += record.table(
        ("target", "ms", "random: mean", "best of 3", "best of all", NAMES[SHIPPED], NAMES[EAGER], "measured, ms: by ONNX Runtime", "by eager"), rows
    )  # fmt: skip
    latency = result["compared"]["latency"]
    rows = [
        (
            _percent(share), f"{d['difference']:+.2f}", _or(d["standard_error"], ".2f"), _or(d["p"], ".2g"), _or(d["detectable"], ".2f"),
            *(_times(latency[share]) if share in latency else ("", "")),
        )
        for share, d in result["compared"]["accuracy"].items()
    ]  # fmt: skip
    head = (
        "target",
        "points better",
        "standard error",
        "p",
        "would be seen",
        "times as long at equal accuracy",
        "95 % interval",
    )
    seconds = result["cpu_seconds"]
    known = [of["search"] for of in seconds if of["search"] is not None]
    took = f"a search took {statistics.mean(known) / 60:.1f} CPU minutes, " if known else ""
    return [
        *lines, "", "By ONNX Runtime's table, less by eager PyTorch's, paired by seed (t-tests, two-sided; *would be seen* in 80 % of such experiments); and how "
        "much longer the networks by eager's take than those by ONNX Runtime's that are as accurate, both on average:", "", *record.table(head, rows), "",
        f"On this machine {took}judging {statistics.mean(of['judging'] for of in seconds) / 60:.1f}.",
    ]  # fmt: skip


def _times(found: Mapping[str, Any]) -> tuple[str, str]:
    interval = found["interval"]
    return f"{found['ratio']:.2f}", "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _or(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _mean(values: Sequence[float]) -> str:
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{error}"


def picture(result: dict[str, Any], path: Path) -> None:
    """Accuracy over the targets: a point per network, means of each user, and chance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    targets = [of["target_ms"] for of in result["chance"].values()]
    for key, style, label in (("maximum", "k:", "best of all"), ("mean", "k--", "mean of random networks")):
        axes.plot(targets, [of[key] for of in result["chance"].values()], style, linewidth=1, label=label)
    for arm, color in ((SHIPPED, "#3b6ea5"), (EAGER, "#a8480f")):
        mine = [n for n in result["networks"] if n["arm"] == arm]
        axes.plot(
            [n["table_ms"][SHIPPED] for n in mine],
            [n["accuracy"] for n in mine],
            "o",
            color=color,
            markersize=3,
            alpha=0.6,
        )
        means = [statistics.mean(n["accuracy"] for n in mine if str(n["share"]) == share) for share in result["chance"]]
        axes.plot(targets, means, "D-", color=color, label=NAMES[arm])
    axes.set(xlabel="milliseconds in ONNX Runtime, one image, by its table", ylabel="accuracy by NAS-Bench-Macro, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save_picture(figure, path)
