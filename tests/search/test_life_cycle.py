"""Searches that are killed: a trial, NNI's manager, both; two that want the same table; and an evolution that is stopped.

What they come to is what a search comes to that nobody has disturbed, to the last bit.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from nni_proxyless.cli.main import main
from nni_proxyless.core.cpu_threads import trials_at_a_time
from nni_proxyless.core.file_lock import HeldError, hold, of_this_machine
from nni_proxyless.latency import LookupTable
from nni_proxyless.search.evolved_space import EvolvedSpace

from ..forked import fork
from ..runs import TINY, choices_of, history, process_in, same_weights, search
from .test_experiment import ask, free_port

EPOCHS = 10
SEARCH = yaml.safe_load(TINY)
SEARCH |= {
    "latency": {"target_ms": "90%", "estimator": {"name": "macs"}},
    "training": {"epochs": EPOCHS},
}  # the same everywhere

# Trial 0 asks for its parameters when the other has its own. How often a checkpoint is written changes no result.
EXPERIMENT = """
experimentName: life cycle
trialCommand: test $NNI_TRIAL_SEQ_ID = 0 && sleep 2; exec nni-proxyless search search.yml
trialCodeDirectory: .
searchSpace:
  strategy.checkpoint_every: {_type: choice, _value: [2, 3]}
maxTrialNumber: 2
trialConcurrency: 2
tuner: {name: GridSearch}
trainingService: {platform: local}
"""


def until(condition: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """What the condition comes to, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.05)
    return found


class Experiment:
    """One experiment of NNI, whose manager may change."""

    def __init__(self, command: Any, home: Path):
        self.command, self.home = command, home
        self.started: list[psutil.Process] = []
        self.port, self.id = 0, ""

    def nnictl(self, *words: str) -> None:
        """``create`` and ``resume`` on a port of their own."""
        if words[0] != "stop":
            self.port = free_port()
            words = (*words, "--port", str(self.port))
        done = self.command("nnictl", *words, cwd=self.home, HOME=str(self.home))
        assert done.returncode == 0, done.stdout + done.stderr
        if words[0] == "stop":
            return
        listed = until(self._listed, "NNI's list of experiments")
        (self.id,) = listed
        self.manager = psutil.Process(listed[self.id]["pid"])
        self.started.append(self.manager)

    def _listed(self) -> Any:
        try:
            return json.loads((self.home / "nni-experiments" / ".experiment").read_text())
        except ValueError:
            return None  # it is just being written

    def trials(self) -> list[dict[str, Any]]:
        """In the order of the web UI."""
        return sorted(
            json.loads(ask(self.port, "/api/v1/nni/trial-jobs")), key=lambda trial: trial.get("sequenceId", -1)
        )

    def state(self, trial: str) -> str:
        return next(found["status"] for found in self.trials() if found["trialJobId"] == trial)

    def folder(self, trial: str) -> Path:
        return self.home / "nni-experiments" / self.id / "environments" / "local-env" / "trials" / trial

    def process(self, trial: str) -> psutil.Process:
        return process_in(self.folder(trial))

    def holds_still(self, trial: str, so_far: bool) -> bool:
        """Once it is so far it is made to wait, or it might be through before anything is killed."""
        if so_far:
            self.process(trial).suspend()
        return so_far

    def goes_on(self, trial: str) -> bool:
        return "going on after epoch" in self.said(trial)

    def epochs(self, trial: str) -> int:
        return len(history(self.folder(trial))) if (self.folder(trial) / "history.jsonl").exists() else 0

    def said(self, trial: str) -> str:
        """The log of its last start: NNI overwrites it."""
        return (self.folder(trial) / "trial.stderr").read_text(errors="replace")

    def remember(self) -> None:
        """Whatever runs now is not to outlive the test."""
        self.started += self.manager.children(recursive=True)


def is_over(process: psutil.Process) -> bool:
    """It runs no more, whether or not init has taken note of its end: that may take as long as a search."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def resume_when_signaled(process: psutil.Process) -> None:
    """Let a suspended process go on once it is to end, and see the signal; or see that it was ended as it was."""
    status = Path(f"/proc/{process.pid}/status")

    def is_signaled() -> bool:
        pending = re.search(r"ShdPnd:\t(\w+)", status.read_text())
        return pending is not None and int(pending[1], 16) >> (signal.SIGTERM - 1) & 1 == 1

    with contextlib.suppress(OSError, psutil.NoSuchProcess):
        until(is_signaled, "the manager ends the trial")
        process.resume()


@pytest.fixture
def experiment(command, tmp_path) -> Iterator[Experiment]:
    found = Experiment(command, tmp_path)
    try:
        yield found
    finally:
        with contextlib.suppress(Exception):
            found.remember()
            found.nnictl("stop", found.id)
        _, alive = psutil.wait_procs(found.started, timeout=20)
        for process in alive:
            process.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The same search, without NNI, from beginning to end."""
    return search(tmp_path_factory.mktemp("undisturbed"), text=yaml.safe_dump(SEARCH))


def assert_the_same(found: Path, expected: Path) -> None:
    assert choices_of(found) == choices_of(expected)
    assert same_weights(found, expected)
    # Of the epoch that is gone on with, these know only the batches after the checkpoint.
    of_batches = dict.fromkeys(("seconds", "train_loss", "train_accuracy", "multiplier"), 0)
    assert [epoch | of_batches for epoch in history(found)] == [epoch | of_batches for epoch in history(expected)]


def test_killed_trial_manager_and_both_end_as_if_nothing_had_happened(
    experiment, undisturbed, tmp_path, monkeypatch, capsys
):
    """Two trials: one is killed, then the other stopped with its manager, resumed, and left alone by a manager that is killed.

    The first is finished by ``search --resume``, the other by ``nnictl resume``. Besides: each trial has the parameters that
    NNI shows for it, though the first one asked for its own last.
    """
    (tmp_path / "search.yml").write_text(yaml.safe_dump(SEARCH))
    (tmp_path / "experiment.yml").write_text(EXPERIMENT)
    experiment.nnictl("create", "--config", "experiment.yml")
    until(lambda: len(experiment.trials()) == 2, "two trials")
    killed, orphaned = names = [trial["trialJobId"] for trial in experiment.trials()]
    # Each as soon as it has one: the other begins seconds later.
    until(
        lambda: sum(experiment.holds_still(name, experiment.epochs(name) >= 1) for name in names) == 2,
        "an epoch of each",
    )

    with monkeypatch.context() as as_in_a_trial:
        for name, value in experiment.process(killed).environ().items():
            if name in ("NNI_PLATFORM", "NNI_TRIAL_COMMAND_CHANNEL"):
                as_in_a_trial.setenv(name, value)
        assert trials_at_a_time() == 2

    for trial in experiment.trials():
        shown = json.loads(trial["hyperParameters"][0])["parameters"]["strategy.checkpoint_every"]
        used = yaml.safe_load((experiment.folder(trial["trialJobId"]) / "search.yml").read_text())
        assert used["strategy"]["checkpoint_every"] == shown
    assert all("another trial's" in experiment.said(name) for name in names), (
        "NNI has given each its own, so this test shows nothing"
    )

    experiment.remember()
    to_stop = experiment.process(orphaned)
    experiment.process(killed).kill()
    # A process that a signal has ended is, to NNI, one that somebody wanted to end.
    until(lambda: experiment.state(killed) == "USER_CANCELED", "NNI sees that the trial is gone")
    awaking = threading.Thread(target=resume_when_signaled, args=(to_stop,))
    awaking.start()
    experiment.nnictl("stop", experiment.id)
    awaking.join()
    assert not psutil.wait_procs(experiment.started, timeout=20)[1], "nnictl stop leaves nothing behind"
    experiment.nnictl("resume", experiment.id)
    until(lambda: experiment.holds_still(orphaned, experiment.goes_on(orphaned)), "the other goes on")

    experiment.remember()
    left_by_the_manager = experiment.process(orphaned)
    left_by_the_manager.resume()  # a process group that loses its leader while one of it is stopped may get SIGHUP (setpgid(2))
    experiment.manager.kill()
    until(lambda: is_over(experiment.manager), "the manager has ended")
    assert os.getsid(left_by_the_manager.pid) not in (0, os.getsid(0)), (
        "in init's session what is stopped may get SIGHUP"
    )
    left_by_the_manager.suspend()
    assert max(map(experiment.epochs, names)) < EPOCHS, "a search was over before anything was killed"

    until(lambda: not psutil.pid_exists(experiment.manager.pid), "init takes note of it, and nnictl may resume")
    experiment.nnictl("resume", experiment.id)
    waiting = f"waiting: process {left_by_the_manager.pid} searches in"
    until(lambda: waiting in experiment.said(orphaned), "the trial in its place waits for it")
    left_by_the_manager.resume()
    by_hand = tmp_path / "by_hand"
    resumed = fork(main, ["search", "--resume", str(experiment.folder(killed))], cwd=tmp_path, said=by_hand)
    resumed.join()
    assert resumed.exitcode == 0, by_hand.read_text()
    assert "going on after epoch" in by_hand.read_text()
    until(lambda: experiment.state(orphaned) == "SUCCEEDED", "the trial succeeds")

    for name in names:
        assert_the_same(experiment.folder(name), undisturbed)
        assert not (experiment.folder(name) / ".lock").exists()
    assert "finished already: " in experiment.said(orphaned)
    monkeypatch.setenv("HOME", str(tmp_path))
    capsys.readouterr()
    assert main(["report", experiment.id]) == 0
    assert capsys.readouterr().out.count("SUCCEEDED") == 2, "the one that was finished by hand, too"
    # NNI and its web UI know the whole story.
    metrics = json.loads(ask(experiment.port, f"/api/v1/nni/metric-data/{orphaned}"))
    shown = {m["sequence"]: json.loads(json.loads(m["data"])) for m in metrics if m["type"] == "PERIODICAL"}
    noted = history(experiment.folder(orphaned))
    assert [shown[epoch] for epoch in range(EPOCHS)] == noted
    assert len(shown) == EPOCHS
    (final,) = next(trial for trial in experiment.trials() if trial["trialJobId"] == orphaned)["finalMetricData"]
    assert json.loads(json.loads(final["data"]))["default"] == noted[-1]["default"]


def test_an_evolution_is_stopped_and_goes_on_to_its_end(experiment, tmp_path, pytestconfig):
    """experiments/evolution.yml, shortened: all trials differ and are within the bounds, and the front is that of what they report."""
    for name in ("evolution.yml", "search_evolution.yml", "evolution_train.yml"):
        shutil.copy(pytestconfig.rootpath / "experiments" / name, tmp_path)
    content = yaml.safe_load((tmp_path / "evolution.yml").read_text())
    content["maxTrialNumber"] = 4
    content["tuner"]["classArgs"] |= {"population_size": 2, "n_generations": 2}
    content["trialCommand"] += " epochs=1"
    (tmp_path / "evolution.yml").write_text(yaml.safe_dump(content))
    searched = yaml.safe_load((tmp_path / "search_evolution.yml").read_text()) | {
        "space": SEARCH["space"],
        "data": SEARCH["data"],
    }
    (tmp_path / "search_evolution.yml").write_text(yaml.safe_dump(searched))

    experiment.nnictl("create", "--config", "evolution.yml")
    until(lambda: "SUCCEEDED" in [trial["status"] for trial in experiment.trials()], "a trial")
    experiment.remember()
    experiment.nnictl("stop", experiment.id)
    experiment.nnictl("resume", experiment.id)
    status = "/api/v1/nni/check-status"
    until(lambda: json.loads(ask(experiment.port, status))["status"] == "DONE", "the last trial", seconds=480)

    trials = experiment.trials()
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 4
    assert len({trial["hyperParameters"][0].partition('"parameters"')[2] for trial in trials}) == 4
    (macs, most_macs), (parameters, most_parameters) = EvolvedSpace.read(
        tmp_path / "search_evolution.yml"
    ).limits.values()
    found = {}
    for trial in trials:
        choices = json.loads(trial["hyperParameters"][0])["parameters"]
        assert choices == choices_of(experiment.folder(trial["trialJobId"]))
        (final,) = trial["finalMetricData"]
        reported = json.loads(json.loads(final["data"]))
        costs = reported["table_ms"], reported["derived_parameters"]
        assert costs == (macs.profile(choices), parameters.profile(choices))
        assert costs[0] <= most_macs
        assert costs[1] <= most_parameters
        found[trial["trialJobId"]] = (-reported["default"], *costs)
    dominated = {
        name for name, one in found.items() for other in found.values()
        if other != one and all(a <= b for a, b in zip(other, one, strict=True))
    }  # fmt: skip
    with (tmp_path / "nni-experiments" / experiment.id / "evolved_front.csv").open() as file:
        front = {
            row["trial"]: tuple(float(row[name]) for name in ("metric", "latency", "parameters"))
            for row in csv.DictReader(file)
        }
    assert front == {name: (-error, *costs) for name, (error, *costs) in found.items() if name not in dominated}


def test_a_table_is_built_once_and_survives_its_builder(tmp_path):
    """Two searches wait for the table that a third one builds; that is killed, one goes on with it, the other reads it."""
    # Out of reach: the searches end with their tables.
    table = {"table": "tables/t.yaml", "target_ms": 1e-6, "estimator": {"runtime": "torch", "warmup": 1, "repeats": 40}}
    (tmp_path / "search.yml").write_text(yaml.safe_dump(SEARCH | {"latency": table}))
    partial = tmp_path / "tables" / "t.yaml.partial"
    with contextlib.ExitStack() as ending:

        def begin(name: str) -> BaseProcess:
            words = ["search", "search.yml", f"output={name}"]
            process = fork(main, words, cwd=tmp_path, said=tmp_path / f"{name}.log")
            ending.callback(process.kill)
            return process

        def said(name: str) -> str:
            return (tmp_path / f"{name}.log").read_text()

        builder = begin("builder")
        until(lambda: partial.exists() and len(partial.read_text().splitlines()) > 5, "the builder measures")
        os.kill(builder.pid, signal.SIGSTOP)
        assert builder.exitcode is None
        assert not (tmp_path / "tables" / "t.yaml").exists()
        with pytest.raises(HeldError, match=f"^process {builder.pid} measures on this machine's cpu$"):
            hold(of_this_machine("measures-cpu"), "", wait=False).__enter__()
        others = {name: begin(name) for name in ("one", "two")}
        waits = f"waiting: process {builder.pid} builds tables/t.yaml"
        until(lambda: all(waits in said(name) for name in others), "both wait")
        builder.kill()
        for process in others.values():
            process.join(240)
        assert [process.exitcode for process in others.values()] == [2, 2]
    built = [name for name in others if "latencies: measured" in said(name)]
    (read,) = [name for name in others if "latencies: read from tables/t.yaml" in said(name)]
    assert built == [name for name in others if name != read]
    assert "latencies: going on with tables/t.yaml.partial" in said(built[0])
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"t.yaml"}
    for name in others:
        rows = LookupTable.read(tmp_path / name / "latencies.yaml").rows
        assert rows == LookupTable.read(tmp_path / "tables" / "t.yaml").rows
