"""Read an NNI experiment on this machine, running or stopped, from its database; nothing is written, no request goes to NNI.

~/nni-experiments/.experiment (NNI's list) -> <folder>/db/nni.sqlite -> what was configured, and the trials

The database is a log of events, which NNI's manager replays as :func:`read_trials` does here. It may be read while NNI
writes: SQLite locks.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..core.errors import UserError, did_you_mean
from ..core.user_path import user_path

__all__ = [
    "Experiment",
    "Trial",
    "error_of",
    "known_experiments",
    "read_experiment",
    "running_experiments",
    "web_ui_of",
]

NNI_HOME = Path("~/nni-experiments")
_PATIENCE = 2.0  # seconds
RESULTS = ("architecture.json", "result.json")  # what a search and a training write at their ends
_OF_TUNER = "Dispatcher error: "  # after which the manager says that the tuner may have crashed
ENDED = ("SUCCEEDED", "FAILED", "USER_CANCELED", "SYS_CANCELED", "EARLY_STOPPED")
# Of the rest, NNI shows the name of the last event.
SHOWN_AS = {"USER_TO_CANCEL": "USER_CANCELED", "ADD_CUSTOMIZED": "WAITING", "ADD_RESUMED": "WAITING"}


@dataclass(frozen=True)
class Trial:
    """One trial, as NNI knows it.

    Attributes
    ----------
    id, number, state
        As the web UI shows them; None for the number of a trial that has not been submitted.
    url
        Where it runs, in NNI's words: a folder of this machine, or ``host:~/nni-experiments/…`` of another one; empty
        before that is known.
    folder
        Where its files are on this machine. Of another one's trial it is where NNI itself puts the logs that its web UI is
        asked for, and ``nni-proxyless fetch`` the results; it may not be there.
    parameters
        What its searchSpace gave. Of trials that start at once, NNI 3.0 may show each with another one's.
    started, ended
        Seconds since 1970; None for not yet.
    reported, final
        What it has reported to NNI, one dict per epoch, and at its end; a bare number is called ``default``.
    reported_at
        When, in seconds since 1970, for each of ``reported``. Of a trial that was resumed, when it last reported that epoch.
    """

    id: str
    number: int | None
    state: str
    url: str
    folder: Path
    parameters: dict[str, Any]
    started: float | None = None
    ended: float | None = None
    reported: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, Any] | None = None
    reported_at: list[float] = field(default_factory=list)

    @property
    def host(self) -> str | None:
        """The other machine on which it ran, as NNI's configuration names it; None for this one."""
        return _host(self.url)

    @property
    def is_here(self) -> bool:
        """Whether what it left is on this machine: it ran here, or it was fetched. NNI itself brings logs only."""
        wanted = RESULTS if self.state == "SUCCEEDED" else ("trial.stderr",)
        return self.host is None or any((self.folder / name).exists() for name in wanted)


@dataclass(frozen=True)
class Experiment:
    """An experiment and its trials, in the order in which they were submitted.

    Attributes
    ----------
    folder
        ``<experimentWorkingDirectory>/<id>``.
    config
        As NNI has resolved it, with its names: ``config["trainingService"]["machineList"]``.
    started
        Seconds since 1970.
    running
        Whether its manager lives. The states of trials are of when it last lived.
    status
        As the manager last noted it: RUNNING, NO_MORE_TRIAL, DONE, ERROR, STOPPED and others.
    web_ui
        Its address on this machine; empty where NNI does not say.
    """

    id: str
    folder: Path
    config: dict[str, Any]
    started: float
    running: bool
    trials: list[Trial]
    status: str = ""
    web_ui: str = ""

    @property
    def is_over(self) -> bool:
        """Whether no trial will go on or come any more, as long as nobody resumes it."""
        return not self.running or self.status in ("DONE", "ERROR")

    @property
    def waits_for_tuner(self) -> bool:
        """Whether all trials have ended, and the tuner has said that there are no more, at least for now."""
        return self.status == "TUNER_NO_MORE_TRIAL" and all(trial.state in ENDED for trial in self.trials)


def known_experiments() -> dict[str, dict[str, Any]]:
    """NNI's list of the experiments of this user and machine: id -> what it notes of each.

    Raises
    ------
    UserError
        There is none, or it cannot be read.
    """
    path = _list_of_nni()
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"no NNI experiment on this machine ({path}: {error})") from error
        except ValueError as error:  # NNI does not write it in one go, and does so at every change of any experiment
            if time.monotonic() > deadline:
                raise UserError(f"NNI's list of experiments cannot be read ({path}: {error})") from error
        time.sleep(0.05)


def _list_of_nni() -> Path:
    return user_path(str(NNI_HOME), "NNI's list of experiments") / ".experiment"


def running_experiments() -> dict[str, dict[str, Any]]:
    """Those whose manager lives, as :func:`known_experiments` gives them; empty where there is no list yet."""
    if not _list_of_nni().exists():
        return {}
    return {name: noted for name, noted in known_experiments().items() if _is_running(noted)}


def web_ui_of(noted: Mapping[str, Any]) -> str:
    """The address of its web UI on this machine, from what NNI's list says; empty where it does not say."""
    if not isinstance(noted.get("port"), int):
        return ""
    return "/".join([f"http://127.0.0.1:{noted['port']}", *filter(None, [noted.get("prefixUrl")])])


def read_experiment(experiment: str | None = None) -> Experiment:
    """An experiment by its id; None for the one that was started last under ``nnictl``.

    Raises
    ------
    UserError
        It is not of this machine, or its database is gone.
    """
    known = known_experiments()
    if experiment is None:
        # What NasExperiment ran inside a Python program has no database.
        known = {name: noted for name, noted in known.items() if _database(name, noted).exists()}
        if not known:
            raise UserError(f"none of NNI's experiments of this machine has left a database below {NNI_HOME}")
        experiment = max(known, key=lambda name: known[name]["startTime"])
    elif experiment not in known:
        raise UserError(
            f"'{experiment}' is neither a folder nor an experiment of this machine.{did_you_mean(experiment, known)}"
        )
    noted = known[experiment]
    database = _database(experiment, noted)
    folder = database.parent.parent
    try:
        with _opened(database) as connection:
            trials = read_trials(connection, folder)
            profiles = "SELECT params, startTime FROM ExperimentProfile ORDER BY revision DESC, rowid DESC LIMIT 1"
            config, started = connection.execute(profiles).fetchone() or ("{}", 0)
    except sqlite3.Error as error:
        raise UserError(f"experiment {experiment}: {database}: {error}") from error
    return Experiment(
        experiment, folder, json.loads(config), started / 1e3, _is_running(noted), trials, str(noted.get("status", "")), web_ui_of(noted)
    )  # fmt: skip


def error_of(experiment: Experiment) -> str:
    """The last error that its manager has logged, of the tuner what it says itself; empty where there is none."""
    try:
        text = (experiment.folder / "log" / "nnimanager.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    errors = re.findall(r"^\[[^]]*\] ERROR \([^)]*\) (.*)", text, re.MULTILINE)
    of_tuner = [error.removeprefix(_OF_TUNER) for error in errors if error.startswith(_OF_TUNER)]
    return (of_tuner or errors or [""])[-1]


def read_trials(connection: sqlite3.Connection, folder: Path) -> list[Trial]:
    """The trials of an experiment whose database this is and whose files lie in ``folder``."""
    trials: dict[str, dict[str, Any]] = {}
    events = "SELECT trialJobId, event, timestamp, data, logPath, sequenceId FROM TrialJobEvent ORDER BY rowid"
    for name, event, timestamp, data, url, number in connection.execute(events):
        if not name or event == "IMPORT_DATA":  # of no trial
            continue
        trial = trials.setdefault(name, {"id": name, "number": None, "state": "UNKNOWN", "url": "", "parameters": {}})
        if event != "ADD_HYPERPARAMETER":
            trial["state"] = SHOWN_AS.get(event, event)
            trial.pop("ended", None)  # a trial that was resumed has not
        if event in ENDED:
            trial["ended"] = timestamp / 1e3
        if event == "RUNNING":
            trial["started"] = timestamp / 1e3
        trial["url"] = url or trial["url"]
        if number is not None and number >= 0:  # -1: a trial whose messages come before NNI has filed it
            trial["number"] = number
        if data and data.strip():
            trial["parameters"] = _dict_of(json.loads(data).get("parameters"))
    # A trial that was resumed reports its epochs from the first one on; as in the web UI, what came last under a number counts.
    reported: dict[str, dict[int, tuple[float, dict[str, Any]]]] = {}
    reports = "SELECT trialJobId, type, sequence, timestamp, data FROM MetricData ORDER BY rowid"
    for name, kind, sequence, timestamp, data in connection.execute(reports):
        if name not in trials:
            continue
        metrics = _dict_of(json.loads(json.loads(data)))  # NNI packs them twice
        if kind == "PERIODICAL":
            reported.setdefault(name, {})[sequence] = (timestamp / 1e3, metrics)
        elif kind == "FINAL":
            trials[name]["final"] = metrics
    for name, trial in trials.items():
        in_order = [values for _, values in sorted(reported.get(name, {}).items())]
        trial["reported"], trial["reported_at"] = [metrics for _, metrics in in_order], [at for at, _ in in_order]
        here = trial["url"] and _host(trial["url"]) is None
        trial["folder"] = Path(trial["url"]) if here else folder / "trials" / name
    return [Trial(**trial) for trial in trials.values()]


def _database(experiment: str, noted: Mapping[str, Any]) -> Path:
    return Path(noted["logDir"]) / experiment / "db" / "nni.sqlite"


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """For reading. A manager that was killed while it wrote has left a journal beside it; to undo what that says is to write,
    so it is done in a copy."""
    journal = database.with_name(f"{database.name}-journal")
    with ExitStack() as stack:
        uri = f"{database.resolve().as_uri()}?mode=ro"
        connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
        try:
            connection.execute("SELECT 1 FROM TrialJobEvent LIMIT 1")
        except sqlite3.OperationalError:
            if not journal.exists():
                raise
            copy = Path(stack.enter_context(TemporaryDirectory())) / database.name
            shutil.copy(database, copy)
            shutil.copy(journal, copy.with_name(journal.name))
            connection = stack.enter_context(closing(sqlite3.connect(copy)))
        yield connection


def _is_running(noted: Mapping[str, Any]) -> bool:
    """Whether the manager still runs; one that was killed could not say so itself."""
    if noted.get("status") == "STOPPED" or not isinstance(noted.get("pid"), int):
        return False
    try:
        os.kill(noted["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _host(url: str) -> str | None:
    host, home, _ = url.partition(":~/")  # the host's own address may have colons
    return host if home else None


def _dict_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {} if value is None else {"default": value}
