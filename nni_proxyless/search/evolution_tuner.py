"""``EarlyExitEvolution`` under ``nnictl``: the tuner of ``experiments/evolution.yml``.

search.yml -> :class:`.evolved_space.EvolvedSpace` -> ``EarlyExitEvolution`` -> :class:`.evolution_trials.EvolutionTrials` -> NNI's manager

It is what NNI calls an advisor, a tuner that gets every message of the manager itself. A plain ``Tuner`` is not told of a trial that fails after
``nnictl resume``, so that its generation would wait for ever, and is told of results and of ends of trials in two threads.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nni
import requests

from ..config.nni_evolution import GROUP, STRATEGY
from ..core.atomic_files import write_csv
from ..core.errors import UserError
from ..core.nni_compat import CommandType, MsgDispatcherBase
from ..core.plain_values import as_plain
from .supernet_files import EVOLVED_FRONT

if TYPE_CHECKING:
    from .evolution_trials import EvolutionTrials

__all__ = ["EvolutionTuner"]

_logger = logging.getLogger(__name__)

STATE = "evolution.json"
_PATIENCE = 20.0  # seconds; NNI's manager, on this machine, answers within milliseconds


class EvolutionTuner(MsgDispatcherBase):
    """Lets an evolution choose what trials train: networks within the targets of a ``search.yml``.

    Each trial gets the choices of a network as its parameters, and reports its accuracy. The experiment's folder gets ``evolved_front.csv``, the
    front of the networks trained so far, and ``evolution.json``, the state, from which ``nnictl resume`` goes on.

    Parameters
    ----------
    search
        A ``search.yml``, relative to the experiment's ``trialCodeDirectory``: ``space``, ``data``, ``seed``, and ``latency`` and ``costs``, whose
        targets are upper bounds.
    options
        Those of :class:`~nni_proxyless.strategies.EarlyExitEvolution`, but for ``limits`` and ``state_file``, which the tuner gives it.
    """

    trials: EvolutionTrials

    def __init__(self, search: str, **options: Any):
        super().__init__()
        self.search, self.options = search, options

    def enqueue_command(self, command: Any, data: Any) -> None:
        """Take all messages in the order in which they come: the result of a trial before its end."""
        self.default_command_queue.put((command, data))

    def process_command(self, command: Any, data: Any) -> None:
        """Handle a message; NNI's manager is told why that fails."""
        try:
            super().process_command(command, data)
        except Exception as error:
            self.report_error(f"{type(error).__name__}: {error}")
            raise

    # -- messages of NNI's manager, in the order in which they come ----------------------------------------------------

    def handle_initialize(self, data: Any) -> None:
        """Begin, or go on; NNI waits for this, but only ten seconds for the tuner as such, so imports are made here."""
        from ..config import registry
        from .evolution_trials import EvolutionTrials
        from .evolved_space import EvolvedSpace

        experiment = requests.get(_url("experiment"), timeout=_PATIENCE).json()
        _work_in(experiment["params"]["trialCodeDirectory"])
        strategy, space = registry.load(GROUP, STRATEGY), EvolvedSpace.read(Path(self.search))
        options = {"seed": space.config.seed, **self.options}
        try:
            evolution = strategy(limits=space.limits, state_file=str(_folder() / STATE), **options)
            evolution.begin(space.space)
        except (TypeError, ValueError) as error:
            raise UserError(f"tuner.classArgs: {error}") from error
        self.trials = EvolutionTrials(evolution, self._start)
        _show_choices(experiment, evolution.space.candidates)
        self.send(CommandType.Initialized, "")

    def handle_import_data(self, data: Sequence[dict[str, Any]]) -> None:
        """Results from before a stop."""
        for known in data:
            self.trials.known(known["parameter"], _metric(known["value"]), known.get("trialJobId", ""))

    def handle_add_customized_trial(self, data: Sequence[dict[str, Any]]) -> None:
        """Trials that NNI goes on with after a stop; those that a user has added in the web UI have no number."""
        self.trials.goes_on({trial["parameter_id"] for trial in data})

    def handle_request_trial_jobs(self, data: int) -> None:
        """Start so many trials, or as soon as the next generation begins."""
        self.trials.request(data)
        if self.trials.is_over:
            self.send(CommandType.NoMoreTrialJobs, "")

    def handle_report_metric_data(self, data: dict[str, Any]) -> None:
        """Keep the final result of a trial."""
        if data["type"] == "FINAL" and data["parameter_id"] is not None:
            self.trials.result(data["parameter_id"], _metric(data["value"]), data["trial_job_id"])

    def handle_trial_end(self, data: dict[str, Any]) -> None:
        """Go on when the last trial of a generation has ended."""
        self.trials.end(json.loads(data["hyper_params"])["parameter_id"])
        self._write_front()

    def handle_update_search_space(self, data: Any) -> None:
        """The space is that of the ``search.yml``."""

    # -- and to it -----------------------------------------------------------------------------------------------------

    def _start(self, number: int, parameters: dict[str, Any]) -> None:
        trial = {"parameter_id": number, "parameter_source": "algorithm", "parameters": parameters}
        self.send(CommandType.NewTrialJob, nni.dump({**trial, "parameter_index": 0}))

    def _write_front(self) -> None:
        space = self.trials.evolution.space
        rows = ((job, one.metric, *one.costs.values(), *one.sample.values()) for job, one in self.trials.front())
        write_csv(_folder() / EVOLVED_FRONT, ("trial", "metric", *space.limits, *space.candidates), rows)


def _metric(value: Any) -> float | None:
    """Of a final result as NNI passes it on: a number, or a mapping whose ``default`` it is; None where it is neither."""
    found = nni.load(value) if isinstance(value, str) else value
    number = found.get("default") if isinstance(found, dict) else found
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        return float(number)
    _logger.warning(
        "a trial has reported %r, which is no number and has no 'default' that is one: it has failed", found
    )
    return None


def _folder() -> Path:
    """Of the experiment."""
    return Path(os.environ["NNI_CHECKPOINT_DIRECTORY"]).parent


def _work_in(folder: str) -> None:
    """Go to where trials run, so that paths and modules of the user mean here what they mean to them."""
    os.chdir(folder)
    sys.path.append(folder)


def _show_choices(experiment: dict[str, Any], candidates: Mapping[str, Sequence[Any]]) -> None:
    """Give NNI's web UI an axis for each choice: it draws what stands in the experiment's ``searchSpace``, and nothing else reads that here."""
    space = {label: {"_type": "choice", "_value": as_plain(list(some))} for label, some in candidates.items()}
    shown = {**experiment, "params": {**experiment["params"], "searchSpace": space}}
    answer = requests.put(_url("experiment"), params={"update_type": "SEARCH_SPACE"}, json=shown, timeout=_PATIENCE)
    if not answer.ok:
        _logger.warning("NNI's web UI will show no axes for the choices: %s", answer.text)


def _url(what: str) -> str:
    """In NNI's REST interface; its manager has told where it is as ``ws://localhost:8080/[prefix/]tuner``."""
    root = os.environ["NNI_TUNER_COMMAND_CHANNEL"].replace("ws://", "http://", 1).removesuffix("/tuner")
    return f"{root}/api/v1/nni/{what}"
