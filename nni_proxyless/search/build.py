"""The parts of a search, each made from its section of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from ..config import registry
from ..config.search_config import SearchConfig
from ..core.errors import UserError
from ..core.tensorboard_writer import FLUSH_SECONDS
from ..data.image_parts import ImageData, loader
from ..data.outputs import FILLED_IN
from ..latency import LatencyPenalty, LatencyProfiler
from .evaluator import ImageClassification
from .monitor import DerivedNetMonitor
from .progress_bar import FitProgress

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

__all__ = ["make_evaluator", "make_penalty", "make_space", "make_strategy", "space_arguments_for", "strategy_can"]


def make_evaluator(config: SearchConfig, folder: Path, parts: Any, monitor: DerivedNetMonitor) -> Lightning:
    """How the supernet is trained: NNI's evaluator around task, trainer and data."""
    training, trainer, data = config.training, config.trainer, config.data
    alphas, weights = parts.alphas, parts.weights
    if not strategy_can("needs_held_out_data", config, default=True):
        alphas, weights = None, parts.all_but_validation
    warmup_alone = "warmup_learning_rate" in config.strategy.arguments
    return Lightning(
        ImageClassification(
            optimizer=training.optimizer, learning_rate=training.learning_rate, momentum=training.momentum,
            weight_decay=training.weight_decay, label_smoothing=training.label_smoothing,
            architecture_label_smoothing=training.architecture_label_smoothing,
            schedule_epochs=training.epochs - config.strategy.arguments.get("warmup_epochs", 0) if warmup_alone else None,
        ),
        Trainer(
            max_epochs=training.epochs, accelerator=trainer.accelerator, devices=trainer.devices,
            strategy="ddp" if trainer.devices > 1 else "auto", precision=trainer.precision,
            logger=TensorBoardLogger(str(folder.resolve()), name="", version="tensorboard", flush_secs=FLUSH_SECONDS),
            callbacks=[FitProgress(), monitor],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            log_every_n_steps=10,
        ),
        train_dataloaders=loader(weights, data.batch_size, seed=config.seed, workers=data.workers, factory=DataLoader),
        val_dataloaders=alphas and loader(alphas, data.batch_size, seed=config.seed + 1, workers=data.workers, factory=DataLoader),
    )  # fmt: skip


def make_penalty(config: SearchConfig, profiler: LatencyProfiler, target: float | None) -> LatencyPenalty | None:
    """The latency term, if a target is set."""
    latency = config.latency
    if target is None:
        return None
    try:
        return LatencyPenalty(profiler, target, latency.weight, form=latency.form, nonlinear=latency.nonlinear)
    except ValueError as error:
        raise UserError(f"latency: {error}") from error


def strategy_can(name: str, config: SearchConfig, default: bool) -> bool:
    """What a strategy says of itself; NNI's own say nothing."""
    return bool(getattr(registry.load("nni_proxyless.strategies", config.strategy.name), name, default))


def make_strategy(config: SearchConfig, penalty: Any, checkpoint_dir: Path) -> Any:
    """The strategy by name, with penalty, seed and a folder for checkpoints where it takes them."""
    strategy_class = registry.load("nni_proxyless.strategies", config.strategy.name)
    accepted = registry.accepted_arguments(strategy_class)
    ours = {"penalty": penalty, "seed": config.seed, "checkpoint_dir": str(checkpoint_dir)}
    extra = {name: value for name, value in ours.items() if name in accepted}
    try:
        return strategy_class(**config.strategy.arguments, **extra)
    except ValueError as error:  # the arguments were checked before; the penalty was not there then
        raise UserError(f"strategy: {error}") from error


def space_arguments_for(space_class: Any, given: Mapping[str, Any], data: ImageData) -> dict[str, Any]:
    """The space's arguments, with classes and channels of the images under the names that it takes."""
    accepted = registry.accepted_arguments(space_class)
    known = {
        **dict.fromkeys(FILLED_IN, data.num_classes),
        "in_channels": data.shape[0],
        "in_chans": data.shape[0],
    }
    return {**{name: value for name, value in known.items() if name in accepted}, **given}


def make_space(name: str, arguments: Mapping[str, Any]) -> ModelSpace:
    """The space behind a name.

    Raises
    ------
    UserError
        It is no model space, there is nothing to choose in it, or its choices cannot be written down.
    """
    from nni.nas.nn.pytorch import ModelSpace  # here: it takes seconds, and a training of images does without

    from ..latency.choices import check_values

    space = registry.load("nni_proxyless.search_spaces", name)(**arguments)
    if not isinstance(space, ModelSpace):
        raise UserError(f"space: {name} gives a {type(space).__name__}; allowed: a ModelSpace of NNI")
    try:
        for label, choice in space.simplify().items():
            check_values(label, choice)
    except TypeError as error:
        raise UserError(f"space: {name}: {error}") from error
    if not any(len(getattr(choice, "values", ())) > 1 for choice in space.simplify().values()):
        raise UserError(
            f"space: {name} has no choice, so there is nothing to search; allowed: a ModelSpace with a LayerChoice, InputChoice "
            "or Repeat of two candidates or more"
        )
    return space
