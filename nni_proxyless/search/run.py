"""One search, from a checked configuration to a derived network.

SearchConfig -> :class:`.build.SearchParts` -> one Lightning fit -> architecture.json, weights.safetensors
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ..config.search_config import SearchConfig
from ..core.atomic_files import write_text
from ..core.cpu_threads import threads_in_words, use
from ..core.divergence import DivergedError, is_finite
from ..core.errors import UserError
from ..core.nni_compat import ModelStatus, RawFormatModelSpace, SequentialExecutionEngine
from ..latency.digits import in_words
from .build import build, images_of, strategy_can
from .monitor import DerivedNetworkMonitor
from .nni_trial import inside_nni, is_helper, share_with_helpers
from .original import with_share
from .result import SearchResult, found_finished, save_result
from .run_folder import as_file_in, begin_or_resume, differences, history, is_finished, locked, recorder
from .supernet_files import shapes_of, write_supernet, write_training_scores
from .supernet_selection import select_at_end, select_open, training_of

__all__ = ["is_finished", "run_search"]

_logger = logging.getLogger(__name__)


class InProcessEngine(SequentialExecutionEngine):
    """Runs the one model of a one-shot strategy right here.

    NNI's sequential engine puts a command channel of its own in the place of the trial's, which then loses its metrics;
    here the channel stays what it is.
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
        keeps all candidates, ``supernet.safetensors`` (and ``judged.csv``, if it selects); while the search lasts also ``checkpoint/``. Where the strategy
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
    with locked(folder, wait=inside_nni()):  # NNI starts a trial again, while the one before may live on
        return _search(config, folder, base, report)


def _search(
    config: SearchConfig, folder: Path, base: Path, report: Callable[[dict[str, float]], None]
) -> SearchResult | None:
    config, data = with_share(config, images_of)  # what is written says it, so that a search that goes on has it too
    resolved = as_file_in(folder, config, base)
    if not is_helper():
        if inside_nni() and is_finished(folder) and not differences(folder, resolved):
            return found_finished(folder, report)
        begin_or_resume(folder, resolved)
        write_text(folder / "search.yml", resolved)
        share_with_helpers(folder)
    pytorch_lightning.seed_everything(config.seed, workers=True, verbose=False)
    threads = use(config.trainer.threads, config.trainer.devices)
    _logger.info("CPU threads: %s", threads_in_words(threads, config.trainer.devices))

    parts = build(config, folder, base=base, data=data)
    space, unit = parts.space, parts.profiler.unit
    lowest, highest = map(in_words, parts.latency_range)
    _logger.info("space: %d choices, %s to %s %s", len(space.simplify()), lowest, highest, unit)
    strategy = parts.strategy
    if config.search.select == "supernet" and hasattr(strategy, "selector"):
        strategy.selector = functools.partial(select_open, parts)
    calibration, validation = parts.judging_loaders
    monitor = DerivedNetworkMonitor(
        profiler=parts.profiler,
        input_shape=parts.data.shape,
        calibration=calibration,
        validation=validation,
        report=recorder(folder, report),
        costs=parts.costs,
        task=parts.data.task,
    )
    evaluator = parts.evaluator(monitor)
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
    keeps_candidates = strategy_can("keeps_candidates", config, default=False)
    write_supernet(folder, monitor.probs, monitor.supernet, shapes, keeps_candidates=keeps_candidates)
    if keeps_candidates:  # who keeps none derives no further networks
        write_training_scores(folder, training_of(strategy.oneshot_module))
    record = getattr(strategy.oneshot_module, "selection", None)
    if config.search.select == "supernet" and keeps_candidates:
        selected = select_at_end(parts, monitor, strategy.oneshot_module)
        record = selected and selected.record()
    result = save_result(parts, monitor, record)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return result
