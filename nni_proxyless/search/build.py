"""Build the parts of a search from its configuration, for a new search and for a finished one.

search.yml -> images and their division, space, latencies -> penalty, strategy, evaluator
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import ConcatDataset, Dataset

from ..config import registry
from ..config.search_config import SearchConfig
from ..core.errors import UserError
from ..core.tensorboard_writer import FLUSH_SECONDS
from ..data.fingerprint import record_or_compare, require_same
from ..data.image_parts import ImageData, Parts, loader, split
from ..data.outputs import FILLED_IN, require_outputs, where_classes_are_given
from ..data.validate import make_images
from ..latency import DeviceEstimator, LatencyEstimator, LatencyPenalty, LatencyProfiler, Penalties
from ..latency.digits import in_words
from ..models.export.int8_accuracy import int8_merit, is_for_int8
from ..models.space import make_searchable_space
from .costs import Cost, join, make_costs
from .evaluator import TaskTraining
from .latency_table import latency_range, make_estimator, make_profiler, target_in_ms
from .monitor import judging_loaders
from .nni_trial import is_helper
from .original import teacher_of, warn_of_statistics
from .progress_bar import FitProgress

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace
    from pytorch_lightning import Callback
    from torch import nn

    from ..models.architecture import Architecture
    from ..tasks import Task

__all__ = [
    "SearchParts",
    "build",
    "images_of",
    "make_evaluator",
    "searchable_space",
    "space_arguments_for",
    "strategy_can",
]


@dataclasses.dataclass(frozen=True)
class SearchParts:
    """The parts of a search; those that a finished one does not need are built on first use.

    Attributes
    ----------
    config
        Checked already.
    folder
        Of the search, with the tables that it works with; tables of the configuration are relative to ``base``.
    data, images
        The task, and the division of its training images.
    space_name, space_arguments
        What it is made from again, with classes and channels of the images; of a task with a head of its own, the space with that head.
    space
        Fresh weights, drawn from the global generator.
    estimator, profiler
        Where latencies come from, and what a network of the space costs.
    """

    config: SearchConfig
    folder: Path
    base: Path
    data: ImageData
    images: Parts
    space_name: str
    space_arguments: dict[str, Any]
    space: ModelSpace
    estimator: LatencyEstimator
    profiler: LatencyProfiler

    @functools.cached_property
    def latency_range(self) -> tuple[float, float]:
        """Costs of the fastest and of the slowest network."""
        return latency_range(self.profiler)

    @functools.cached_property
    def target(self) -> float | None:
        """What the network should cost, in the unit of the profiler.

        Raises
        ------
        UserError
            No network costs so little.
        """
        (lowest, highest), unit = self.latency_range, self.profiler.unit
        target = target_in_ms(self.config.latency.target_ms, highest)
        if target is not None and target <= lowest:
            raise UserError(
                f"latency.target_ms: {in_words(target)} {unit} is out of reach: the networks of this space take "
                f"{in_words(lowest)} to {in_words(highest)} {unit}"
            )
        return target

    @functools.cached_property
    def costs(self) -> dict[str, Cost]:
        """The costs beside the latency, by name."""
        return make_costs(self.config.costs, self.space, self.data.shape, self.base, self.folder)

    @functools.cached_property
    def penalty(self) -> LatencyPenalty | Penalties | None:
        """The terms of the loss for latency and other costs, as a strategy takes them; None without a target."""
        latency, term, target = self.config.latency, None, self.target
        costs = self.costs
        if target is not None:
            try:
                term = LatencyPenalty(
                    self.profiler, target, latency.weight, form=latency.form, nonlinear=latency.nonlinear
                )
            except ValueError as error:
                raise UserError(f"latency: {error}") from error
        return join(term, costs)

    @functools.cached_property
    def strategy(self) -> Any:
        """The strategy by name, with penalty, seed and a folder for checkpoints where it takes them."""
        section = self.config.strategy
        strategy_class = registry.load("nni_proxyless.strategies", section.name)
        accepted = registry.accepted_arguments(strategy_class)
        ours = {
            "penalty": self.penalty, "seed": self.config.seed, "checkpoint_dir": str(self.folder / "checkpoint"),
        }  # fmt: skip
        extra = {name: value for name, value in ours.items() if name in accepted}
        try:
            return strategy_class(**section.arguments, **extra)
        except ValueError as error:  # the arguments were checked before; the penalty was not there then
            raise UserError(f"strategy: {error}") from error

    def evaluator(self, *callbacks: Callback) -> Lightning:
        """How the supernet is trained.

        Raises
        ------
        UserError
            This machine has no such devices.
        """
        try:
            return make_evaluator(
                self.config, self.folder, self.images, self.data.task, *callbacks, teacher=teacher_of(self.config, self.data)
            )  # fmt: skip
        except MisconfigurationException as error:  # Lightning has looked for the devices
            trainer = self.config.trainer
            raise UserError(
                f"trainer: {error} accelerator is '{trainer.accelerator}', devices {trainer.devices}; allowed: what this machine has"
            ) from error

    @functools.cached_property
    def judging_loaders(self) -> tuple[Any, Any]:
        """Images for the statistics of batch norm, and to judge a network by."""
        return judging_loaders(self.config, self.images)

    def in_int8(self, network: nn.Module, judged: Any, prefix: str = "") -> dict[str, float | None]:
        """Under ``accuracy_int8``, or the name of another figure of merit, that of a network when it is quantized, if the search is for such."""
        if not is_for_int8(self.profiler.conditions):
            return {}
        task = self.data.task
        return {f"{prefix}{task.merit.name}_int8": int8_merit(network, self.images.weights_plain, judged, task)}

    @functools.cached_property
    def held_out(self) -> Any:
        """All images that train no weight: for validation and, where the architecture is learned from images of its own, those."""
        if not strategy_can("needs_held_out_data", self.config, default=True):
            return self.judging_loaders[1]
        images: Any = ConcatDataset([self.images.validation, self.images.alphas])
        return loader(images, self.config.data.batch_size, workers=self.config.data.workers)


def build(
    config: SearchConfig, folder: Path, *, base: Path = Path(), finished: Architecture | None = None,
    data: ImageData | None = None,
) -> SearchParts:  # fmt: skip
    """The parts of the search in ``folder``.

    Parameters
    ----------
    base
        What a relative ``latency.table`` is relative to: the folder of the configuration file.
    finished
        What the search has left, if it has finished: its space is made as it was then, and nothing is measured.
    data
        Its images, where they were read already.

    Raises
    ------
    UserError
        Images, space, table and estimator do not fit together; or those of a search that goes on, or has finished, are others now.
    """
    data = images_of(config) if data is None else data
    if finished is not None:
        require_same(folder, data)
    elif not is_helper():
        record_or_compare(folder, data, goes_on=(folder / "checkpoint").exists())
    images = split(data, alphas=config.data.alphas, validation=config.data.validation)
    if finished is not None:
        name, arguments = finished.space["name"], dict(finished.space["arguments"])
        space = make_searchable_space(name, arguments)
    else:
        name, arguments, space = searchable_space(config, data)
        refuse_early(config, space)
        if not is_helper():
            warn_of_statistics(config, data)
    estimator = make_estimator(config.latency.estimator)
    kept = folder / "latencies.yaml"
    if finished is not None and isinstance(estimator, DeviceEstimator) and not kept.exists():
        raise UserError(f"{folder}: no latencies.yaml: the milliseconds that the search worked with are gone")
    table = base / config.latency.table if config.latency.table and finished is None else None
    profiler = make_profiler(space, data.shape, estimator, table, kept, {"name": name, "arguments": arguments})
    return SearchParts(config, folder, base, data, images, name, arguments, space, estimator, profiler)


def refuse_early(config: SearchConfig, space: ModelSpace) -> None:
    """Say of a space that the strategy cannot search it, as far as that can be seen, before minutes of measuring.

    Raises
    ------
    UserError
        The strategy refuses it.
    """
    section = config.strategy
    strategy = registry.load("nni_proxyless.strategies", section.name)(**section.arguments)
    try:
        getattr(strategy, "refuse", lambda space: None)(space)
    except TypeError as error:
        raise UserError(f"strategy: {section.name} cannot search {type(space).__name__}: {error}") from error


def images_of(config: SearchConfig) -> ImageData:
    """The images of a search, with its task.

    Raises
    ------
    UserError
        There are none, or they do not fit the task.
    """
    return make_images(config.data.name, config.data.arguments, config.task.described)


def searchable_space(config: SearchConfig, data: ImageData) -> tuple[str, dict[str, Any], ModelSpace]:
    """The space of a search, for its images and task, with the name and the arguments that it is made with again: without those that a space
    names ``only_at_start``, which say what its weights begin with.

    Raises
    ------
    UserError
        It is no space, has nothing to search in it, cannot do the task, or answers with another number of outputs than there are classes.
    """
    name = config.space.name
    space_class = registry.load("nni_proxyless.search_spaces", name)
    arguments = space_arguments_for(space_class, config.space.arguments, data)
    accepted = registry.accepted_arguments(space_class)
    once = getattr(space_class, "only_at_start", ())
    kept = {key: value for key, value in arguments.items() if key not in once}
    named = name
    try:
        named, arguments = data.task.space_of(name, arguments)
        space = make_searchable_space(named, arguments)
    except ValueError as error:
        whose = f"space: {name}" if named == name else f"task: {config.task.name}"
        raise UserError(f"{whose}: {error}") from error
    advice = where_classes_are_given(accepted, config.space.arguments, data.num_classes)
    require_outputs(space, data, f"space: {name}", advice, precision=config.trainer.precision)
    return *data.task.space_of(name, kept), space


def make_evaluator(
    config: SearchConfig, folder: Path, images: Parts, task: Task, *callbacks: Callback, teacher: nn.Module | None = None
) -> Lightning:  # fmt: skip
    """How the supernet is trained: NNI's evaluator around task, trainer and data."""
    training, trainer, data = config.training, config.trainer, config.data
    alphas: Dataset | None = images.alphas
    weights = images.weights
    if not strategy_can("needs_held_out_data", config, default=True):
        alphas, weights = None, images.all_but_validation
    warmup_alone = "warmup_learning_rate" in config.strategy.arguments
    return Lightning(
        TaskTraining(
            task=task, teacher=teacher, distillation=training.distillation or 0.0, optimizer=training.optimizer, learning_rate=training.learning_rate, momentum=training.momentum,
            weight_decay=training.weight_decay, label_smoothing=training.label_smoothing,
            architecture_label_smoothing=training.architecture_label_smoothing,
            schedule_epochs=training.epochs - config.strategy.arguments.get("warmup_epochs", 0) if warmup_alone else None,
        ),
        Trainer(
            max_epochs=training.epochs, accelerator=trainer.accelerator, devices=trainer.devices,
            strategy="ddp" if trainer.devices > 1 else "auto", precision=trainer.precision,
            logger=TensorBoardLogger(str(folder.resolve()), name="", version="tensorboard", flush_secs=FLUSH_SECONDS),
            callbacks=[FitProgress(), *callbacks],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            log_every_n_steps=10,
        ),
        train_dataloaders=loader(weights, data.batch_size, seed=config.seed, workers=data.workers, factory=DataLoader),
        val_dataloaders=alphas and loader(alphas, data.batch_size, seed=config.seed + 1, workers=data.workers, factory=DataLoader),
    )  # fmt: skip


def strategy_can(name: str, config: SearchConfig, default: bool) -> bool:
    """A capability that a strategy declares; NNI's own declare none."""
    return bool(getattr(registry.load("nni_proxyless.strategies", config.strategy.name), name, default))


def space_arguments_for(space_class: Any, given: Mapping[str, Any], data: ImageData) -> dict[str, Any]:
    """The space's arguments, with classes and channels of the images under the names that it takes."""
    accepted = registry.accepted_arguments(space_class)
    known = {
        **dict.fromkeys(FILLED_IN, data.num_classes),
        "in_channels": data.shape[0],
        "in_chans": data.shape[0],
    }
    return {**{name: value for name, value in known.items() if name in accepted}, **given}
