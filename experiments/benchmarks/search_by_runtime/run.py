"""Does it pay to search by the milliseconds of the runtime that ships?

    python -m experiments.benchmarks.search_by_runtime.run --folder search_by_runtime --output experiments/benchmarks/search_by_runtime/records/search_by_runtime.json

Networks are to run in ONNX Runtime, one image at a time, one thread, within a target in its milliseconds. Two users search for them on
Fashion-MNIST, with the same space, strategy, images, epochs and seed:

- *by ONNX Runtime*: with a table of ONNX Runtime, at the target. The best network within it is trained.
- *by eager PyTorch*: with a table of eager PyTorch, at the milliseconds that networks of the target take there on average. Of the
  best networks within every eager budget the one is trained that takes longest in ONNX Runtime and still meets the target.

Which network is the best one say the probabilities at the end of the search (``--verdict probabilities``), or what each choice adds to the log-loss
of networks that the supernet judges (``--verdict supernet``); in such a search all epochs but one train paths that are drawn without probabilities.

The final training is the same, from scratch. Accuracies are compared seed by seed (paired t-test). Of the first search a second network is
trained, within 80 % of the target: what accuracy costs in milliseconds, and so how much faster a network of the other's accuracy is.

What lies in the folder is not made again: the same command goes on where it was stopped, in the middle of an epoch too.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import logging
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.derive import build_network
from nni_proxyless.latency import LatencyProfiler, LookupTable, build_lookup_table, least_under_budget
from nni_proxyless.latency.tables.timed_networks import random_samples
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.search.additive_fit import fit_additive
from nni_proxyless.search.finished_search import FinishedSearch
from nni_proxyless.search.supernet_files import JUDGED
from nni_proxyless.search.supernet_selection import judging_images, select_network

from .. import ROOT
from ..common import record
from ..common.options import read_options
from ..common.runtimes import TARGETS, in_own_process
from ..quality.cell import any_net, counted, profiler_of, searched, space_of, train
from ..quality.grids import INPUT_SHAPE, SPACE, Grid
from .report import ARMS, EAGER, SHIPPED, compared, markdown, picture

SMALLER = 0.8  # of the target, for the second network of a search by the shipped runtime
BUDGETS = 200  # eager ones, from the fastest to the slowest network
EQUIVALENT = 0.03  # networks that take the target within this share, of random ones
FITTED, DRAWS = (16, 32, 64, 128), 10  # networks that a fit is made to, to see what their number is worth
COPIES = 5  # of every network when it is timed at the end: where its weights lie in memory makes it faster or slower


@dataclasses.dataclass(frozen=True)
class Setting:
    """A grid of :mod:`..quality.grids` and what is more.

    Attributes
    ----------
    judged
        Networks that the supernet of a search judges; 0: its probabilities choose.
    share
        Where the target lies between the fastest and the slowest network in the shipped runtime.
    networks, operations
        Timings of each network that the table of the shipped runtime is fitted to, and of each operation of the eager one.
    final
        Timings of each copy of each network at the end.
    """

    grid: Grid
    judged: int = 0
    share: float = 0.2  # a pilot: at 0.35, one seed, 80 % of the target cost 0.3 points only
    networks: int = 30
    operations: int = 150
    final: int = 100


WIDE = SPACE | {"kernels": [3, 5, 7]}
LONG = Grid(("two-path",), (), tuple(range(8)), n_more_test=50_000, space=WIDE)
SHORT = Grid(
    ("two-path",), (), (0,), search_epochs=2, warmup_epochs=1, final_epochs=1, images=300, space=WIDE | {"depths": [2, 1, 1]},
)  # fmt: skip
PROBABILITIES, SUPERNET = VERDICTS = ("probabilities", "supernet")


def setting_of(verdict: str, *, short: bool = False) -> Setting:
    """What is compared, with the verdict of probabilities or of the supernet; ``short``: only that it runs."""
    if short:
        return Setting(SHORT, judged=8 if verdict == SUPERNET else 0, networks=2, operations=2, final=3)
    if verdict == SUPERNET:  # seeds that were in no trial of it: 8 and 9 were
        grid = dataclasses.replace(LONG, seeds=tuple(range(16, 24)), warmup_epochs=LONG.search_epochs - 1)
        return Setting(grid, judged=200)
    return Setting(LONG)


# -- before: two tables and two targets ------------------------------------------------------------------------------------------


def build_table(target: str, setting: Setting, path: Path) -> None:
    """The table of a runtime, written to a file."""
    repeats = setting.operations if target == EAGER else setting.networks
    base = any_net(setting.grid)
    estimator = TARGETS[target].estimator(repeats=repeats, warmup=min(10, repeats))
    build_lookup_table(space_of(base), INPUT_SHAPE, estimator).write(path)


def targets_of(setting: Setting, folder: Path) -> dict[str, float]:
    """Milliseconds to search for: in the shipped runtime, and what networks that take so long there take in eager mode."""
    base = any_net(setting.grid)
    shipped, eager = (profiler_of(base, table_of(name, folder)) for name in (SHIPPED, EAGER))
    low, high = (float(ms) for ms in shipped.bounds())
    target = low + setting.share * (high - low)
    samples = random_samples(space_of(base), 5000, seed=0)
    alike = [s for s in samples if abs(float(shipped.profile(s)) / target - 1) < EQUIVALENT]
    return {SHIPPED: target, EAGER: statistics.mean(float(eager.profile(s)) for s in alike or samples)}


def table_of(target: str, folder: Path) -> Path:
    return folder / f"{target}.yaml"


def prepare(setting: Setting, folder: Path) -> dict[str, float]:
    """Both tables and the targets, made where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for target in (SHIPPED, EAGER):
        if not table_of(target, folder).exists():
            in_own_process(build_table, target, setting, table_of(target, folder))
    path = folder / "targets.json"
    if not path.exists():
        write_text(path, json.dumps(targets_of(setting, folder), indent=1) + "\n")
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


# -- a cell ----------------------------------------------------------------------------------------------------------------------


Best = Callable[[float], dict[str, Any]]
"""The best network within a budget, by the verdict of a search."""


def verdict_of(
    search: FinishedSearch, target: float, setting: Setting, seed: int, folder: Path
) -> tuple[Best, dict[str, Any]]:
    """What a search says of networks: its probabilities, or the fit to networks within the target that its supernet judges; and its record.

    The verdicts go to ``judged.csv`` in the folder.
    """
    if not setting.judged:
        return search.best, {"by": PROBABILITIES}
    selected = select_network(
        search.space, search.profiler, judging_images(search.parts), n=setting.judged, seed=seed, budget=target, method="ridge"
    )  # fmt: skip
    selected.write(folder / JUDGED, search.probs)
    scores = selected.selection.fit.scores
    return lambda budget: least_under_budget(scores, search.profiler, budget), selected.record()


def left_out(file: Path) -> dict[int, float]:
    """How well the fit to so many of the networks that were judged predicts the log-losses of the others: correlation, mean of some draws."""
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    labels = list(rows[0])[list(rows[0]).index("selected") + 1 :]
    samples = [{label: row[label] for label in labels} for row in rows]
    losses = np.array([float(row["log_loss"]) for row in rows])
    candidates = {label: sorted({sample[label] for sample in samples}) for label in labels}
    draw, found = np.random.default_rng(0), {}
    for n in (n for n in FITTED if n <= 0.8 * len(rows)):
        agreements = []
        for _ in range(DRAWS):
            some, rest = np.split(draw.permutation(len(rows)), [n])
            fit = fit_additive([samples[i] for i in some], losses[some].tolist(), candidates)
            agreements.append(stats.pearsonr([fit.predict(samples[i]) for i in rest], losses[rest]).statistic)
        found[n] = float(np.mean(agreements))
    return found


def networks_of(
    best: Best, arm: str, bounds: tuple[float, float], shipped: LatencyProfiler, target: float
) -> dict[str, dict[str, Any]]:
    """The networks that are taken from a search, by the name of their arm.

    Parameters
    ----------
    best
        By the costs that the search had.
    bounds
        The fastest and the slowest network by these costs.
    target
        By ``shipped``.
    """
    if arm == SHIPPED:
        return {SHIPPED: best(target), f"{SHIPPED}, {SMALLER:.0%}": best(SMALLER * target)}
    low, high = bounds
    samples = [best(float(budget)) for budget in np.linspace(low * (1 + 1e-9), high, BUDGETS)]
    fitting = [sample for sample in samples if shipped.profile(sample) <= target]
    if not fitting:
        raise ValueError(f"no network of the search by {arm} takes at most {target:.4g} ms in {SHIPPED}")
    return {EAGER: max(fitting, key=lambda sample: float(shipped.profile(sample)))}


def cell_of(arm: str, seed: int, folder: Path) -> Path:
    return folder / "cells" / f"{arm}-{seed}" / "cell.json"


def cell(setting: Setting, arm: str, seed: int, folder: Path) -> None:
    """One search and the training of its networks; everything is kept in the folder, at last ``cell.json``."""
    done = cell_of(arm, seed, folder)
    mine = done.parent
    if done.exists():
        return
    os.chdir(ROOT)  # where the images are found that the settings name
    torch.set_num_threads(1)
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    targets = json.loads((folder / "targets.json").read_text(encoding="utf-8"))
    began = time.process_time()
    search = FinishedSearch.read(
        searched(setting.grid, "two-path", targets[arm], seed, table_of(arm, folder), mine, batch=1)
    )
    seconds = {"search": round(time.process_time() - began, 1)}
    best, verdict = verdict_of(search, targets[arm], setting, seed, mine)
    seconds["verdict"] = round(time.process_time() - began - seconds["search"], 1)
    base = any_net(setting.grid)
    profilers = {target: profiler_of(base, table_of(target, folder)) for target in (SHIPPED, EAGER)}
    taken = networks_of(best, arm, search.profiler.bounds(), profilers[SHIPPED], targets[SHIPPED])
    found = []
    for name, choices in taken.items():
        place = mine / name.replace(", ", "-").replace("%", "") / "architecture.json"
        network = counted(dataclasses.replace(base, choices=choices, network=space_of(base).timm_definition(choices)))
        network.write(place)
        trained = train(setting.grid, place, seed)
        table_ms = {target: float(profiler.profile(choices)) for target, profiler in profilers.items()}
        found.append({
            "arm": name, "seed": seed, **trained, "table_ms": table_ms, "macs": network.macs, "n_params": network.n_params,
            "choices": choices,
        })  # fmt: skip
    seconds["all"] = round(time.process_time() - began, 1)
    left = {"arm": arm, "seed": seed, "verdict": verdict, "networks": found, "cpu_seconds": seconds}
    write_text(done, json.dumps(left, indent=1) + "\n")


def make_cells(setting: Setting, folder: Path, processes: int) -> list[dict[str, Any]]:
    """All cells, whole seeds first, so many at a time; what they have left."""
    cells = [(arm, seed) for seed in setting.grid.seeds for arm in ARMS]
    paths = {(arm, seed): cell_of(arm, seed, folder) for arm, seed in cells}
    missing = [one for one in cells if not paths[one].exists()]
    if missing and processes == 1:
        for arm, seed in missing:
            cell(setting, arm, seed, folder)
    elif missing:
        with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
            done = [pool.apply_async(cell, (setting, arm, seed, folder)) for arm, seed in missing]
            for (arm, seed), one in zip(missing, done, strict=True):
                one.get()
                print(f"{arm}, seed {seed}: done", file=sys.stderr, flush=True)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths.values()]


# -- after: all networks, timed ----------------------------------------------------------------------------------------------------


def time_networks(choices: Sequence[Mapping[str, Any]], setting: Setting, target: str) -> list[float]:
    """Milliseconds of these networks, timed in turns: the median of some copies, each of which is prepared for itself."""
    base = any_net(setting.grid)
    space = space_of(base)
    networks = [build_network(_with(base, space, sample)) for sample in choices for _ in range(COPIES)]
    estimator = TARGETS[target].estimator(repeats=setting.final, warmup=2)
    ms = [m.median_ms for m in estimator.measure([(network, INPUT_SHAPE) for network in networks])]
    return [statistics.median(ms[i : i + COPIES]) for i in range(0, len(ms), COPIES)]


def _with(base: Architecture, space: Any, choices: Mapping[str, Any]) -> Architecture:
    return dataclasses.replace(base, choices=dict(choices), network=space.timm_definition(choices))


def measured(networks: list[dict[str, Any]], setting: Setting, folder: Path) -> list[dict[str, Any]]:
    """The same with ``measured_ms`` in both runtimes; kept, too."""
    path = folder / "measured.json"
    wanted = [network["choices"] for network in networks]
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if kept.get("choices") != wanted:
        kept = {"choices": wanted}
        for target in (SHIPPED, EAGER):
            kept[target] = in_own_process(time_networks, wanted, setting, target)
        write_text(path, json.dumps(kept) + "\n")
    return [
        network | {"measured_ms": {target: kept[target][i] for target in (SHIPPED, EAGER)}}
        for i, network in enumerate(networks)
    ]


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--verdict",
        choices=VERDICTS,
        default=PROBABILITIES,
        help="what says which network is best (default: %(default)s)",
    )
    parser.add_argument("--tables", action="store_true", help="build both tables, which wants a quiet machine, and end")
    return read_options(
        parser, arguments, short="one seed, 300 images, an epoch or two: shows that everything runs", folder="search_by_runtime",
        processes="cells",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    setting, folder = setting_of(options.verdict, short=options.short), options.folder.resolve()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # of the processes that are started
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    began = time.perf_counter()
    targets = prepare(setting, folder)
    if options.tables:
        return 0
    cells = make_cells(setting, folder, options.processes)
    networks = measured([network for one in cells for network in one["networks"]], setting, folder)
    shown = argparse.Namespace(
        short=options.short, verdict=None if options.verdict == PROBABILITIES else options.verdict
    )
    result = record.provenance(__file__, shown, time.perf_counter() - began) | {
        "threads": 1, "bars": [], "setting": dataclasses.asdict(setting), "targets": targets, "networks": networks,
        "cpu_seconds": [one["cpu_seconds"] for one in cells], "verdicts": [one["verdict"] for one in cells], "compared": compared(networks, SMALLER),
        "left_out": {f"{arm}-{seed}": left_out(cell_of(arm, seed, folder).parent / JUDGED) for seed in setting.grid.seeds for arm in ARMS}
        if setting.judged else {},
        "runtimes": {target: LookupTable.read(table_of(target, folder)).conditions["runtime"] for target in (SHIPPED, EAGER)},
    }  # fmt: skip
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
