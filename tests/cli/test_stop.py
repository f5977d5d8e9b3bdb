"""A command that is interrupted or terminated ends by the signal, which NNI tells from a failure, and a scheduler from success."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from nni_proxyless.cli.main import main
from nni_proxyless.core.tensorboard_writer import Curves

from ..forked import fork
from ..runs import TINY


@pytest.mark.parametrize(
    ("what", "number", "last_words"),
    [
        ("search", signal.SIGINT, "\nnni-proxyless: interrupted\n"),
        ("search", signal.SIGTERM, "\nnni-proxyless: terminated\n"),
        ("train", signal.SIGINT, "\nnni-proxyless: interrupted\n"),
    ],
    ids=["search interrupted", "search terminated", "training interrupted"],
)
def test_a_stopped_command_ends_by_the_signal(tmp_path, pytestconfig, what, number, last_words):
    (tmp_path / "search.yml").write_text(TINY)
    net = pytestconfig.rootpath / "experiments" / "digits_architecture.json"
    words = {
        "search": ["search", "search.yml", "output=run", "training.epochs=500", "latency.estimator={name: macs}", "latency.target_ms=90%"],
        "train": ["train", str(net), "weights=scratch", "epochs=500", "output=run"],
    }[what]  # fmt: skip
    said = tmp_path / "said"
    command = fork(main, words, cwd=tmp_path, said=said)
    while "epoch 1/500" not in said.read_text():
        assert command.exitcode is None, said.read_text()
        time.sleep(0.01)
    os.kill(command.pid, number)
    while command.exitcode is None and "epoch 20/500" not in said.read_text():
        time.sleep(0.01)
    command.kill()
    command.join()
    assert command.exitcode == -number, said.read_text()
    assert said.read_text().endswith(last_words)
    if what == "search":  # a training is told the same once it has a checkpoint
        assert "\nto go on: nni-proxyless search --resume run\n" in said.read_text()


def test_a_wake_up_that_an_interrupt_has_lost_does_not_delay_the_end(tmp_path):
    """Interrupted between waking TensorBoard's thread and noting it, ``queue.put`` leaves a waiter behind, to which the next
    wake-up goes: that of the end."""
    curves = Curves(tmp_path, 1)
    curves.add({"epoch": 1, "train_loss": 1.0})
    waiters = curves._writer.file_writer.event_writer._async_writer._byte_queue.not_empty._waiters
    while len(waiters) != 1:  # the thread waits for the next value
        time.sleep(0.01)
    left_behind = threading.Lock()
    left_behind.acquire()
    waiters.appendleft(left_behind)
    began = time.monotonic()
    curves.close()
    assert time.monotonic() - began < 60, "TensorBoard's own interval is 120 s"
