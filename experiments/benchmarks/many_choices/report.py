"""Bars and tables of a space of many choices, from the recorded result alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..common import record

COPY = "copy a network, by torch and Python alone"
MAKE, FREEZE, MUTATE = "make the space", "freeze a network", "make a supernet"
SECONDS = {MAKE: 2.0, FREEZE: 1.0, MUTATE: 2.0}
CONTROL, PLAIN = "floor again", "plain step"
TWO_PATH, DSNAS, ALL_AT_ONCE = "two-path step", "DSNAS batch", "NNI DARTS batch"
RATIOS = {TWO_PATH: 1.1, DSNAS: 1.1}  # of a step, by a plain one


def bars(actions: Sequence[dict[str, Any]], entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was aimed at, of a space as large as the paper's."""
    found = [
        record.bar(f"CPU seconds to {a['action']}", a["seconds"], at_most=SECONDS[a["action"]], noise=a["spread"])
        for a in actions
        if a["action"] in SECONDS
    ]
    found += [
        record.bar(f"{e['name']}, time", e["ratio"], at_most=RATIOS[e["name"]], noise=e["noise"])
        for e in entries
        if e["name"] in RATIOS
    ]
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    choices = result["choices"]
    floor = next(a["seconds"] for a in result["actions"] if a["action"] == COPY)
    shown = result["entries"][0]
    return [
        *record.head(result),
        "",
        f"Space `pyramid-tree`, preset `{result['settings']['preset']}`: {choices} choices, {result['parameters'] / 1e6:.1f} million weights. "
        f"Median of {result['settings']['repeats']}; ratios are to a deep copy of a network: as many modules made anew, no choice among them.",
        "",
        *record.table(
            ("", "CPU seconds", "ratio"),
            [(a["action"], f"{a['seconds']:.3f}", f"{a['seconds'] / floor:.2f}") for a in result["actions"]],
        ),
        "",
        f"Steps of the space at {shown['pixels']} px, batch {shown['batch']}. The floor is a plain training step of the same network, timed before "
        f"and after. *Full step*: all candidates, one after the other. *{ALL_AT_ONCE}*: all at once, in an architecture step and a weight step; "
        "timed once. Peak memory is what a step adds to that of a process of its own.",
        "",
        *record.table(
            ("step", "s", "floor, s", "ratio", "saved activations, MB", "by the floor's", "peak memory, MB", "by a plain step's"),
            [
                (e["name"], f"{e['seconds']:.2f}", f"{e['floor_seconds']:.2f}", f"{e['ratio']:.2f}", *kept(e), *peak(e, result["memory"]))
                for e in result["entries"]
            ],
        ),
        "",
        f"Steps of a narrow space of as many choices ({result['settings']['width']} to {2 * result['settings']['width']} channels, 8 px, batch 2), in "
        "which hardly anything is computed; the host's time is what goes beyond the floor, by choice. An update of REINFORCE runs several networks.",
        "",
        *record.table(
            ("step", "ms", "floor, ms", "ratio", "host, µs by choice"),
            [
                (
                    e["name"], f"{1000 * e['seconds']:.0f}", f"{1000 * e['floor_seconds']:.0f}", f"{e['ratio']:.2f}",
                    f"{1e6 * (e['seconds'] - e['floor_seconds']) / choices:.0f}",
                )
                for e in result["narrow"]
            ],
        ),
        "",
        *record.bars_table(result["bars"]),
    ]  # fmt: skip


def kept(e: dict[str, Any]) -> tuple[str, str]:
    """Saved activations of a step that was inspected."""
    return (
        (f"{e['activation_bytes'] / 1e6:.0f}", f"{e['activation_ratio']:.2f}") if "activation_bytes" in e else ("", "")
    )


def peak(e: dict[str, Any], memory: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Peak memory of a step; the control is a plain one."""
    name = PLAIN if e["name"] == CONTROL else e["name"]
    return next(
        ((f"{m['added_bytes'] / 1e6:.0f}", f"{m['by_plain']:.2f}") for m in memory if m["name"] == name), ("", "")
    )
