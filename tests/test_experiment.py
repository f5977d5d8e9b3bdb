"""A real NNI experiment: ``nnictl create``, its REST API, its end."""

from __future__ import annotations

import json
import shutil
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from nni_proxyless.cli import main

from .report_page import Page
from .test_search import TINY

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


def run_to_the_end(command: Any, folder: Path, file: str, home: dict[str, str]) -> tuple[str, list[Any], list[Any]]:
    """Create an experiment, wait for its end, stop it; its id, trials and metrics."""
    for _ in range(3):  # NNI gives its manager three seconds to start, and a machine that tests two files may need more
        port = free_port()
        created = command("nnictl", "create", "--config", file, "--port", str(port), cwd=folder, **home)
        if created.returncode == 0:
            break
    assert created.returncode == 0, created.stdout + created.stderr
    try:
        deadline = time.monotonic() + 300
        while (status := json.loads(ask(port, "/api/v1/nni/check-status"))["status"]) not in ("DONE", "ERROR"):
            assert time.monotonic() < deadline, status
            time.sleep(0.3)
        assert status == "DONE"
        experiment = json.loads(ask(port, "/api/v1/nni/experiment"))["id"]
        trials = json.loads(ask(port, "/api/v1/nni/trial-jobs"))
        metrics = json.loads(ask(port, "/api/v1/nni/metric-data"))
        assert "<title>" in ask(port, "/")  # the web UI is there
    finally:
        experiments = json.loads((Path(home["HOME"]) / "nni-experiments" / ".experiment").read_text())
        for identity in experiments:
            command("nnictl", "stop", identity, **home)
    return experiment, trials, metrics


def test_an_experiment_from_nnictl_to_the_report(command, tmp_path, monkeypatch, capsys):
    """One trial succeeds, with a dict per epoch; one has a wrong parameter and fails, which the report tells."""
    (tmp_path / "search.yml").write_text(TINY)
    (tmp_path / "experiment.yml").write_text(EXPERIMENT)
    home = {"HOME": str(tmp_path)}
    experiment, trials, metrics = run_to_the_end(command, tmp_path, "experiment.yml", home)

    by_target = {json.loads(t["hyperParameters"][0])["parameters"]["latency.target_ms"]: t for t in trials}
    good, bad = by_target["90%"], by_target[-1]
    assert (good["status"], bad["status"]) == ("SUCCEEDED", "FAILED")

    epochs = [
        json.loads(json.loads(m["data"]))
        for m in metrics
        if m["trialJobId"] == good["trialJobId"] and m["type"] == "PERIODICAL"
    ]
    assert len(epochs) == 3
    for epoch in epochs:
        assert {
            "default",
            "expected_ms",
            "table_ms",
            "entropy",
            "train_loss",
            "train_accuracy",
            "macs",
            "n_params",
        } <= set(epoch)
        assert all(isinstance(value, float) for value in epoch.values())
        assert 0 <= epoch["default"] <= 1
    final = json.loads(json.loads(good["finalMetricData"][0]["data"]))
    assert final["default"] == epochs[-1]["default"]
    assert final["measured_ms"] > 0

    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["report", experiment]) == 1
    said = capsys.readouterr().out
    assert good["trialJobId"] in said
    assert (
        f"trial {bad['trialJobId']}: FAILED: nni-proxyless: NNI's parameters: latency.target_ms: -1 is not allowed here"
        in said
    )
    assert main(["report"]) == 1  # the experiment started last
    assert capsys.readouterr().out.count("SUCCEEDED") == 1
    page = Page(tmp_path / "nni-experiments" / experiment / "report.html")
    assert "1 of 2 trials succeeded, 1 failed." in page.words
    states = {row[0]: row[1] for row in page.tables[0][1:] if len(row) > 1}
    assert states == {good["trialJobId"]: "SUCCEEDED", bad["trialJobId"]: "FAILED"}
    assert {href[1:] for href in page.hrefs} <= set(page.ids)


def test_the_final_training_as_an_experiment(command, tmp_path, pytestconfig, monkeypatch, capsys):
    """experiments/retrain.yml, shortened: a dict per epoch and a final one for the web UI, and a report of what came out."""
    for name in ("retrain.yml", "retrain_train.yml", "digits_architecture.json"):
        shutil.copy(pytestconfig.rootpath / "experiments" / name, tmp_path)
    content = yaml.safe_load((tmp_path / "retrain.yml").read_text())
    content["maxTrialNumber"] = 1
    content["trialCommand"] += " epochs=2 warmup_epochs=0"
    (tmp_path / "retrain.yml").write_text(yaml.safe_dump(content))
    home = {"HOME": str(tmp_path)}
    experiment, trials, metrics = run_to_the_end(command, tmp_path, "retrain.yml", home)
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"]
    for trial in trials:
        own = [m for m in metrics if m["trialJobId"] == trial["trialJobId"]]
        epochs = [json.loads(json.loads(m["data"])) for m in own if m["type"] == "PERIODICAL"]
        assert len(epochs) == 2
        assert set(epochs[0]) == {"default", "train_loss", "learning_rate"}
        final = json.loads(json.loads(trial["finalMetricData"][0]["data"]))
        assert final["default"] == epochs[-1]["default"]
        asked = json.loads(trial["hyperParameters"][0])["parameters"]
        (folder,) = tmp_path.glob(f"nni-experiments/{experiment}/environments/*/trials/{trial['trialJobId']}")
        used = yaml.safe_load((folder / "train.yml").read_text())
        assert {name: used[name] for name in asked} == asked
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["report", experiment]) == 0
    said = capsys.readouterr().out
    for trial in trials:
        (row,) = [line for line in said.splitlines() if line.startswith(f"{trial['trialJobId']}  ")]
        final = json.loads(json.loads(trial["finalMetricData"][0]["data"]))
        assert row.split()[-1] == f"{final['test_accuracy']:.4f}"
