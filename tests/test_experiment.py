"""A real NNI experiment: ``nnictl create``, its REST API, its end."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from typing import Any

import pytest

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


def test_an_experiment_from_nnictl_to_the_report(command, tmp_path):
    """One trial succeeds, with a dict per epoch; one has a wrong parameter and fails, which the report tells."""
    (tmp_path / "search.yml").write_text(TINY)
    (tmp_path / "experiment.yml").write_text(EXPERIMENT)
    port = free_port()
    home = {"HOME": str(tmp_path)}
    created = command("nnictl", "create", "--config", "experiment.yml", "--port", str(port), **home)
    assert created.returncode == 0, created.stdout + created.stderr
    try:
        deadline = time.monotonic() + 300
        while (status := json.loads(ask(port, "/api/v1/nni/check-status"))["status"]) not in ("DONE", "ERROR"):
            assert time.monotonic() < deadline, status
            time.sleep(1)
        assert status == "DONE"
        experiment = json.loads(ask(port, "/api/v1/nni/experiment"))["id"]
        trials = json.loads(ask(port, "/api/v1/nni/trial-jobs"))
        metrics = json.loads(ask(port, "/api/v1/nni/metric-data"))
        assert "<title>" in ask(port, "/")  # the web UI is there
    finally:
        experiments = json.loads((tmp_path / "nni-experiments" / ".experiment").read_text())
        for identity in experiments:
            command("nnictl", "stop", identity, **home)

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

    done = command("nni-proxyless", "report", experiment, **home)
    assert done.returncode == 1
    assert good["trialJobId"] in done.stdout
    assert (
        f"trial {bad['trialJobId']}: FAILED: nni-proxyless: NNI's parameters: latency.target_ms: -1 is not allowed here"
        in done.stdout
    )
    assert command("nni-proxyless", "report", **home).stdout.count("SUCCEEDED") == 1  # the experiment started last


@pytest.mark.parametrize("path", ["experiments/proxyless.yml", "experiments/dsnas.yml"])
def test_shipped_experiments_are_valid_for_nni(pytestconfig, path):
    from nni.experiment.config import ExperimentConfig

    config = ExperimentConfig.load(pytestconfig.rootpath / path)
    assert config.trial_command.startswith("nni-proxyless search ")
