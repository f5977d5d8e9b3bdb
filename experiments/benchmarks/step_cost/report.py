"""What is made of measured steps: bars, tables and a picture, all from the recorded result alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..common import record

UPDATE_EVERY = 5
WHOLE, PIECES = "whole batch", "whole batch, from its pieces"
DSNAS, DSNAS_GRADIENT = "DSNAS batch", "DSNAS batch, gradient reward"
SIZES = ("candidates", "layers", "pixels", "batch")
SHOWN = {  # in the picture: label, color
    DSNAS: ("DSNAS", "#a8480f"),
    WHOLE: ("ProxylessNAS, two-path", "#3b6ea5"),
    "NNI RandomOneShot batch": ("NNI RandomOneShot", "#7a9a01"),
    "NNI Proxyless batch": ("NNI Proxyless", "#6b6b6b"),
    "NNI DARTS batch": ("NNI DARTS", "#8a5fa8"),
    "NNI GumbelDARTS batch": ("NNI GumbelDARTS", "#b0306a"),
}

Entry = dict[str, Any]


def configuration(e: Entry) -> tuple[Any, ...]:
    return tuple(e[key] for key in ("memory_format", *SIZES))


def by_configuration(entries: Iterable[Entry]) -> dict[tuple[Any, ...], dict[str, Entry]]:
    """Configuration -> name -> entry, smaller configurations first."""
    found: dict[tuple[Any, ...], dict[str, Entry]] = {}
    for e in sorted(entries, key=configuration):
        found.setdefault(configuration(e), {})[e["name"]] = e
    return found


def from_pieces(entries: Sequence[Entry]) -> list[Entry]:
    """A batch as the sum of a weight step and its share of a two-path step, to hold against the batch that was run."""
    found = []
    for of in by_configuration(entries).values():
        if {"weight step", "two-path step"} <= of.keys():
            weights, two_path = of["weight step"], of["two-path step"]
            found.append(
                {key: weights[key] for key in ("memory_format", *SIZES)}
                | {"name": PIECES}
                | {
                    key: weights[key] + two_path[key] / UPDATE_EVERY
                    for key in ("seconds", "ratio", "executed_per_layer")
                }
                | {"activation_ratio": max(weights["activation_ratio"], two_path["activation_ratio"])}
            )
    return found


# -- bars ----------------------------------------------------------------------------------------------------------------


def quotient(above: Sequence[Entry], below: Sequence[Entry]) -> tuple[float, float]:
    """The product of some ratios by that of others, and its noise: relative errors of independent factors add in squares."""
    value = math.prod(e["ratio"] for e in above) / math.prod(e["ratio"] for e in below)
    return value, value * math.hypot(*(e["noise"] / e["ratio"] for e in [*above, *below]))


def bars(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What was aimed at, and whether it was reached; in channels-last, the worst configuration counts.

    What the control is off by is the noise of the others, and no bar of its own.
    """
    every = by_configuration(entries)
    ours = [of for key, of in every.items() if key[0] == "channels-last"]
    found = []

    def worst(name: str, what: str, key: str, limit: float) -> None:
        if those := [of[name] for of in ours if name in of]:
            e = max(those, key=lambda e: e[key])
            # Bytes are counted, and come out the same at every run of the same path.
            found.append(
                record.bar(f"{name}, {what}", e[key], at_most=limit, noise=e["noise"] if key == "ratio" else 0.0)
            )

    for name, time, saved in (
        ("weight step", 1.05, 1.05), ("two-path step", 0.95, 1.05), (WHOLE, 1.25, None), (DSNAS, 1.05, 1.03), (DSNAS_GRADIENT, 1.05, 1.03)
    ):  # fmt: skip
        worst(name, "time" if name != WHOLE else f"one update in {UPDATE_EVERY}, time", "ratio", time)
        if saved is not None:
            worst(name, "saved activations", "activation_ratio", saved)

    by_n = {of["floor again"]["candidates"]: of for of in ours}
    if len(by_n) > 1:
        low, high = min(by_n), max(by_n)
        for name in ("weight step", "two-path step", DSNAS):
            value, noise = quotient([by_n[high][name]], [by_n[low][name]])
            found.append(record.bar(f"{name}, N={high} by N={low}", value, at_least=0.95, at_most=1.05, noise=noise))
    sevens = [key for key in every if key[:2] == ("channels-last", 7)]
    if len(sevens) == 1:
        found += against_the_others(every[sevens[0]], every.get(("contiguous", *sevens[0][1:])))
    return found


def against_the_others(same: dict[str, Entry], contiguous: dict[str, Entry] | None) -> list[dict[str, Any]]:
    """How many times what ours cost NNI's cost, with seven candidates in both memory formats."""
    found = []
    for theirs, name, ours, at_least in (
        ("NNI Proxyless", "ours", WHOLE, 4),
        ("NNI Proxyless", "DSNAS", DSNAS, 4),
        ("NNI GumbelDARTS", "DSNAS", DSNAS, 10),
    ):
        batch = f"{theirs} batch"
        for how, of, floors in (
            ("same format", same, []),
            ("each as its users run it", contiguous or {}, [same.get("floor, contiguous")]),
        ):
            if batch in of and ours in same and None not in floors:
                value, noise = quotient([of[batch], *floors], [same[ours]])
                found.append(record.bar(f"{theirs} by {name}, N=7, {how}", value, at_least=at_least, noise=noise))
    if {"weight step", "two-path step", DSNAS} <= same.keys():
        pieces = [same["weight step"], same["two-path step"]]
        both = {"ratio": sum(e["ratio"] for e in pieces), "noise": math.hypot(*(e["noise"] for e in pieces))}
        value, noise = quotient([both], [same[DSNAS]])
        name = "ProxylessNAS with a two-path step on every batch by DSNAS, N=7"
        found.append(record.bar(name, value, at_least=1.5, noise=noise))
    return found


# -- what a person reads -------------------------------------------------------------------------------------------------


def labels(entries: Sequence[Entry]) -> dict[tuple[Any, ...], str]:
    """Sizes -> the heading of a column: what differs between them."""
    sizes = sorted({tuple(e[key] for key in SIZES) for e in entries})
    words = ("N={}", "{} layers", "{} px", "batch {}")
    varying = [i for i in range(len(SIZES)) if len({s[i] for s in sizes}) > 1] or [0]
    return {s: ", ".join(words[i].format(s[i]) for i in varying) for s in sizes}


def cells(title: str, entries: Sequence[Entry], show: Callable[[Entry], str]) -> list[str]:
    """A table: a row per name, a column per configuration."""
    columns = labels(entries)
    shown = {(e["name"], tuple(e[key] for key in SIZES)): show(e) for e in entries}
    names = dict.fromkeys(e["name"] for e in entries)
    return record.table(
        (title, *columns.values()), [(name, *(shown.get((name, s), "") for s in columns)) for name in names]
    )


def markdown(result: dict[str, Any]) -> list[str]:
    settings, entries = result["settings"], result["entries"]
    lines = [
        *record.head(result),
        "",
        f"{settings['layers']} searched layers of N candidates (inverted residuals of kernel 3 to 7 and expansion 2 to 6; N=7 with a "
        f"skip), {settings['pixels']} px, batch {settings['batch']}, where no other sizes are given; seed {settings['seed']}. No "
        "latency penalty, no data loading.",
        "",
        "Numbers are ratios to the *floor*: an ordinary PyTorch training step of the same sampled network, in the same memory "
        "format, timed just before and just after; median (quartiles). *Whole batch*: the search as it really runs, a weight "
        f"step on every batch and a two-path step after every {UPDATE_EVERY}th. *DSNAS batch*: one batch of its search stage, "
        "in which weights and logits learn from the same backward pass, by the loss or by the paper's gradient. *NNI*: an "
        "architecture step and a weight step on every batch; RandomOneShot, a weight step alone. *Floor again*: the control, which "
        "must be 1.",
    ]
    for memory in dict.fromkeys(e["memory_format"] for e in entries):
        mine = [e for e in entries if e["memory_format"] == memory]
        lines += ["", f"{memory.capitalize()} memory:", ""]
        lines += cells("time", mine, lambda e: f"{e['ratio']:.3f}" + (" ({:.3f}–{:.3f})".format(*e["ratio_quartiles"]) if "noise" in e else ""))  # fmt: skip
        if inspected := [e for e in mine if "activation_ratio" in e]:
            lines += ["", *cells("saved activations", inspected, lambda e: f"{e['activation_ratio']:.3f}")]
            lines += ["", *cells("candidates run per layer", inspected, lambda e: f"{e['executed_per_layer']:g}")]
        heads = labels(mine)
        said = [
            f"{heads[tuple(e[key] for key in SIZES)]}: {1000 * e['seconds']:.1f}"
            for e in mine
            if e["name"] == "floor again"
        ]
        lines += ["", f"One floor step, ms: {'; '.join(said)}."] if said else []
    if result["memory"]:
        lines += [
            "",
            "Peak memory: what the first steps add at most to the resident memory of a process of its own (on CUDA, to what torch "
            "has allocated), in MB, and by what plain steps add. Weights and momentum, of all candidates, are there before.",
            "",
            *cells("peak memory", result["memory"], lambda e: f"{e['added_bytes'] / 1e6:.0f} ({e['by_plain']:.2f})"),
        ]
    if result["bars"]:
        lines += ["", *record.bars_table(result["bars"]), "", *plainly(entries)]
    return lines


def plainly(entries: Sequence[Entry]) -> list[str]:
    """What does not win."""
    found = []
    for of in by_configuration(entries).values():
        batch = of.get(WHOLE) or of.get(PIECES)
        for name, e in of.items():
            if name.startswith("NNI") and batch and e["ratio"] <= batch["ratio"]:
                found.append(
                    f"{name} {e['ratio']:.2f} ({e['memory_format']}, N={e['candidates']}, {e['layers']} layers, {e['pixels']} px)"
                )
    return [
        "Not dearer than a batch of ProxylessNAS: " + ("; ".join(found) if found else "none of NNI's") + ". "
        "RandomOneShot learns no architecture while it trains: its search comes after. What the table does not say: how many "
        "batches a method needs."
    ]


def picture(result: dict[str, Any], path: Path) -> None:
    """Time by a plain step over the number of candidates, or over layers and pixels, with the bars as dashed lines."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    entries = [e for e in result["entries"] if e["memory_format"] == "channels-last"]
    settings = result["settings"]
    axes_of = ["layers", "pixels"] if settings["sweep"] else ["candidates"]
    figure = Figure(figsize=(4.2 * len(axes_of) + 2.2, 4.2), layout="constrained")
    plots = figure.subplots(1, len(axes_of), sharey=True, squeeze=False)[0]
    for axes, key in zip(plots, axes_of, strict=True):
        fixed = {k: settings[k] for k in axes_of if k != key}
        for name, (label, colour) in SHOWN.items():
            line = sorted(
                (
                    e
                    for of in by_configuration(entries).values()
                    if (e := of.get(name) or (of.get(PIECES) if name == WHOLE else None))
                    and all(e[k] == v for k, v in fixed.items())
                ),
                key=lambda e: e[key],
            )
            if line:
                x, y = [e[key] for e in line], [e["ratio"] for e in line]
                low, high = zip(*(e.get("ratio_quartiles", [e["ratio"]] * 2) for e in line), strict=True)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot(x, y, "o-", color=colour, markersize=5, linewidth=1.8, label=label)
        for name, limit in ((WHOLE, 1.25), (DSNAS, 1.05)):
            label, colour = SHOWN[name]
            axes.axhline(limit, color=colour, linestyle="--", linewidth=0.9, label=f"bar of {label}: {limit}")
        ticks = sorted({e[key] for e in entries})
        axes.set_yscale("log")
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0.8)
        axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        axes.set_xlabel({"candidates": "candidates per layer", "layers": "searched layers", "pixels": "pixels"}[key])
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    plots[0].set_ylabel("time of a batch, by a plain training step")
    figure.legend(*plots[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    save_picture(figure, path)
