"""Do networks of equal cost differ by more than the noise of their trainings?

    python -m experiments.benchmarks.gate.run --folder gate --output gate.json

Before any search: of every space 24 random networks of about equal multiply-adds, each trained twice, for a short while. Deviation between
networks, by the noise of one training, says whether a search in that space can show anything; 3 or more is asked for. On CIFAR-10, with the
final training of the grid of :mod:`..quality`. The short form has noise for images.

What lies in the folder is not made again: the same command goes on where it was stopped, in the middle of a training too.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from nni_proxyless.latency import LatencyProfiler, MacsEstimator
from nni_proxyless.search.random_baseline import draw_within_budget

from .. import ROOT
from ..common import record
from ..common.options import read_options
from ..common.planted import silence
from ..quality.cell import any_net, counted, space_of, train
from ..quality.grids import CIFAR10, OPEN, SPACE, Grid
from .report import markdown, picture

AT_LEAST = 3.0  # deviation between networks by the noise of a training
DRAWN_BY = 0  # seed of the networks


@dataclass(frozen=True)
class Setting:
    """What is compared, and how long it may take.

    Attributes
    ----------
    spaces
        Name -> section ``space`` of ``search.yml``.
    shares
        Name -> cost of its networks, as a share of the multiply-adds of the largest; ``share`` for all others.
    networks, trainings
        Of each space, of each network.
    grid
        Images and final training; its space, methods and seeds mean nothing here.
    """

    spaces: dict[str, dict[str, Any]]
    grid: Grid
    networks: int = 24
    trainings: int = 2
    share: float = 0.5
    shares: dict[str, float] = field(default_factory=dict)

    def grid_of(self, space: str) -> Grid:
        return dataclasses.replace(self.grid, space=dict(self.spaces[space]))

    def cells(self) -> list[tuple[str, int, int]]:
        """Space, network, training; whole networks last, so that a run that is stopped has one training of all."""
        return [
            (space, i, training)
            for training in range(self.trainings)
            for space in self.spaces
            for i in range(self.networks)
        ]


SPACES: dict[str, dict[str, Any]] = {
    "core": SPACE,
    "open-halved": {"name": "mobilenetv2", **OPEN},
    "open": {"name": "mobilenetv2", "preset": "open"},
}
SETTINGS = {
    "full": Setting(
        SPACES, Grid((), (), (), final_epochs=12, images=10_000, n_more_test=40_000, **CIFAR10)),
    "short": Setting(
        {"core": SPACE | {"widths": [8, 16, 16], "depths": [2, 1, 1]}}, networks=2,
        grid=Grid((), (), (), final_epochs=1, images=120, dataset="synthetic", input_shape=(3, 16, 16)),
    ),
}  # fmt: skip


def networks_of(setting: Setting, space: str, folder: Path) -> list[Path]:
    """``architecture.json`` of the random networks of a space, made where they are not there yet."""
    grid = setting.grid_of(space)
    paths = [folder / space / f"net-{i}" / "architecture.json" for i in range(setting.networks)]
    if not all(path.exists() for path in paths):
        base = any_net(grid)
        of_space = space_of(base)
        profiler = LatencyProfiler(of_space, MacsEstimator(), base.input_shape)
        budget = setting.shares.get(space, setting.share) * profiler.bounds()[1]
        drawn = draw_within_budget(of_space, profiler, setting.networks, budget, DRAWN_BY)
        for path, choices in zip(paths, drawn, strict=True):
            definition = of_space.timm_definition(choices)
            counted(dataclasses.replace(base, choices=choices, network=definition)).write(path)
    return paths


def cell(name: str, space: str, i: int, training: int, folder: Path) -> dict[str, Any]:
    """One training of one network, in a process of its own; what is there is read."""
    os.chdir(ROOT)  # where the images are found that the settings name
    torch.set_num_threads(1)
    silence()
    setting, path = SETTINGS[name], folder / space / f"net-{i}" / "architecture.json"
    mine = path.parent / f"training-{training}" / "architecture.json"
    if not mine.exists():
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_bytes(path.read_bytes())
    began = time.process_time()
    trained = train(setting.grid_of(space), mine, training)
    return {
        "space": space,
        "network": i,
        "training": training,
        **trained,
        "seconds": round(time.process_time() - began, 1),
    }


def make_cells(name: str, cells: list[tuple[str, int, int]], folder: Path, processes: int) -> list[dict[str, Any]]:
    """All trainings, so many at a time; what they have left."""
    if processes == 1:
        return [cell(name, *which, folder) for which in cells]
    found = []
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        waiting = [pool.apply_async(cell, (name, *which, folder)) for which in cells]
        for (space, i, training), done in zip(cells, waiting, strict=True):
            found.append(done.get())
            print(f"{space}, network {i}, training {training}: done", file=sys.stderr, flush=True)
    return found


def compared(accuracies: Sequence[Sequence[float]]) -> dict[str, float]:
    """Deviation between networks, by the noise of one training of one; analysis of variance with one random factor.

    With t trainings of each of n networks the mean square between networks is t v + w in expectation and that within them w, v and w being
    the variances between networks and of a training. Their ratio F, divided by 1 + t v / w, has the F distribution of (n - 1, n (t - 1))
    degrees of freedom, which is where the interval comes from.

    Parameters
    ----------
    accuracies
        A row per network, all of two or more trainings.

    Returns
    -------
    dict
        ``between``, ``noise``: standard deviations; ``ratio`` of them with ``low`` and ``high``, its 95 % interval; ``p`` of no difference.
    """
    a = np.asarray(accuracies, dtype=float)
    n, t = a.shape
    within = float(a.var(axis=1, ddof=1).mean())
    f = t * float(a.mean(1).var(ddof=1)) / within if within else float("inf")
    degrees = (n - 1, n * (t - 1))

    def ratio(f: float) -> float:
        return float(np.sqrt(max(0.0, (f - 1) / t)))

    low, high = (ratio(f / stats.f.ppf(q, *degrees)) for q in (0.975, 0.025))
    return {
        "between": ratio(f) * within**0.5 if within else float(a.mean(1).std(ddof=1)), "noise": within**0.5, "ratio": ratio(f), "low": low,
        "high": high, "p": float(stats.f.sf(f, *degrees)),
    }  # fmt: skip


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spaces", nargs="+", choices=sorted(SPACES), help="(default: all)")
    return read_options(
        parser, arguments, short="noise for images, two networks: shows that everything runs", folder="gate", processes="trainings"
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    name, folder = "short" if options.short else "full", options.folder.resolve()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # of the processes that are started
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    began, setting = time.perf_counter(), SETTINGS[name]
    spaces: dict[str, Any] = {}
    for space in options.spaces or setting.spaces:
        networks = [read(path) for path in networks_of(setting, space, folder)]
        spaces[space] = {"networks": networks}
    cells = make_cells(name, [which for which in setting.cells() if which[0] in spaces], folder, options.processes)
    for space, found in spaces.items():
        for i, network in enumerate(found["networks"]):
            network["accuracies"] = [
                one["test_accuracy"] for one in cells if (one["space"], one["network"]) == (space, i)
            ]
        found["compared"] = compared([network["accuracies"] for network in found["networks"]])
        found["seconds"] = sum(one["seconds"] for one in cells if one["space"] == space)
    bars = [
        record.bar(f"{space}: deviation between networks by the noise of a training", found["compared"]["ratio"], at_least=AT_LEAST,
                   noise=found["compared"]["ratio"] - found["compared"]["low"])
        for space, found in spaces.items() if space != "core"
    ]  # fmt: skip
    result = record.provenance(__file__, argparse.Namespace(short=options.short, spaces=options.spaces), time.perf_counter() - began) | {
        "threads": 1, "bars": bars, "setting": dataclasses.asdict(setting), "spaces": spaces,
    }  # fmt: skip
    return record.finish(result, options, markdown, picture)


def read(path: Path) -> dict[str, Any]:
    from nni_proxyless.models.architecture import Architecture

    network = Architecture.read(path)
    return {"choices": network.choices, "macs": network.macs, "n_params": network.n_params}


if __name__ == "__main__":
    sys.exit(main())
