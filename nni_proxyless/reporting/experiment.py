"""An NNI experiment on this machine, running or stopped, read from its database."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from ..errors import UserError, did_you_mean
from .found import Found

__all__ = ["find_experiment"]

NNI_HOME = Path("~/nni-experiments")


def find_experiment(experiment: str | None) -> list[Found]:
    """The trials of an NNI experiment on this machine, in the order in which they were started."""
    home = NNI_HOME.expanduser()
    try:
        known = json.loads((home / ".experiment").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"report: no NNI experiment on this machine ({home / '.experiment'}: {error})") from error
    if experiment is None:
        experiment = max(known, key=lambda name: known[name]["startTime"])
    elif experiment not in known:
        raise UserError(
            f"report: '{experiment}' is neither a folder nor an experiment of this machine.{did_you_mean(experiment, known)}"
        )
    database = Path(known[experiment]["logDir"]) / experiment / "db" / "nni.sqlite"
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            events = connection.execute(
                "SELECT trialJobId, event, logPath FROM TrialJobEvent ORDER BY timestamp, rowid"
            ).fetchall()
    except sqlite3.Error as error:
        raise UserError(f"report: experiment {experiment}: {database}: {error}") from error
    trials: dict[str, Found] = {}
    for name, event, log_path in events:
        folder = Path(log_path) if log_path else trials[name].folder
        if event not in ("ADD_CUSTOMIZED", "ADD_HYPERPARAMETER", "IMPORT_DATA"):
            trials[name] = Found(name, event, folder)
    if not trials:
        raise UserError(f"report: experiment {experiment} has no trial yet")
    return list(trials.values())
