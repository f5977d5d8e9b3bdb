"""Does every target want a network of its own, and is that the fastest there, at an equal score?

    python -m experiments.benchmarks.specialization.run --output experiments/benchmarks/specialization/records/specialization.json --picture docs/background/bench_specialization.svg

What is searched, and what is derived:

- *Searched*, once per seed and for no target: one ``nni-proxyless search`` with ProxylessNAS and without a latency term. It leaves the
  probability of every candidate and the weights of the supernet. The score of a network is the logarithm of its probability.
- *Derived*, per target: the fastest network by that target's table among all whose score is at least a given one, by
  ``best_under_budget``, whose budget is lowered until the score is reached and no further. The given score is that of the best network
  within a share of the slowest network's multiply-adds. So by its own table no network of that score is faster: that is arithmetic. What can
  fail, and has a bar: that the networks differ; that they are the fastest where they are really *timed*; that an equal score is an
  equal *accuracy*, after the same training on images that no search has seen.

In the paper, each target has a search of its own. Here one search serves all, since networks of several searches that differ by half a
percent in accuracy cannot be compared in milliseconds, and equal accuracy takes more searches than two cores can make.

A. *Networks that are trained.* The space ``small``; targets: one image at a time and 32 at a time on this CPU, and multiply-adds. Networks
   inherit the supernet's weights and are trained to the end.
B. *The ImageNet space*, 21 choices at 224 pixels; targets: a Pixel 1 by the table that the paper's authors published, this CPU by a
   table of its own, and multiply-adds. Nobody can train these here. Probabilities are those of a search on the digits in the same 21
   choices (preset ``cifar``, whose strides are smaller), so they say that networks are equal to that search, not on ImageNet. On this CPU
   the networks are timed as wholes.
C. *The paper's own three networks* for GPU, CPU and mobile, timed on this CPU beside what the paper says.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import logging
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from nni_proxyless.search_spaces import MobileNetV2Space

import nni_proxyless.timm_models  # noqa: F401  (registers the paper's nets)
from nni_proxyless.cli.main import main as command
from nni_proxyless.core.progress import bar
from nni_proxyless.data.validate import make_images
from nni_proxyless.latency import (
    DeviceEstimator,
    LatencyProfiler,
    LookupTable,
    MacsEstimator,
    best_under_budget,
    build_lookup_table,
)
from nni_proxyless.latency.objectives.budget import log_probability, slowest
from nni_proxyless.latency.tables.drift import without_drift
from nni_proxyless.search.finished_search import FinishedSearch
from nni_proxyless.search.supernet_files import PROBABILITIES, read_probabilities

from .. import ROOT
from ..common import record
from .report import MACS, PAPER, bars, markdown, picture

SEARCH, TRAIN = ROOT / "experiments" / "search.yml", ROOT / "experiments" / "train.yml"
INPUTS, TABLE = Path(__file__).resolve().parent / "inputs", "cpu.yaml"
PIXEL_1 = ROOT.parent / "shared" / "data" / "proxylessnas_pixel1_lookup_table.yaml"
ONE, MANY, CPU, PIXEL = "1 image", "32 images", "this CPU", "Pixel 1"
SHARE = 0.4  # of the slowest network's multiply-adds, for the network whose score all must have
CLOSE = 1e-3  # of a budget: how closely it is looked for
IMAGENET = (3, 224, 224)

COMMON = ["latency.table=null", "latency.estimator={name: macs}", "latency.target_ms=null", "strategy.entropy_weight=0.0",
          "trainer.threads=1", "trainer.accelerator=cpu"]  # fmt: skip
PART_OF_FASHION_MNIST = [
    "data={name: 'experiments.benchmarks.common.fashion:part_of_fashion_mnist', batch_size: 64, alphas: 0.3, validation: 0.1}"
]
SIZES: dict[str, dict[str, Any]] = {
    "long": {
        "search": [*PART_OF_FASHION_MNIST, "space.stem_stride=2", "training.epochs=14", "strategy.warmup_epochs=4"],
        "train": ["epochs=8", "batch_size=64"], "seeds": [0, 1, 2], "repeats": 100,
    },
    "short": {
        "search": ["training.epochs=6", "strategy.warmup_epochs=2"], "train": ["epochs=3"], "seeds": [0], "repeats": 40,
    },
}  # fmt: skip
ON_DIGITS = ["space.preset=cifar", "data.batch_size=16", "training.epochs=20", "strategy.warmup_epochs=8",
             "training.learning_rate=0.005"]  # fmt: skip

Probs = Mapping[str, Mapping[Any, float]]
Sample = dict[str, Any]


# -- networks of an equal score ------------------------------------------------------------------------------------------------


def fastest_of_score(probs: Probs, profiler: LatencyProfiler, score: float) -> Sample:
    """The fastest network whose log-probability is ``score`` or more, to one part in 1,000.

    Raises
    ------
    ValueError
        No network has that score.
    """
    found = best_under_budget(probs, profiler, math.inf)
    if log_probability(probs, found) < score - 1e-9:
        raise ValueError(f"score is {score}; allowed: up to {log_probability(probs, found)}, that of the best network")
    low, high = profiler.bounds()[0] * (1 - CLOSE), float(profiler.profile(found))
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        sample = best_under_budget(probs, profiler, middle) if middle >= profiler.bounds()[0] else None
        if sample is not None and log_probability(probs, sample) >= score - 1e-9:
            found, high = sample, float(profiler.profile(sample))
        else:
            low = middle
    return found


def nets_of(probs: Probs, profilers: Mapping[str, LatencyProfiler]) -> tuple[float, dict[str, Sample]]:
    """The score that all networks must have, and the network of each target."""
    macs = profilers[MACS]
    score = log_probability(probs, best_under_budget(probs, macs, SHARE * slowest(macs)[1]))
    return score, {target: fastest_of_score(probs, profiler, score) for target, profiler in profilers.items()}


def timed_in_turns(networks: Sequence[torch.nn.Module], shape: Any, estimator: DeviceEstimator) -> list[list[float]]:
    """Milliseconds of every network, one per round, the drift of the machine divided out."""
    rounds = estimator.time_in_turns([(network, shape) for network in networks])
    times, _ = without_drift([list(enumerate(times)) for times in rounds])
    return [list(times[i]) for i in range(len(networks))]


# -- A: networks that are trained ----------------------------------------------------------------------------------------------


def searched(words: Sequence[str], seed: int, folder: Path) -> Path:
    """Folder of one search; what it prints is not this benchmark's result."""
    with contextlib.redirect_stdout(sys.stderr):
        if command(["search", str(SEARCH), *COMMON, *words, f"seed={seed}", f"output={folder}"]):
            raise SystemExit(f"specialization: the search with seed {seed} has failed")
    return folder


def trained(folder: Path, words: Sequence[str], seed: int) -> float:
    """Accuracy on the test images of the network in a folder, after its final training."""
    with contextlib.redirect_stdout(sys.stderr):
        if command(
            ["train", str(folder / "architecture.json"), str(TRAIN), *words, f"seed={seed}", "device=cpu", "threads=1"]
        ):
            raise SystemExit(f"specialization: the training in {folder.name} has failed")
    return json.loads((folder / "final" / "result.json").read_text())["accuracy"]


def part_a(sizes: Mapping[str, Any], seeds: Sequence[int], folder: Path, done: Any) -> dict[str, Any]:
    """One search per seed, its networks for all targets, trained; and all of them timed side by side."""
    runs, search, profilers = [], None, {}
    samples: list[Sample] = []
    for seed in seeds:
        search = FinishedSearch.read(searched(sizes["search"], seed, folder / f"search-{seed}"))
        shape = search.architecture.input_shape
        if not profilers:
            estimators = {ONE: DeviceEstimator(runtime="torch", batch=1, repeats=sizes["repeats"]),
                          MANY: DeviceEstimator(runtime="torch", batch=32, warmup=3, repeats=sizes["repeats"] // 2)}  # fmt: skip
            tables = {name: build_lookup_table(search.space, shape, e) for name, e in estimators.items()}
            profilers = {name: LatencyProfiler(search.space, t, shape) for name, t in {**tables, MACS: MacsEstimator()}.items()}  # fmt: skip
        score, nets = nets_of(search.probs, profilers)
        done.update()
        found = {}
        for target, sample in nets.items():
            place = folder / f"{seed}-{target.replace(' ', '-')}"
            budget = float(profilers[target].profile(sample))
            net = dataclasses.replace(search, profiler=profilers[target]).derive(sample, budget, measured=False)
            net.write(place)
            found[target] = {
                "choices": sample, "accuracy": trained(place, sizes["train"], seed), "inherited_accuracy": net.architecture.search["accuracy"],
                "log_probability": log_probability(search.probs, sample), "n_params": net.architecture.n_params,
                "table": {t: float(p.profile(sample)) for t, p in profilers.items()},
            }  # fmt: skip
            samples.append(sample)
            done.update()
        runs.append({"seed": seed, "score": score, "nets": found})
    assert search is not None
    images = make_images(search.parts.config.data.name, search.parts.config.data.arguments)
    networks = [MobileNetV2Space(**search.architecture.space["arguments"]).freeze(sample) for sample in samples]
    times = {target: timed_in_turns(networks, shape, estimators[target]) for target in estimators}
    for i, (r, target) in enumerate(itertools.product(runs, profilers)):
        r["nets"][target]["measured"] = {t: times[t][i] for t in times}
    return {
        "test_images": len(images.test), "unit": {t: p.unit for t, p in profilers.items()}, "runs": runs,
    }  # fmt: skip


# -- B: the ImageNet space -------------------------------------------------------------------------------------------------


def part_b(options: argparse.Namespace, folder: Path, done: Any) -> dict[str, Any] | None:
    """Networks of an equal score by the tables of a Pixel 1 and of this CPU.

    None in the short form where search or table are not recorded: a table of few timings has rows that are low by chance, and
    the fastest network by such a table is made of them.
    """
    space, estimator = (
        MobileNetV2Space(num_classes=1000),
        DeviceEstimator(runtime="torch", repeats=20 if options.short else 60),
    )
    table = recorded_table(options.folder, estimator)
    recorded = options.folder / PROBABILITIES
    if options.short and (table is None or not recorded.exists()):
        return None
    if not recorded.exists():
        shutil.copy(searched(ON_DIGITS, 0, folder / "digits") / PROBABILITIES, recorded)
    probs = read_probabilities(options.folder)
    if table is None:
        described = {"name": "mobilenetv2", "arguments": {"num_classes": 1000}}
        table = build_lookup_table(
            space, IMAGENET, DeviceEstimator(runtime="torch", repeats=100), description=described
        )
        table.write(options.folder / TABLE)
    done.update()
    profilers = {CPU: LatencyProfiler(space, table, IMAGENET), MACS: LatencyProfiler(space, MacsEstimator(), IMAGENET)}
    if PIXEL_1.exists():
        profilers[PIXEL] = LatencyProfiler(space, LookupTable.read(PIXEL_1), IMAGENET)
    score, nets = nets_of(probs, profilers)
    times = timed_in_turns([space.freeze(sample) for sample in nets.values()], IMAGENET, estimator)
    done.update()
    return {
        "score": score,
        "unit": {target: profiler.unit for target, profiler in profilers.items()},
        "nets": {
            target: {
                "choices": sample,
                "log_probability": log_probability(probs, sample),
                "table": {name: float(profiler.profile(sample)) for name, profiler in profilers.items()},
                "measured": {CPU: ms},
            }
            for (target, sample), ms in zip(nets.items(), times, strict=True)
        },
    }


def recorded_table(folder: Path, estimator: DeviceEstimator) -> LookupTable | None:
    """The table in a folder, if it is there and of this CPU."""
    if not (folder / TABLE).exists():
        return None
    table = LookupTable.read(folder / TABLE)
    return table if table.conditions.get("device") == estimator.conditions["device"] else None


# -- C: the paper's networks ---------------------------------------------------------------------------------------------------


def part_c(repeats: int) -> dict[str, Any]:
    """Milliseconds of each of the paper's networks on this CPU, an image at a time and eight at a time, in turns."""
    networks = [timm.create_model(name) for name in PAPER]
    found: dict[str, dict[str, Any]] = {name: {} for name in PAPER}
    for batch in (1, 8):
        estimator = DeviceEstimator(runtime="torch", batch=batch, warmup=2, repeats=max(4, repeats // (4 * batch)))
        for name, ms in zip(PAPER, timed_in_turns(networks, IMAGENET, estimator), strict=True):
            found[name][f"batch {batch}"] = ms
    return found


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="A: digits, one seed; B: only if it is recorded")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the searches (default: 0 1 2; short: 0)")
    parser.add_argument("--folder", type=Path, default=INPUTS,
                        help="of the table of this CPU and the probabilities, for B: the long form makes what is missing")  # fmt: skip
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--picture", type=Path, help="SVG or PNG file for the picture")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or SIZES["short" if options.short else "long"]["seeds"]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    sizes = SIZES["short" if options.short else "long"]
    if not options.short:
        options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, bar(4 * len(options.seeds) + 2, "specialization", "network") as done:
        found = {
            "small": part_a(sizes, options.seeds, Path(name), done),
            "imagenet": part_b(options, Path(name), done),
            "paper": part_c(sizes["repeats"]),
        }
        done.update()
    settings = argparse.Namespace(short=options.short, seeds=options.seeds)  # the rest says where something lies
    result = (
        record.provenance(__file__, settings, time.perf_counter() - began)
        | found
        | {
            "bars": []
            if options.short
            else bars(found)  # after three epochs on one seed networks differ by chance or not at all
        }
    )
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
