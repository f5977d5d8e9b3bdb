"""One cell of the grid: one method, one target, one seed, from nothing to accuracy on the test images.

    two-path, full, reinforce, nni-…          search; of probable networks near the target the most accurate in the supernet; its final training
    dsnas                                     search, which leaves a network and no supernet; its final training
    random                                    networks that take 95 to 100 % of the target, each trained to the end; what the best of so many
                                              as the same compute allows is worth: best on the held-out images, mean over all such sets
    mobilenetv2                               MobileNetV2's block everywhere, at the width that has set the target

The final training is the same for all: from scratch, a tenth of the training images held out, the weights after the last epoch.
Every step is a command of this package, leaves its files, and is not repeated when the cell is run again.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from nni_proxyless.cli.main import main as command
from nni_proxyless.config import registry
from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.derive import build_network, count_macs, count_parameters, installed_versions
from nni_proxyless.latency import LatencyProfiler, LookupTable
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.record import latency_record
from nni_proxyless.search.mobilenetv2_baseline import reference_networks
from nni_proxyless.search.random_baseline import draw_within_budget

from .. import ROOT

PROXYLESS = ("two-path", "full", "reinforce")
FASHION_MNIST = "experiments.benchmarks.common.fashion:part_of_fashion_mnist"
INPUT_SHAPE = (1, 32, 32)
CIFAR10: dict[str, Any] = {
    "dataset": "experiments.benchmarks.common.cifar10:part_of_cifar10",
    "input_shape": (3, 32, 32),
}
BATCH = 32  # images of one timing: one alone takes most of its time between operations, where networks hardly differ
CPU = {"accelerator": "cpu", "threads": 1}


@dataclass(frozen=True)
class Grid:
    """What is compared, and how long it may take.

    Attributes
    ----------
    space, data
        Sections of ``search.yml``.
    widths
        Of MobileNetV2; each sets a target: what it takes.
    n_random
        Random networks of which the best counts: as many as the search and the final training of its network cost together, rounded.
    n_drawn
        Random networks that are trained, n_random or more: with more of them it is known better what the best of n_random is worth.
    n_judged
        Networks that are judged with the weights of a supernet.
    select
        How a search ends; with probabilities a network is derived afterwards, where a supernet is left that can judge.
    search_epochs, warmup_epochs, final_epochs
        Of a search in all, of its weights alone, of the final training. A search costs about one final training, as in the papers.
    search_batch_size, batch_size
        Of a search and of the final training. Smaller in a search: what it lacks is steps.
    search_learning_rate
        For such batches; 0.1 in the final training.
    space
        Its candidates share their weights, so every step trains all of them.
    images
        That train, of all of the data set: 60,000 of Fashion-MNIST, 50,000 of CIFAR-10.
    n_more_test
        Of those that are left, so many judge with the 10,000 test images: on these alone networks of this grid differ by 0.2 points
        more than they do.
    dataset, input_shape
        Where images come from, and the shape of one.
    runtime
        What times networks and the rows of their table.
    """

    methods: tuple[str, ...]
    widths: tuple[float, ...]
    seeds: tuple[int, ...]
    n_random: int = 2
    n_drawn: int = 2
    n_judged: int = 32
    select: Literal["probabilities", "supernet"] = "probabilities"
    search_epochs: int = 12
    warmup_epochs: int = 4
    final_epochs: int = 18
    images: int = 10_000
    n_more_test: int = 0
    dataset: str = FASHION_MNIST
    input_shape: tuple[int, int, int] = INPUT_SHAPE
    runtime: str = "torch"
    batch_size: int = 64
    search_batch_size: int = 32
    search_learning_rate: float = 0.07
    space: dict[str, Any] = field(default_factory=lambda: dict(SPACE))

    @property
    def data(self) -> dict[str, Any]:
        if self.dataset == "synthetic":  # noise, where a grid only has to run
            return {
                "name": self.dataset,
                "n_images": self.images,
                "channels": self.input_shape[0],
                "image_size": self.input_shape[1],
            }
        return {"name": self.dataset, "n_train": self.images, "n_more_test": self.n_more_test}


SPACE: dict[str, Any] = {
    "name": "mobilenetv2", "preset": "small", "stem_width": 16, "stem_stride": 2, "first_width": 8,
    "widths": [16, 32, 64], "depths": [3, 3, 2], "strides": [2, 2, 1], "feature_mix": 128,
    "kernels": [3, 5], "expansions": [1, 3, 6], "shared_weights": True,
}  # fmt: skip
# Of what random networks of equal cost differ in, stage entries and depth are open; the stem halves images, or a training took four times as long.
OPEN: dict[str, Any] = {"preset": "open", "stem_stride": 2}
CORE = ("two-path", "dsnas", "random", "mobilenetv2")
EVERY = (
    "two-path",
    "full",
    "reinforce",
    "dsnas",
    "nni-darts",
    "nni-gumbel-darts",
    "nni-proxyless",
    "nni-random",
    "random",
    "mobilenetv2",
)
GRIDS = {
    "short": Grid(CORE, (0.5,), (0,), n_random=1, n_drawn=1, n_judged=4, search_epochs=3, warmup_epochs=1, final_epochs=1, images=1000),
    # Settings were chosen by trials with seed 0, the number of test images and of seeds by what seeds 1 to 5 had shown.
    "core": Grid(CORE, (0.5,), tuple(range(6, 14)), n_more_test=50_000),
    # Seeds that no setting was chosen on; networks that can differ, see ../gate.
    "core-cifar10": Grid(
        CORE, (0.5,), tuple(range(20, 32)), n_more_test=40_000, runtime="onnxruntime", select="supernet",
        space={"name": "mobilenetv2", **OPEN, "shared_weights": True}, **CIFAR10,
    ),
    "full": Grid(EVERY, (0.5, 0.75, 1.0), (0, 1, 2, 3, 4), search_epochs=60, warmup_epochs=15, final_epochs=60, images=60_000),
}  # fmt: skip


# -- networks ----------------------------------------------------------------------------------------------------------------


def any_net(grid: Grid) -> Architecture:
    """The smallest network of the space: what the others are made from, since it knows space, images and shapes."""
    arguments = {name: value for name, value in grid.space.items() if name != "name"} | {
        "in_channels": grid.input_shape[0], "num_classes": 10,
    }  # fmt: skip
    space = registry.load("nni_proxyless.search_spaces", grid.space["name"])(**arguments)
    choices = {
        label: "skip" if "skip" in mutable.values else min(mutable.values)
        for label, mutable in space.simplify().items()
    }
    data = dict(grid.data)
    net = Architecture(
        space={"name": grid.space["name"], "arguments": arguments},
        choices=choices,
        input_shape=grid.input_shape,
        network=space.timm_definition(choices),
        data={"name": data.pop("name"), "arguments": data},
    )
    return counted(net)


def counted(net: Architecture) -> Architecture:
    network = build_network(net)
    return dataclasses.replace(
        net, macs=count_macs(network, net.input_shape), n_params=count_parameters(network),
        versions=installed_versions(),
    )  # fmt: skip


def space_of(net: Architecture) -> Any:
    return registry.load("nni_proxyless.search_spaces", net.space["name"])(**net.space["arguments"])


def profiler_of(net: Architecture, table: Path) -> LatencyProfiler:
    return LatencyProfiler(space_of(net), LookupTable.read(table), net.input_shape)


def random_within(grid: Grid, table: Path, target_ms: float, n: int, seed: int) -> list[Architecture]:
    """Networks of the space that take 95 to 100 % of the target."""
    base = any_net(grid)
    profiler = profiler_of(base, table)
    return [
        counted(
            dataclasses.replace(
                base, choices=choices, network=space_of(base).timm_definition(choices),
                search={"strategy": "random", "weights": "fresh", "seed": seed},
                latency=latency_record(profiler, choices, target=target_ms),
            )
        )
        for choices in draw_within_budget(space_of(base), profiler, n, target_ms, seed)
    ]  # fmt: skip


# -- steps ---------------------------------------------------------------------------------------------------------------


class StepFailed(RuntimeError):
    """A command of this package has ended with an error, which it has said itself."""


def run(words: list[str]) -> None:
    if command(words) != 0:
        raise StepFailed(" ".join(words))


def strategy_of(method: str, grid: Grid) -> dict[str, Any]:
    """The strategy's section of ``search.yml``.

    Adam moves a logit by at most the learning rate in a step. At these rates logits move all through the search and choices are
    not decided at its end: the network is the most probable one near the target. At rates several times as high,
    or with an entropy term, choices were decided within two epochs, by chance, and one of them stayed undecided to hold the target.
    """
    if method in PROXYLESS:
        return {
            "name": "proxyless", "update": method, "warmup_epochs": grid.warmup_epochs, "arc_update_every": 2,
            "arc_learning_rate": 0.006, "size_bias": 1.0,
        }  # fmt: skip
    if method == "dsnas":
        return {
            "name": "dsnas", "warmup_epochs": grid.warmup_epochs,
            "search_epochs": grid.search_epochs - grid.warmup_epochs - 1, "fix_gap": 0.9, "arc_learning_rate": 0.01,
        }  # fmt: skip
    if method == "nni-random":
        return {"name": method}
    return {"name": method, "warmup_epochs": grid.warmup_epochs, "arc_learning_rate": 0.006}


def searched(
    grid: Grid, method: str, target_ms: float, seed: int, table: Path, folder: Path, *, batch: int = BATCH
) -> Path:
    """Folder of one search, which is made, or gone on with, where it is not there yet; ``batch`` is that of the table."""
    found = folder / "search"
    if not (found / "architecture.json").exists():
        if (found / "checkpoint").exists():
            run(["search", "--resume", str(found)])
        else:
            config = {
                "seed": seed, "output": str(found), "space": grid.space,
                "data": {**grid.data, "batch_size": grid.search_batch_size, "alphas": 0.2, "validation": 0.1},
                "strategy": strategy_of(method, grid),
                "latency": {"target_ms": target_ms, "table": str(table),
                            "estimator": {"name": "table", "batch": batch, "threads": 1}},
                "training": {"epochs": grid.search_epochs, "optimizer": "sgd", "learning_rate": grid.search_learning_rate, "label_smoothing": 0.1},
                "search": {"select": grid.select, "judged": grid.n_judged}, "trainer": CPU,
            }  # fmt: skip
            write_text(folder / "search.yml", yaml.safe_dump(config, sort_keys=False))
            run(["search", str(folder / "search.yml")])
    return found


def search(grid: Grid, method: str, target_ms: float, seed: int, table: Path, folder: Path) -> Path:
    """One search, and the network that is taken from it; returns its ``architecture.json``."""
    found, within = searched(grid, method, target_ms, seed, table, folder), folder / "net"
    if not (within / "architecture.json").exists():
        if (
            method == "dsnas" or grid.select == "supernet"
        ):  # within the target and near it; all other candidates of DSNAS are gone
            Architecture.read(found / "architecture.json").write(within / "architecture.json")
        else:
            words = ["derive", str(found), "--budget-ms", repr(target_ms), "--at-least-ms", repr(0.95 * target_ms)]
            run([*words, "--judge", str(grid.n_judged), "--output", str(within)])
    return within / "architecture.json"


def train(grid: Grid, architecture: Path, seed: int) -> dict[str, Any]:
    """The final training; accuracy of its last weights on the held-out and on the test images."""
    final = architecture.parent / "final"
    if not (final / "result.json").exists():
        if (final / "checkpoint").exists():
            run(["train", "--resume", str(final)])
        else:
            settings = {
                "weights": "scratch", "epochs": grid.final_epochs, "warmup_epochs": min(1, grid.final_epochs - 1),
                "batch_size": grid.batch_size, "learning_rate": 0.1, "validation": 0.1, "device": "cpu", "threads": 1,
                "seed": seed, "output": final,
            }  # fmt: skip
            run(["train", str(architecture), *(f"{name}={value}" for name, value in settings.items())])
    last = json.loads((final / "result.json").read_text(encoding="utf-8"))["last"]
    return {"test_accuracy": last["test_accuracy"], "held_out_accuracy": last["validation_accuracy"]}


def expected_best(trained: Sequence[Mapping[str, float]], n: int) -> float:
    """Test accuracy of the one of n that is best on the held-out images, mean over all sets of n."""
    sets = list(itertools.combinations(trained, n))
    return statistics.mean(max(of, key=lambda t: t["held_out_accuracy"])["test_accuracy"] for of in sets)


def cell(grid: Grid, method: str, width: float, seed: int, folder: Path) -> dict[str, Any]:
    """Run one cell, or read what it has left.

    Parameters
    ----------
    folder
        Of the grid; with ``table.yaml`` and ``targets.json``, which :func:`.run.prepare` makes.
    """
    mine = folder / "cells" / f"{method}-{width}-{seed}"
    if (mine / "cell.json").exists():
        return json.loads((mine / "cell.json").read_text(encoding="utf-8"))
    began = time.process_time()
    os.chdir(ROOT)  # where the images are found that the settings name
    table, targets = folder / "table.yaml", json.loads((folder / "targets.json").read_text(encoding="utf-8"))
    target_ms = targets[str(width)]["target_ms"]
    if method == "mobilenetv2":
        (net,) = reference_networks(any_net(grid), [width])
        paths = [mine / "net" / "architecture.json"]
        net.write(paths[0])
    elif method == "random":
        nets = random_within(grid, table, target_ms, grid.n_drawn, seed)
        paths = [mine / f"net-{i}" / "architecture.json" for i in range(len(nets))]
        for net, path in zip(nets, paths, strict=True):
            net.write(path)
    else:
        paths = [search(grid, method, target_ms, seed, table, mine)]
    searched = time.process_time() - began
    trained = [train(grid, path, seed) for path in paths]
    best = max(range(len(paths)), key=lambda i: trained[i]["held_out_accuracy"])
    net = Architecture.read(paths[best])
    found = {
        "method": method, "width": width, "seed": seed, **trained[best], "target_ms": target_ms,
        "table_ms": net.latency.get("table_ms"), "macs": net.macs, "n_params": net.n_params, "choices": net.choices,
        "architecture": str(paths[best].relative_to(folder)),
        "search_seconds": round(searched, 1), "seconds": round(time.process_time() - began, 1),
        "test_accuracies": [t["test_accuracy"] for t in trained],
    }  # fmt: skip
    if method == "random":
        found["test_accuracy"] = expected_best(trained, grid.n_random)
        found["seconds"] = round(found["seconds"] * grid.n_random / len(trained), 1)
    if (mine / "search" / "architecture.json").exists():
        left = Architecture.read(mine / "search" / "architecture.json")
        found["left_by_search"] = {
            "table_ms": left.latency.get("table_ms"), "test_accuracy": left.search.get("test_accuracy"),
            "validation_accuracy": left.search.get("validation_accuracy"), "choices": left.choices,
        }  # fmt: skip
    write_text(mine / "cell.json", json.dumps(found, indent=1) + "\n")
    return found
