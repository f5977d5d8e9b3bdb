"""One search, from a checked configuration to a derived network.

SearchConfig -> images, space, latency, strategy, evaluator -> one Lightning fit -> architecture.json, weights.safetensors
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import ModelStatus, RawFormatModelSpace
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ..config import registry
from ..config.search_config import SearchConfig
from ..core.atomic_files import write_text
from ..core.cpu_threads import in_words, use
from ..core.divergence import DivergedError, is_finite
from ..core.errors import UserError
from ..data.fingerprint import know_again
from ..data.image_parts import split
from ..data.outputs import require_outputs, where_classes_are_given
from ..data.validate import make_images
from ..latency import LatencyEstimator
from ..latency.digits import in_words as cost_in_words
from .build import make_evaluator, make_penalty, make_space, make_strategy, space_arguments_for
from .costs import join, make_costs
from .latency_table import latency_range, make_profiler, target_in_ms
from .monitor import DerivedNetMonitor, judging_loaders
from .nni_trial import inside_nni, is_helper, tell_helpers
from .result import SearchResult, found_finished, save_result
from .run_folder import alone_in, as_file_in, begin_or_go_on, differences, history, is_finished, recorder
from .supernet_files import shapes_of, write_remains

__all__ = ["is_finished", "run_search"]

_logger = logging.getLogger(__name__)


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
            return found_finished(folder, report)
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
    result = save_result(config, folder, data, space_arguments, space, monitor, target, profiler, estimator)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return result
