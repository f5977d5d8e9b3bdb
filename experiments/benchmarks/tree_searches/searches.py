"""The searches of a seed: one NNI experiment by ``nnictl create``, a trial for each method and aim."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.report.nni_database import Experiment, Trial, read_experiment
from nni_proxyless.report.nnictl import created

from .. import ROOT
from .setting import AIMS, FREE, TARGET, Setting

FILES = ("architecture.json", "search.yml", "times")  # of a trial that are kept; the last by the shell: of its commands
POLL = 5.0  # seconds


class SearchFailed(RuntimeError):
    """A trial has not succeeded; the text says which, and what it has said last."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def place_of(folder: Path, method: str, aim: str, seed: int) -> Path:
    """Where the files of a search are kept."""
    return folder / "searches" / f"{method}-{aim}-{seed}"


def files_of(
    setting: Setting, table: Path, target_ms: float, seed: int, folder: Path, processes: int = 1
) -> tuple[Path, Path]:
    """Write ``search.yml`` and the experiment around it, both as a user would; so many trials run at a time."""
    search = {
        "seed": seed, "space": dict(setting.space), "data": {**setting.data, **setting.search_data},
        "latency": {"table": str(table), "estimator": {"name": "table", "batch": 1, "threads": 1}},
        "training": dict(setting.search), "search": dict(setting.selection),
        "trainer": {"accelerator": "cpu", "threads": 1},
    }  # fmt: skip
    file = folder / f"search-{seed}.yml"
    experiment = {
        "experimentName": f"trees of paths on CIFAR-10, seed {seed}",
        "experimentWorkingDirectory": str(folder / "nni"),
        "trialCommand": f'nni-proxyless search {shlex.quote(str(file))} && times > "$NNI_OUTPUT_DIR/times"',
        "trialCodeDirectory": str(ROOT),  # where the images are found that search.yml names
        "searchSpace": {
            "strategy": {"_type": "choice", "_value": [dict(section) for section in setting.strategies.values()]},
            "latency.target_ms": {"_type": "choice", "_value": [{TARGET: target_ms, FREE: None}[aim] for aim in AIMS]},
        },
        "maxTrialNumber": len(setting.strategies) * len(AIMS), "trialConcurrency": processes,
        "tuner": {"name": "GridSearch"}, "trainingService": {"platform": "local"},
    }  # fmt: skip
    around = folder / f"experiment-{seed}.yml"
    write_text(file, yaml.safe_dump(search, sort_keys=False))
    write_text(around, yaml.safe_dump(experiment, sort_keys=False))
    return file, around


def search(setting: Setting, table: Path, target_ms: float, seed: int, folder: Path, processes: int = 1) -> None:
    """Run the searches of a seed, so many at a time, unless all of them are there.

    Raises
    ------
    SearchFailed
        Of the first trial that has not succeeded.
    """
    wanted = [(method, aim) for method in setting.strategies for aim in AIMS]
    if all((place_of(folder, method, aim, seed) / "architecture.json").exists() for method, aim in wanted):
        return
    _, file = files_of(setting, table, target_ms, seed, folder, processes)
    with created(file, free_port()) as name:
        while not (experiment := read_experiment(name)).is_over:
            time.sleep(POLL)
    keep(setting, experiment, seed, folder)


def keep(setting: Setting, experiment: Experiment, seed: int, folder: Path) -> None:
    """Copy what the trials have left; ``architecture.json`` last, whose presence says that all is there."""
    for trial in experiment.trials:
        if trial.state != "SUCCEEDED":
            raise SearchFailed(f"{experiment.id}: trial {trial.id}: {trial.state}: {_last_words(trial)}")
        method, aim = cell_of(setting, yaml.safe_load((trial.folder / "search.yml").read_text(encoding="utf-8")))
        place = place_of(folder, method, aim, seed)
        place.mkdir(parents=True, exist_ok=True)
        for file in reversed(FILES):
            shutil.copyfile(trial.folder / file, place / file)


def cell_of(setting: Setting, resolved: Mapping[str, Any]) -> tuple[str, str]:
    """Method and aim of a search, by the settings that it had: those that NNI shows may be of another trial."""
    had = resolved["strategy"]
    method = next(
        method
        for method, section in setting.strategies.items()
        if all(had.get(key) == of for key, of in section.items())
    )
    return method, FREE if resolved["latency"].get("target_ms") is None else TARGET


def _last_words(trial: Trial) -> str:
    path = trial.folder / "trial.stderr"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "nothing on stderr")


def cpu_seconds(times: str) -> float:
    """What the shell's ``times`` says its commands took, by the user and by the system: ``1m2.5s 0m3.25s``, the second line."""
    parts = re.findall(r"(\d+)m([\d.]+)s", times.splitlines()[1])
    return round(sum(60 * int(minutes) + float(seconds) for minutes, seconds in parts), 1)
