"""Do searches among trees of paths find better ones than chance, at the same cost?

    python -m experiments.benchmarks.tree_searches.run --only-table --folder tree_searches     # on a quiet machine
    python -m experiments.benchmarks.tree_searches.run --folder tree_searches --output tree_searches.json

The space is ProxylessNAS's for CIFAR-10 (:class:`.PyramidTreeSpace`, preset ``small``: 72 choices of seven operations). ProxylessNAS, by the
gradient of two paths and by REINFORCE, and DSNAS search in it, each with a target in milliseconds of ONNX Runtime and without one: six
trials of an NNI experiment per seed, by ``nnictl create``. Random trees cost the same by the same table: two for every seed with a target, and one for each
network that was found without a target. All train in the same way, from scratch, and are compared seed by seed.

What lies in the folder is not made again: the same command goes on where it was stopped. Seeds come one after the other.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nni_proxyless.core.errors import UserError
from nni_proxyless.latency import LatencyProfiler, LookupTable
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.build import build_network
from nni_proxyless.models.record import describe, latency_record, record
from nni_proxyless.models.space import make_space
from nni_proxyless.report.nnictl import NnictlError
from nni_proxyless.search.uniform_draws import draw_networks

from ..common import record as records
from ..common.options import read_options
from ..nas_bench_macro.cell import StepFailed, run_command, step
from .report import compared, markdown, picture
from .searches import SearchFailed, cpu_seconds, place_of, search
from .setting import AIMS, FREE, FULL, RANDOM, SHORT, TARGET, Setting

Network = dict[str, Any]
ARCHITECTURE, TRAINED = "architecture.json", "trained.json"


# -- the table ---------------------------------------------------------------------------------------------------------------


def build_table(setting: Setting, path: Path) -> None:
    """The table of ONNX Runtime, by the command, unless it is there."""
    if path.exists():
        return
    name, *arguments = (value if key == "name" else f"{key}={value}" for key, value in setting.space.items())
    run_command([
        "latency", "build", "--space", name, *arguments, "--resolution", str(setting.shape[-1]), "--runtime", "onnxruntime",
        "--networks", str(setting.networks), "--repeats", str(setting.repeats), "--output", str(path),
    ])  # fmt: skip


class Costs:
    """What networks of the space cost, by the table."""

    def __init__(self, setting: Setting, table: Path):
        self.setting = setting
        self.arguments = {name: value for name, value in setting.space.items() if name != "name"} | {
            "in_channels": setting.shape[0], "num_classes": 10,
        }  # fmt: skip
        self.space = make_space(setting.space["name"], self.arguments)
        self.profiler = LatencyProfiler(self.space, LookupTable.read(table), setting.shape)

    @property
    def target_ms(self) -> float:
        """At the share of the setting between the fastest and the slowest network; digits that a file keeps."""
        low, high = self.profiler.bounds()
        return round(low + self.setting.share * (high - low), 4)

    def of(self, place: Path) -> float:
        """Milliseconds of the network of a folder."""
        return float(self.profiler.profile(Architecture.read(place / ARCHITECTURE).choices))

    def random(self, cost_ms: float, seed: int, data: dict[str, Any]) -> Architecture:
        """A random tree that costs so much, within the share of the setting; each that does is equally likely. For the images of ``data``.

        Raises
        ------
        UserError
            There is none.
        """
        least, most = (cost_ms * (1 + by) for by in (-self.setting.within, self.setting.within))
        samples = draw_networks(self.space, self.profiler, 1, most, seed, least=least)
        if not samples:
            raise UserError(f"no tree takes {least:.4g} to {most:.4g} ms")
        (sample,) = samples
        described = describe(
            self.space, sample, name=self.setting.space["name"], arguments=self.arguments, data=data, input_shape=self.setting.shape
        )  # fmt: skip
        latency = latency_record(self.profiler, sample, target=None)
        return record(
            described,
            build_network(described),
            latency=latency,
            search={"strategy": RANDOM, "weights": "fresh", "seed": seed},
        )


# -- one seed ----------------------------------------------------------------------------------------------------------------


def random_trees(setting: Setting, costs: Costs, seed: int, folder: Path) -> dict[str, Path]:
    """``architecture.json`` of the random trees of a seed, by their names: ``target-0``, ``free-dsnas``; its searches are over."""
    ms = {(method, aim): costs.of(place_of(folder, method, aim, seed)) for method in setting.strategies for aim in AIMS}
    of_target = statistics.mean(ms[method, TARGET] for method in setting.strategies)
    wanted = {f"{TARGET}-{i}": of_target for i in range(setting.n_random)}
    wanted |= {f"{FREE}-{method}": ms[method, FREE] for method in setting.strategies}
    data = Architecture.read(place_of(folder, next(iter(setting.strategies)), TARGET, seed) / ARCHITECTURE).data
    paths = {}
    for number, (name, cost_ms) in enumerate(wanted.items()):
        paths[name] = folder / RANDOM / f"{name}-{seed}" / ARCHITECTURE
        if not paths[name].exists():
            costs.random(cost_ms, 1000 * seed + number, data).write(paths[name])
    return paths


def train(setting: Setting, path: Path, seed: int) -> None:
    """The final training of a network, from its last checkpoint on; ``trained.json`` beside it says what it has left."""

    def training() -> dict[str, Any]:
        final = path.parent / "final"
        settings = {
            "workers": 0,
            "cutout": 0,
            "validation": 0.1,
            "device": "cpu",
            "threads": 1,
            "seed": seed,
            **setting.final,
        }
        if (final / "checkpoint").exists():
            run_command(["train", "--resume", str(final)])
        elif not (final / "result.json").exists():
            words = [f"{key}={value}" for key, value in settings.items()]
            run_command(["train", str(path), "cifar-tree", *words, f"output={final}"])
        return json.loads((final / "result.json").read_text(encoding="utf-8"))["last"]

    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)  # in a process of its own
    step(path.parent / TRAINED, training)


def train_all(setting: Setting, paths: Sequence[Path], seed: int, processes: int) -> None:
    """The final trainings that are missing, so many at a time, the slowest network first."""
    missing = [path for path in paths if not (path.parent / TRAINED).exists()]
    if missing and processes == 1:
        for path in missing:
            train(setting, path, seed)
    elif missing:
        missing.sort(key=lambda path: -Architecture.read(path).macs)
        with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
            for one in [pool.apply_async(train, (setting, path, seed)) for path in missing]:
                one.get()


def network_of(costs: Costs, path: Path, seed: int) -> Network:
    """A trained network: accuracy of its last weights on the test images, its costs, and CPU seconds."""
    last = json.loads((path.parent / TRAINED).read_text(encoding="utf-8"))
    network = Architecture.read(path)
    return {
        "seed": seed, "test_accuracy": last["test_accuracy"], "held_out_accuracy": last["validation_accuracy"],
        "table_ms": float(costs.profiler.profile(network.choices)), "macs": network.macs, "n_params": network.n_params,
        "training_seconds": last["seconds"], "choices": network.choices,
    }  # fmt: skip


def networks_of(setting: Setting, costs: Costs, seed: int, folder: Path, processes: int) -> list[Network]:
    """All networks of a seed, whose searches are over: found, drawn, trained."""
    found = {(aim, method): place_of(folder, method, aim, seed) for aim in AIMS for method in setting.strategies}
    drawn = random_trees(setting, costs, seed, folder)
    train_all(setting, [*(place / ARCHITECTURE for place in found.values()), *drawn.values()], seed, processes)
    networks = []
    for (aim, method), place in found.items():
        search = {
            "search_seconds": cpu_seconds((place / "times").read_text(encoding="utf-8")),
            "selection": Architecture.read(place / ARCHITECTURE).search.get("selection"),
        }
        networks.append({"aim": aim, "method": method, **search, **network_of(costs, place / ARCHITECTURE, seed)})
    for name, path in drawn.items():
        aim, of = name.split("-", 1)
        networks.append({"aim": aim, "method": RANDOM, "of": of, **network_of(costs, path, seed)})
    return networks


# -- all of them -------------------------------------------------------------------------------------------------------------


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only-table", action="store_true", help="build the table, which wants a quiet machine, and end"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="(default: 10 to 14, on which nothing was chosen; short: 0)"
    )
    return read_options(
        parser,
        arguments,
        short="noise for images, two methods, an epoch or two: shows that everything runs",
        folder="tree_searches",
        processes="searches or trainings",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    setting, folder, began = SHORT if options.short else FULL, options.folder.resolve(), time.perf_counter()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # of the trials
    torch.set_num_threads(1)
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "onnxruntime.yaml"
    networks: list[Network] = []
    seeds = tuple(options.seeds or setting.seeds)
    try:
        build_table(setting, table)
        if options.only_table:
            return 0
        costs = Costs(setting, table)
        for seed in seeds:
            search(setting, table, costs.target_ms, seed, folder, options.processes)
            networks += networks_of(setting, costs, seed, folder, options.processes)
            print(f"seed {seed}: done", file=sys.stderr, flush=True)
    except (UserError, NnictlError, SearchFailed, StepFailed) as error:
        print(error, file=sys.stderr)
        return 2
    measured = LookupTable.read(table)
    result = records.provenance(__file__, argparse.Namespace(short=options.short, seeds=options.seeds), time.perf_counter() - began) | {
        "threads": 1, "bars": [], "setting": dataclasses.asdict(setting) | {"seeds": list(seeds)},
        "target_ms": costs.target_ms, "bounds_ms": list(costs.profiler.bounds()),
        "table": dict(measured.measured) | {"runtime": measured.conditions["runtime"]},
        "networks": networks, "compared": compared(networks, list(setting.strategies)),
    }  # fmt: skip
    return records.finish(json.loads(json.dumps(result)), options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
