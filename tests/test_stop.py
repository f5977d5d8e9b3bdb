"""A command that is interrupted ends by the signal, which NNI tells from a failure."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from .test_search import TINY


@pytest.mark.parametrize("what", ["search", "train"])
def test_an_interrupted_command_ends_by_the_signal(tmp_path, pytestconfig, what):
    (tmp_path / "search.yml").write_text(TINY)
    net = pytestconfig.rootpath / "experiments" / "digits_architecture.json"
    words = {
        "search": ["search", "search.yml", "output=run", "training.epochs=500", "latency.estimator={name: macs}", "latency.target_ms=90%"],
        "train": ["train", str(net), "weights=scratch", "epochs=500", "output=run"],
    }[what]  # fmt: skip
    said = []
    started = [sys.executable, "-m", "nni_proxyless", *words]
    with subprocess.Popen(
        started, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell inherit that it is ignored
    ) as command:  # fmt: skip
        for line in command.stderr:
            said.append(line)
            if "epoch 1/500" in line:
                command.send_signal(signal.SIGINT)
            if "epoch 20/500" in line:
                command.kill()
    assert command.returncode == -signal.SIGINT, "".join(said)
    assert said[-1] == "nni-proxyless: interrupted\n"
