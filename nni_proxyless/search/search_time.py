"""How long a search will take on this machine: a few of its steps, run for real, times the epochs and images of its file.

An estimate: the paths of a few steps are not those of a search, and a machine is not always as fast.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import Subset

from ..config.search_config import SearchConfig
from ..core.errors import UserError
from ..core.freezing import freeze
from ..core.nni_compat import RawFormatModelSpace
from .build import SearchParts, strategy_can
from .monitor import judge
from .run import InProcessEngine
from .supernet_selection import judging_images

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

__all__ = ["SearchTime", "Stage", "stages_of", "time_search", "training_share"]

FEWEST = 6  # batches of a stage that are timed, and no fewer than lie between two steps of the architecture
ENOUGH_SECONDS = 10.0  # of steps; if the fewest take less, more are timed, with all that runs once behind them
JUDGED = 8  # batches, at most, to judge a network by
LONG_SECONDS = 2.0  # for that; if it takes less, a second time counts


@dataclass(frozen=True)
class Stage:
    """A stage of a search: its epochs, and what a batch takes, steps of the architecture included."""

    epochs: int
    seconds_per_batch: float


@dataclass(frozen=True)
class SearchTime:
    """What a search takes, by its parts.

    Attributes
    ----------
    batches
        Of an epoch.
    stages
        By name, in their order.
    seconds_per_judgment
        To judge the network of the moment, once in an epoch.
    timed_batches
        On how many all this rests.
    seconds_of_selection
        For which the supernet judges networks at the end, if it does.
    """

    batches: int
    stages: Mapping[str, Stage]
    seconds_per_judgment: float
    timed_batches: int
    seconds_of_selection: float = 0.0

    @property
    def seconds(self) -> float:
        """Of the whole search."""
        epochs = sum(stage.epochs for stage in self.stages.values())
        steps = sum(stage.epochs * self.batches * stage.seconds_per_batch for stage in self.stages.values())
        return steps + epochs * self.seconds_per_judgment + self.seconds_of_selection


def stages_of(config: SearchConfig) -> dict[str, int]:
    """Stage -> its epochs; those without any left out."""
    given, epochs = config.strategy.arguments, config.training.epochs
    found = {"warm-up": given.get("warmup_epochs", 0)}
    if config.strategy.name == "dsnas":
        found["search"] = given.get("search_epochs") or (epochs - found["warm-up"]) // 2
        found["child"] = epochs - sum(found.values())
    else:
        found["search"] = epochs - found["warm-up"]
    return {stage: n for stage, n in found.items() if n}


def training_share(config: SearchConfig) -> float:
    """Of the images, those that an epoch trains the weights on."""
    return 1 - config.data.validation - (config.data.alphas if config.strategy.name != "dsnas" else 0)


def time_search(parts: SearchParts, sample: Mapping[str, Any]) -> SearchTime:
    """Run a few batches of every stage, and judge a network, on the images of the search.

    Parameters
    ----------
    parts
        Of the search. Its space, target and folder are not touched: copies and a folder of their own are.
    sample
        The network that is judged.

    Raises
    ------
    UserError
        The search would be refused as well.
    """
    config, size = parts.config, parts.config.data.batch_size
    stages = stages_of(config)
    held_out = strategy_can("needs_held_out_data", config, default=True)
    n_images: int = len(parts.images.weights if held_out else parts.images.all_but_validation)  # type: ignore[arg-type]  # ours have a length
    batches = max(1, n_images // size)
    with tempfile.TemporaryDirectory() as folder:
        trial = dataclasses.replace(parts, config=_shortened(config, len(stages)), folder=Path(folder))
        every = getattr(trial.strategy, "arc_update_every", 1) * getattr(trial.strategy, "accumulate_grad_batches", 1)
        n = 1 + every * math.ceil(FEWEST / every)
        clock = _run(trial, min(n, batches))
        if clock.seconds < ENOUGH_SECONDS and n < batches:
            times = min(20.0, ENOUGH_SECONDS / max(clock.seconds, 1e-3))
            clock = _run(trial, min(1 + every * math.ceil(n * times / every), batches))
    per_image = _seconds_per_judged_image(parts, sample, clock.device)
    n_judged = sum(len(loader.dataset) for loader in parts.judging_loaders)
    return SearchTime(
        batches,
        {name: Stage(epochs, seconds) for (name, epochs), seconds in zip(stages.items(), clock.per_batch(every), strict=True)},
        per_image * n_judged,
        sum(len(ends) for _, ends in clock.epochs),
        per_image * _selecting_images(parts),
    )  # fmt: skip


def _shortened(config: SearchConfig, n_stages: int) -> SearchConfig:
    """The same search with one epoch for each stage, and a target that any space can hold: what it costs does not change a step."""
    section = config.strategy
    changes = {"warmup_epochs": 1, "search_epochs": 1, "arc_start_epoch": 0}
    given = section.arguments
    kept = {name: changes[name] if name in changes and value else value for name, value in given.items()}
    if section.name == "dsnas":
        kept["search_epochs"] = 1
    target = None if config.latency.target_ms is None else "100%"
    return config.model_copy(
        update={
            "strategy": type(section)(name=section.name, **kept),
            "training": config.training.model_copy(update={"epochs": n_stages}),
            "latency": config.latency.model_copy(update={"target_ms": target}),
            "costs": [],
        }
    )


class _Clock(pytorch_lightning.Callback):
    """Notes when epochs begin and batches end."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, list[float]]] = []
        self.device = torch.device("cpu")

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.device = module.device
        self.epochs.append((_now(self.device), []))

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.epochs[-1][1].append(_now(module.device))

    @property
    def seconds(self) -> float:
        return sum(ends[-1] - begin for begin, ends in self.epochs)

    def per_batch(self, every: int) -> list[float]:
        """Of each epoch: the median over groups of so many batches, in which there is one step of the architecture.

        The first batch, with which loaders begin, counts where it is the only one. A median, since other programs come in between.
        """
        return [_per_batch(begin, ends, every) for begin, ends in self.epochs]


def _per_batch(begin: float, ends: Sequence[float], every: int) -> float:
    if len(ends) <= every:
        return (ends[-1] - begin) / len(ends)
    return statistics.median((b - a) / every for a, b in zip(ends[::every], ends[every::every], strict=False))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _run(trial: SearchParts, n_batches: int) -> _Clock:
    """An epoch of so many batches for each stage."""
    size, images, clock = trial.config.data.batch_size, trial.images, _Clock()

    def some(dataset: Any) -> Any:
        return Subset(dataset, range(min(len(dataset), n_batches * size)))

    few = dataclasses.replace(images, weights=some(images.weights), all_but_validation=some(images.all_but_validation))
    folder = trial.folder / f"{n_batches}"  # or the second run would go on with the checkpoint of the first
    trial = dataclasses.replace(trial, images=few, folder=folder)
    space: ModelSpace = copy.deepcopy(trial.space)
    space.to(memory_format=torch.channels_last)
    try:
        trial.strategy(RawFormatModelSpace(space, trial.evaluator(clock)), InProcessEngine())
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    return clock


def _selecting_images(parts: SearchParts) -> int:
    """Images that networks are judged on at the end, all together."""
    config = parts.config
    if config.search.select != "supernet" or not strategy_can("keeps_candidates", config, default=False):
        return 0
    images = judging_images(parts)
    return config.search.judged * (len(images.calibration.dataset) + len(images.few.dataset))


def _seconds_per_judged_image(parts: SearchParts, sample: Mapping[str, Any], device: torch.device) -> float:
    network = copy.deepcopy(freeze(parts.space, sample)).to(device).to(memory_format=torch.channels_last)
    loaders = parts.judging_loaders
    for _ in range(2):  # the first time it asks itself what may be computed together
        began = _now(device)
        few = [[batch for _, batch in zip(range(JUDGED), loader, strict=False)] for loader in loaders]
        calibration, validation = few
        judge(network, calibration, validation, device, parts.data.task)
        seconds = _now(device) - began
        if seconds > LONG_SECONDS:
            break
    seen = sum(len(images) for batches in few for images, _ in batches)
    return seconds / seen
