"""Bars and tables of steps on choices of values and on cells, from the recorded result alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..common import record
from ..step_cost.report import DSNAS, DSNAS_GRADIENT, UPDATE_EVERY, WHOLE, Entry, quotient

VALUES, CELLS = "values", "cells"
CONTROL, DSNAS_BATCH = "floor again", DSNAS
OURS, NNIS = (WHOLE, DSNAS), ("NNI DARTS batch", "NNI GumbelDARTS batch")
ON_CELLS = (CONTROL, "weight step", "two-path step", WHOLE, DSNAS, DSNAS_GRADIENT, *NNIS)
AT_MOST = 1.15  # of a step of DSNAS on choices of values


def of_kind(entries: Sequence[Entry], kind: str) -> dict[str, dict[str, Entry]]:
    """Space -> name of a step -> entry."""
    found: dict[str, dict[str, Entry]] = {}
    for e in entries:
        if e["kind"] == kind:
            found.setdefault(e["space"], {})[e["name"]] = e
    return found


def bars(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What was aimed at, and whether it was reached; on cells, that no step of ours costs more than a batch of NNI's."""
    found = []
    for space, of in of_kind(entries, VALUES).items():
        e = of[DSNAS_BATCH]
        found.append(record.bar(f"DSNAS on {space}, time", e["ratio"], at_most=AT_MOST, noise=e["noise"]))
    for space, of in of_kind(entries, CELLS).items():
        for theirs in NNIS:
            for ours in OURS:
                name = f"{theirs} by {ours} on {space}"
                value, noise = quotient([of[theirs]], [of[ours]])
                kept = of[theirs]["activation_ratio"] / of[ours]["activation_ratio"]
                found.append(record.bar(f"{name}, time", value, at_least=1, noise=noise))
                found.append(record.bar(f"{name}, saved activations", kept, at_least=1))
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    entries, settings = result["entries"], result["settings"]
    lines = [
        *record.head(result),
        "",
        "Numbers are ratios to the *floor*: an ordinary PyTorch training step of the network of the same path, on the same batch and "
        "with the same optimizer, timed just before and just after; median (quartiles). *Floor again*: the control, which must be "
        f"1. Seed {settings['seed']}. No latency penalty, no data loading.",
    ]
    if values := of_kind(entries, VALUES):
        rows = [
            (
                space, e["pixels"], e["batch"], f"{1000 * e['floor_seconds']:.0f}", timed(e), f"{e['activation_ratio']:.3f}",
                timed(of[CONTROL]),
            )
            for space, of in values.items()
            for e in (of[DSNAS_BATCH],)
        ]  # fmt: skip
        head = (
            "choices of values", "pixels", "batch", "floor, ms", "DSNAS batch", "its saved activations", "floor again",
        )  # fmt: skip
        lines += ["", *record.table(head, rows)]
    for space, of in of_kind(entries, CELLS).items():
        e = of[CONTROL]
        lines += [
            "",
            f"Cells: {space} of {settings['cells']} cells, width {settings['width']}, {e['pixels']} px, batch {e['batch']}. *Whole "
            f"batch*: a weight step on every batch and a two-path step after every {UPDATE_EVERY}th. *NNI*: an architecture step "
            "and a weight step on every batch.",
            "",
            *record.table(
                ("step", "time", "ms", "saved activations", "MB"),
                [
                    (
                        name, timed(e), f"{1000 * e['seconds']:.0f}", f"{e['activation_ratio']:.3f}", f"{e['activation_bytes'] / 1e6:.1f}",
                    )
                    for name, e in of.items()
                ],
            ),
        ]  # fmt: skip
    return [*lines, "", *record.bars_table(result["bars"])]


def timed(e: Entry) -> str:
    return f"{e['ratio']:.3f} ({e['ratio_quartiles'][0]:.3f}–{e['ratio_quartiles'][1]:.3f})"
