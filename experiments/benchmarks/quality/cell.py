"""One cell of the grid: one method, one target, one seed, from nothing to accuracy on the test images.

    two-path, full, reinforce, nni-…          search; of probable networks near the target the most accurate in the supernet; its final training
    dsnas                                     search, which leaves a network and no supernet; its final training
    random                                    networks that take 95 to 100 % of the target, each trained to the end
    mobilenetv2, mobilenetv2-…, original,     a network that nobody has searched for (:mod:`.hand_made`), trained to the end
    a name of timm's

    untaught                                  as two-path, without the model as a teacher

The final training is the same for all: from scratch, a tenth of the training images held out, the weights after the last epoch.
Around a model with weights, :attr:`.Grid.original_epochs`, networks begin with its weights as far as they hold them, and learn from it; those that were not
searched train for longer.
Every step is a command of this package, leaves its files, and is not repeated when the cell is run again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from nni_proxyless.cli.main import main as command
from nni_proxyless.config import registry
from nni_proxyless.core.atomic_files import write_text, write_weights
from nni_proxyless.derive import build_network, count_macs, count_parameters, installed_versions
from nni_proxyless.latency import LatencyProfiler, LookupTable
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.record import latency_record
from nni_proxyless.search.mobilenetv2_baseline import reference_networks
from nni_proxyless.search.random_baseline import draw_within_budget

from .. import ROOT
from .grids import MOBILENETV2, ORIGINAL, PROXYLESS, TIMM, UNTAUGHT, Grid

BATCH = 32  # images of one timing: one alone takes most of its time between operations, where networks hardly differ
TAUGHT = 0.5  # share of the teacher in the loss, the default
CPU = {"accelerator": "cpu", "threads": 1}


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
    if method in (*PROXYLESS, UNTAUGHT):
        return {
            "name": "proxyless", "update": "two-path" if method == UNTAUGHT else method, "warmup_epochs": grid.warmup_epochs, "arc_update_every": 2,
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
            begins = {"weights": str(original_weights(table.parent))} if grid.original_epochs else {}
            config: dict[str, Any] = {
                "seed": seed, "output": str(found), "space": grid.space | begins,
                "data": {**grid.data, "batch_size": grid.search_batch_size, "alphas": 0.2, "validation": 0.1},
                "strategy": strategy_of(method, grid),
                "latency": {"target_ms": target_ms, "table": str(table),
                            "estimator": {"name": "table", "batch": batch, "threads": 1}},
                "training": {"epochs": grid.search_epochs, "optimizer": "sgd", "learning_rate": grid.search_learning_rate, "label_smoothing": 0.1},
                "search": {"select": grid.select, "judged": grid.n_judged}, "trainer": CPU,
            }  # fmt: skip
            if grid.original_epochs:
                config["training"]["distillation"] = 0 if method == UNTAUGHT else TAUGHT
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
            if grid.original_epochs:
                shutil.copy(found / "weights.safetensors", within)
        else:
            words = ["derive", str(found), "--budget-ms", repr(target_ms), "--at-least-ms", repr(0.95 * target_ms)]
            run([*words, "--judge", str(grid.n_judged), "--output", str(within)])
    return within / "architecture.json"


def train(grid: Grid, architecture: Path, seed: int, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The final training; accuracy of its last weights on the held-out and on the test images.

    Parameters
    ----------
    more
        Settings that are not those of all networks of the grid.
    """
    final = architecture.parent / "final"
    if not (final / "result.json").exists():
        if (final / "checkpoint").exists():
            run(["train", "--resume", str(final)])
        else:
            settings = {
                "weights": "scratch", "epochs": grid.final_epochs, "batch_size": grid.batch_size, "learning_rate": grid.learning_rate,
                "validation": 0.1, "device": "cpu", "threads": 1, "seed": seed, "output": final, **(more or {}),
            }  # fmt: skip
            settings["warmup_epochs"] = min(1, settings["epochs"] - 1)
            run(["train", str(architecture), *(f"{name}={value}" for name, value in settings.items())])
    last = json.loads((final / "result.json").read_text(encoding="utf-8"))["last"]
    return {"test_accuracy": last["test_accuracy"], "held_out_accuracy": last["validation_accuracy"]}


def settings_around_a_model(grid: Grid, method: str, folder: Path) -> dict[str, Any]:
    """What the final training of a method's networks has of the trained model; nothing where there is none."""
    if not grid.original_epochs:
        return {}
    is_searched = method in (*PROXYLESS, UNTAUGHT, "dsnas")
    settings: dict[str, Any] = {} if is_searched else {"epochs": grid.others_epochs or grid.final_epochs}
    if is_searched or method == "random":
        settings["weights"] = "inherited"
    if method == UNTAUGHT:
        settings["distillation"] = 0
    else:
        teacher = {"teacher": str(original_path(folder)), "weights": str(original_weights(folder)), "weight": TAUGHT}
        settings["distillation"] = json.dumps(teacher)
    return settings


def original_path(folder: Path) -> Path:
    """Where the model that a space is made around lies, with its training."""
    return folder / "original" / "architecture.json"


def original_weights(folder: Path) -> Path:
    """Those that it has been trained to."""
    return original_path(folder).parent / "final" / "weights.safetensors"


def train_original(grid: Grid, folder: Path) -> dict[str, Any]:
    """The model that the space is made around, before any search."""
    path = original_path(folder)
    if not path.exists():
        (net,) = reference_networks(any_net(grid), [1.0])
        net.write(path)
    with in_repository():
        return train(grid, path, 0, {"epochs": grid.original_epochs})


@contextmanager
def in_repository() -> Iterator[None]:
    """Where the images are found that the settings name."""
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(before)


def networks_of(grid: Grid, method: str, width: float, seed: int, folder: Path, mine: Path) -> list[Path]:
    """``architecture.json`` of the networks of a cell, which are found where they are not there yet."""
    table, targets = folder / "table.yaml", json.loads((folder / "targets.json").read_text(encoding="utf-8"))
    target_ms = targets[str(width)]["target_ms"]
    if method == "random":
        nets = random_within(grid, table, target_ms, grid.n_drawn, seed)
        paths = [mine / f"net-{i}" / "architecture.json" for i in range(len(nets))]
        if grid.original_epochs:
            cut_weights(grid, nets, paths, folder)
    elif method in (*MOBILENETV2, *TIMM, ORIGINAL):
        nets = [Architecture.read(hand_made_path(folder, method, width))]
        paths = [mine / "net" / "architecture.json"]
    else:
        return [search(grid, method, target_ms, seed, table, mine)]
    for net, path in zip(nets, paths, strict=True):
        net.write(path)
    return paths


def cut_weights(grid: Grid, nets: list[Architecture], paths: list[Path], folder: Path) -> None:
    """Write beside networks of the space what a search begins with: the weights of the model, cut to their sizes."""
    arguments = nets[0].space["arguments"] | {"weights": str(original_weights(folder))}
    space = registry.load("nni_proxyless.search_spaces", grid.space["name"])(**arguments)
    for net, path in zip(nets, paths, strict=True):
        write_weights(path.parent / "weights.safetensors", space.freeze(net.choices).state_dict())


def hand_made_path(folder: Path, method: str, width: float) -> Path:
    """Where :func:`.timing.prepare` writes a hand-made network of a target."""
    return folder / "hand_made" / f"{method}-{width}" / "architecture.json"


def cell_path(folder: Path, method: str, width: float, seed: int) -> Path:
    return folder / "cells" / f"{method}-{width}-{seed}" / "cell.json"


def cell(grid: Grid, method: str, width: float, seed: int, folder: Path) -> dict[str, Any]:
    """Run one cell, or read what it has left.

    Parameters
    ----------
    folder
        Of the grid; with ``table.yaml``, ``targets.json`` and ``hand_made``, which :func:`.timing.prepare` makes.

    Returns
    -------
    dict
        ``networks``: of each accuracies, costs and where it lies; ``search_seconds`` and ``seconds`` of CPU time, of the search with its
        judging, and of all; None for a cell that was stopped and gone on with, since nobody knows what it took before.
    """
    path = cell_path(folder, method, width, seed)
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    at_once, began = not path.parent.exists(), time.process_time()
    with in_repository():
        paths = networks_of(grid, method, width, seed, folder, path.parent)
        searched = time.process_time() - began
        networks = [trained(grid, method, architecture, seed, folder) for architecture in paths]
    seconds = time.process_time() - began
    found: dict[str, Any] = {
        "method": method, "width": width, "seed": seed, "networks": networks,
        "search_seconds": round(searched, 1) if at_once else None, "seconds": round(seconds, 1) if at_once else None,
    }  # fmt: skip
    if (path.parent / "search" / "architecture.json").exists():
        left = Architecture.read(path.parent / "search" / "architecture.json")
        found["left_by_search"] = {
            "table_ms": left.latency.get("table_ms"), "test_accuracy": left.search.get("test_accuracy"),
            "validation_accuracy": left.search.get("validation_accuracy"), "selection": left.search.get("selection"), "choices": left.choices,
        }  # fmt: skip
    write_text(path, json.dumps(found, indent=1) + "\n")
    return found


def trained(grid: Grid, method: str, path: Path, seed: int, folder: Path) -> dict[str, Any]:
    """A network after its final training, for the record."""
    net = Architecture.read(path)
    return {
        **train(grid, path, seed, settings_around_a_model(grid, method, folder)), "table_ms": net.latency.get("table_ms"), "macs": net.macs, "n_params": net.n_params,
        "choices": net.choices, "space": net.space, "architecture": str(path.relative_to(folder)),
    }  # fmt: skip
