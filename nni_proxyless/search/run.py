"""One search, from a checked configuration to a derived network.

SearchConfig -> images, space, latency, strategy, evaluator -> one Lightning fit -> architecture.json, weights.safetensors
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import ModelStatus, RawFormatModelSpace
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ..config import registry
from ..config.search_config import SearchConfig
from ..core.atomic_files import write_text, write_weights
from ..core.cpu_threads import in_words, use
from ..core.divergence import DivergedError, is_finite
from ..core.errors import UserError
from ..core.tensorboard_writer import FLUSH_SECONDS
from ..data.accuracy import evaluate_accuracy
from ..data.fingerprint import know_again
from ..data.outputs import FILLED_IN, require_outputs, where_classes_are_given
from ..data.split import ImageData, loader, split
from ..data.validate import make_images, make_space
from ..latency import DeviceEstimator, LatencyEstimator, LatencyPenalty, LatencyProfiler
from ..latency.digits import in_words as cost_in_words
from ..latency.operation import trace_operations
from ..models.architecture import Architecture
from ..models.build import build_network, installed_versions
from ..models.draw import draw_beside
from ..models.export.onnx_format import leave_onnx
from ..models.record import latency_record
from .costs import Cost, join, make_costs
from .evaluator import ImageClassification
from .latency_table import latency_range, make_profiler, measure_beside_path, say_if_drifted, target_in_ms
from .monitor import DerivedNetMonitor, judging_loaders
from .nni_trial import inside_nni, is_helper, tell_helpers
from .progress_bar import FitProgress
from .run_folder import alone_in, as_file_in, begin_or_go_on, differences, history, is_finished, recorder
from .supernet_files import shapes_of, write_remains

__all__ = ["SearchResult", "is_finished", "run_search"]

_logger = logging.getLogger(__name__)


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
) -> SearchResult | None:
    """Search a network and write it to ``folder``; go on with the search that is there already, if it is the same.

    One process at a time: a trial that NNI starts again waits until the one before has ended, and takes what that one has
    found if it came to its end.

    Parameters
    ----------
    config
        Checked already.
    folder
        Gets ``search.yml`` as it was resolved, ``data_fingerprint.json``, ``latencies.yaml``, ``history.jsonl``, ``tensorboard/``,
        ``architecture.json`` and ``weights.safetensors``, for :mod:`.derivation` ``probabilities.json`` and, where the strategy
        keeps all candidates, ``supernet.safetensors``; while the search lasts also ``checkpoint/``. Where the strategy
        leaves a trained network, ``final/`` holds it with its accuracy on the test images, as after ``train``.
    base
        What a relative ``latency.table`` is relative to: the folder of the configuration file.
    report
        Called once per epoch with one flat dict of numbers.

    Returns
    -------
    SearchResult or None
        None in the processes that only help to train (``trainer.devices`` of 2 or more).

    Raises
    ------
    UserError
        Data, table or latency target do not fit the configuration, the folder holds another search, another process
        searches there, or the training diverged.
    """
    if is_helper():
        return _search(config, folder, base, report)
    with alone_in(folder, wait=inside_nni()):  # NNI starts a trial again, while the one before may live on
        return _search(config, folder, base, report)


def _search(
    config: SearchConfig, folder: Path, base: Path, report: Callable[[dict[str, float]], None]
) -> SearchResult | None:
    resolved = as_file_in(folder, config, base)
    if not is_helper():
        if inside_nni() and is_finished(folder) and not differences(folder, resolved):
            return _found_finished(folder, report)
        begin_or_go_on(folder, resolved)
        write_text(folder / "search.yml", resolved)
        tell_helpers(folder)
    pytorch_lightning.seed_everything(config.seed, workers=True, verbose=False)
    threads = use(config.trainer.threads, config.trainer.devices)
    _logger.info("CPU threads: %s", in_words(threads, config.trainer.devices))

    data = make_images(config.data.name, config.data.arguments)
    if not is_helper():
        know_again(folder, data, goes_on=(folder / "checkpoint").exists())
    parts = split(data, alphas=config.data.alphas, validation=config.data.validation)
    space_class = registry.load("nni_proxyless.search_spaces", config.space.name)
    space_arguments = space_arguments_for(space_class, config.space.arguments, data)
    space = make_space(config.space.name, space_arguments)
    advice = where_classes_are_given(registry.accepted_arguments(space_class), config.space.arguments, data.num_classes)
    require_outputs(space, data, f"space: {config.space.name}", advice, precision=config.trainer.precision)
    estimator: LatencyEstimator = registry.load("nni_proxyless.estimators", config.latency.estimator.name)(
        **config.latency.estimator.arguments
    )
    table = base / config.latency.table if config.latency.table else None
    described = {"name": config.space.name, "arguments": space_arguments}
    profiler = make_profiler(space, data.shape, estimator, table, folder / "latencies.yaml", described)
    lowest, highest = latency_range(profiler)
    _logger.info(
        "space: %d choices, %s to %s %s",
        len(space.simplify()),
        cost_in_words(lowest),
        cost_in_words(highest),
        profiler.unit,
    )
    target = target_in_ms(config.latency.target_ms, highest)
    if target is not None and target <= lowest:
        raise UserError(
            f"latency.target_ms: {cost_in_words(target)} {profiler.unit} is out of reach: the networks of this space take {cost_in_words(lowest)} to {cost_in_words(highest)} {profiler.unit}"
        )
    costs = make_costs(config.costs, space, data.shape, base, folder)
    strategy = make_strategy(config, join(make_penalty(config, profiler, target), costs), folder / "checkpoint")

    calibration, validation = judging_loaders(config, parts)
    monitor = DerivedNetMonitor(
        profiler=profiler,
        input_shape=data.shape,
        calibration=calibration,
        validation=validation,
        report=recorder(folder, report),
        costs=costs,
    )
    try:
        evaluator = make_evaluator(config, folder, parts, monitor)
    except MisconfigurationException as error:  # Lightning has looked for the devices
        raise UserError(
            f"trainer: {error} accelerator is '{config.trainer.accelerator}', devices {config.trainer.devices}; allowed: what this machine has"
        ) from error
    shapes = shapes_of(space)
    space.to(memory_format=torch.channels_last)
    # Measuring and building have drawn random numbers, and not the same ones when latencies were there already.
    pytorch_lightning.seed_everything(config.seed, workers=True, verbose=False)
    try:
        strategy(RawFormatModelSpace(space, evaluator), InProcessEngine())
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except (
        RuntimeError,
        ValueError,
    ) as error:  # NNI's own strategies, or an estimate, may stumble over what is no number
        if (
            isinstance(error, UserError)
            or getattr(strategy, "_mutated_model_space", None) is None
            or is_finite(strategy.oneshot_module)
        ):
            raise
        raise DivergedError("the weights are no numbers") from error
    if is_helper():
        return None

    if monitor.last is None:  # killed after the last epoch: there was nothing left to train
        monitor.last = {**history(folder)[-1], **monitor.derive(strategy.oneshot_module)}
    write_remains(folder, monitor.probs, monitor.supernet, shapes)
    result = _save(config, folder, data, space_arguments, space, monitor, target, profiler, estimator)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return result


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


def _found_finished(folder: Path, report: Callable[[dict[str, float]], None]) -> SearchResult:
    """What the search in this folder has come to, reported once more: the process that did it could not, or not in full."""
    _logger.info("finished already: %s", folder / "architecture.json")
    for metrics in history(folder):
        report(metrics)
    architecture = Architecture.read(folder / "architecture.json")
    measured_ms = architecture.latency.get("measured_ms")
    test_accuracy = architecture.search.get("test_accuracy")
    return SearchResult(folder, architecture, _final(history(folder)[-1], measured_ms, test_accuracy))


def _final(last: Mapping[str, float], measured_ms: float | None, test_accuracy: float | None) -> dict[str, float]:
    """The figures of the end: those of the last epoch, and what comes to them."""
    more = {"measured_ms": measured_ms, "test_accuracy": test_accuracy}
    return {
        **{name: value for name, value in last.items() if name != "seconds"},
        **{name: value for name, value in more.items() if value is not None},
    }


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
        # From a space of its own: a search may have let go of candidates.
        operations = trace_operations(type(space)(**space_arguments), data.shape)
        path = [op for op in operations if op.runs_in(monitor.sample)]
        measured, table_again = measure_beside_path(estimator, network, data.shape, path)
        say_if_drifted(profiler, estimator, monitor.last["table_ms"], table_again, measured)
    test_accuracy = None
    if trained := strategy_can("leaves_trained_network", config, default=False):
        test_accuracy = evaluate_accuracy(
            network, loader(data.test, config.data.batch_size, workers=config.data.workers)
        )
    metrics = _final(monitor.last, measured, test_accuracy)
    architecture = dataclasses.replace(
        architecture,
        latency=latency_record(
            profiler, monitor.sample, target=target, expected=metrics["expected_ms"], measured_ms=measured,
            table_again_ms=table_again, measured_conditions=estimator.conditions if measured is not None else None,
        ),
        macs=int(metrics["macs"]),
        n_params=int(metrics["n_params"]),
        search={
            "strategy": config.strategy.name,
            "seed": config.seed,
            "epochs": config.training.epochs,
            "threads": torch.get_num_threads(),
            "accuracy": metrics["default"],
            **({"test_accuracy": metrics["test_accuracy"]} if trained else {}),
            **({"costs": _of_costs(monitor.costs, metrics)} if monitor.costs else {}),
        },
        versions=installed_versions(),
    )  # fmt: skip
    write_weights(folder / "weights.safetensors", weights)
    if trained:
        result = {"accuracy": metrics["test_accuracy"], "epochs": config.training.epochs, "weights": "searched",
                  "architecture": "architecture.json"}  # fmt: skip
        write_weights(folder / "final" / "weights.safetensors", weights)
        write_text(folder / "final" / "result.json", json.dumps(result, indent=2) + "\n")
    architecture.write(folder / "architecture.json")
    draw_beside(folder / "architecture.json")
    leave_onnx(network, data.shape, folder / "model.onnx")
    return SearchResult(folder, architecture, metrics)


def _of_costs(costs: Mapping[str, Cost], metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        name: {
            "unit": cost.profiler.unit, "target": cost.target, "expected": metrics[f"expected_{name}"],
            "derived": metrics[f"derived_{name}"],
        }
        for name, cost in costs.items()
    }  # fmt: skip
