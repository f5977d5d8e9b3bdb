"""What one step of a search costs, as a ratio to an ordinary training step of the network that it runs.

    python experiments/benchmarks/step_cost.py --output step_cost.json --report RESULTS.md

The *floor* is a plain PyTorch training step of one sampled network: the same modules as a plain chain, an optimizer over
its parameters alone, without NNI, Lightning or any code of this project. Every timed step stands between two floor steps
on the path that it samples; its ratio is its time by their mean, so that neither the drift of a machine nor the choice of
a path is in it. Everything is measured in one process, in a new order in every round. ``floor again`` is the control: the
floor in the place of a step, which must come out as 1.

The steps are the real ones of real fits: every module is attached to a Lightning trainer of its own. The fits are nested,
each runs inside the first batch of the one before it, and the innermost one measures. Of DSNAS, a step is one batch of
its search stage: weights and logits learn from the same backward pass, by each of its two rewards.

Per batch and layer, candidates that were run are counted by forward hooks, also those that run inside backward. Saved
activations are what autograd holds at most at one time, every storage once, without parameters, buffers and the batch.
"""

# ruff: noqa: E402  (NNI warns while it is imported)

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import os
import platform
import random
import shlex
import signal
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path as File
from typing import Any, NamedTuple

warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module")
warnings.filterwarnings("ignore", message=".*does not have many workers")
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec")

import nni.nas.strategy
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.proxyless import sample_pair
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn

from nni_proxyless.latency.timing import device_name
from nni_proxyless.progress import bar

UPDATE_EVERY = 5
EPOCHS, SEARCH_EPOCHS = 4, 2  # DSNAS wants an epoch for its child; fits end in their first batch all the same
CLASSES = 100
STEM, WIDTHS = 16, (24, 40, 80)
SGD = {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 4e-5}
FORMATS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}

# (kernel, expansion) per candidate. Every set has the mean expansion 4 and a mean expansion * kernel^2 of about 100, so
# that a sampled path costs about the same whatever the number of candidates; 7 is the paper's set, with its skip.
CANDIDATES: dict[int, list[tuple[int, int] | None]] = {
    2: [(5, 3), (5, 5)],
    4: [(5, 3), (7, 3), (3, 5), (5, 5)],
    7: [*((kernel, expansion) for kernel in (3, 5, 7) for expansion in (3, 6)), None],
    12: [(kernel, expansion) for kernel in (3, 5, 7) for expansion in (2, 3, 5, 6)],
}

DSNAS_STEPS = {"loss": "DSNAS batch", "gradient": "DSNAS batch, gradient reward"}  # by reward
TRAIN_ONE_PATH = {"weight step", *DSNAS_STEPS.values()}

Path = dict[str, str]  # label of a layer -> name of its candidate


# -- the space, the task, the floor ------------------------------------------------------------------------------------


class Chain(ModelSpace):
    """Inverted residuals in three widths; of each width the first block, which halves the image, is fixed."""

    def __init__(self, layers: int, n_candidates: int):
        super().__init__()
        block = functools.partial(InvertedResidual, act_layer=nn.ReLU6)
        chain: list[nn.Module] = [nn.Conv2d(3, STEM, 3, 2, 1, bias=False), BatchNormAct2d(STEM, act_layer=nn.ReLU6)]
        before = STEM
        for stage, width in enumerate(WIDTHS):
            chain.append(block(before, width, stride=2, exp_ratio=3))
            before = width
            for layer in range(len(range(stage, layers, len(WIDTHS)))):
                candidates: dict[str, nn.Module] = {}
                for shape in CANDIDATES[n_candidates]:
                    if shape is None:
                        candidates["skip"] = nn.Identity()
                    else:
                        kernel, expansion = shape
                        candidates[f"k{kernel}e{expansion}"] = block(
                            width, width, dw_kernel_size=kernel, exp_ratio=expansion
                        )
                chain.append(LayerChoice(candidates, label=f"stage{stage}.{layer}"))
        self.chain = nn.Sequential(*chain, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x)


class Task(LightningModule):
    """Cross entropy and SGD; its first batch is given to :attr:`inside`, and is the last one of its fit."""

    inside: Callable[[], None]

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), **SGD)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int:
        self.inside()
        self.trainer.should_stop = True  # no second epoch
        return -1  # Lightning's sign to skip the rest of the epoch


class Floor:
    """A plain training step of one network; its momentum, which the first step makes, is there already."""

    def __init__(self, search: Search, path: Path):
        chosen = (m[path[m.label]] if isinstance(m, LayerChoice) else m for m in search.space.chain)
        self.network = nn.Sequential(*chosen)
        self.optimizer = torch.optim.SGD(self.network.parameters(), **SGD)
        for p in self.network.parameters():
            self.optimizer.state[p] = search.momentum.setdefault(p, {"momentum_buffer": torch.zeros_like(p)})
        self.batch = search.batch

    def step(self) -> None:
        x, y = self.batch
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(x), y).backward()
        self.optimizer.step()


class Search:
    """A supernet with its Lightning module and trainer, as NNI puts them together."""

    def __init__(self, strategy: Any, n_candidates: int, memory: str, options: argparse.Namespace):
        torch.manual_seed(options.seed)
        self.n_candidates, self.memory = n_candidates, memory
        self.space: Any = strategy.mutate_model(Chain(options.layers, n_candidates)).to(memory_format=FORMATS[memory])
        self.batch, self.held_out = (
            (
                torch.randn(options.batch, 3, options.pixels, options.pixels).contiguous(memory_format=FORMATS[memory]),
                torch.randint(CLASSES, (options.batch,)),
            )
            for _ in range(2)
        )
        trainer = Trainer(
            max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        # Ready-made batches: what loading costs is not the question.
        train, held_out = (DataLoader([b] * 2 * UPDATE_EVERY, batch_size=None) for b in (self.batch, self.held_out))
        self.task = Task()
        self.evaluator = strategy.mutate_evaluator(
            Lightning(self.task, trainer, train_dataloaders=train, val_dataloaders=held_out)
        )
        self.module: Any = self.evaluator.module
        self.layers = [m for m in self.space.modules() if isinstance(m, LayerChoice)]
        self.momentum: dict[nn.Parameter, dict[str, Tensor]] = {}  # of the floor


def attached(searches: Sequence[Search], measure: Callable[[], None]) -> None:
    """Call ``measure`` inside fits of all the searches."""
    if not searches:
        measure()
        return
    searches[0].task.inside = lambda: attached(searches[1:], measure)
    searches[0].evaluator.evaluate(searches[0].space)


# -- the steps -----------------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """Something to measure.

    Parameters
    ----------
    paths
        Says, before :attr:`run`, which paths that will sample; the floor is measured on each.
    paths_after
        The same when it has run, for a step whose later paths depend on what it does; else None.
    batches
        Training batches of one run.
    runs_on
        The search whose modules run, if not those of ``search``.
    """

    name: str
    search: Search
    run: Callable[[], Any]
    paths: Callable[[], list[Path]]
    paths_after: Callable[[], list[Path]] | None = None
    batches: int = 1
    runs_on: Search | None = None
    executed: set[float] = field(default_factory=set)
    activations: list[tuple[int, int]] = field(default_factory=list)
    times: list[tuple[Clocks, Clocks]] = field(default_factory=list)


def foreseen(module: Any, *draws: Callable[[Any], Path]) -> list[Path]:
    """The paths that a search will sample next: drawn, and the generator put back to where it was."""
    generator = module.gates[0].generator
    state = generator.get_state()
    paths = [draw(module) for draw in draws]
    generator.set_state(state)
    module.reset_gates()
    return paths


def one_path(module: Any) -> Path:
    return {gate.label: gate.choices[gate.sample_path()] for gate in module.gates}


def active_of_pairs(module: Any) -> Path:
    return {gate.label: gate.choices[sample_pair(gate.probs(), gate.generator)[0]] for gate in module.gates}


def our_steps(two_path: Search, full: Search, reinforce: Search) -> list[Step]:
    """Floor again, and ProxylessNAS: a weight step, each architecture step, and what they come to together."""
    module = two_path.module

    def whole_batches() -> None:
        for batch_idx in range(UPDATE_EVERY):
            module.search_step(two_path.batch, batch_idx)

    def first_and_last() -> list[Path]:
        # Of the networks of one update: two are enough for their mean, over the rounds.
        paths = foreseen(reinforce.module, *[one_path] * reinforce.module.reinforce_samples)
        return [paths[0], paths[-1]]

    steps = [
        ("weight step", two_path, lambda: module.weight_step(two_path.batch, 0), [one_path]),
        ("two-path step", two_path, lambda: module.architecture_step(two_path.held_out, 0), [active_of_pairs]),
        ("full step", full, lambda: full.module.architecture_step(full.held_out, 0), [one_path]),
    ]
    return [
        floor_step("floor again", two_path, two_path),
        *(
            Step(name, search, run, functools.partial(foreseen, search.module, *draws))
            for name, search, run, draws in steps
        ),
        Step("REINFORCE update", reinforce, lambda: reinforce.module.architecture_step(reinforce.held_out, 0), first_and_last),
        Step(
            "whole batch", two_path, whole_batches,
            lambda: foreseen(module, *[one_path] * UPDATE_EVERY, active_of_pairs), batches=UPDATE_EVERY,
        ),
    ]  # fmt: skip


def dsnas_steps(searches: dict[str, Search]) -> list[Step]:
    """DSNAS, a search by each reward: a batch of its search stage, which trains the weights and the logits at once."""

    def step(search: Search) -> None:
        search.module.search_step(search.batch, 1)  # not 0, with which an epoch would begin

    return [
        Step(DSNAS_STEPS[reward], search, functools.partial(step, search), functools.partial(foreseen, search.module, one_path))
        for reward, search in searches.items()
    ]  # fmt: skip


def nni_steps(proxyless: Search, gumbel: Search) -> list[Step]:
    """NNI's two single-path strategies: an architecture step and a weight step on every batch."""

    def step(search: Search) -> None:
        # Not a multiple of 10, with which probabilities would be logged.
        search.module.training_step({"train": search.batch, "val": search.held_out}, 1)

    def first_path() -> list[Path]:
        state = torch.get_rng_state()
        path = proxyless.module.resample()
        torch.set_rng_state(state)
        return [path]

    def second_path() -> list[Path]:
        return [{layer.label: layer._sampled for layer in proxyless.layers}]

    def any_path() -> list[Path]:
        return [{layer.label: random.choice(layer.names) for layer in gumbel.layers}]

    return [
        Step("NNI Proxyless batch", proxyless, lambda: step(proxyless), first_path, second_path),
        Step("NNI GumbelDARTS batch", gumbel, lambda: step(gumbel), any_path),
    ]


def floor_step(name: str, search: Search, other: Search) -> Step:
    """The floor of ``other`` in the place of a step, on paths of ``search``."""
    floors: list[Floor] = []

    def drawn() -> list[Path]:
        path = one_path(search.module)
        search.module.reset_gates()
        floors[:] = [Floor(other, path)]
        return [path]

    return Step(name, search, lambda: floors[0].step(), drawn, runs_on=other)


def warm_up(step: Step) -> None:
    """Run a step twice; where it trains the weights of one path, let every candidate get its momentum before."""
    if step.name in TRAIN_ONE_PATH:
        gates = step.search.module.gates
        kept = [gate.alpha.detach().clone() for gate in gates]
        for name in step.search.layers[0].names:
            for gate in gates:
                gate.alpha.data.fill_(-100.0)[gate.choices.index(name)] = 100.0
            step.run()
        for gate, alpha in zip(gates, kept, strict=True):
            gate.alpha.data.copy_(alpha)
    for _ in range(2):
        step.paths()
        step.run()


# -- measuring -------------------------------------------------------------------------------------------------------------


class SavedActivations:
    """How many bytes autograd keeps for backward at most at one time, of each storage once."""

    def __init__(self, search: Search):
        tensors = [*search.space.parameters(), *search.space.buffers(), *search.batch, *search.held_out]
        self._ignored = {t.untyped_storage().data_ptr() for t in tensors}
        self._held: Counter[int] = Counter()
        self.now = self.peak = 0

    def __enter__(self) -> SavedActivations:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(
            functools.partial(_Saved, self), lambda saved: saved.tensor
        )
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._hooks.__exit__(*exc)

    def count(self, tensor: Tensor, change: int) -> None:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self._ignored:
            return
        before = self._held[place]
        self._held[place] += change
        if (before == 0) != (self._held[place] == 0):
            self.now += change * storage.nbytes()
            self.peak = max(self.peak, self.now)


class _Saved:
    """A tensor that autograd keeps; it goes when autograd lets go of it."""

    def __init__(self, activations: SavedActivations, tensor: Tensor):
        self.activations, self.tensor = activations, tensor
        activations.count(tensor, 1)

    def __del__(self) -> None:
        self.activations.count(self.tensor, -1)


@contextmanager
def executions_counted(search: Search) -> Any:
    """Counts, per layer, how often each candidate runs."""
    counts: dict[str, Counter[str]] = {layer.label: Counter() for layer in search.layers}
    handles = [
        layer[name].register_forward_hook(lambda *_, label=layer.label, name=name: counts[label].update([name]))
        for layer in search.layers
        for name in layer.names
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def inspect(step: Step) -> None:
    """Count executions and activations of three runs, untimed, and check that they ran the paths that were foreseen."""
    for _ in range(3):
        _inspect(step)


def _inspect(step: Step) -> None:
    paths = step.paths()
    ours, floor = SavedActivations(step.runs_on or step.search), SavedActivations(step.search)
    with executions_counted(step.runs_on or step.search) as counts, ours:
        step.run()
    paths += step.paths_after() if step.paths_after else []
    for label, count in counts.items():
        if missing := {path[label] for path in paths} - set(count):
            raise RuntimeError(f"{step.name}: {missing} of {label} was foreseen, {set(count)} ran")
        step.executed.add(sum(count.values()) / step.batches)
    floors = [Floor(step.search, path) for path in paths]
    with floor:
        for each in floors:
            each.step()
    step.activations.append((ours.peak, floor.peak))


class Clocks(NamedTuple):
    """Seconds on the wall, and of the processor for this process, which others on the machine disturb less."""

    wall: float
    cpu: float


def timed(*runs: Callable[[], Any]) -> Clocks:
    """What the runs take on the average."""
    wall, cpu = time.perf_counter(), time.process_time()
    for run in runs:
        run()
    return Clocks((time.perf_counter() - wall) / len(runs), (time.process_time() - cpu) / len(runs))


def measure(step: Step) -> None:
    """Time one run between floor steps on its paths."""
    floors = [Floor(step.search, path) for path in step.paths()]
    before = timed(*(floor.step for floor in floors))
    taken = timed(step.run)
    if step.paths_after:
        floors = [Floor(step.search, path) for path in step.paths_after()]
    after = timed(*(floor.step for floor in floors))
    mean = Clocks(*((a + b) / 2 for a, b in zip(before, after, strict=True)))
    step.times.append((Clocks(*(t / step.batches for t in taken)), mean))


# -- the result ----------------------------------------------------------------------------------------------------------


def entry(step: Step) -> dict[str, Any]:
    """What is recorded of one step: medians over the rounds, quartiles of the ratio."""
    ratios = [taken.wall / floor.wall for taken, floor in step.times]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    saved = [ours / floor for ours, floor in step.activations]
    if len(step.executed) > 1:
        raise RuntimeError(f"{step.name}: different numbers of candidates were run: {sorted(step.executed)}")
    return {
        "memory_format": step.search.memory,
        "candidates": step.search.n_candidates,
        "name": step.name,
        "seconds": statistics.median(taken.wall for taken, _ in step.times),
        "floor_seconds": statistics.median(floor.wall for _, floor in step.times),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [low, high],
        "cpu_ratio": statistics.median(taken.cpu / floor.cpu for taken, floor in step.times),
        "ratios": ratios,
        "executed_per_layer": step.executed.copy().pop(),
        "activation_bytes": statistics.median(ours for ours, _ in step.activations),
        "floor_activation_bytes": statistics.median(floor for _, floor in step.activations),
        "activation_ratio": statistics.median(saved),
    }


def bars(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was aimed at, and whether it was reached; in channels-last, the worst number of candidates counts."""
    by = {(e["memory_format"], e["name"], e["candidates"]): e for e in entries}
    sizes = sorted({e["candidates"] for e in entries})

    def worst(name: str, key: str) -> float:
        return max(by["channels-last", name, n][key] for n in sizes)

    def growth(name: str) -> float:
        return by["channels-last", name, sizes[-1]]["ratio"] / by["channels-last", name, sizes[0]]["ratio"]

    found: list[tuple[str, float, float, float]] = [
        ("floor again, furthest from 1", max((e["ratio"] for e in entries if e["name"] == "floor again"), key=lambda r: abs(r - 1)), 0.98, 1.02),
        ("weight step, time", worst("weight step", "ratio"), 0, 1.05),
        ("weight step, saved activations", worst("weight step", "activation_ratio"), 0, 1.05),
        ("two-path step, time", worst("two-path step", "ratio"), 0, 0.95),
        ("two-path step, saved activations", worst("two-path step", "activation_ratio"), 0, 1.05),
        (f"whole batch, one update in {UPDATE_EVERY}, time", worst("whole batch", "ratio"), 0, 1.25),
    ]  # fmt: skip
    for name in DSNAS_STEPS.values():
        found += [
            (f"{name}, time", worst(name, "ratio"), 0, 1.05),
            (f"{name}, saved activations", worst(name, "activation_ratio"), 0, 1.03),
        ]
    if len(sizes) > 1:
        found += [
            (f"{name}, N={sizes[-1]} by N={sizes[0]}", growth(name), 0.95, 1.05)
            for name in ("weight step", "two-path step", DSNAS_STEPS["loss"])
        ]
    if 7 in sizes:
        ours, dsnas, weights, two_path = (
            by["channels-last", name, 7]["ratio"]
            for name in ("whole batch", DSNAS_STEPS["loss"], "weight step", "two-path step")
        )
        formats = by["channels-last", "floor, contiguous", 7]["ratio"]
        for nni_name, our_name, our_ratio, low in (
            ("NNI Proxyless", "ours", ours, 4),
            ("NNI Proxyless", "DSNAS", dsnas, 4),
            ("NNI GumbelDARTS", "DSNAS", dsnas, 10),
        ):
            theirs = {memory: by[memory, f"{nni_name} batch", 7]["ratio"] for memory in FORMATS}
            name = f"{nni_name} by {our_name}, N=7"
            found += [
                (f"{name}, same format", theirs["channels-last"] / our_ratio, low, float("inf")),
                (f"{name}, each as its users run it", theirs["contiguous"] * formats / our_ratio, low, float("inf")),
            ]
        name = "ProxylessNAS with a two-path step on every batch by DSNAS, N=7"
        found.append((name, (weights + two_path) / dsnas, 1.5, float("inf")))
    return [
        {"bar": name, "value": value, "at_least": low or None, "at_most": high if high < float("inf") else None, "met": low <= value <= high}
        for name, value, low, high in found
    ]  # fmt: skip


def from_pieces(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A batch as the sum of a weight step and its share of a two-path step, to hold against the batch that was run."""
    by = {(e["memory_format"], e["candidates"], e["name"]): e for e in entries}
    return [
        {"memory_format": memory, "candidates": n, "name": "whole batch, from its pieces"}
        | {
            key: by[memory, n, "weight step"][key] + by[memory, n, "two-path step"][key] / UPDATE_EVERY
            for key in ("seconds", "ratio", "executed_per_layer")
        }
        | {
            "activation_ratio": max(
                by[memory, n, name]["activation_ratio"] for name in ("weight step", "two-path step")
            )
        }
        for memory, n in sorted({(e["memory_format"], e["candidates"]) for e in entries})
    ]


def markdown(result: dict[str, Any]) -> str:
    """The result as a person reads it."""
    machine, settings = result["machine"], result["settings"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {settings['threads']} thread(s); {result['date']}; "
        + ", ".join(f"{name} {number}" for name, number in result["versions"].items()),
        "",
        f"    {result['command']}",
        "",
        f"{settings['layers']} searched layers of N candidates (inverted residuals of kernel 3 to 7 and expansion 2 to 6; "
        f"N=7 with a skip), {settings['pixels']} px, batch {settings['batch']}, {settings['rounds']} rounds, seed "
        f"{settings['seed']}. No latency penalty, no data loading.",
        "",
        "Numbers are ratios to the *floor*: an ordinary PyTorch training step of the same sampled network, in the same memory "
        "format, timed just before and just after; median (quartiles). *Whole batch*: the search as it really runs, a weight "
        f"step on every batch and a two-path step after every {UPDATE_EVERY}th. *DSNAS batch*: one batch of its search stage, "
        "in which weights and logits learn from the same backward pass, by the loss or by the paper's gradient. *NNI*: an "
        "architecture step and a weight step on every batch. *Floor again*: the control, which must be 1.",
    ]
    for memory in FORMATS:
        lines += ["", f"## {memory.capitalize()} memory"]
        mine = [e for e in result["entries"] if e["memory_format"] == memory]
        for title, show in (
            ("time", lambda e: f"{e['ratio']:.3f}" + (" ({:.3f}–{:.3f})".format(*e["ratio_quartiles"]) if "ratio_quartiles" in e else "")),
            ("saved activations", lambda e: f"{e['activation_ratio']:.3f}"),
            ("candidates run per layer", lambda e: f"{e['executed_per_layer']:g}"),
        ):  # fmt: skip
            sizes = sorted({e["candidates"] for e in mine})
            lines += ["", f"| {title} | " + " | ".join(f"N={n}" for n in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
            for name in dict.fromkeys(e["name"] for e in mine):
                cells = {e["candidates"]: show(e) for e in mine if e["name"] == name}
                lines.append(f"| {name} | " + " | ".join(cells.get(n, "") for n in sizes) + " |")
        floors = {e["candidates"]: e["seconds"] for e in mine if e["name"] == "floor again"}
        lines += [
            "",
            "One floor step, ms: " + ", ".join(f"N={n} {1000 * s:.1f}" for n, s in sorted(floors.items())) + ".",
        ]
    lines += ["", "## Bars", "", "| in channels-last memory, worst N | measured | bar | |", "|---|---|---|---|"]
    for found in result["bars"]:
        limits = [f"{sign} {found[side]:g}" for side, sign in (("at_least", "≥"), ("at_most", "≤")) if found[side]]
        lines.append(
            f"| {found['bar']} | {found['value']:.3f} | {', '.join(limits)} | {'met' if found['met'] else 'not met'} |"
        )
    return "\n".join(lines) + "\n"


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--candidates", type=int, nargs="+", choices=sorted(CANDIDATES), default=sorted(CANDIDATES), help="per layer"
    )
    parser.add_argument("--layers", type=int, default=12, help="searched layers (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=64, help="height and width of an image (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="how often all is timed (default: %(default)s)")
    parser.add_argument("--steps", nargs="+", metavar="NAME", help="only these steps, more closely; no bars then")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output", type=File, help="JSON file for the result")
    parser.add_argument("--report", type=File, help="Markdown file for the result")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_from(arguments)
    for name in ("pytorch_lightning", "lightning", "nni"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    random.seed(options.seed)
    sys.setrecursionlimit(100_000)  # some forty frames per nested fit

    searches: list[Search] = []
    steps: list[Step] = []

    def search(strategy: Any, n: int, memory: str) -> Search:
        searches.append(Search(strategy, n, memory, options))
        return searches[-1]

    sizes = sorted(set(options.candidates))
    for n in sizes:
        two_paths = {}
        # The other format at one size only: it is there for the comparison with NNI as its users run it.
        formats = list(FORMATS) if n == (7 if 7 in sizes else sizes[0]) else ["channels-last"]
        for memory in formats:
            ours = [
                search(ProxylessNAS(update=update, arc_update_every=UPDATE_EVERY, seed=options.seed), n, memory)
                for update in ("two-path", "full", "reinforce")
            ]
            theirs = [search(s, n, memory) for s in (nni.nas.strategy.Proxyless(), nni.nas.strategy.GumbelDARTS())]
            dsnas = {
                reward: search(
                    DSNAS(reward=reward, search_epochs=SEARCH_EPOCHS, fix_gap=1.0, seed=options.seed), n, memory
                )
                for reward in DSNAS_STEPS
            }
            steps += [*our_steps(*ours), *dsnas_steps(dsnas), *nni_steps(*theirs)]
            two_paths[memory] = ours[0]
        for memory in formats[1:]:
            steps.append(floor_step(f"floor, {memory}", two_paths["channels-last"], two_paths[memory]))

    if options.steps:
        if unknown := set(options.steps) - (known := {step.name for step in steps}):
            raise SystemExit(f"--steps: unknown {sorted(unknown)}; allowed: {', '.join(sorted(known))}")
        steps = [step for step in steps if step.name in options.steps]

    def measure_all() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning's handler waits for the end of a batch
        # The short steps that bars are set on more often than the others.
        often = {"floor again", "two-path step", *TRAIN_ONE_PATH}
        order = [s for s in steps for _ in range(3 if s.name in often and s.search.memory == "channels-last" else 1)]
        with bar(2 * len(steps) + options.rounds * len(order), "step cost", "step") as done:
            for prepare in (warm_up, inspect):
                for step in steps:
                    prepare(step)
                    done.update()
            gc.collect()
            gc.freeze()  # the collector is on, as it is for users, but walks through one step's objects and no more
            for _ in range(options.rounds):
                random.shuffle(order)
                for step in order:
                    measure(step)
                    done.update()

    attached(searches, measure_all)
    gc.unfreeze()
    entries = [entry(step) for step in steps]
    settings = {name: value for name, value in vars(options).items() if name not in ("output", "report")}
    words = [
        f"--{k} {shlex.join(map(str, v)) if isinstance(v, list) else v}" for k, v in settings.items() if v is not None
    ]
    result = {
        "machine": {"cpu": device_name(torch.device("cpu")), "cores": os.cpu_count(), "system": platform.system()},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {"Python": platform.python_version()}
        | {name: version(name) for name in ("torch", "nni", "pytorch-lightning", "timm", "nni-proxyless")},
        "command": "python experiments/benchmarks/step_cost.py " + " ".join(words),
        "settings": settings | {"arc_update_every": UPDATE_EVERY, "sgd": SGD},
        "entries": entries + ([] if options.steps else from_pieces(entries)),
        "bars": [] if options.steps else bars(entries),
    }  # fmt: skip
    if options.output:
        options.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.report:
        options.report.write_text("# What a step of the search costs\n\n" + markdown(result), encoding="utf-8")
    print(markdown(result), end="")


if __name__ == "__main__":
    main()
