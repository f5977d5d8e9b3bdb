"""Find runs: trials of NNI experiments, and folders with results."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.strict_yaml import read_yaml
from ..core.errors import UserError
from ..core.merit import ACCURACY, Merit
from ..core.streams import in_letters
from ..models.architecture import Architecture
from ..models.record import unit_of
from ..search.supernet_files import is_finished
from .merits import merit_of_task, merit_reported
from .nni_database import Experiment, Trial, read_experiment

__all__ = ["FAILED_STATES", "Found", "find", "trials_of"]

logger = logging.getLogger(__name__)

# STOPPED is ours: what NNI's manager left in the middle when it ended.
FAILED_STATES = ("FAILED", "SYS_CANCELED", "USER_CANCELED", "UNKNOWN", "STOPPED")
UNFINISHED = "UNFINISHED"
# What a search has in its folder besides its search.yml; a folder with a search.yml alone is where one is started from.
BEGUN = ("checkpoint", "history.jsonl", "latencies.yaml")


@dataclass(frozen=True)
class Found:
    """One search, one final training, or one network: a trial of an experiment, or a folder.

    Attributes
    ----------
    name
        Trial id, or name of the folder.
    state
        NNI's state of the trial; STOPPED for one that was not done when NNI's manager ended; of a folder SUCCEEDED where it
        has results, UNFINISHED where a search has begun.
    folder
        Where its files are.
    experiment, trial
        Of a trial.
    """

    name: str
    state: str
    folder: Path
    experiment: Experiment | None = None
    trial: Trial | None = None

    @functools.cached_property
    def architecture(self) -> Architecture | None:
        """Of the network; None as long as there is none."""
        path = self.folder / "architecture.json"
        return Architecture.read(path) if self.state == "SUCCEEDED" and path.exists() else None

    @property
    def failed(self) -> bool:
        return self.state in FAILED_STATES

    @functools.cached_property
    def kind(self) -> str:
        """``search``, ``derived`` (by ``derive``), ``training`` (a final training alone), ``reference`` or ``random``."""
        strategy = self.architecture.search.get("strategy") if self.architecture is not None else None
        if strategy in ("reference", "random"):
            return str(strategy)
        if (self.folder / "result.json").exists() or (self.trial is not None and " train " in self._command):
            return "training"
        return "derived" if self.architecture is not None and "derived_from" in self.architecture.search else "search"

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The ``search.yml`` of a search, resolved; empty where there is none."""
        return settings_in(self.folder / "search.yml")

    @property
    def strategy(self) -> str | None:
        if self.architecture is not None:
            return self.architecture.search.get("strategy")
        return self._asked("strategy.name")

    @property
    def seed(self) -> int | None:
        """Of the search; of a training alone its own."""
        if self.kind == "training":
            return settings_in(self.folder / "train.yml").get("seed")
        return self._asked("seed") if self.architecture is None else self.architecture.search.get("seed")

    @property
    def target(self) -> float | str | None:
        """In the unit of the search; a share, as it was asked for, until the search has resolved it."""
        if self.architecture is not None:
            return self.architecture.latency.get("target_ms")
        return self._asked("latency.target_ms")

    @functools.cached_property
    def unit(self) -> str:
        """Of target, expected and predicted cost; as long as there is no network, that of the search's estimator."""
        if self.architecture is not None:
            return unit_of(self.architecture.latency)
        arguments = _at(self.settings, "latency.estimator") or {}
        return _unit_of_estimator(self._asked("latency.estimator.name"), arguments)

    @property
    def epochs(self) -> int | None:
        """How many epochs the search is to take."""
        return _at(self.settings, "training.epochs")

    @functools.cached_property
    def merit(self) -> Merit:
        """What its figures of merit are: by its results, its task, and what it has told NNI, the first that says it; else an accuracy."""
        a = self.architecture
        for results in ({} if a is None else a.search, self._final_result):
            if "metric" in results or ACCURACY.name in results:
                return Merit.of(results)
        if a is not None:
            of_task = merit_of_task(a.task.get("name"), a.task.get("arguments", {}))
        else:
            section = self.settings.get("task")
            section = section if isinstance(section, Mapping) else {"name": section}
            of_task = merit_of_task(section.get("name"), {key: section[key] for key in section if key != "name"})
        told = self.trial.reported if self.trial is not None else self.history
        return of_task or merit_reported(told[-1] if told else {}) or ACCURACY

    @property
    def search_merit(self) -> float | None:
        return None if self.architecture is None else self.architecture.search.get(self.merit.name)

    @property
    def search_merit_int8(self) -> float | None:
        """The same of the network in 8 bits, where the search is for such."""
        return None if self.architecture is None else self.architecture.search.get(f"{self.merit.name}_int8")

    @functools.cached_property
    def final_folder(self) -> Path | None:
        """Where a final training has left its ``result.json``: ``final/`` of a search, the folder itself of a training."""
        places = (self.folder / "final", self.folder)
        return next((place for place in places if (place / "result.json").exists()), None)

    @functools.cached_property
    def _final_result(self) -> dict[str, Any]:
        if self.final_folder is None:
            return {}
        return dict(json.loads((self.final_folder / "result.json").read_text(encoding="utf-8")))

    @property
    def final_merit(self) -> float | None:
        value = self._final_result.get(self.merit.name)  # a training may have judged by another metric than the search
        return None if value is None else float(value)

    @property
    def final_merit_int8(self) -> float | None:
        """The same of the network in 8 bits, where the search was for such."""
        return self._final_result.get(f"{self.merit.name}_int8")

    @functools.cached_property
    def history(self) -> list[dict[str, Any]]:
        """A dict per epoch; of a trial whose files are not here, what it reported to NNI."""
        places = (self.folder / "history.jsonl", self.folder / "checkpoint" / "history.jsonl")
        there = next((place for place in places if place.exists()), None)
        return read_history(there) if there else list(self.trial.reported) if self.trial is not None else []

    @property
    def seconds(self) -> float | None:
        """How long a trial took, or has taken so far; of a folder, its epochs and the selection by the supernet."""
        if self.trial is None:
            taken = [epoch["seconds"] for epoch in self.history if "seconds" in epoch]
            selection = {} if self.architecture is None else self.architecture.search.get("selection", {})
            after = (
                0.0 if "epoch" in selection else selection.get("seconds", 0.0)
            )  # else one of the epochs has it already
            return sum(taken) + after if taken else None
        if self.trial.started is None:
            return None
        if self.trial.ended is not None:
            return self.trial.ended - self.trial.started
        return time.time() - self.trial.started if self.state == "RUNNING" else None

    @property
    def reason(self) -> str:
        """Why a trial has not succeeded, if known: the last line of its log."""
        if self.state == "STOPPED" and self.experiment is not None:
            return (
                f"NNI's manager ended while it was {self.experiment_state}; nnictl resume {self.experiment.id} goes on"
            )
        if self.trial is not None and not self.trial.is_here and self.experiment is not None:
            return f"its files are on {self.trial.host}; nni-proxyless fetch {self.experiment.id} brings them"
        path = self.folder / "trial.stderr"
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
        said = lines[-1] if lines else "it left no message"
        if self.state == "USER_CANCELED" and self.kind == "search" and (self.folder / "checkpoint").exists():
            return (
                "a signal ended it, of its user or for want of memory; nni-proxyless search --resume "
                f"{shlex.quote(str(self.folder))} goes on; it said last: {said}"
            )
        return said

    @property
    def experiment_state(self) -> str:
        """What NNI last noted of a trial, in small letters."""
        return self.trial.state.lower() if self.trial is not None else ""

    @property
    def _command(self) -> str:
        return str(self.experiment.config.get("trialCommand", "")) if self.experiment is not None else ""

    def _asked(self, path: str) -> Any:
        """By what the search itself has resolved, else by what NNI has noted, which may be another trial's."""
        value = _at(self.settings, path)
        return self.trial.parameters.get(path) if value is None and self.trial is not None else value


def find(sources: Sequence[str], *, also: Sequence[Path] = ()) -> list[Found]:
    """Find all runs at or below folders, and the trials of experiments; each once, with unique names.

    Parameters
    ----------
    sources
        Folders, and ids of experiments; empty for the experiment that was started last.
    also
        Further folders.

    Raises
    ------
    UserError
        One of them is neither, or there is nothing in it.
    """
    found: list[tuple[str, Found]] = []
    asked: Sequence[str | None] = sources or [None]
    for source in asked:
        here = find_folders(Path(source)) if source and Path(source).is_dir() else find_experiment(source)
        found += [(source or "", f) for f in here]
    for folder in also:
        found += [(str(folder), f) for f in find_folders(folder)]
    # A network below two sources is one: the first that comes is that of an experiment, if it is one's, which knows its trial.
    first: dict[Path, Found] = {}
    for _, f in sorted(found, key=lambda item: item[1].trial is None):
        first.setdefault(f.folder.resolve(), f)
    once = [(source, f) for source, f in found if first[f.folder.resolve()] is f]
    names = [f.name for _, f in once]
    return [
        dataclasses.replace(f, name=f"{source.rstrip('/')}/{f.name}") if names.count(f.name) > 1 else f
        for source, f in once
    ]


def find_folders(root: Path) -> list[Found]:
    """All results at or below a folder, and the searches there that have none yet."""
    found = []
    for folder in sorted({path.parent for name in ("architecture.json", "search.yml") for path in root.rglob(name)}):
        begun = (folder / "search.yml").exists() and any((folder / name).exists() for name in BEGUN)
        name = in_letters(str(folder.relative_to(root)) if folder != root else root.resolve().name)
        if (folder / "architecture.json").exists() and not (begun and (folder / "checkpoint").exists()):
            found.append(Found(name, "SUCCEEDED", folder))
        elif begun:
            found.append(Found(name, UNFINISHED, folder))
    if not found:
        raise UserError(f"report: no architecture.json in or below '{root}'")
    return found


def find_experiment(experiment: str | None) -> list[Found]:
    """The trials of an NNI experiment on this machine, in the order in which they were started."""
    try:
        read = read_experiment(experiment)
    except UserError as error:
        raise UserError(f"report: {error}") from error
    if not read.trials:
        raise UserError(f"report: experiment {read.id} has no trial yet")
    if away := sum(not trial.is_here for trial in read.trials):
        logger.warning("report: what %d trials have left is on other machines: nni-proxyless fetch %s", away, read.id)
    return trials_of(read)


def trials_of(read: Experiment) -> list[Found]:
    """The same of an experiment that has been read; it may have no trial yet."""
    found = []
    for trial in read.trials:
        left = not read.running and trial.state in ("RUNNING", "WAITING")
        state = "STOPPED" if left else trial.state
        if state in FAILED_STATES and is_finished(trial.folder):  # by hand: nni-proxyless search --resume FOLDER
            state = "SUCCEEDED"
        found.append(Found(trial.id, state, trial.folder, read, trial))
    return found


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``history.jsonl``; one that is being written is left out."""
    epochs = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            epoch = json.loads(line)
        except ValueError:
            continue
        if isinstance(epoch, dict):
            epochs.append(epoch)
    return epochs


def settings_in(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty where there is no such thing."""
    try:
        return read_yaml(path)
    except UserError:
        return {}


def _unit_of_estimator(name: Any, section: Mapping[str, Any]) -> str:
    if not isinstance(name, str):
        return "ms"
    from ..config import registry  # here: an estimator may need torch, and most searches have come to an end

    try:
        estimator = registry.load("nni_proxyless.estimators", name)
        if "unit" in registry.accepted_arguments(estimator) and "unit" in section:
            return str(section["unit"])
        unit = estimator.unit
    except (ValueError, TypeError, AttributeError):  # of a package that is not installed here
        return "unknown unit"
    return unit if isinstance(unit, str) else "unknown unit"


def _at(content: Mapping[str, Any], path: str) -> Any:
    value: Any = content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
