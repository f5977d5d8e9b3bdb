"""Is a network that is searched around a model at least as accurate as the model scaled to the same latency, whichever model that is?

    python -m experiments.benchmarks.around_models.run --folder around_models --output around_models.json

Ten models of timm's family on the digits. Each is trained; a search begins with its weights and learns from it, for the milliseconds in ONNX Runtime that
the model takes at 0.7 of its width; the network found goes on from the supernet's weights. The model at that width is trained for as much compute, with the
same teacher. Cells are those of :mod:`..quality`; what lies in the folder is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from ..common import record
from ..common.options import read_options
from ..quality.cell import cell, train_original
from ..quality.compare import detectable, power
from ..quality.grids import DIGITS, ORIGINAL, Grid
from ..quality.timing import prepare, time_all
from .report import markdown, picture

MODELS = (
    "mobilenetv3_small_050", "mobilenetv2_035", "mobilenetv4_conv_small_035", "mnasnet_small", "mnasnet_050", "semnasnet_050", "tinynet_e",
    "lcnet_050", "tf_mobilenetv3_small_minimal_100", "mobilenetv2_050",
)  # fmt: skip
SEARCHED = "two-path"
WIDTH = 0.7
WIDER = {"mobilenetv4_conv_small_035": 0.85, "tf_mobilenetv3_small_minimal_100": 0.85}
"""Models of which at 0.7 of their width the fastest network of the space takes longer."""
WORTHWHILE = 0.005


def grid_of(model: str, seeds: Sequence[int], short: bool = False) -> Grid:
    """What is done around a model; seeds are such that no setting was chosen on."""
    grid = Grid(
        (SEARCHED, ORIGINAL), (WIDER.get(model, WIDTH),), tuple(seeds), n_drawn=1, n_judged=64, search_epochs=10, warmup_epochs=8, final_epochs=10,
        original_epochs=40, others_epochs=24, batch_size=32, search_learning_rate=0.03, learning_rate=0.05, runtime="onnxruntime", select="supernet", dataset=DIGITS, input_shape=(1, 16, 16), images=1437,
        space={"name": "timm", "model": model, "stem_stride": 1, "shared_weights": True},
    )  # fmt: skip
    few = {
        "n_judged": 4,
        "search_epochs": 3,
        "warmup_epochs": 1,
        "final_epochs": 2,
        "original_epochs": 2,
        "others_epochs": 2,
    }
    return dataclasses.replace(grid, **few) if short else grid


def one_cell(model: str, short: bool, method: str, seed: int, folder: Path) -> dict[str, Any]:
    """A cell of a model's grid, in a process of its own."""
    torch.set_num_threads(1)
    grid = grid_of(model, (seed,), short)
    return cell(grid, method, grid.widths[0], seed, folder)


def one_original(model: str, short: bool, folder: Path) -> dict[str, Any]:
    """The training of a model before it is searched around."""
    torch.set_num_threads(1)
    return train_original(grid_of(model, (), short), folder)


def around_all(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """What is timed comes first and last, one at a time; what trains in between, some at a time."""
    grids = {model: grid_of(model, options.seeds, options.short) for model in options.models}
    for model, grid in grids.items():
        (folder / model).mkdir(parents=True, exist_ok=True)
        prepare(grid, folder / model, options.short)
    originals = in_processes(
        one_original, [(model, options.short, folder / model) for model in grids], options.processes
    )
    work = [
        (model, options.short, method, seed, folder / model)
        for model, grid in grids.items()
        for method, _, seed in grid.cells()
    ]
    done = in_processes(one_cell, work, options.processes)
    found = []
    for (model, grid), original in zip(grids.items(), originals, strict=True):
        cells = [one for (of, *_), one in zip(work, done, strict=True) if of == model]
        time_all(grid, cells, folder / model, 1 if options.short else 3)
        found.append({"model": model, "original": original, "cells": cells})
    return found


def in_processes(
    function: Callable[..., dict[str, Any]], work: Sequence[tuple[Any, ...]], processes: int
) -> list[dict[str, Any]]:
    """What a function gives for each of these arguments, so many processes at a time."""
    if processes == 1:
        return [function(*arguments) for arguments in work]
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        return pool.starmap(function, work, chunksize=1)


def compared(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The search's accuracy less that of the scaled model: mean over the seeds of each model, and over the models, whose means are tested."""
    rows = []
    for one in models:
        pairs = [[c["networks"][0] for c in one["cells"] if c["method"] == method] for method in (SEARCHED, ORIGINAL)]
        accuracies = [[network["test_accuracy"] for network in networks] for networks in pairs]
        differences = [ours - theirs for ours, theirs in zip(*accuracies, strict=True)]
        ms, of_scaled = ([network["by_mobilenetv2"] for network in networks] for networks in pairs)
        taken = [
            [c["seconds"] for c in one["cells"] if c["method"] == method and c["seconds"]]
            for method in (SEARCHED, ORIGINAL)
        ]
        rows.append(
            {
                "model": one["model"], "width": one["cells"][0]["width"], "original": one["original"]["test_accuracy"], "searched": statistics.mean(accuracies[0]),
                "scaled": statistics.mean(accuracies[1]), "difference": statistics.mean(differences),
                "standard_error": statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None,
                "ms_by_scaled": statistics.mean(ms) / statistics.mean(of_scaled), "seeds": len(differences),
                "seconds": [statistics.mean(some) if some else None for some in taken],
            }
        )  # fmt: skip
    return {"rows": rows, **_over_models([row["difference"] for row in rows])}


def _over_models(differences: Sequence[float]) -> dict[str, Any]:
    n = len(differences)
    found: dict[str, Any] = {
        "difference": statistics.mean(differences),
        "models": n,
        "not_worse": sum(d >= 0 for d in differences),
    }
    if n > 1 and (deviation := statistics.stdev(differences)) > 0:
        found |= {
            "standard_error": deviation / math.sqrt(n), "p": float(stats.ttest_1samp(differences, 0.0).pvalue),
            "power": power(WORTHWHILE, deviation, n, 0.05), "detectable": detectable(deviation, n, 0.05),
        }  # fmt: skip
    return found


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, help="(default: 70; short: 0)")
    parser.add_argument("--models", nargs="+", metavar="MODEL", choices=MODELS, help="(default: ten; short: one)")
    options = read_options(
        parser,
        arguments,
        short="one model, one seed, a few epochs: shows that everything runs",
        folder="around_models",
        processes="cells",
    )
    options.seeds = options.seeds or ([0] if options.short else [70])
    options.models = options.models or [*MODELS][: 1 if options.short else None]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options, began = options_from(arguments), time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # of the processes that are started
    torch.set_num_threads(1)
    folder = options.folder.resolve()
    models = around_all(options, folder)
    found = compared(models)
    not_worse = record.bar(
        "models around which what is found is at least as accurate, of all",
        found["not_worse"] / found["models"],
        at_least=1.0,
    )
    result = record.provenance(__file__, options, time.monotonic() - began) | {
        "bars": [] if options.short else [not_worse], "grid": dataclasses.asdict(grid_of(options.models[0], options.seeds, options.short)), "compared": found, "models": models,
    }  # fmt: skip
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
