"""Searches by two runtimes, compared seed by seed, and how that is told; from the record alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..common import record

SHIPPED, EAGER = "onnxruntime", "torch"
ARMS = (SHIPPED, EAGER)
NAMES = {SHIPPED: "by ONNX Runtime", EAGER: "by eager PyTorch"}
POWER = 0.8

Network = Mapping[str, Any]


def by_seed(networks: Sequence[Network], arm: str) -> dict[int, Network]:
    return {network["seed"]: network for network in networks if network["arm"] == arm}


def name_of(arm: str) -> str:
    base, _, share = arm.partition(", ")
    return NAMES[base] + (f", {share} of the target" if share else "")


def compared(networks: Sequence[Network], smaller: float) -> dict[str, Any]:
    """The two arms, paired by seed.

    Parameters
    ----------
    smaller
        Of the target: the share within which the second network of a search by the shipped runtime is.

    Returns
    -------
    dict
        ``accuracy``: of the shipped runtime's network less the eager one's: mean, standard error, p (paired t-test, two-sided), and the
        difference that so many pairs show with a probability of 0.8. ``smaller``: the same of the smaller network against the eager
        one. ``latency``: how many times as long the eager arm's network takes, timed, by what the shipped arm's of the same
        accuracy takes; log-linear between its two networks, with a 95 % interval over seeds (bootstrap).
    """
    ours, small, eager = (by_seed(networks, arm) for arm in (SHIPPED, f"{SHIPPED}, {smaller:.0%}", EAGER))
    seeds = sorted(ours.keys() & small.keys() & eager.keys())
    a, s, e = (np.array([of[seed]["test_accuracy"] for seed in seeds]) for of in (ours, small, eager))
    ms_a, ms_s, ms_e = (np.log([of[seed]["measured_ms"][SHIPPED] for seed in seeds]) for of in (ours, small, eager))

    def faster(i: Any) -> float:
        slope = (a[i].mean() - s[i].mean()) / (ms_a[i].mean() - ms_s[i].mean())
        if not slope > 0:
            return float("nan")
        same = (
            ms_a[i].mean() + (e[i].mean() - a[i].mean()) / slope
        )  # where the shipped arm has the eager arm's accuracy
        return float(np.exp(ms_e[i].mean() - same))

    draw = np.random.default_rng(0)
    found = [faster(draw.integers(len(seeds), size=len(seeds))) for _ in range(5000)]
    interval = np.nanpercentile(found, [2.5, 97.5]).tolist() if np.isfinite(found).any() else [float("nan")] * 2
    return {
        "accuracy": paired(a - e), "smaller": paired(s - e),
        "latency": {"ratio": _plain(faster(np.arange(len(seeds)))), "interval": [_plain(end) for end in interval]},
    }  # fmt: skip


def paired(differences: Sequence[float]) -> dict[str, Any]:
    """Mean of differences, its standard error, p, and what would be seen."""
    d = np.asarray(differences, dtype=float)
    n = len(d)
    if n < 2:
        return {"pairs": n, "difference": float(d.mean()), "standard_error": None, "p": None, "detectable": None}
    error = float(d.std(ddof=1) / n**0.5)
    t = stats.t(n - 1)
    p = float(stats.ttest_1samp(d, 0).pvalue) if error > 0 else None
    return {
        "pairs": n,
        "difference": float(d.mean()),
        "standard_error": error,
        "p": p,
        "detectable": float((t.ppf(0.975) + t.ppf(POWER)) * error),
    }


def _plain(value: float) -> float | None:
    """JSON knows no NaN."""
    return round(float(value), 4) if np.isfinite(value) else None


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    networks, targets, grid = result["networks"], result["targets"], result["setting"]["grid"]
    found = result["compared"]
    lines = [
        *record.head(result), "",
        f"{grid['images']} training images of Fashion-MNIST, judged on 10,000 test images and {grid['n_more_test']:,} that did not train; "
        f"seeds {grid['seeds'][0]} to {grid['seeds'][-1]}. A search is {grid['search_epochs']} epochs, {grid['warmup_epochs']} of them of weights alone; "
        f"{_verdict(result)}. The network then trains for {grid['final_epochs']} epochs from scratch. "
        f"Target: {targets[SHIPPED]:.4g} ms in {result['runtimes'][SHIPPED]}, one image, one thread; such networks take {targets[EAGER]:.4g} ms "
        f"in {result['runtimes'][EAGER]} on average, which the other search has for its target. Means and standard errors.", "",
    ]  # fmt: skip
    rows = []
    for arm in dict.fromkeys(network["arm"] for network in networks):
        mine = by_seed(networks, arm).values()
        rows.append((
            name_of(arm), _mean([100 * n["test_accuracy"] for n in mine], 2),
            *(_mean([n["measured_ms"][target] for n in mine], 4) for target in (SHIPPED, EAGER)),
            f"{statistics.mean(n['table_ms'][SHIPPED] for n in mine) / targets[SHIPPED]:.3f}",
            _mean([n["macs"] / 1e6 for n in mine], 2), _mean([n["n_params"] / 1e3 for n in mine], 0),
            _mean([sum(c == "skip" for c in n["choices"].values()) for n in mine], 1),
        ))  # fmt: skip
    head = (
        "searched",
        "accuracy, %",
        "ONNX Runtime, ms",
        "eager, ms",
        "by the table, of the target",
        "M multiply-adds",
        "1000 parameters",
        "blocks left out",
    )
    lines += record.table(head, rows)
    pairs = [
        ("by ONNX Runtime, less by eager PyTorch", found["accuracy"]),
        ("the smaller by ONNX Runtime, less by eager PyTorch", found["smaller"]),
    ]
    lines += [
        "",
        *record.table(
            ("accuracy", "points", "standard error", "p", "pairs", "would be seen"), [_pair(*one) for one in pairs]
        ),
    ]
    ratio, (low, high) = found["latency"]["ratio"], found["latency"]["interval"]
    if ratio is not None:
        told = "" if low is None else f" (95 % interval {low:.2f} to {high:.2f})"
        lines += [
            "",
            f"At equal accuracy the network by eager PyTorch takes {ratio:.2f} times as long in ONNX Runtime{told}.",
        ]
    of_cells = list(result.get("left_out", {}).values())
    if numbers := list(of_cells[0] if of_cells else ()):
        means = (f"{statistics.mean(one[n] for one in of_cells):.2f}" for n in numbers)
        lines += [
            "", "How well the fit to so many judged networks predicts the log-loss of the others (correlation, mean of all searches):", "",
            *record.table(("networks", *numbers), [("correlation", *means)]),
        ]  # fmt: skip
    return [
        *lines, "",
        "p: paired t-test over seeds, two-sided. *Would be seen*: the difference that so many pairs of this scatter show with p < 0.05 in 80 % of "
        "all such experiments. Equal accuracy: log-linear between the two networks of a search by ONNX Runtime, means over seeds; the interval is "
        "a bootstrap over seeds.",
    ]  # fmt: skip


def _verdict(result: Mapping[str, Any]) -> str:
    """What says which network is best."""
    judged = result["setting"].get("judged", 0)
    if not judged:
        return "which network is best, its probabilities say"
    verdicts = result["verdicts"]
    correlations = [one["correlation"] for one in verdicts if one["correlation"] is not None]
    of = f" (cross-validated correlation {min(correlations):.2f} to {max(correlations):.2f})" if correlations else ""
    images = verdicts[0]["images"]
    return f"which network is best says the fit to the log-losses of {judged} networks that its supernet judges by {images} images{of}"


def _mean(values: Sequence[float], digits: int) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return f"{statistics.mean(values):.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _pair(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    said = ["" if found[key] is None else f"{100 * found[key]:.2f}" for key in ("standard_error", "detectable")]
    p = "" if found["p"] is None else f"{found['p']:.3g}"
    return name, f"{100 * found['difference']:+.2f}", said[0], p, str(found["pairs"]), said[1]


def picture(result: dict[str, Any], path: Path) -> None:
    """Accuracy over milliseconds in ONNX Runtime: a point per network, and means with standard errors."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    colors = ("#3b6ea5", "#85aed6", "#a8480f")
    for arm, color in zip(dict.fromkeys(n["arm"] for n in result["networks"]), colors, strict=False):
        mine = by_seed(result["networks"], arm).values()
        x, y = [n["measured_ms"][SHIPPED] for n in mine], [100 * n["test_accuracy"] for n in mine]
        axes.plot(x, y, "o", color=color, markersize=3)
        error = statistics.stdev(y) / len(y) ** 0.5 if len(y) > 1 else 0.0
        axes.errorbar(
            statistics.mean(x), statistics.mean(y), yerr=error, fmt="D", color=color, capsize=4, label=name_of(arm)
        )
    axes.set(xlabel="ONNX Runtime, one image, ms", ylabel="test accuracy, %")
    axes.legend(fontsize=8)
    save_picture(figure, path)
