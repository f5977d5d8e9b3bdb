"""The benchmark of a machine that others use too: what it does with processes, and its bars; what it times needs a quiet machine."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

import psutil

from experiments.benchmarks.busy import run as busy

from ..conftest import ROOT


def children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def test_busy_processes_end_whatever_happens():
    before = children()
    with contextlib.suppress(KeyboardInterrupt), busy.busy(2):
        spinning = children() - before
        raise KeyboardInterrupt
    assert len(spinning) == 2
    assert not [process for process in spinning if process.is_running()]

    starting = "import time; from experiments.benchmarks.busy import run as busy\nwith busy.busy(1):\n    print(flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", starting], cwd=ROOT, stdout=subprocess.PIPE) as killed:
        assert killed.stdout.readline() == b"\n"
        (orphan,) = psutil.Process(killed.pid).children()
        killed.send_signal(signal.SIGKILL)
    psutil.wait_procs([orphan], timeout=30)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "nobody has ended it but itself"


def test_a_worker_takes_steps_when_it_is_told_to(tmp_path):
    worker = busy.Worker("training", 1, "passive", tmp_path)
    try:
        environment = psutil.Process(worker.process.pid).environ()
        assert (environment["OMP_WAIT_POLICY"], environment["OMP_NUM_THREADS"]) == ("PASSIVE", "1")
        worker.ready(busy.START)
        for _ in range(2):
            steps, seconds = worker.steps(0.2, busy.START)
            assert steps >= 1
            assert seconds >= 0.2
            assert worker.is_idle
        steps, seconds = worker.steps(5.0, 0.1)
        assert not worker.is_idle, "cut off, what was done counts"
        assert 0.1 <= seconds < 5
        worker.ready(busy.START)
    finally:
        worker.end()
    assert worker.process.poll() == -signal.SIGKILL


def entries(passive: dict[int, list[float]], own: dict[int, list[float]], threads: int = 2) -> list[dict]:
    return [
        {"work": "search", "threads": threads, "busy": n, "waiting": waiting, "steps_per_second": speeds, "median": speeds[0], "cut_off": 0}
        for waiting, by_load in zip(busy.POLICIES, (passive, own), strict=True)
        for n, speeds in by_load.items()
    ]  # fmt: skip


def test_bars_are_ratios_within_the_run():
    two = busy.bars(entries({0: [19.0], 1: [7.0], 2: [5.0]}, {0: [20.0], 1: [0.0], 2: [0.0]}))
    assert [(b["bar"], round(b["value"], 3), b["at_least"], b["verdict"]) for b in two] == [
        ("search, 2 threads, alone: passive by OpenMP's own", 0.95, 0.95, "met"),
        ("search, 2 threads, passive: beside one busy process by alone", 0.368, 0.4, "missed"),
    ]
    one = busy.bars(entries({0: [18.0], 1: [7.0]}, {0: [20.0], 1: [0.0]}, threads=1))
    assert [(b["bar"], b["verdict"]) for b in one] == [("search, 1 thread, alone: passive by OpenMP's own", "missed")]
    unsteady = busy.bars(entries({0: [17.0, 18.0, 20.0, 21.0]}, {0: [20.0, 20.0, 20.0, 20.0]}, threads=1))
    assert unsteady[0]["noise"] > 0
