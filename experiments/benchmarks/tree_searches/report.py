"""Networks that searches have found against random trees of the same cost, seed by seed; from the record alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nni_proxyless.models.draw import save_picture

from ..common import record
from ..search_by_runtime.report import paired
from .setting import AIMS, FREE, RANDOM, TARGET

EVERY = "all"
NAMES = {
    "two-path": "ProxylessNAS, gradient",
    "reinforce": "ProxylessNAS, REINFORCE",
    "dsnas": "DSNAS",
    RANDOM: "random trees",
}
SAID = {TARGET: "target", FREE: "no target"}
COLORS = {"two-path": "#3b6ea5", "reinforce": "#85aed6", "dsnas": "#a8480f", RANDOM: "#777777"}

Network = Mapping[str, Any]


def compared(networks: Sequence[Network], methods: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Aim -> method -> test accuracy of its network less that of random trees of the same cost, paired by seed.

    With a target these are all random trees of the seed, on average; without one, the tree of the cost of this very network. ``all``: the methods
    on average, seed by seed.

    Returns
    -------
    dict
        As :func:`.paired` has it: number of pairs, mean, standard error, p (t-test, two-sided), what would be seen with a power of 0.8.
    """
    seeds = list(dict.fromkeys(network["seed"] for network in networks))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for aim in AIMS:
        of_methods = {
            method: [_found(networks, aim, method, seed) - _chance(networks, aim, method, seed) for seed in seeds]
            for method in methods
        }
        of_methods[EVERY] = [statistics.mean(of) for of in zip(*of_methods.values(), strict=True)]
        found[aim] = {method: paired(differences) for method, differences in of_methods.items()}
    return found


def _of(networks: Sequence[Network], aim: str, method: str, seed: int) -> list[Network]:
    return [n for n in networks if (n["aim"], n["method"], n["seed"]) == (aim, method, seed)]


def _found(networks: Sequence[Network], aim: str, method: str, seed: int) -> float:
    (network,) = _of(networks, aim, method, seed)
    return float(network["test_accuracy"])


def _chance(networks: Sequence[Network], aim: str, method: str, seed: int) -> float:
    drawn = _of(networks, aim, RANDOM, seed)
    return statistics.mean(n["test_accuracy"] for n in drawn if aim == TARGET or n["of"] == method)


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    setting, table, networks = result["setting"], result["table"], result["networks"]
    data, search, final = setting["data"], setting["search"], setting["final"]
    images = f"{data['n_train']:,} images of CIFAR-10" if "n_train" in data else f"{data['n_images']} images of noise"
    low, high = result["bounds_ms"]
    lines = [
        *record.head(result), "",
        f"{images}, {setting['shape'][1]}x{setting['shape'][2]}; {len(setting['seeds'])} seeds. A search, a trial of NNI, takes {search['epochs']} epochs, "
        f"the final training {final['epochs']} from scratch, batches of {final['batch_size']}; "
        + (f"{data['n_test']:,} test images judge. " if "n_test" in data else "")
        + f"Networks take {low:.3f} to {high:.3f} ms in {table['runtime']}, one image, one thread, by a table that is off by {100 * table['mean_error']:.1f} % on average "
        f"(Spearman {table['spearman']:.2f}); the target is {result['target_ms']:.3f} ms. Random trees cost the same by this table, within {setting['within']:.0%}. "
        "Means with standard errors over seeds; *better*: points of accuracy above the random trees, paired by seed (t-test, two-sided); *would be seen*: in 80 % of such experiments. "
        "*The verdicts' r*: cross-validated, of a supernet's log-losses with their fit to the choices.", "",
    ]  # fmt: skip
    rows = []
    for aim, of_methods in result["compared"].items():
        for method, d in of_methods.items():
            mine = [n for n in networks if n["aim"] == aim and n["method"] == method]
            rows.append((
                SAID[aim], NAMES.get(method, "all three"), *_figures(mine), f"{100 * d['difference']:+.2f}",
                *("" if d[key] is None else f"{100 * d[key]:.2f}" for key in ("standard_error",)),
                "" if d["p"] is None else f"{d['p']:.2g}", "" if d["detectable"] is None else f"{100 * d['detectable']:.2f}",
            ))  # fmt: skip
        rows.append(
            (
                SAID[aim],
                NAMES[RANDOM],
                *_figures([n for n in networks if n["aim"] == aim and n["method"] == RANDOM]),
                *[""] * 4,
            )
        )
    head = ("aim", "by", "accuracy, %", "ms by the table", "M multiply-adds", "CPU min of a search", "the verdicts' r", "better", "standard error", "p", "would be seen")  # fmt: skip
    spent = sum(n["training_seconds"] + n.get("search_seconds", 0) for n in networks) / 60
    trainings = statistics.mean(n["training_seconds"] for n in networks) / 60
    return [
        *lines, *record.table(head, rows), "",
        f"{spent:.0f} CPU minutes in all; a final training took {trainings:.2f}.",
    ]  # fmt: skip


def _figures(networks: Sequence[Network]) -> tuple[str, ...]:
    if not networks:
        return ("", "", "", "", "")
    seconds = [n["search_seconds"] for n in networks if "search_seconds" in n]
    known = [r for n in networks if (r := (n.get("selection") or {}).get("correlation")) is not None]
    return (
        _mean([100 * n["test_accuracy"] for n in networks]), f"{statistics.mean(n['table_ms'] for n in networks):.3f}",
        f"{statistics.mean(n['macs'] for n in networks) / 1e6:.2f}", f"{statistics.mean(seconds) / 60:.2f}" if seconds else "",
        f"{statistics.mean(known):.2f}" if known else "",
    )  # fmt: skip


def _mean(values: Sequence[float]) -> str:
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{error}"


def picture(result: dict[str, Any], path: Path) -> None:
    """Points of accuracy above random trees: every seed, and means with standard errors."""
    from matplotlib.figure import Figure

    networks = result["networks"]
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots(1, len(AIMS), sharey=True)
    for panel, aim in zip(axes, AIMS, strict=True):
        methods = [method for method in result["compared"][aim] if method != EVERY]
        for place, method in enumerate(methods):
            d = result["compared"][aim][method]
            points = [
                100 * (_found(networks, aim, method, seed) - _chance(networks, aim, method, seed))
                for seed in result["setting"]["seeds"]
            ]
            panel.plot([place] * len(points), points, "o", color=COLORS[method], markersize=3, alpha=0.6)
            error = 0.0 if d["standard_error"] is None else 100 * d["standard_error"]
            panel.errorbar(place + 0.15, 100 * d["difference"], yerr=error, fmt="D", color=COLORS[method], capsize=4)
        panel.axhline(0, color="k", linewidth=0.8)
        panel.set_xticks(range(len(methods)), [NAMES[method].replace(", ", "\n") for method in methods])
        panel.set(title=SAID[aim], xlim=(-0.5, len(methods) - 0.5))
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="points above random trees of the same cost")
    save_picture(figure, path)
