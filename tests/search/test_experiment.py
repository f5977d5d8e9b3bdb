"""A real NNI experiment: ``nnictl create``, its REST API, its end."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psutil
import yaml

from nni_proxyless.cli.main import main
from nni_proxyless.latency.digits import in_words
from nni_proxyless.report.nni_database import read_experiment, running_experiments

from ..forked import fork
from ..report_page import Page
from ..runs import TINY

EXPERIMENT = """
experimentName: test
trialCommand: nni-proxyless search search.yml
trialCodeDirectory: .
searchSpace:
  latency.target_ms: {_type: choice, _value: [90%, -1]}
maxTrialNumber: 2
trialConcurrency: 1
tuner: {name: GridSearch}
trainingService: {platform: local}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return answer.read().decode()


@dataclass
class Ended:
    """An experiment that has come to its end: what its REST API says, and what ``nni-proxyless watch`` has said."""

    id: str
    trials: list[Any]
    metrics: list[Any]
    watched: CompletedProcess[str]


def run_to_the_end(command: Any, folder: Path, file: str, home: dict[str, str]) -> Ended:
    """Create an experiment, watch it to its end, stop it."""
    for _ in range(3):  # NNI gives its manager three seconds to start, and a machine that tests two files may need more
        port = free_port()
        created = command("nnictl", "create", "--config", file, "--port", str(port), cwd=folder, **home)
        if created.returncode == 0:
            break
    assert created.returncode == 0, created.stdout + created.stderr
    try:
        watched = command("nni-proxyless", "watch", **home)
        status = json.loads(ask(port, "/api/v1/nni/check-status"))["status"]
        assert status == "DONE", watched.stdout + watched.stderr
        experiment = json.loads(ask(port, "/api/v1/nni/experiment"))["id"]
        trials = json.loads(ask(port, "/api/v1/nni/trial-jobs"))
        metrics = json.loads(ask(port, "/api/v1/nni/metric-data"))
        assert "<title>" in ask(port, "/")  # the web UI is there
    finally:
        experiments = json.loads((Path(home["HOME"]) / "nni-experiments" / ".experiment").read_text())
        for identity in experiments:
            command("nnictl", "stop", identity, **home)
    return Ended(experiment, trials, metrics, watched)


def test_an_experiment_from_nnictl_to_the_report(command, tmp_path, monkeypatch, capsys):
    """One trial succeeds, with a dict per epoch; one has a wrong parameter and fails, which the report tells."""
    (tmp_path / "search.yml").write_text(TINY)
    (tmp_path / "experiment.yml").write_text(EXPERIMENT)
    ended = run_to_the_end(command, tmp_path, "experiment.yml", {"HOME": str(tmp_path)})
    by_target = {json.loads(t["hyperParameters"][0])["parameters"]["latency.target_ms"]: t for t in ended.trials}
    good, bad = by_target["90%"], by_target[-1]
    assert (good["status"], bad["status"]) == ("SUCCEEDED", "FAILED")

    told = [m for m in ended.metrics if m["trialJobId"] == good["trialJobId"] and m["type"] == "PERIODICAL"]
    epochs = [json.loads(json.loads(metric["data"])) for metric in told]
    assert len(epochs) == 3
    names = {"default", "expected_ms", "table_ms", "entropy", "train_loss", "train_accuracy", "macs", "n_params"}
    for epoch in epochs:
        assert names <= set(epoch)
        assert all(isinstance(value, float) for value in epoch.values())
        assert 0 <= epoch["default"] <= 1
    final = json.loads(json.loads(good["finalMetricData"][0]["data"]))
    assert final["default"] == epochs[-1]["default"]
    assert final["measured_ms"] > 0

    assert ended.watched.returncode == 1, "a trial has failed"
    first, *watched, last = ended.watched.stdout.splitlines()
    assert first.startswith(f"experiment {ended.id} (test): at most 2 trials, 1 at a time; web UI: http://127.0.0.1:")
    assert last == f"experiment {ended.id}: 1 of 2 trials succeeded"
    name = f"trial {good['trialJobId']} (target_ms 90%)"
    figures = [
        f"accuracy {e['default']:.4f}, network {e['table_ms']:.3f} ms (expected {e['expected_ms']:.3f})" for e in epochs
    ]
    of_epochs = [line for line in watched if line.startswith(f"{name}: epoch ")]
    for n, (line, shown) in enumerate(zip(of_epochs, figures, strict=True), 1):
        left = "" if n == 3 else ", about .* left"
        assert re.fullmatch(rf"{re.escape(name)}: epoch {n}/3{left}, {re.escape(shown)}", line)
    (success,) = [line for line in watched if line.startswith(f"{name}: SUCCEEDED after ")]
    said = re.escape(f": {figures[-1]}, measured {in_words(final['measured_ms'])} ms")
    assert re.search(rf"{said}(, (.+ the table|on a restless machine|like the table by chance))?$", success)
    failed = f"trial {bad['trialJobId']} (target_ms -1): FAILED after "
    (failure,) = [line for line in watched if line.startswith(failed)]
    refusal = "nni-proxyless: NNI's parameters: latency.target_ms: -1 is not allowed here"
    assert refusal in failure

    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["report", ended.id]) == 1
    said = capsys.readouterr().out
    assert good["trialJobId"] in said
    assert f"trial {bad['trialJobId']}: FAILED: {refusal}" in said
    assert main(["report"]) == 1  # the experiment started last
    assert capsys.readouterr().out.count("SUCCEEDED") == 1
    page = Page(tmp_path / "nni-experiments" / ended.id / "report.html")
    assert "1 of 2 trials succeeded, 1 failed." in page.words
    states = {row[0]: row[1] for row in page.tables[0][1:] if len(row) > 1}
    assert states == {good["trialJobId"]: "SUCCEEDED", bad["trialJobId"]: "FAILED"}


def test_the_final_training_as_an_experiment(command, tmp_path, pytestconfig, monkeypatch, capsys):
    """experiments/retrain.yml, shortened, by ``watch --create``: a dict per epoch and a final one for NNI, the experiment stopped
    at its end, and a report of what came out."""
    for name in ("retrain.yml", "retrain_train.yml", "digits_architecture.json"):
        shutil.copy(pytestconfig.rootpath / "experiments" / name, tmp_path)
    content = yaml.safe_load((tmp_path / "retrain.yml").read_text())
    content["maxTrialNumber"] = 1
    content["trialCommand"] += " epochs=2 warmup_epochs=0"
    (tmp_path / "retrain.yml").write_text(yaml.safe_dump(content))
    watched = command(
        "nni-proxyless", "watch", "--create", "retrain.yml", "--port", str(free_port()), HOME=str(tmp_path)
    )
    assert watched.returncode == 0, watched.stdout + watched.stderr
    monkeypatch.setenv("HOME", str(tmp_path))
    experiment = read_experiment()
    assert not experiment.running
    (trial,) = experiment.trials
    assert trial.state == "SUCCEEDED"
    assert [set(epoch) for epoch in trial.reported] == [{"default", "train_loss", "learning_rate"}] * 2
    assert trial.final["default"] == trial.reported[-1]["default"]
    used = yaml.safe_load((trial.folder / "train.yml").read_text())
    assert {name: used[name] for name in trial.parameters} == trial.parameters
    lines = watched.stdout.splitlines()
    assert [n for line in lines for n in (1, 2) if f"epoch {n}/2, " in line] == [1, 2]
    assert lines[-1] == f"experiment {experiment.id}: 1 of 1 trials succeeded"
    assert f"ending the experiment {experiment.id} and its web UI" in watched.stderr

    assert main(["report", experiment.id]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{trial.id}  ")]
    assert row.split()[-1] == f"{trial.final['test_accuracy']:.4f}"


WAITS = """
trialCommand: echo $$ > pid; exec sleep 1000
trialCodeDirectory: .
searchSpace: {x: {_type: choice, _value: [1]}}
trialConcurrency: 1
tuner: {name: Random}
trainingService: {platform: local}
"""


def test_an_experiment_of_one_s_own_ends_with_its_watching(tmp_path, monkeypatch, capsys):
    """A signal while trials run: NNI's manager and the trial are gone. What nnictl does not take is shown whole."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "experiment.yml").write_text(WAITS)
    said = tmp_path / "said"
    words = ["watch", "--create", str(tmp_path / "experiment.yml"), "--port", str(free_port())]
    watching = fork(main, words, cwd=tmp_path, said=said, HOME=str(tmp_path))
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 240
    while not pid.exists() or not pid.read_text():
        assert watching.is_alive(), said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.2)
    manager = next(iter(running_experiments().values()))["pid"]
    watching.terminate()
    watching.join(60)
    assert watching.exitcode == 128 + signal.SIGTERM, said.read_text()
    assert "ending the experiment" in said.read_text()
    assert not psutil.pid_exists(manager)
    assert not psutil.pid_exists(int(pid.read_text()))

    (tmp_path / "experiment.yml").write_text(WAITS.replace("trialConcurrency: 1", "trialConcurency: 1"))
    assert main(words) == 1
    shown = capsys.readouterr().err
    assert "nnictl create --config" in shown
    assert "Traceback" in shown
    assert shown.endswith("does not have field(s) trialconcurency\n")
