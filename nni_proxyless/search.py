"""One search, from a checked configuration to a derived network.

SearchConfig -> images, space, latency, strategy, evaluator -> one Lightning fit -> architecture.json, weights.safetensors
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
import yaml
from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import ModelStatus, RawFormatModelSpace
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from . import registry
from .config import SearchConfig
from .data import ImageData, loader, split
from .derive import Architecture, build_network, installed_versions
from .errors import UserError
from .evaluator import ImageClassification
from .files import write_text, write_weights
from .latency import (
    DeviceEstimator,
    LatencyEstimator,
    LatencyPenalty,
    LatencyProfiler,
    LookupTable,
    TableError,
    build_lookup_table,
)
from .latency.operation import Operation, Shape, shape_text, trace_operations
from .monitor import DerivedNetMonitor
from .progress import FitProgress, bar

__all__ = ["SearchResult", "run_search"]

_logger = logging.getLogger(__name__)

DRIFT_WORTH_SAYING = 1.1  # isolated operations repeat to a few per cent on a quiet machine (FACTS 7)


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Where a search has left its files, and its figures as they are reported to NNI."""

    folder: Path
    architecture: Architecture
    metrics: dict[str, float]


class InProcessEngine(SequentialExecutionEngine):
    """Runs the one model of a one-shot strategy right here.

    NNI's sequential engine puts a command channel of its own in the place of the trial's, which then loses its metrics
    (FACTS 6.2); here the channel stays what it is.
    """

    def _run_single_model(self, model: RawFormatModelSpace) -> None:
        model.status = ModelStatus.Training
        model.execute()
        model.status = ModelStatus.Trained


def run_search(
    config: SearchConfig,
    folder: Path,
    *,
    base: Path = Path(),
    report: Callable[[dict[str, float]], None] = lambda metrics: None,
) -> SearchResult:
    """Search a network and write it to ``folder``.

    Parameters
    ----------
    config
        Checked already.
    folder
        Gets ``search.yml`` as it was resolved, ``history.jsonl``, ``tensorboard/``, ``architecture.json`` and
        ``weights.safetensors``.
    base
        What a relative ``latency.table`` is relative to: the folder of the configuration file.
    report
        Called once per epoch with one flat dict of numbers.

    Raises
    ------
    UserError
        Data, table or latency target do not fit the configuration, or the training diverged.
    """
    pytorch_lightning.seed_everything(config.seed, workers=True, verbose=False)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "search.yml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    data: ImageData = registry.load("nni_proxyless.datasets", config.data.name)(**config.data.arguments)
    parts = split(data, alphas=config.data.alphas, validation=config.data.validation)
    space_class = registry.load("nni_proxyless.search_spaces", config.space.name)
    space_arguments = space_arguments_for(space_class, config.space.arguments, data)
    space: ModelSpace = space_class(**space_arguments)
    estimator: LatencyEstimator = registry.load("nni_proxyless.estimators", config.latency.estimator.name)(
        **config.latency.estimator.arguments
    )
    profiler = make_profiler(
        space, data.shape, estimator, base / config.latency.table if config.latency.table else None
    )
    lowest, highest = latency_range(profiler)
    _logger.info("space: %d choices, %.3f to %.3f ms", len(space.simplify()), lowest, highest)
    target = target_in_ms(config.latency.target_ms, highest)
    if target is not None and target <= lowest:
        raise UserError(
            f"latency.target_ms: {target:.3f} ms is out of reach: the networks of this space take {lowest:.3f} to {highest:.3f} ms"
        )

    penalty = None
    if target is not None:
        penalty = LatencyPenalty(profiler, target, config.latency.weight, nonlinear=config.latency.nonlinear)
    strategy = make_strategy(config, penalty)

    batch, workers = config.data.batch_size, config.data.workers
    training = config.training
    monitor = DerivedNetMonitor(
        profiler=profiler,
        input_shape=data.shape,
        calibration=loader(_first(parts.weights_plain, training.calibration_images), batch, workers=workers),
        validation=loader(parts.validation, batch, workers=workers),
        report=_recorder(folder / "history.jsonl", report),
    )
    evaluator = Lightning(
        ImageClassification(
            optimizer=training.optimizer, learning_rate=training.learning_rate, momentum=training.momentum,
            weight_decay=training.weight_decay, label_smoothing=training.label_smoothing,
        ),
        Trainer(
            max_epochs=training.epochs, accelerator=config.trainer.accelerator, devices=1,
            logger=TensorBoardLogger(str(folder), name="", version="tensorboard"),
            callbacks=[FitProgress(), monitor],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            log_every_n_steps=10,
        ),
        train_dataloaders=loader(parts.weights, batch, seed=config.seed, workers=workers, factory=DataLoader),
        val_dataloaders=loader(parts.alphas, batch, seed=config.seed + 1, workers=workers, factory=DataLoader),
    )  # fmt: skip
    space.to(memory_format=torch.channels_last)
    try:
        strategy(RawFormatModelSpace(space, evaluator), InProcessEngine())
    except MisconfigurationException as error:
        raise UserError(str(error)) from error

    assert monitor.last is not None
    return _save(config, folder, data, space_arguments, space, monitor, target, profiler, estimator)


def make_profiler(
    space: ModelSpace, input_shape: Shape, estimator: LatencyEstimator, table_path: Path | None
) -> LatencyProfiler:
    """Latencies of a space: from the table if there is one, else measured now and, if a path is given, written there."""
    try:
        if table_path is not None and table_path.exists():
            table = LookupTable.read(table_path)
            table.require({**estimator.conditions, "resolution": shape_text(input_shape[1:])})
            _logger.info("latencies: read from %s", table_path)
            return LatencyProfiler(space, table, input_shape)
        if isinstance(estimator, DeviceEstimator):
            with bar(estimator.repeats, "measuring latencies", "round") as rounds:
                table = build_lookup_table(space, input_shape, estimator, progress=rounds.update)
            _logger.info("latencies: measured %d operations on %s", len(table.rows), estimator.conditions["device"])
            if table_path is not None:
                table.write(table_path)
                _logger.info("latencies: written to %s", table_path)
            return LatencyProfiler(space, table, input_shape)
        return LatencyProfiler(space, estimator, input_shape)
    except TableError as error:
        raise UserError(f"latency.table: {error}") from error
    except KeyError as error:
        raise UserError(f"latency.table: {error.args[0]}") from error


def latency_range(profiler: LatencyProfiler) -> tuple[float, float]:
    """Milliseconds of the fastest and of the slowest network, nested choices left out."""
    costs = [list(c.values()) for c in profiler.candidate_ms.values()]
    return profiler.fixed_ms + sum(map(min, costs)), profiler.fixed_ms + sum(map(max, costs))


def target_in_ms(configured: float | str | None, slowest_ms: float) -> float | None:
    """The target in milliseconds; ``'60%'`` is that share of the slowest network's latency."""
    return float(configured.rstrip("%")) / 100 * slowest_ms if isinstance(configured, str) else configured


def make_strategy(config: SearchConfig, penalty: LatencyPenalty | None) -> Any:
    """The strategy by name, with penalty and seed where it takes them."""
    strategy_class = registry.load("nni_proxyless.strategies", config.strategy.name)
    accepted = registry.accepted_arguments(strategy_class)
    extra = {name: value for name, value in {"penalty": penalty, "seed": config.seed}.items() if name in accepted}
    return strategy_class(**config.strategy.arguments, **extra)


def space_arguments_for(space_class: Any, given: Mapping[str, Any], data: ImageData) -> dict[str, Any]:
    """The space's arguments, with classes and channels of the images under the names that it takes."""
    accepted = registry.accepted_arguments(space_class)
    known = {
        "num_classes": data.num_classes,
        "num_labels": data.num_classes,
        "in_channels": data.shape[0],
        "in_chans": data.shape[0],
    }
    return {**{name: value for name, value in known.items() if name in accepted}, **given}


def _save(
    config: SearchConfig, folder: Path, data: ImageData, space_arguments: dict[str, Any], space: ModelSpace,
    monitor: DerivedNetMonitor, target: float | None, profiler: LatencyProfiler, estimator: LatencyEstimator,
) -> SearchResult:  # fmt: skip
    assert monitor.last is not None
    assert monitor.network is not None
    definition = getattr(space, "timm_definition", None)
    architecture = Architecture(
        space={"name": config.space.name, "arguments": space_arguments},
        choices=monitor.sample,
        input_shape=data.shape,
        network=definition(monitor.sample) if definition is not None else None,
        data={"name": config.data.name, "arguments": config.data.arguments},
    )
    weights = monitor.network.state_dict()
    network = build_network(architecture, {name: tensor.cpu() for name, tensor in weights.items()})
    measured, table_again = None, None
    if isinstance(estimator, DeviceEstimator):
        path = [op for op in trace_operations(space, data.shape) if all(monitor.sample[k] == c for k, c in op.choices)]
        measured, table_again = measure_beside_path(estimator, network, data.shape, path)
        _say_if_drifted(profiler, estimator, monitor.last["table_ms"], table_again, measured)
    metrics = {**monitor.last, **({"measured_ms": measured} if measured is not None else {})}
    metrics.pop("seconds")
    architecture = dataclasses.replace(
        architecture,
        latency={
            "target_ms": target,
            "expected_ms": metrics["expected_ms"],
            "table_ms": metrics["table_ms"],
            "conditions": profiler.conditions,
            "measured_ms": measured,
            "table_again_ms": table_again,
            "measured_conditions": dict(estimator.conditions) if measured is not None else None,
        },
        macs=int(metrics["macs"]),
        n_params=int(metrics["n_params"]),
        search={
            "strategy": config.strategy.name,
            "seed": config.seed,
            "epochs": config.training.epochs,
            "accuracy": metrics["default"],
        },
        versions=installed_versions(),
    )
    write_weights(folder / "weights.safetensors", weights)
    architecture.write(folder / "architecture.json")
    return SearchResult(folder, architecture, metrics)


def measure_beside_path(
    estimator: DeviceEstimator, network: nn.Module, input_shape: Shape, path: Sequence[Operation]
) -> tuple[float, float]:
    """Milliseconds of a derived net, and of its operations one by one, timed in turns in one run.

    Machines drift, and the more so between a table and the end of a search; what was timed side by side can be compared.
    """
    whole, *parts = estimator.measure([(network, input_shape), *((op.module, op.input_shape) for op in path)])
    return whole.median_ms, sum(part.median_ms for part in parts)


def _say_if_drifted(
    profiler: LatencyProfiler, estimator: DeviceEstimator, table_ms: float, table_again_ms: float, measured_ms: float
) -> None:
    same_target = all(profiler.conditions.get(name) == value for name, value in estimator.conditions.items())
    if same_target and not 1 / DRIFT_WORTH_SAYING < table_again_ms / table_ms < DRIFT_WORTH_SAYING:
        _logger.warning(
            "the machine is not as it was: the net's operations take %.3f ms now, %.3f ms in the table; "
            "compare the measured %.3f ms with the former",
            table_again_ms,
            table_ms,
            measured_ms,
        )


def _first(dataset: Any, n: int) -> Any:
    """At most n items, spread evenly over the data set, which may be sorted by class."""
    step = max(1, math.ceil(len(dataset) / n))
    return torch.utils.data.Subset(dataset, range(0, len(dataset), step))


def _recorder(path: Path, report: Callable[[dict[str, float]], None]) -> Callable[[dict[str, float]], None]:
    path.unlink(missing_ok=True)

    def record(metrics: dict[str, float]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        report(metrics)

    return record
