"""Bars of networks for different targets, and how they are told; from the recorded result alone."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common import record

MACS = "multiply-adds"

# Top-1 % and milliseconds on a V100, a Xeon (both with their own batches) and a Pixel 1 (paper, table 6).
PAPER = {"proxyless_gpu": (75.1, 5.1, 204.9, 124), "proxyless_cpu": (75.3, 7.4, 138.7, 116), "proxyless_mobile": (74.6, 7.2, 164.1, 78)}  # fmt: skip


def n_different(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """In how many choices two networks differ."""
    return sum(a[label] != b[label] for label in a)


# -- bars ------------------------------------------------------------------------------------------------------------------


def own_by_other(own: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Median over rounds of the own network's milliseconds by the other's, and half the distance of its quartiles."""
    ratios = [a / b for a, b in zip(own, other, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), (high - low) / 2


def mean_and_noise(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean of figures with a noise of their own; of several, twice the standard error between them."""
    values = [value for value, _ in pairs]
    if len(values) == 1:
        return pairs[0]
    return statistics.mean(values), 2 * statistics.stdev(values) / len(values) ** 0.5


def bars(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    a = result["small"]
    targets = list(a["unit"])
    groups = [("small", [r["nets"] for r in a["runs"]])]
    if result["imagenet"] is not None:
        groups.append(("ImageNet space", [result["imagenet"]["nets"]]))
    for name, runs in groups:
        devices = [target for target in runs[0] if target != MACS]
        for t, u in itertools.combinations(devices, 2):
            least = min(n_different(nets[t]["choices"], nets[u]["choices"]) for nets in runs)
            found.append(record.bar(f"{name}: choices in which the networks for {t} and {u} differ", least, at_least=1))
        for target in runs[0][next(iter(runs[0]))]["measured"]:
            worst = max(
                mean_and_noise([own_by_other(nets[target]["measured"][target], nets[other]["measured"][target]) for nets in runs])
                for other in runs[0]
                if other != target
            )  # fmt: skip
            found.append(
                record.bar(
                    f"{name}: own network on {target}, timed, by the fastest other", worst[0], at_most=1, noise=worst[1]
                )
            )
    for target in targets:
        gaps = [accuracy_gap(r["nets"], target, a["test_images"]) for r in a["runs"]]
        value, noise = mean_and_noise(gaps)
        found.append(
            record.bar(
                f"small: accuracy of the network for {target} less the mean of all", value, at_least=0, noise=noise
            )
        )
    return found


def accuracy_gap(nets: Mapping[str, Any], target: str, n_images: int) -> tuple[float, float]:
    """A network's accuracy less the mean of all, and twice the standard error that so many test images leave."""
    accuracies = {t: net["accuracy"] for t, net in nets.items()}
    mean = statistics.mean(accuracies.values())
    return accuracies[target] - mean, 2 * math.sqrt(mean * (1 - mean) / n_images)


# -- the report ------------------------------------------------------------------------------------------------------------


def cells(nets: Sequence[Mapping[str, Any]], column: str, row: str) -> tuple[float, float | None]:
    """Mean over seeds of what the network for ``row`` takes on ``column``, by the table and timed."""
    by_table = statistics.mean(net[row]["table"][column] for net in nets)
    timed = [statistics.median(net[row]["measured"][column]) for net in nets if column in net[row]["measured"]]
    return by_table, statistics.mean(timed) if timed else None


def cross_table(nets: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> list[str]:
    rows = []
    for row in units:
        line = [f"network for {row}"]
        for column in units:
            by_table, timed = cells(nets, column, row)
            text = f"{by_table:.2f}" + (f" ({timed:.2f})" if timed is not None else "")
            line.append(f"**{text}**" if row == column else text)
        accuracies = [net[row]["accuracy"] for net in nets if "accuracy" in net[row]]
        error = statistics.stdev(accuracies) / len(accuracies) ** 0.5 if len(accuracies) > 1 else None
        line.append(
            ""
            if not accuracies
            else f"{statistics.mean(accuracies):.4f}" + ("" if error is None else f" ± {error:.4f}")
        )
        line.append(f"{statistics.mean(net[row]['log_probability'] for net in nets):.2f}")
        rows.append(line)
    short = {"million multiply-adds": "M"}
    return record.table(("", *(f"{t}, {short.get(u, u)}" for t, u in units.items()), "test accuracy", "score"), rows)


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    a, b = result["small"], result["imagenet"]
    lines = [
        *record.head(result),
        "",
        "One search per seed without a latency term; from it, for each target, the fastest network of one and the same score. By the table, "
        "and in brackets timed as a whole; a network on its own target is bold. By its own table no network of the score is faster: that is "
        "arithmetic. The times in brackets and the accuracies are measurements.",
        "",
        f"A. Space `small`, {len(a['runs'])} seed(s), networks trained to the end, {a['test_images']} test images:",
        "",
        *cross_table([r["nets"] for r in a["runs"]], a["unit"]),
    ]
    if b is not None:
        lines += [
            "",
            "B. The ImageNet space, 21 choices at 224 pixels, not trained; probabilities from a search on the digits in the same choices:",
            "",
            *cross_table([b["nets"]], b["unit"]),
        ]
    lines += [
        "",
        "C. The paper's networks, milliseconds here, and what the paper says (top-1; GPU, CPU, mobile):",
        "",
        *record.table(
            ("", "1 image", "8 images", "paper: top-1", "GPU ms", "CPU ms", "mobile ms"),
            [
                (name, *(f"{statistics.median(ms):.1f}" for ms in found.values()), *PAPER[name])
                for name, found in result["paper"].items()
            ],
        ),
        "",
        *record.bars_table(result["bars"]),
        "",
        "Noise: with several seeds, twice the standard error between them; with one, half the distance of quartiles between rounds of "
        "timing, and for accuracies twice the standard error of so many test images. What this does not show: that a search with the "
        "target's latency in its loss finds the same networks, and, in B, anything about accuracy on ImageNet.",
    ]
    return lines


def picture(result: dict[str, Any], path: Path) -> None:
    """The cross tables: what each network takes on each target, by the target's own network; the paper's figures beside them."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    panels = [("A. small, trained", *grid([r["nets"] for r in result["small"]["runs"]], result["small"]["unit"]))]
    if result["imagenet"] is not None:
        panels.append(("B. ImageNet space", *grid([result["imagenet"]["nets"]], result["imagenet"]["unit"])))
    names = {"GPU": "proxyless_gpu", "CPU": "proxyless_cpu", "mobile": "proxyless_mobile"}
    values = [[PAPER[net][1 + column] / PAPER[own][1 + column] for column, own in enumerate(names.values())] for net in names.values()]  # fmt: skip
    texts = [[f"{PAPER[net][1 + column]:g}" for column in range(3)] for net in names.values()]
    panels.append(("The paper, ms", list(names), values, texts))
    figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
    for axes, (title, targets, ratios, text) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.imshow(ratios, cmap="YlOrBr", vmin=1, vmax=2)
        for (i, row), j in itertools.product(enumerate(text), range(len(targets))):
            axes.text(j, i, row[j], ha="center", va="center", fontsize=9, fontweight="bold" if i == j else None)
        axes.set_xticks(range(len(targets)), [f"on {t}" for t in targets], fontsize=8)
        axes.set_yticks(range(len(targets)), [f"network for\n{t}" for t in targets], fontsize=8)
        axes.set_title(title, fontsize=10)
    save_picture(figure, path)


def grid(nets: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> tuple[list[str], list[list[float]], list[list[str]]]:  # fmt: skip
    """Targets, what each network takes by the target's own network, and in figures; timed where it is timed."""

    def shown(column: str, row: str) -> float:
        by_table, timed = cells(nets, column, row)
        return by_table if timed is None else timed

    values = [[shown(column, row) / shown(column, column) for column in units] for row in units]
    texts = [[f"{shown(c, r):.3g} {'M' if units[c].startswith('million') else units[c]}" for c in units] for r in units]
    return list(units), values, texts
