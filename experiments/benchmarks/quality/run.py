"""Are the networks that a search finds better than what one gets without it, at the same latency?

    python -m experiments.benchmarks.quality.run --grid core --folder quality --output quality.json

A grid of methods, targets and seeds on Fashion-MNIST, or on CIFAR-10 (``core-cifar10``), run as an NNI experiment; what a cell does says
:mod:`.cell`. The same command goes on where it was stopped: what lies in the folder is not done again. A target is what MobileNetV2's block takes
in every place at some width, so that MobileNetV2 stands exactly there. At the end all networks are timed in turns in one run, and
methods are compared seed by seed (paired t-test).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy import stats

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.derive import build_network
from nni_proxyless.latency import DeviceEstimator
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.search import nni_trial
from nni_proxyless.search.mobilenetv2_baseline import reference_networks

from .. import ROOT
from ..common import record
from ..common.options import read_options
from .cell import BATCH, GRIDS, Grid, any_net, cell, profiler_of, run, space_of
from .report import BASELINES, markdown, picture

MODULE = "experiments.benchmarks.quality.run"


# -- before: the table, and what MobileNetV2 takes ---------------------------------------------------------------------------


def in_turns(grid: Grid, nets: list[Architecture], repeats: int = 60) -> list[float]:
    """Milliseconds of networks, timed in turns in one run."""
    estimator = DeviceEstimator(device="cpu", threads=1, batch=BATCH, repeats=repeats, runtime=grid.runtime)
    return [m.median_ms for m in estimator.measure([(build_network(net), net.input_shape) for net in nets])]


def prepare(grid: Grid, folder: Path, short: bool) -> None:
    """Build the table, and find the targets: what MobileNetV2 takes, in milliseconds of the table."""
    table, targets = folder / "table.yaml", folder / "targets.json"
    if not table.exists():
        arguments = [f"{name}={value}" for name, value in grid.space.items() if name != "name"]
        space = ["--space", grid.space["name"], *arguments, f"in_channels={grid.input_shape[0]}", "num_classes=10"]
        size = ["--resolution", str(grid.input_shape[1]), "--channels", str(grid.input_shape[0]), "--batch", str(BATCH)]
        few = ["--repeats", "15"] if short else []
        run(
            [
                "latency",
                "build",
                *space,
                *size,
                "--threads",
                "1",
                "--runtime",
                grid.runtime,
                *few,
                "--output",
                str(table),
            ]
        )
    if not targets.exists():
        base = any_net(grid)
        profiler = profiler_of(base, table)
        sample = []
        space = space_of(base)
        for i in range(12):
            torch.manual_seed(i)
            choices = {
                label: mutable.values[int(torch.randint(len(mutable.values), ()))]
                for label, mutable in space.simplify().items()
            }
            sample.append(
                dataclasses.replace(base, choices=choices, network=space.timm_definition(choices))
            )  # fmt: skip
        references = reference_networks(base, grid.widths)
        ms = in_turns(grid, [*references, *sample])
        # Today's speed of the machine by that of the table's day.
        scale = statistics.median(
            measured / float(profiler.profile(net.choices))
            for measured, net in zip(ms[len(references) :], sample, strict=True)
        )
        found = {
            str(width): {"target_ms": round(measured / scale, 6), "scale": scale}
            for width, measured in zip(grid.widths, ms, strict=False)
        }
        write_text(targets, json.dumps(found, indent=1) + "\n")


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
        "maxTrialNumber": len(grid.seeds) * len(grid.widths) * len(grid.methods),
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
    path = folder / "cells" / f"{given['method']}-{given['width']}-{given['seed']}" / "cell.json"
    if not path.exists():
        words = [sys.executable, "-m", MODULE, "--grid", grid_name, "--folder", str(folder), "--cell", given["method"],
                 str(given["width"]), str(given["seed"])]  # fmt: skip
        outside = {
            name: value for name, value in os.environ.items() if not name.startswith("NNI_") or "PROXYLESS" in name
        }
        subprocess.run(words, check=True, env=outside, cwd=ROOT)
    found = json.loads(path.read_text(encoding="utf-8"))
    nni_trial.final({"default": found["test_accuracy"], "table_ms": found["table_ms"] or 0.0, "macs": found["macs"]})


# -- after: all cells ----------------------------------------------------------------------------------------------------------


def collect(grid: Grid, folder: Path) -> list[dict[str, Any]]:
    """What every cell has left."""
    names = [f"{method}-{width}-{seed}" for seed in grid.seeds for width in grid.widths for method in grid.methods]
    paths = {name: folder / "cells" / name / "cell.json" for name in names}
    if lacking := [name for name, path in paths.items() if not path.exists()]:
        raise SystemExit(
            f"{folder}: {len(lacking)} of {len(names)} cells are not done: {', '.join(lacking)}. Logs: the trials in NNI's web UI "
            "(nnictl view, or ~/nni-experiments). The same command goes on with them"
        )
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths.values()]


def time_all(grid: Grid, cells: list[dict[str, Any]], folder: Path, rounds: int) -> None:
    """Note what each network takes by what MobileNetV2 of its target takes, timed in turns: the median of some rounds."""
    nets = [Architecture.read(folder / found["architecture"]) for found in cells]
    torch.set_num_threads(1)
    ms = [in_turns(grid, nets, 30) for _ in range(rounds)]
    for i, found in enumerate(cells):
        same = [
            j for j, other in enumerate(cells) if other["method"] == "mobilenetv2" and other["width"] == found["width"]
        ]
        found["measured_ms"] = statistics.median(turn[i] for turn in ms)
        found["by_mobilenetv2"] = statistics.median(turn[i] / statistics.median(turn[j] for j in same) for turn in ms)


def compared(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every searched method against every baseline: the mean difference of accuracy over seeds and targets, and its p."""
    accuracy = {(c["method"], c["width"], c["seed"]): c["test_accuracy"] for c in cells}
    found = []
    for method in dict.fromkeys(c["method"] for c in cells if c["method"] not in BASELINES):
        for baseline in BASELINES:
            pairs = [
                (value, accuracy[baseline, width, seed])
                for (name, width, seed), value in accuracy.items()
                if name == method
            ]
            differences = [a - b for a, b in pairs]
            several = len(pairs) > 1
            found.append({
                "method": method, "baseline": baseline, "pairs": len(pairs), "difference": statistics.mean(differences),
                "standard_error": statistics.stdev(differences) / len(pairs) ** 0.5 if several else None,
                "p": float(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue) if several else None,
            })  # fmt: skip
    return found


def options_from(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grid", choices=sorted(GRIDS), default="core", help="(default: %(default)s)")
    parser.add_argument(
        "--concurrency", type=int, default=2, help="trials at a time, one thread each (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=8080, help="of NNI's web UI (default: %(default)s)")
    parser.add_argument("--trial", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cell", nargs=3, metavar=("METHOD", "WIDTH", "SEED"), help="only this cell, without NNI")
    options = read_options(parser, arguments, short="the same as --grid short", folder="quality")
    options.grid = "short" if options.short else options.grid
    return options


def main(arguments: list[str] | None = None) -> None:
    options = options_from(arguments)
    folder, grid = options.folder.resolve(), GRIDS[options.grid]
    if options.trial:
        one_trial(options.grid, folder)
        return
    torch.set_num_threads(1)
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(grid, folder, options.grid == "short")
    if options.cell:
        method, width, seed = options.cell
        print(json.dumps(cell(grid, method, float(width), int(seed), folder), indent=1))
        return
    n_before = len(list(folder.glob("cells/*/cell.json")))
    experiment(options, grid, folder)
    cells = collect(grid, folder)
    time_all(grid, cells, folder, 1 if options.grid == "short" else 3)
    for name in ("trial", "cell", "short", "port"):
        delattr(options, name)
    result = record.provenance(__file__, options, time.monotonic() - began) | {
        "bars": [], "n_before": n_before, "grid": dataclasses.asdict(grid),
        "targets": json.loads((folder / "targets.json").read_text(encoding="utf-8")),
        "cells": cells, "compared": compared(cells),
    }  # fmt: skip
    record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    main()
