"""Are the networks that a search finds better than what one gets without it, at the same latency?

    python -m experiments.benchmarks.quality.run --grid core --folder quality --output quality.json

A grid of methods, targets and seeds on Fashion-MNIST, or on CIFAR-10 (``core-cifar10``), run as an NNI experiment; what a cell does says
:mod:`.cell`. The same command goes on where it was stopped: what lies in the folder is not done again, and ``--only`` and ``--seeds`` make a
part of it. A target is what MobileNetV2's block takes in every place at some width, so that MobileNetV2 stands exactly there, and other hand-made
networks (:mod:`.hand_made`) are scaled to it. At the end all networks are timed in turns in one run, and methods are compared seed by
seed (:mod:`.compare`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.core.errors import UserError
from nni_proxyless.search import nni_trial

from .. import ROOT
from ..common import record
from ..common.options import read_options
from .cell import cell, cell_path, train_original
from .compare import compared, goals, random_networks_by_compute
from .grids import GRIDS, Grid
from .report import markdown, picture
from .timing import prepare, time_all

MODULE = "experiments.benchmarks.quality.run"


# -- the experiment ------------------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace, grid: Grid, folder: Path) -> None:
    """One trial per cell; a cell that is done already ends at once."""
    words = f"cd {shlex.quote(str(ROOT))} && {sys.executable} -m {MODULE} --grid {options.grid} --folder {shlex.quote(str(folder))} --trial"
    config = {
        "experimentName": f"quality, {options.grid} grid",
        "trialCommand": words,
        "trialCodeDirectory": str(folder / "nothing"),
        "searchSpace": {  # the first changes slowest: stopped early, whole seeds are there
            "seed": {"_type": "choice", "_value": list(grid.seeds)},
            "width": {"_type": "choice", "_value": list(grid.widths)},
            "method": {"_type": "choice", "_value": list(grid.methods)},
        },
        "maxTrialNumber": len(list(grid.cells())),
        "trialConcurrency": options.concurrency,
        "tuner": {"name": "GridSearch"},
        "trainingService": {"platform": "local"},
    }
    (folder / "nothing").mkdir(exist_ok=True)
    write_text(folder / "experiment.yml", yaml.safe_dump(config, sort_keys=False))
    subprocess.run(
        [Path(sys.executable).parent / "nnictl", "create", "--config", folder / "experiment.yml", "--port", str(options.port), "--foreground"],
        check=True, stdout=sys.stderr,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "NNI_PROXYLESS_QUIET_SECONDS": "0"},
    )  # fmt: skip


def one_trial(grid_name: str, folder: Path) -> None:
    """A cell as a trial. It runs in a process that knows nothing of NNI: its steps would ask NNI for parameters of their own."""
    given = {name: value for _, name, value in nni_trial.parameters()}
    path = cell_path(folder, given["method"], given["width"], given["seed"])
    if not path.exists():
        words = [sys.executable, "-m", MODULE, "--grid", grid_name, "--folder", str(folder), "--cell", given["method"],
                 str(given["width"]), str(given["seed"])]  # fmt: skip
        outside = {
            name: value for name, value in os.environ.items() if not name.startswith("NNI_") or "PROXYLESS" in name
        }
        subprocess.run(words, check=True, env=outside, cwd=ROOT)
    first, *_ = json.loads(path.read_text(encoding="utf-8"))["networks"]
    nni_trial.final({"default": first["test_accuracy"], "table_ms": first["table_ms"] or 0.0, "macs": first["macs"]})


# -- after: all cells ----------------------------------------------------------------------------------------------------------


def missing(grid: Grid, folder: Path) -> list[str]:
    """Names of the cells that are not done."""
    return [path.parent.name for which in grid.cells() if not (path := cell_path(folder, *which)).exists()]


def collect(grid: Grid, folder: Path) -> list[dict[str, Any]]:
    """What every cell has left."""
    if lacking := missing(grid, folder):
        raise SystemExit(
            f"{folder}: {len(lacking)} of {len(list(grid.cells()))} cells are not done: {', '.join(lacking)}. Logs: the trials in NNI's web UI "
            "(nnictl view, or ~/nni-experiments). The same command goes on with them"
        )
    return [json.loads(cell_path(folder, *which).read_text(encoding="utf-8")) for which in grid.cells()]


def options_from(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grid", choices=sorted(GRIDS), default="core", help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="of the grid (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="(default: those of the grid)")
    parser.add_argument(
        "--prepare", action="store_true", help="time what comes before the cells, which wants a quiet machine, and end"
    )
    parser.add_argument(
        "--concurrency", type=int, default=2, help="trials at a time, one thread each (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=8080, help="of NNI's web UI (default: %(default)s)")
    parser.add_argument("--trial", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cell", nargs=3, metavar=("METHOD", "WIDTH", "SEED"), help="only this cell, without NNI")
    options = read_options(parser, arguments, short="the same as --grid short", folder="quality")
    options.grid = "short" if options.short else options.grid
    if options.cell:
        options.only, options.seeds = [options.cell[0]], [int(options.cell[2])]
    allowed = GRIDS[options.grid].methods
    if unknown := [name for name in options.only or () if name not in allowed]:
        parser.error(f"argument --only: {', '.join(unknown)}; allowed in the grid {options.grid}: {', '.join(allowed)}")
    return options


def part_of(grid: Grid, methods: list[str] | None, seeds: list[int] | None) -> Grid:
    """The same grid with some of its methods, in its order, and other seeds; None: its own."""
    return dataclasses.replace(
        grid, methods=tuple(method for method in grid.methods if methods is None or method in methods),
        seeds=grid.seeds if seeds is None else tuple(seeds),
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    options = options_from(arguments)
    folder, grid = options.folder.resolve(), part_of(GRIDS[options.grid], options.only, options.seeds)
    if options.trial:
        one_trial(options.grid, folder)
        return 0
    short, began = options.grid == "short", time.monotonic()
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        prepare(grid, folder, short)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    original = train_original(grid, folder) if grid.original_epochs else None
    if options.prepare:
        return 0
    if options.cell:
        method, width, seed = options.cell
        print(json.dumps(cell(grid, method, float(width), int(seed), folder), indent=1))
        return 0
    n_before = len(list(grid.cells())) - len(missing(grid, folder))
    if missing(grid, folder):
        experiment(options, grid, folder)
    cells = collect(grid, folder)
    time_all(grid, cells, folder, 1 if short else 3)
    shown = argparse.Namespace(
        grid=options.grid, only=options.only, seeds=options.seeds, concurrency=options.concurrency
    )
    comparisons = compared(cells)
    result = record.provenance(__file__, shown, time.monotonic() - began) | {
        "bars": goals(comparisons) if options.grid in ("core-cifar10", "around-mobilenetv3", "from-mobilenetv3") else [], "n_before": n_before, "grid": dataclasses.asdict(grid), "original": original,
        "targets": json.loads((folder / "targets.json").read_text(encoding="utf-8")),
        "cells": cells, "random_networks_by_compute": random_networks_by_compute(cells), "compared": comparisons,
    }  # fmt: skip
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
