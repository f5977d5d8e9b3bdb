"""Is a planted width, depth or operation of a cell found, by every update that can learn it?

    python -m experiments.benchmarks.planted_choices.run --plants width --output width.json

The spaces, their data and why the planted network is the best one: :mod:`.plants`. A search is a strategy with an NNI evaluator and a
penalty, as users have them: weights are trained from scratch beside the choices, on one thread. It has found the plant where the
network that it leaves has all of the planted choices.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule
from nni.nas.space import RawFormatModelSpace
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from torch import Tensor
from torch.nn.functional import mse_loss

from nni_proxyless.core.progress import bar
from nni_proxyless.latency import LatencyPenalty, LatencyProfiler, MacsEstimator
from nni_proxyless.search.run import InProcessEngine

from ..common import record
from ..common.options import read_options
from ..common.planted import silence, trainer
from .plants import BATCHES, PLANTS, Plant
from .report import markdown

SEEDS = 10

# fix_gap 1: choices are made when the search ends, so that probabilities say what it has learned.
UPDATES: dict[str, Callable[..., Any]] = {
    "two-path": functools.partial(ProxylessNAS, update="two-path", arc_update_every=1),
    "full": functools.partial(ProxylessNAS, update="full", arc_update_every=1),
    "reinforce": functools.partial(ProxylessNAS, update="reinforce", arc_update_every=1, reinforce_samples=4),
    "dsnas-loss": functools.partial(DSNAS, reward="loss", fix_gap=1.0),
    "dsnas-gradient": functools.partial(DSNAS, reward="gradient", fix_gap=1.0),
}


class Settings(NamedTuple):
    """Of a search: epochs of warm-up and of search, learning rates of the logits and, with a cosine schedule, of the weights."""

    warmup: int
    epochs: int
    arc_learning_rate: float
    learning_rate: float


# For each plant the updates that are allowed: values have no gate gradients. DSNAS by gradient learns while weights still do, or not at all.
SETTINGS = {
    "width": {"reinforce": Settings(15, 35, 0.05, 0.02), "dsnas-loss": Settings(15, 45, 0.05, 0.02)},
    "depth": {
        "two-path": Settings(15, 20, 0.1, 0.02), "full": Settings(15, 15, 0.1, 0.02), "reinforce": Settings(15, 20, 0.05, 0.02),
        "dsnas-loss": Settings(15, 30, 0.07, 0.02), "dsnas-gradient": Settings(0, 20, 0.1, 0.01),
    },
    "cell": {
        "two-path": Settings(8, 27, 0.1, 0.03), "full": Settings(8, 22, 0.1, 0.03), "reinforce": Settings(8, 22, 0.1, 0.03),
        "dsnas-loss": Settings(8, 52, 0.06, 0.03), "dsnas-gradient": Settings(0, 40, 0.1, 0.01),
    },
}  # fmt: skip
EXPONENT = -0.3  # of REINFORCE's reward, in which a network costs about as much as the penalty has it


class Task(LightningModule):
    """Mean squared error; in the place of an accuracy the share of the targets that is explained."""

    def __init__(self, learning_rate: float):
        super().__init__()
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return mse_loss(self.model(batch[0]), batch[1])

    def architecture_accuracy(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> float:
        return max(0.0, 1 - float(self.training_step(batch, batch_idx)))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.model.parameters(), self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def strategy_of(plant: Plant, update: str, seed: int, settings: Settings) -> Any:
    """With a price of multiply-adds where there is one; what is left are the most probable choices."""
    options: dict[str, Any] = {
        "arc_learning_rate": settings.arc_learning_rate, "warmup_epochs": settings.warmup, "seed": seed, "within_target": False,
    }  # fmt: skip
    if plant.price:
        profiler = LatencyProfiler(plant.space, MacsEstimator(), tuple(plant.training[0].shape[1:]))
        options["penalty"] = LatencyPenalty(profiler, profiler.bounds()[1], plant.price)
    if update == "reinforce":
        options["reward_exponent"] = EXPONENT
    if update.startswith("dsnas"):
        options["search_epochs"] = settings.epochs
    return UPDATES[update](**options)


def batches(data: tuple[Tensor, Tensor]) -> DataLoader:
    """In a random order; put together once, which takes as long as a step."""
    x, y = (tensor.chunk(BATCHES) for tensor in data)
    return DataLoader([*zip(x, y, strict=True)], batch_size=None, shuffle=True)


def search(which: str, update: str, seed: int, *, settings: Settings | None = None) -> dict[str, Any]:
    """One search, with what it was to find and what it has found."""
    torch.set_num_threads(1)
    silence()
    torch.manual_seed(seed)
    plant = PLANTS[which](seed)
    settings = settings or SETTINGS[which][update]
    strategy, epochs = strategy_of(plant, update, seed, settings), settings.warmup + settings.epochs
    child = not strategy.needs_held_out_data  # of DSNAS, which has an epoch of its own
    evaluator = Lightning(
        Task(settings.learning_rate), trainer(epochs + child), train_dataloaders=batches(plant.training),
        val_dataloaders=None if child else batches(plant.held_out),
    )  # fmt: skip
    began = time.process_time()
    strategy(RawFormatModelSpace(plant.space, evaluator), InProcessEngine())
    seconds = time.process_time() - began
    (left,) = strategy.list_models()
    x, y = plant.held_out
    with torch.no_grad():
        loss = float(mse_loss(left.executable_model().eval()(x), y))
    probs = strategy.oneshot_module.export_searched_probs()
    return {
        "plant": which, "update": update, "seed": seed, "best": plant.best, "found": dict(left.sample),
        "choices": len(plant.best), "choices_found": plant.choices_found(left.sample),
        "least_probability": min(max(of.values()) for of in probs.values()), "loss": loss,
        "steps": epochs * BATCHES, "seconds": round(seconds, 2),
    }  # fmt: skip


def bars(searches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every plant is to be found in every seed by every update."""
    rows = dict.fromkeys((found["plant"], found["update"]) for found in searches)
    return [
        record.bar(
            f"planted {plant}, {update}: share of seeds in which all of it is found",
            statistics.mean(
                found["choices_found"] == found["choices"]
                for found in searches if (found["plant"], found["update"]) == (plant, update)
            ), at_least=1.0,
        )
        for plant, update in rows
    ]  # fmt: skip


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--plants", nargs="+", choices=list(PLANTS), default=list(PLANTS), help="what is planted (default: all)"
    )
    return read_options(parser, arguments, short="one seed of each", processes="searches")


def found_by(work: Sequence[tuple[str, str, int]], processes: int) -> Iterator[dict[str, Any]]:
    """The searches, in this order."""
    if processes == 1:
        yield from (search(*one) for one in work)
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # of the processes that are started
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from (found.get() for found in [pool.apply_async(search, one) for one in work])


def main(arguments: Sequence[str] | None = None) -> int:
    options, began = options_from(arguments), time.perf_counter()
    seeds = 1 if options.short else SEEDS
    work = [(p, u, seed) for p in options.plants for seed, u in itertools.product(range(seeds), SETTINGS[p])]
    shown = argparse.Namespace(plants=options.plants, short=options.short)
    result: dict[str, Any] = {}
    searches: list[dict[str, Any]] = []
    with bar(len(work), "planted choices", "search") as done:
        for found in found_by(work, options.processes):
            searches.append(found)
            result = record.provenance(__file__, shown, time.perf_counter() - began) | {
                "threads": 1, "bars": bars(searches), "searches": searches,
            }  # fmt: skip
            record.write(result, options.output)  # of a run that is stopped, what there is
            done.update()
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
