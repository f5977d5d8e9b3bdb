"""Does every runtime want a network of its own, and is that the fastest there, at an equal score?

    python -m experiments.benchmarks.runtime_networks.run --folder runtime_networks --output experiments/benchmarks/runtime_networks/records/runtime_networks.json

- *Score*: a supernet is trained on Fashion-MNIST for no target, almost all of the time on random paths. Random networks are judged by its weights:
  cross entropy on held-out images, batch-norm statistics estimated afresh. What every candidate adds to it is fitted by a ridge regression, whose
  cross-validated correlation is recorded. The score of a network is the sum of its candidates, so it is exact for all networks, and
  additive as milliseconds are.
- *Networks*: for every target the fastest by its own table among all whose score is at least that of the best quarter of random networks:
  an integer program (:func:`..specialization.run.fastest_of_score`). By its own table no network of that score is faster: that is arithmetic.
  A table is off by a per cent, though, and the fastest networks are no further apart. So those that may be the fastest as far as the table can
  tell (:func:`~nni_proxyless.latency.objectives.contenders.contenders`, as ``nni-proxyless derive --time`` has them) are timed on the target, and
  the fastest of these is the target's network.
- *Timed*: every network on every target, in turns, some copies of each, which are prepared for themselves. A network is to be
  the fastest on its own target by more than the scatter of copies.

What lies in the folder is not made again. ``--only build`` makes tables and the supernet, which then can wait for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.core.progress import bar
from nni_proxyless.latency import LatencyProfiler, LookupTable, build_lookup_table
from nni_proxyless.latency.objectives.budget import log_probability
from nni_proxyless.latency.objectives.contenders import contenders
from nni_proxyless.latency.tables.timed_networks import random_samples
from nni_proxyless.search.additive_fit import fit_additive
from nni_proxyless.search.finished_search import FinishedSearch
from nni_proxyless.search.judging import judge_networks

from ..common import record
from ..common.options import read_options
from ..common.runtimes import TARGETS, in_own_process
from ..quality.cell import CPU, any_net, run, space_of
from ..quality.grids import INPUT_SHAPE, SPACE, Grid
from ..specialization.run import fastest_of_score, timed_in_turns
from .report import bars, markdown, picture

NETWORKS_FOR = ("torch", "onnxruntime", "onnxruntime-int8", "ncnn", "onnxruntime-batch-32")
BEST = 0.25  # share of random networks that have the score, or a better one

Probs = dict[str, dict[Any, float]]


class Sizes(NamedTuple):
    """How much is computed."""

    epochs: int = 14
    judged: int = 400  # random networks whose cross entropy is taken
    repeats: int = 30  # timings of each network that a table is fitted to
    operations: int = 150  # of each operation of the eager table
    contenders: int = 12  # networks that may be the fastest, timed for one of them to be chosen
    contender_copies: int = 4
    copies: int = 8
    final: int = 60  # timings of each copy


SHORT = Sizes(epochs=2, judged=12, repeats=2, operations=2, contenders=2, contender_copies=1, copies=2, final=3)
GRIDS = {
    "long": Grid(("two-path",), (), (0,), space=SPACE | {"kernels": [3, 5, 7]}),
    "short": Grid(("two-path",), (), (0,), images=300, space=SPACE | {"kernels": [3, 5], "depths": [2, 1, 1]}),
}


# -- tables and supernet ----------------------------------------------------------------------------------------------------------


def build_table(target: str, grid: Grid, sizes: Sizes, path: Path) -> None:
    """The table of a target, written to a file."""
    estimator = TARGETS[target].estimator(
        repeats=sizes.operations if target == "torch" else sizes.repeats, warmup=min(10, sizes.repeats)
    )
    build_lookup_table(space_of(any_net(grid)), INPUT_SHAPE, estimator).write(path)


def tables(targets: Sequence[str], grid: Grid, sizes: Sizes, folder: Path) -> dict[str, LookupTable]:
    """Of every target that can be had here, built where it is not there yet."""
    found = {}
    for target in targets:
        path = folder / f"{target}.yaml"
        try:
            TARGETS[target].estimator(repeats=1, warmup=0)
        except ValueError as error:
            print(f"{target} is left out: {error}", file=sys.stderr)
            continue
        if not path.exists():
            in_own_process(build_table, target, grid, sizes, path)
        found[target] = LookupTable.read(path)
    return found


def supernet(grid: Grid, sizes: Sizes, folder: Path) -> Path:
    """Folder of a search for no target, whose logits move in the last epoch only."""
    found = folder / "search"
    if (found / "checkpoint").exists():
        run(["search", "--resume", str(found)])
    elif not (found / "architecture.json").exists():
        config = {
            "seed": 0, "output": str(found), "space": grid.space,
            "data": {**grid.data, "batch_size": grid.search_batch_size, "alphas": 0.1, "validation": 0.2},
            "strategy": {"name": "proxyless", "update": "two-path", "warmup_epochs": sizes.epochs - 1, "size_bias": 1.0,
                         "arc_learning_rate": 1e-6},
            "latency": {"target_ms": None, "table": None, "estimator": {"name": "macs"}},
            "training": {"epochs": sizes.epochs, "optimizer": "sgd", "learning_rate": grid.search_learning_rate, "label_smoothing": 0.1},
            "search": {"select": "probabilities"}, "trainer": CPU,
        }  # fmt: skip
        write_text(folder / "search.yml", yaml.safe_dump(config, sort_keys=False))
        run(["search", str(folder / "search.yml")])
    return found


# -- the score --------------------------------------------------------------------------------------------------------------------


def held_out_loss(search: FinishedSearch, sample: Mapping[str, Any]) -> float:
    """Mean cross entropy of a network with the supernet's weights on the images of the search that trained nothing."""
    return judge_networks(search.space, [sample], *search.parts.judging_loaders)[0].log_loss


def judged(search: FinishedSearch, n: int, path: Path) -> list[dict[str, Any]]:
    """Random networks and their losses; kept as they come."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    samples = random_samples(search.space, n, seed=0)
    with bar(len(samples), "judged", "network") as done:
        done.update(len(found))
        for sample in samples[len(found) :]:
            found.append({"choices": sample, "loss": held_out_loss(search, sample)})
            write_text(path, json.dumps(found) + "\n")
            done.update()
    return found


def additive(
    networks: Sequence[Mapping[str, Any]], values: Mapping[str, Sequence[Any]]
) -> tuple[Probs, dict[str, float]]:
    """What every candidate adds to the loss, as probabilities whose logarithms add up: p(c) = exp(-loss of c) / sum of these.

    Returns
    -------
    tuple
        Label -> choice -> probability; and how good the fit is for networks that are left out of it: ``spearman``, ``pearson``.
    """
    losses = [network["loss"] for network in networks]
    fit = fit_additive([network["choices"] for network in networks], losses, values)
    probs = {label: _softmax(of) for label, of in fit.scores.items()}
    worth = {"spearman": fit.rank_correlation, "pearson": fit.correlation, "loss_deviation": float(np.std(losses))}
    return probs, worth


def _softmax(losses: Mapping[Any, float]) -> dict[Any, float]:
    whole = sum(math.exp(-loss) for loss in losses.values())
    return {choice: math.exp(-loss) / whole for choice, loss in losses.items()}


# -- networks ---------------------------------------------------------------------------------------------------------------------


def timed(target: str, choices: Sequence[Mapping[str, Any]], grid: Grid, sizes: Sizes) -> list[list[float]]:
    """Median milliseconds of every copy of these networks on a target, all in turns."""
    space = space_of(any_net(grid))
    copies = [space.freeze(dict(sample)) for sample in choices for _ in range(sizes.copies)]
    estimator = TARGETS[target].estimator(repeats=sizes.final, warmup=2)
    ms = [float(np.median(times)) for times in timed_in_turns(copies, INPUT_SHAPE, estimator)]
    return [ms[i : i + sizes.copies] for i in range(0, len(ms), sizes.copies)]


def fastest_by_the_clock(
    target: str, probs: Probs, profiler: LatencyProfiler, score: float, grid: Grid, sizes: Sizes
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network of a target, of those that may be the fastest of a score as far as its table can tell; and what these take, for the record."""
    found = contenders(lambda costs: fastest_of_score(probs, costs, score), profiler, sizes.contenders)
    few = sizes._replace(copies=sizes.contender_copies)
    measured = [float(np.median(copies)) for copies in in_own_process(timed, target, found, grid, few)]
    chosen = found[int(np.argmin(measured))]
    return chosen, {"table": [float(profiler.profile(sample)) for sample in found], "measured": measured}


def compare(grid: Grid, sizes: Sizes, folder: Path, found: Mapping[str, LookupTable]) -> dict[str, Any]:
    """The fastest networks of one score for all targets, timed on all of them."""
    search = FinishedSearch.read(supernet(grid, sizes, folder))
    networks = judged(search, sizes.judged, folder / "judged.json")
    values = {str(label): list(m.values) for label, m in search.space.simplify().items()}
    probs, worth = additive(networks, values)
    every = sorted((log_probability(probs, s) for s in random_samples(search.space, 2000, seed=1)), reverse=True)
    score = every[int(BEST * len(every))]
    space = space_of(any_net(grid))
    profilers = {target: LatencyProfiler(space, table, INPUT_SHAPE) for target, table in found.items()}
    timed_first = {
        target: fastest_by_the_clock(target, probs, profiler, score, grid, sizes)
        for target, profiler in profilers.items()
    }
    chosen = {target: sample for target, (sample, _) in timed_first.items()}
    cells = {target: in_own_process(timed, target, list(chosen.values()), grid, sizes) for target in found}
    return {
        "score": {"least": score, "random": [every[-1], every[len(every) // 2], every[0]], **worth, "judged": len(networks)},
        "runtimes": {target: str(table.conditions["runtime"]) for target, table in found.items()},
        "networks": {
            target: {
                "choices": sample, "score": log_probability(probs, sample), "loss": held_out_loss(search, sample),
                "table": {name: float(profiler.profile(sample)) for name, profiler in profilers.items()},
                "measured": {name: cells[name][i] for name in found}, "contenders": timed_first[target][1],
            }
            for i, (target, sample) in enumerate(chosen.items())
        },
    }  # fmt: skip


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--targets", nargs="+", choices=sorted(TARGETS), default=[*NETWORKS_FOR], help="(default: %(default)s)"
    )
    parser.add_argument(
        "--only", choices=("supernet", "tables"), help="make that and end: the supernet needs no quiet machine"
    )
    return read_options(
        parser, arguments, short="a small space, 300 images, few timings: shows that everything runs", folder="runtime_networks"
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    name, sizes = ("short", SHORT) if options.short else ("long", Sizes())
    grid, folder = GRIDS[name], options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if options.only == "supernet":
        judged(FinishedSearch.read(supernet(grid, sizes, folder)), sizes.judged, folder / "judged.json")
        return 0
    found = tables(options.targets, grid, sizes, folder)
    if options.only == "tables":
        return 0
    result = record.provenance(__file__, argparse.Namespace(short=options.short), time.perf_counter() - began)
    result |= {"threads": 1, "sizes": sizes._asdict(), **compare(grid, sizes, folder, found)}
    result |= {"bars": [] if options.short else bars(result["networks"])}
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
