"""One cell: one search, or one supernet, from nothing to what the table says of the networks that it finds.

    search-METHOD[-BUDGET]-SEED              a search by this package's command, with multiply-adds for milliseconds; the network that its
                                             supernet selects in the end, and the one that its probabilities choose. ProxylessNAS keeps its
                                             supernet, so one search without a target serves all budgets; DSNAS lets go of it
    supernet-RECIPE[-BUDGET]-SEED            a supernet by :mod:`.supernet`; verdicts on random networks of every budget; the networks that
                                             the methods of selection find with it

Every step leaves its files in the folder of the cell, with the seconds of CPU time that it took, and is not made again.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from nni_proxyless.cli.main import main as command
from nni_proxyless.core.atomic_files import write_text, write_weights
from nni_proxyless.data import ImageData, Parts, loader, split
from nni_proxyless.data.validate import make_images
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.timm_model import load_weights
from nni_proxyless.search.finished_search import FinishedSearch
from nni_proxyless.search.judging import Verdict, judge_networks
from nni_proxyless.search.selection import METHODS as METHODS_OF_SELECTION
from nni_proxyless.search.selection import select
from nni_proxyless.search.supernet_files import JUDGED
from nni_proxyless.search.supernet_selection import FEW, STATISTICS, evenly

from .space import LABELS, MacroSpace, macs_profiler, name_of, sample_of
from .supernet import RECIPES, Paths, train
from .table import Table, Window
from .worth import worth

SPACE = "experiments.benchmarks.nas_bench_macro.space:MacroSpace"
METHODS = ("two-path", "dsnas")
ONE_SERVES_ALL = ("two-path",)  # budgets: a search leaves its supernet


@dataclass(frozen=True)
class Setting:
    """What is compared, and how long it may take.

    Attributes
    ----------
    methods, recipes, budgets, seeds
        Cells are all of their combinations. A budget is a share of the multiply-adds of the largest network.
    data
        The section of ``search.yml``.
    width
        Of the space; the table is of width 1.
    search_epochs, warmup_epochs, batch_size, learning_rate
        Of a search; the last epoch of one with DSNAS is the child's, and comes off its warm-up.
    shared_weights, size_bias
        In searches; recipes have their own.
    validation
        Share of the images that judges.
    calibration_images
        Those that statistics of batch norm of the derived network are estimated on.
    n_judged
        Networks that a search judges.
    n_verdicts
        Random networks of each budget that a supernet judges.
    steps_share
        Of the steps of each recipe.
    """

    methods: tuple[str, ...] = METHODS
    recipes: tuple[str, ...] = tuple(RECIPES)
    budgets: tuple[float, ...] = (0.4, 0.5, 0.7)
    seeds: tuple[int, ...] = (0, 1, 2)
    data: Mapping[str, Any] = field(default_factory=lambda: dict(CIFAR10))
    width: float = 1.0
    search_epochs: int = 5
    warmup_epochs: int = 4
    batch_size: int = 64
    learning_rate: float = 0.06
    shared_weights: bool = False
    size_bias: float = 0.0
    validation: float = 0.1
    calibration_images: int = 512
    n_judged: int = 64
    n_verdicts: int = 96
    steps_share: float = 1.0

    def cells(self) -> list[tuple[Any, ...]]:
        """Kind, name, budget and seed of each; whole seeds first, so that a run that is stopped has some."""
        found: list[tuple[Any, ...]] = []
        for seed in self.seeds:
            one_each = [("search", method, method not in ONE_SERVES_ALL) for method in self.methods]
            one_each += [("supernet", recipe, RECIPES[recipe].for_one_budget) for recipe in self.recipes]
            for kind, name, for_one_budget in one_each:
                budgets: Sequence[float | None] = self.budgets if for_one_budget else (None,)
                found += [(kind, name, budget, seed) for budget in budgets]
        return found


CIFAR10: dict[str, Any] = {
    "name": "experiments.benchmarks.common.cifar10:part_of_cifar10",
    "n_train": 20_000,
    "n_test": 1000,
}
SETTINGS = {
    "full": Setting(),
    # Noise for images and a made-up table: that everything runs.
    "short": Setting(
        recipes=("uniform", "sandwich"), budgets=(0.5,), seeds=(0,), width=0.125, search_epochs=3, warmup_epochs=2, n_judged=8,
        n_verdicts=8, steps_share=0.01, calibration_images=32, validation=0.2, batch_size=32,
        data={"name": "synthetic", "n_images": 160},
    ),
}  # fmt: skip


def name_of_cell(kind: str, name: str, budget: float | None, seed: int) -> str:
    return "-".join([kind, name, *([] if budget is None else [f"{budget:g}"]), str(seed)])


def cell(setting: Setting, table: Table, which: tuple[Any, ...], folder: Path) -> dict[str, Any]:
    """Run one cell, given as :meth:`Setting.cells` has it, or read what it has left; ``folder`` is that of all."""
    kind, name, budget, seed = which
    mine = folder / "cells" / name_of_cell(kind, name, budget, seed)
    done = mine / "cell.json"
    if not done.exists():
        run = search_cell if kind == "search" else supernet_cell
        found = {
            "kind": kind,
            "name": name,
            "budget": budget,
            "seed": seed,
            **run(setting, table, name, budget, seed, mine),
        }
        write_text(done, json.dumps(found, indent=1) + "\n")
    result: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return result


def step(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a step has left in its file, with its CPU time; the work is done where there is none."""
    if not path.exists():
        began = time.process_time()
        found = work()
        write_text(path, json.dumps(found | {"seconds": round(time.process_time() - began, 2)}, indent=1) + "\n")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


# -- searches --------------------------------------------------------------------------------------------------------------


class StepFailed(RuntimeError):
    """A command of this package has ended with an error, which it has said itself."""


def run_command(words: list[str]) -> None:
    if command(words) != 0:
        raise StepFailed(" ".join(words))


def strategy_of(setting: Setting, method: str) -> dict[str, Any]:
    """The section of ``search.yml``."""
    common = {"size_bias": setting.size_bias, "arc_learning_rate": 0.01 if method == "dsnas" else 0.006}
    if method == "dsnas":
        searching = setting.search_epochs - setting.warmup_epochs
        return {
            "name": "dsnas",
            **common,
            "warmup_epochs": setting.warmup_epochs - 1,
            "search_epochs": searching,
            "fix_gap": 0.9,
        }
    return {
        "name": "proxyless",
        **common,
        "warmup_epochs": setting.warmup_epochs,
        "update": method,
        "arc_update_every": 2,
    }


def search_yml(setting: Setting, method: str, budget: float | None, seed: int, output: Path) -> dict[str, Any]:
    return {
        "seed": seed, "output": str(output),
        "space": {"name": SPACE, "width": setting.width, "shared_weights": setting.shared_weights},
        "data": {**setting.data, "batch_size": setting.batch_size, "alphas": 0.2, "validation": setting.validation},
        "strategy": strategy_of(setting, method),
        "latency": {"target_ms": None if budget is None else f"{100 * budget:g}%", "estimator": {"name": "macs"}},
        "search": {"select": "probabilities" if budget is None else "supernet", "judged": setting.n_judged},
        "training": {
            "epochs": setting.search_epochs, "optimizer": "sgd", "learning_rate": setting.learning_rate,
            "calibration_images": setting.calibration_images,
        },
        "trainer": {"accelerator": "cpu", "threads": torch.get_num_threads()},
    }  # fmt: skip


def searched(setting: Setting, method: str, budget: float | None, seed: int, folder: Path) -> dict[str, Any]:
    """A search in the folder ``search`` of a cell, or what it has left: CPU ``seconds``, of the selection at its end too.

    None of a search that went on where it was stopped: nobody knows what it took before.
    """
    run = folder / "search"

    def search() -> dict[str, Any]:
        at_once = not run.exists()
        if not (run / "architecture.json").exists():
            if (run / "checkpoint").exists():
                run_command(["search", "--resume", str(run)])
            else:
                config = search_yml(setting, method, budget, seed, run)
                write_text(folder / "search.yml", yaml.safe_dump(config, sort_keys=False))
                run_command(["search", str(folder / "search.yml")])
        return {"at_once": at_once}

    found = step(folder / "searched.json", search)
    return {"seconds": found["seconds"] if found["at_once"] else None}


def search_cell(
    setting: Setting, table: Table, method: str, budget: float | None, seed: int, folder: Path
) -> dict[str, Any]:
    """A search; within each budget the network that its supernet selects and the one that its probabilities choose, by the table."""
    run = folder / "search"
    search = searched(setting, method, budget, seed, folder)
    alone = search["seconds"]
    found: dict[str, Any] = {"seconds": alone, "budgets": {}}
    for share in setting.budgets if budget is None else (budget,):
        window = table.window(share)
        chosen = step(folder / f"probable-{share:g}.json", functools.partial(probable, run, window))
        if budget is None:
            where = folder / f"net-{share:g}"
            select_within = functools.partial(judged, setting, run, window, where)
            judging = step(folder / f"judged-{share:g}.json", select_within)["seconds"]
        else:
            where, judging = run, 0.0
        left = Architecture.read(where / "architecture.json")
        found["budgets"][f"{share:g}"] = {
            # What a search takes whose supernet selects within it, nobody knows without that: the clock of its selection is another one.
            "by_probabilities": table.standing(chosen["choices"], window) | {"seconds": alone if budget is None else None},
            "by_supernet": table.standing(left.choices, window) | {"seconds": None if alone is None else alone + judging},
            "selection": left.search["selection"], "worth": worth(verdicts_of(where / JUDGED), table, window),
        }  # fmt: skip
    return found


def probable(run: Path, window: Window) -> dict[str, Any]:
    """The most probable network of a search within a window."""
    return {"choices": FinishedSearch.read(run).best(window.high / 1e6, window.low / 1e6)}


def judged(setting: Setting, run: Path, window: Window, folder: Path) -> dict[str, Any]:
    """Let the supernet of a search select within a window; the network goes to a folder."""
    if not (folder / "architecture.json").exists():
        within = ["--budget-ms", repr(window.high / 1e6), "--at-least-ms", repr(window.low / 1e6)]
        run_command(["derive", str(run), *within, "--judge", str(setting.n_judged), "--output", str(folder)])
    return {}


def verdicts_of(file: Path) -> dict[str, list[Any]]:
    """What a search says of the networks that its supernet has judged, as :func:`verdicts` has it, and what else it knows of them."""
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    columns = [key for key in ("log_loss", "accuracy", "log_probability", "training_loss") if key in rows[0]]
    said = {key: [float(row[key]) for row in rows] for key in columns}
    return {"names": [name_of({label: row[label] for label in LABELS}) for row in rows], **said}


# -- supernets -------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def images_of(setting_data: str, validation: float) -> tuple[ImageData, Parts]:
    """Images and their division; ``setting_data`` is the section as YAML."""
    section = yaml.safe_load(setting_data)
    data = make_images(section.pop("name"), section)
    return data, split(data, alphas=validation, validation=validation)


def supernet_cell(
    setting: Setting, table: Table, name: str, budget: float | None, seed: int, folder: Path
) -> dict[str, Any]:
    """A supernet, its verdicts on random networks of each budget, and what each method of selection finds with it."""
    recipe = RECIPES[name]
    recipe = dataclasses.replace(recipe, steps=max(4, round(recipe.steps * setting.steps_share)))
    torch.manual_seed(seed)
    space: Any = MacroSpace(width=setting.width, shared_weights=recipe.shared_weights).to(
        memory_format=torch.channels_last
    )
    _, parts = images_of(yaml.safe_dump(dict(setting.data)), setting.validation)
    weights = folder / "supernet.safetensors"

    def trained() -> dict[str, Any]:
        paths = Paths(recipe, budget, setting.width, seed)
        loss = train(space, parts.all_but_validation, paths, seed)
        write_weights(weights, space.state_dict())
        return {"loss": loss, "steps": recipe.steps}

    found: dict[str, Any] = {"training": step(folder / "trained.json", trained), "budgets": {}}
    space.load_state_dict(load_weights(weights))
    judge = judge_of(setting, space, parts)
    for share in setting.budgets if budget is None else (budget,):
        judged = step(
            folder / f"verdicts-{share:g}.json", functools.partial(verdicts, setting, table, judge, share, seed)
        )
        judge.remember(judged)
        selected = functools.partial(selections, setting, table, judge, share, seed)
        found["budgets"][f"{share:g}"] = {
            "verdicts": judged, "worth": worth(judged, table, table.window(share)), "selected": step(folder / f"selected-{share:g}.json", selected),
        }  # fmt: skip
    return found


class Judge:
    """The verdicts of a supernet; a network is judged once, however many methods ask for it.

    Attributes
    ----------
    known
        Name of a network -> its verdict.
    asked
        Names that were asked for since :meth:`begin`.
    """

    def __init__(self, judge: Callable[[Sequence[Mapping[str, Any]]], Sequence[Verdict]]):
        self.judge = judge
        self.known: dict[str, Verdict] = {}
        self.asked: set[str] = set()

    def begin(self) -> None:
        self.asked = set()

    def remember(self, judged: Mapping[str, Sequence[Any]]) -> None:
        """Take over verdicts of an earlier run, as :func:`verdicts` gives them."""
        for name, log_loss, accuracy in zip(judged["names"], judged["log_loss"], judged["accuracy"], strict=True):
            self.known.setdefault(name, Verdict(sample_of(name), log_loss, accuracy, math.nan))

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        names = [name_of(sample) for sample in samples]
        new = list(dict.fromkeys(name for name in names if name not in self.known))
        self.known |= zip(new, self.judge([sample_of(name) for name in new]), strict=True)
        self.asked |= set(names)
        return [self.known[name] for name in names]


def judge_of(setting: Setting, space: MacroSpace, parts: Parts) -> Judge:
    """What a supernet says, by images that trained none of its weights, as many as in a search."""
    calibration = loader(evenly(parts.weights_plain, STATISTICS), setting.batch_size)
    held_out = loader(evenly(parts.validation, FEW), setting.batch_size)
    profiler = macs_profiler(setting.width)
    return Judge(lambda samples: judge_networks(space, samples, calibration, held_out, profiler=profiler))


def verdicts(setting: Setting, table: Table, judge: Judge, share: float, seed: int) -> dict[str, Any]:
    """Of random networks of a budget: log-loss and accuracy with the weights of the supernet."""
    networks = draw_of(table, table.window(share))(setting.n_verdicts, seed)
    found = judge(networks)
    return {
        "names": [name_of(network) for network in networks],
        "log_loss": [v.log_loss for v in found],
        "accuracy": [v.merit for v in found],
    }


def draw_of(table: Table, window: Window) -> Callable[[int, int], list[dict[str, Any]]]:
    """Networks of a window, each as likely as the others, as :func:`~nni_proxyless.search.selection.select` asks for them."""

    def draw(n: int, seed: int) -> list[dict[str, Any]]:
        chosen = np.random.default_rng(seed).permutation(window.indices)[:n]  # fewer are the first ones of more
        return [sample_of(name) for name in table.names(chosen)]

    return draw


def selections(setting: Setting, table: Table, judge: Judge, share: float, seed: int) -> dict[str, Any]:
    """What each method of selection finds within a budget with the same verdicts, and how many networks it judges for it."""
    window, profiler = table.window(share), macs_profiler(setting.width)
    found: dict[str, Any] = {}
    for method in METHODS_OF_SELECTION:
        judge.begin()
        selected = select(
            method, judge=judge, draw=draw_of(table, window), profiler=profiler, budget=window.high / 1e6, n=setting.n_judged, seed=seed,
            at_least=window.low / 1e6,
        )  # fmt: skip
        found[method] = table.standing(selected.best.choices, window) | {"judged": len(judge.asked)}
    return found
