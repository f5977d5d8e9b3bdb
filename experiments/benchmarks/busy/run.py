"""What is left of a search's and a training's speed on a machine that others use too, by how OpenMP's threads wait.

    python -m experiments.benchmarks.busy.run --output experiments/benchmarks/busy/records/busy.json
    python -m experiments.benchmarks.busy.run --short            # two threads only, less often

Steps per second of a search (ProxylessNAS, the small space, digits) and of a final training (as ``nni-proxyless train`` does it),
with one and two threads, alone and beside one and two processes that each keep a core busy; with ``OMP_WAIT_POLICY=PASSIVE``, which
commands set, and without it, which is OpenMP's own way: threads that wait spin for some milliseconds first. All of it on two cores,
however many there are.

OpenMP reads the variable when it is loaded, so each policy has a process of its own (:mod:`.work`). Both are there at once and
work in turns, seconds at a time, so that a drift of the machine hits both; the other one sleeps meanwhile. Where waiting spins beside a
busy process, a step may take a minute: after twice the time that a measurement is to take, what was done until then counts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nni_proxyless.core.cpu_threads import cores_of
from nni_proxyless.core.progress import bar

from .. import ROOT
from ..common import record
from .report import CORES, POLICIES, bars, markdown

WORKS = ("search", "training")
BUSY = (0, 1, 2)
START = 240.0  # seconds until a process is ready, imports included, on a busy machine
# Ends by itself if whoever started it is gone without having ended it.
SPINNING = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(10**6):\n        pass"
# OpenMP's own variables, and ours.
FOREIGN = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "NNI_PROXYLESS_OMP_NUM_THREADS")


class Worker:
    """A process that takes steps when it is told to, see :mod:`.work`."""

    def __init__(self, work: str, threads: int, policy: str, folder: Path):
        self.work, self.threads, self.policy = work, threads, policy
        self.is_idle = False
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        if value := POLICIES[policy]:
            environment["OMP_WAIT_POLICY"] = value
        self.log = folder / f"{work}-{threads}-{value}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.benchmarks.busy.work", work, str(self.log.with_suffix(""))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=ROOT, start_new_session=True,
            )  # fmt: skip

    def steps(self, seconds: float, at_most: float) -> tuple[int, float]:
        """Let it take steps for so many seconds, or none if 0; how many it took, and how long, after ``at_most`` seconds at the latest."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n".encode())
        self.process.stdin.flush()
        return self._count(at_most)

    def ready(self, at_most: float) -> None:
        """Wait until it does nothing."""
        if not self.is_idle:
            self._count(at_most)
        if not self.is_idle:
            raise SystemExit(f"{self.work}, {self.threads} threads, {self.policy}: no answer within {at_most:g} s; its log:\n"
                             + self.log.read_text(encoding="utf-8", errors="replace"))  # fmt: skip

    def _count(self, at_most: float) -> tuple[int, float]:
        assert self.process.stdout is not None
        self.is_idle = False
        began, n = time.perf_counter(), 0
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while (left := at_most - (time.perf_counter() - began)) > 0:
                if not selector.select(left):
                    continue
                said = os.read(self.process.stdout.fileno(), 65536)
                n += said.count(b".")
                if b"\n" in said or not said:
                    self.is_idle = bool(said)
                    break
        return n, time.perf_counter() - began

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """So many processes of one thread that never rest, while it lasts."""
    with contextlib.ExitStack() as ending:
        for _ in range(n):
            process = subprocess.Popen(
                [sys.executable, "-c", SPINNING, str(os.getpid())], stdin=subprocess.DEVNULL, start_new_session=True
            )
            ending.callback(process.wait)
            ending.callback(process.kill)
        yield


def measure(work: str, threads: int, options: argparse.Namespace, folder: Path, done: Any) -> list[dict[str, Any]]:
    """Both policies in turns, under every load."""
    speeds: dict[tuple[str, int], list[float]] = {(policy, n): [] for policy in POLICIES for n in BUSY}
    unfinished = dict.fromkeys(speeds, 0)
    with contextlib.ExitStack() as ending:
        workers = []
        for policy in POLICIES:
            workers.append(Worker(work, threads, policy, folder))
            ending.callback(workers[-1].end)
        for worker in workers:
            worker.ready(START)
        for worker in workers:  # what is slow the first time
            worker.steps(options.seconds, START)
            worker.ready(START)
        for _ in range(options.rounds):
            for n in BUSY:
                # The speed alone is what everything is a ratio to.
                for _again in range(2 if n == 0 else 1):
                    workers.reverse()
                    for worker in workers:
                        with busy(n):
                            steps, seconds = worker.steps(options.seconds, 2 * options.seconds)
                        unfinished[worker.policy, n] += not worker.is_idle
                        worker.ready(START)  # at once, now that nobody is in its way
                        speeds[worker.policy, n].append(steps / seconds)
                        done.update()
    return [
        {"work": work, "threads": threads, "busy": n, "waiting": policy, "steps_per_second": [round(v, 3) for v in found],
         "median": statistics.median(found), "cut_off": unfinished[policy, n]}
        for (policy, n), found in speeds.items()
    ]  # fmt: skip


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="two threads only, fewer rounds")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), help="(default: both)")
    parser.add_argument("--threads", nargs="+", type=int, choices=(1, 2), help="(default: 1 2; with --short 2)")
    parser.add_argument("--rounds", type=int, help="how often all is measured (default: 4; with --short 2)")
    parser.add_argument("--seconds", type=float, help="of a measurement (default: 1.5; with --short 1)")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    options = parser.parse_args(arguments)
    options.threads = options.threads or ([2] if options.short else [1, 2])
    options.rounds = options.rounds or (2 if options.short else 4)
    options.seconds = options.seconds or (1.0 if options.short else 1.5)
    return options


def on_two_cores() -> None:
    """This process and all that it starts."""
    first = [min(processors) for processors in cores_of(os.sched_getaffinity(0)).values()]
    if len(first) < CORES:
        raise SystemExit(f"busy: this process may use {len(first)} core; needed: {CORES}")
    os.sched_setaffinity(0, sorted(first)[:CORES])


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    began = time.perf_counter()

    def terminated(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)  # through all that is to be ended

    signal.signal(signal.SIGTERM, terminated)
    on_two_cores()
    groups = [(work, threads) for work in options.works for threads in options.threads]
    entries = []
    with (
        tempfile.TemporaryDirectory() as folder,
        bar(len(groups) * options.rounds * len(POLICIES) * (len(BUSY) + 1), "busy", "measurement") as done,
    ):
        for work, threads in groups:
            entries += measure(work, threads, options, Path(folder), done)
    result = record.provenance(__file__, options, time.perf_counter() - began)
    result |= {"threads": None, "bars": bars(entries), "entries": entries}  # threads: of the processes, not of this one
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
