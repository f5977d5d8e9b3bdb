"""What does it cost to search by another runtime's milliseconds, in a space of which every network is known?

    python -m experiments.benchmarks.runtime_regret.run --folder nas_bench_macro --output runtime_regret.json

Networks are to run in ONNX Runtime, one image at a time, one thread, within a target in its milliseconds. For each seed ProxylessNAS trains one
supernet of NAS-Bench-Macro's space on CIFAR-10, without a target (the search of ``nas_bench_macro``, whose folder it shares). The supernet
judges random networks of the whole space; what each choice adds to their log-loss is fitted, and what else the search knows of choices comes to it as in
``derive --judge``. By these sums two users choose:

- *by ONNX Runtime*: the best network within the target, by a table of ONNX Runtime;
- *by eager PyTorch*: the best networks within every budget, by a table of eager PyTorch; of these the one that takes longest in ONNX Runtime and
  still meets the target.

What the networks are worth then says the table of the authors of NAS-Bench-Macro, so nothing is trained again. Accuracies are compared seed by
seed; and of the networks that the first user gets for other targets, the fastest is looked up that is as accurate as the second user's.

The same command goes on where it was stopped. ``--tables`` makes the two tables alone, which wants a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from nni_proxyless.core.errors import UserError
from nni_proxyless.latency import LatencyProfiler, LookupTable, build_lookup_table
from nni_proxyless.latency.tables.build import Method
from nni_proxyless.search.additive_fit import fit_additive
from nni_proxyless.search.finished_search import FinishedSearch
from nni_proxyless.search.judging import judge_networks
from nni_proxyless.search.supernet_selection import judging_images
from nni_proxyless.search.witnesses import Scores, hear

from .. import ROOT
from ..common import record
from ..common.options import read_options
from ..common.planted import silence
from ..common.runtimes import TARGETS, in_own_process, in_this_process
from ..nas_bench_macro import cell as macro
from ..nas_bench_macro.space import CHOICES, LABELS, SHAPE, MacroSpace, every_network, sample_of
from ..nas_bench_macro.table import Table, Window, add_table_option
from ..nas_bench_macro.table import table_of as accuracies_of
from ..nas_bench_macro.worth import CANDIDATES, agreement
from ..search_by_runtime.report import EAGER, SHIPPED
from .report import compared, markdown, picture

RUNTIMES = (SHIPPED, EAGER)
COPIES = 3  # of every network when it is timed at the end: where its weights lie in memory makes it faster or slower
METHOD = "two-path"


@dataclass(frozen=True)
class Setting:
    """What is compared, and how long it may take.

    Attributes
    ----------
    searches
        Of ``nas_bench_macro``: the supernets.
    shares
        Where targets lie between the fastest and the slowest network in the shipped runtime.
    judged
        Networks that a supernet judges.
    networks, operations
        Timings of each network that the table of the shipped runtime is fitted to, and of each operation of the eager one.
    final
        Timings of each copy of each network at the end.
    eager_method
        Of building the table of the eager runtime; None: the default.
    """

    searches: macro.Setting
    shares: tuple[float, ...] = (0.2, 0.3, 0.4)
    judged: int = 64
    networks: int = 60
    operations: int = 150
    final: int = 100
    eager_method: Method | None = None


SETTINGS = {
    "full": Setting(dataclasses.replace(macro.SETTINGS["full"], seeds=tuple(range(4, 12)))),
    # Operations alone, whose sums are never below 0: on a busy machine the few timings inside of so small networks are too long.
    "short": Setting(macro.SETTINGS["short"], judged=8, networks=2, operations=7, final=3, eager_method="isolated"),
}


# -- before: two tables ----------------------------------------------------------------------------------------------------


def path_of(folder: Path, runtime: str) -> Path:
    return folder / "runtimes" / f"{runtime}.yaml"


def build_table(setting: Setting, runtime: str, path: Path) -> None:
    """The table of a runtime, written to a file."""
    repeats = setting.operations if runtime == EAGER else setting.networks
    estimator = TARGETS[runtime].estimator(repeats=repeats, warmup=min(10, repeats))
    method = setting.eager_method if runtime == EAGER else None
    build_lookup_table(MacroSpace(width=setting.searches.width), SHAPE, estimator, method=method).write(path)


def prepare(setting: Setting, folder: Path, isolate: Any) -> None:
    """Both tables, made where they are not there yet."""
    (folder / "runtimes").mkdir(parents=True, exist_ok=True)
    for runtime in RUNTIMES:
        if not path_of(folder, runtime).exists():
            isolate(build_table, setting, runtime, path_of(folder, runtime))


def costs_by(folder: Path, runtime: str, width: float) -> np.ndarray:
    """Milliseconds of all networks by the table of a runtime, shape (6561,)."""
    profiler = LatencyProfiler(MacroSpace(width=width), LookupTable.read(path_of(folder, runtime)), SHAPE)
    return profiler.fixed_ms + sums(profiler.candidate_ms)


def sums(of: Mapping[str, Mapping[Any, float]]) -> np.ndarray:
    """Of every network, what its choices add, shape (6561,)."""
    per_choice = np.array([[of[label][choice] for choice in CHOICES] for label in LABELS])
    return per_choice[np.arange(len(LABELS)), every_network()].sum(1)


# -- a supernet and its verdicts -------------------------------------------------------------------------------------------


def verdicts(setting: Setting, table: Table, run: Path, seed: int) -> dict[str, Any]:
    """Log-losses of random networks of the whole space with the weights of a supernet; and what else its search knows."""
    search = FinishedSearch.read(run)
    images = judging_images(search.parts)
    names = table.names(np.random.default_rng(seed).permutation(len(table.accuracy))[: setting.judged])
    found = judge_networks(search.space, [sample_of(name) for name in names], images.calibration, images.few)
    return {"names": names, "log_loss": [verdict.log_loss for verdict in found], "known": search.known}


def one(name: str, path: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """The verdicts of the supernet of a seed, with the CPU time of both; in a process of its own."""
    os.chdir(ROOT)  # where the space and the images are found that settings name
    torch.set_num_threads(1)
    silence()
    setting = SETTINGS[name]
    table = accuracies_of(name == "short", path, setting.searches.width)
    cell = folder / "cells" / macro.name_of_cell("search", METHOD, None, seed)
    searched = macro.searched(setting.searches, METHOD, None, seed, cell)
    judge = functools.partial(verdicts, setting, table, cell / "search", seed)
    judged = macro.step(cell / f"whole-space-{setting.judged}.json", judge)
    return {"seed": seed, "search_seconds": searched["seconds"], "judging_seconds": judged["seconds"], **judged}


def all_verdicts(
    name: str, path: Path | None, seeds: Sequence[int], folder: Path, processes: int
) -> list[dict[str, Any]]:
    """Of all seeds, so many at a time."""
    if processes == 1:
        return [one(name, path, seed, folder) for seed in seeds]
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        waiting = [pool.apply_async(one, (name, path, seed, folder)) for seed in seeds]
        return [done.get() for done in waiting]


# -- what two users choose -------------------------------------------------------------------------------------------------


def choose(loss: np.ndarray, ms: Mapping[str, np.ndarray], target: float) -> dict[str, int]:
    """Number of the network that each user gets, by the runtime of its table.

    Parameters
    ----------
    loss
        Of all networks, by what a supernet knows; shape (6561,).
    ms
        Runtime -> milliseconds of all networks.
    target
        In the shipped runtime's.
    """
    best = best_within(loss, ms[EAGER])
    fitting = best[ms[SHIPPED][best] <= target]
    if not len(fitting):
        raise ValueError(
            f"no network that is best within a budget of {EAGER} takes at most {target:.4g} ms in {SHIPPED}"
        )
    shipped = best_within(loss, ms[SHIPPED])
    return {
        SHIPPED: int(shipped[ms[SHIPPED][shipped] <= target][-1]),
        EAGER: int(fitting[ms[SHIPPED][fitting].argmax()]),
    }


def best_within(loss: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Numbers of the networks that are best within some budget, the fastest first."""
    order = np.lexsort((loss, ms))
    below = np.minimum.accumulate(loss[order])
    return order[np.append(True, below[1:] < below[:-1])]


def networks_of(
    setting: Setting, table: Table, ms: Mapping[str, np.ndarray], judged: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[float]]:
    """What both users get by what a search knows, a row for each target and user; and the accuracy that the first gets for each of :func:`grid`."""
    samples = [sample_of(name) for name in judged["names"]]
    fit = fit_additive(samples, judged["log_loss"], CANDIDATES)
    means = [(log_loss + fit.predict(sample)) / 2 for log_loss, sample in zip(judged["log_loss"], samples, strict=True)]
    scores: Scores = fit.scores
    for of in judged["known"].values():
        scores = hear(of, samples, means, CANDIDATES).added_to(scores)
    loss, found = sums(scores), []
    for share, target in targets_of(setting, ms[SHIPPED]).items():
        for arm, i in choose(loss, ms, target).items():
            found.append({
                "arm": arm, "seed": judged["seed"], "share": share, "name": table.names([i])[0], "accuracy": float(table.accuracy[i]),
                "table_ms": {runtime: float(ms[runtime][i]) for runtime in RUNTIMES}, "correlation": fit.correlation,
            })  # fmt: skip
    best = best_within(loss, ms[SHIPPED])
    within = np.searchsorted(ms[SHIPPED][best], grid(ms[SHIPPED]), side="right") - 1
    return found, table.accuracy[best[within]].tolist()


def grid(ms: np.ndarray) -> np.ndarray:
    """Targets from the fastest network to the slowest, each 2 % above the one before."""
    return ms.min() * 1.02 ** np.arange(1 + int(np.log(ms.max() / ms.min()) / np.log(1.02)))


def targets_of(setting: Setting, ms: np.ndarray) -> dict[float, float]:
    return {share: float(ms.min() + share * np.ptp(ms)) for share in setting.shares}


def chance(table: Table, ms: np.ndarray, target: float) -> dict[str, Any]:
    """What random networks are worth that take 95 to 100 % of a target, and the best of all within it."""
    inside = np.flatnonzero((0.95 * target <= ms) & (ms <= target))
    best = float(table.accuracy[ms <= target].max())
    accuracy = table.accuracy[inside]
    window = Window(0.95 * target, target, inside, accuracy)
    of = {f"best_of_{k}": window.best_of(k) for k in (2, 3) if k <= len(inside)}
    return {"target_ms": target, "networks": len(inside), "mean": float(accuracy.mean()), **of, "maximum": best}


# -- after: all networks, timed ----------------------------------------------------------------------------------------------------


def measure(setting: Setting, names: Sequence[str], runtime: str) -> list[float]:
    """Milliseconds of networks, timed in turns: the median of some copies, each of which is prepared for itself."""
    space: Any = MacroSpace(width=setting.searches.width)
    networks = [space.freeze(sample_of(name)) for name in names for _ in range(COPIES)]
    ms = [
        m.median_ms
        for m in TARGETS[runtime].estimator(repeats=setting.final, warmup=2).measure([(n, SHAPE) for n in networks])
    ]
    return [statistics.median(ms[i : i + COPIES]) for i in range(0, len(ms), COPIES)]


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="build both tables, which wants a quiet machine, and end")
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="(default: 4 to 11, on which nothing was chosen; short: 0)"
    )
    add_table_option(parser)
    return read_options(
        parser, arguments, short="noise for images, a made-up table: shows that everything runs", folder="nas_bench_macro",
        processes="searches",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    name, folder = "short" if options.short else "full", options.folder.resolve()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # of the processes that are started
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    setting, began = SETTINGS[name], time.perf_counter()
    isolate = in_this_process if options.short else in_own_process
    seeds = options.seeds or setting.searches.seeds
    try:
        table = accuracies_of(options.short, options.table, setting.searches.width)
        prepare(setting, folder, isolate)
        if options.tables:
            return 0
        judged = all_verdicts(name, options.table, seeds, folder, options.processes)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    ms = {runtime: costs_by(folder, runtime, setting.searches.width) for runtime in RUNTIMES}
    found = [networks_of(setting, table, ms, of_seed) for of_seed in judged]
    networks, fronts = [network for of_seed, _ in found for network in of_seed], [front for _, front in found]
    names = sorted({network["name"] for network in networks})
    timed = dict(zip(names, isolate(measure, setting, names, SHIPPED), strict=True))
    networks = [network | {"measured_ms": timed[network["name"]]} for network in networks]
    every = np.array([table.accuracy[[table.index(n) for n in of["names"]]] for of in judged])
    result = record.provenance(__file__, argparse.Namespace(short=options.short, seeds=options.seeds), time.perf_counter() - began) | {
        "threads": 1, "bars": [], "setting": dataclasses.asdict(setting) | {"seeds": list(seeds)},
        "chance": {share: chance(table, ms[SHIPPED], target) for share, target in targets_of(setting, ms[SHIPPED]).items()},
        "networks": networks, "compared": compared(networks, fronts, grid(ms[SHIPPED]).tolist()),
        "fronts": {"target_ms": grid(ms[SHIPPED]).tolist(), "accuracy": fronts},
        "agreement": [agreement(-np.array(of["log_loss"]), truth) for of, truth in zip(judged, every, strict=True)],
        "cpu_seconds": [{"search": of["search_seconds"], "judging": of["judging_seconds"]} for of in judged],
        "rank_correlation": float(stats.spearmanr(ms[SHIPPED], ms[EAGER]).statistic),
        "tables": {r: dict(LookupTable.read(path_of(folder, r)).measured) | {"runtime": LookupTable.read(path_of(folder, r)).conditions["runtime"]} for r in RUNTIMES},
    }  # fmt: skip
    result = json.loads(json.dumps(result))  # keys as a record has them
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
