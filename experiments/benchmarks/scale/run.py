"""Does a search of the paper's ImageNet space last at 224 pixels: in how much memory, without growing, and how fast?

    python -m experiments.benchmarks.scale.run --output experiments/benchmarks/scale/records/scale.json --picture docs/background/bench_scale.svg

Every run is ``nni-proxyless search`` in processes of its own, with one of the files in ``experiments/imagenet/``: space, strategy,
optimizer and loss as there, on noise in the place of ImageNet, with small batches, and multiply-adds in the place of
milliseconds. Between two batches each process notes the time and its resident memory, so that all notes are of the same moment
of a step.

*Growth* is the slope of a line through the second half of the notes, over that half, by the size; by then every candidate has
been on a path, has its momentum and its buffers (in the short form not quite, whose bar is wider). *Time* is a ratio: again and again the search is halted (SIGSTOP) while this
process trains plainly, one step each of random networks of the same space, with the same batch size, optimizer and number of
threads and without NNI, Lightning or this project's strategies. A search step between two halts is set against the plain steps
of both. Several processes share the work as Lightning's DDP deals it out, over gloo.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch.utils.data import Dataset, Subset

from nni_proxyless.core.progress import bar
from nni_proxyless.data import ImageData, synthetic

from .. import ROOT
from ..common import record
from .report import PIXELS, bars, markdown, picture

FILES = {name: ROOT / "experiments" / "imagenet" / f"search_{name}.yml" for name in ("proxyless", "dsnas")}
ALPHAS, VALIDATION, CLASSES = (
    0.2,
    0.05,
    2,
)  # classes: of the noise, and outputs of the network, which a search holds against them
WARMUP, CHILD = 1, 1  # epochs
EPOCH = 50  # steps, or fewer: three epochs at least
LEAST = 42  # steps, after half of which one candidate in 25 has not been on a path yet
BLOCKS = 10  # of notes, in a half
MIB = 2**20
LONG = {"steps": 240, "processes": [1, 2, 4], "turn": 10, "plain": 5}
SHORT = {"steps": 42, "processes": [1, 2], "turn": 5, "plain": 3}


# -- in the processes of a search ----------------------------------------------------------------------------------------


class Watched(Dataset):
    """Images that note, before the first one of every batch, the time and the resident memory of the process."""

    def __init__(self, images: Any, batch: int, folder: str):
        self.images, self.batch, self.folder, self.n = images, batch, folder, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if self.n % self.batch == 0:
            note = [time.perf_counter(), psutil.Process().memory_info().rss / MIB, peak_mib()]
            with Path(self.folder, f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")
        self.n += 1
        return self.images[index]


def peak_mib() -> float:
    """The most memory that this process had so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (MIB if sys.platform == "darwin" else 2**10)


def watched_noise(*, n_images: int, batch: int, folder: str) -> ImageData:
    """``synthetic``, whose training images are :class:`Watched`: they alone train weights, batch by batch."""
    data = synthetic(n_images=n_images, num_classes=CLASSES, image_size=PIXELS)
    few = Subset(data.train_plain, range(CLASSES))  # in the place of as many test images as there are others
    return dataclasses.replace(data, train=Watched(data.train, batch, folder), test=few)


# -- in the process that measures ----------------------------------------------------------------------------------------


class Plain:
    """Plain training steps of random networks of the space."""

    def __init__(self, batch: int, seed: int):
        from nni_proxyless.search_spaces import MobileNetV2Space

        torch.manual_seed(seed)
        self.draw = random.Random(seed)
        self.space = MobileNetV2Space(num_classes=CLASSES).to(memory_format=torch.channels_last)
        self.choices = self.space.simplify()
        self.optimizer = torch.optim.SGD(
            self.space.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=4e-5
        )
        self.images = torch.randn(batch, 3, PIXELS, PIXELS).contiguous(memory_format=torch.channels_last)
        self.targets = torch.arange(batch) % CLASSES

    def step(self) -> float:
        """Seconds of one; to draw the network is not in it."""
        path = {label: self.draw.choice(choice.values) for label, choice in self.choices.items()}
        network = self.space.freeze(path).train()
        began = time.perf_counter()
        self.optimizer.zero_grad()  # a candidate that is not on the path has no gradient, and stays as it is
        torch.nn.functional.cross_entropy(network(self.images), self.targets, label_smoothing=0.1).backward()
        self.optimizer.step()
        return time.perf_counter() - began


class Halt(NamedTuple):
    """When the search stood still, and the seconds of each plain step meanwhile."""

    began: float
    ended: float
    plain: list[float]


def search_words(
    strategy: str, processes: int, options: argparse.Namespace, steps: int, epochs: int, folder: Path
) -> list[str]:
    """The search, in whose epochs, but the one of DSNAS's child, every process takes ``steps`` steps."""
    share = 1 - VALIDATION - (ALPHAS if strategy == "proxyless" else 0)
    n_images = CLASSES * (1 + math.ceil(steps / epochs * options.batch * processes / share / CLASSES))
    data = {"name": "experiments.benchmarks.scale.run:watched_noise", "n_images": n_images, "batch": options.batch, "folder": str(folder),
            "batch_size": options.batch, "alphas": ALPHAS, "validation": VALIDATION}  # fmt: skip
    child = CHILD if strategy == "dsnas" else 0
    words = {
        "seed": options.seed, "data": json.dumps(data), "strategy.warmup_epochs": WARMUP,
        "latency.estimator": "{name: macs}", "latency.table": "null", "training.epochs": epochs + child,
        "training.calibration_images": options.batch, "trainer.accelerator": "cpu", "trainer.threads": 1,
        "trainer.devices": processes, "output": folder / "out",
    }  # fmt: skip
    words |= (
        {"strategy.search_epochs": epochs - WARMUP}
        if child
        else {"latency.target_ms": "60%", "strategy.arc_start_epoch": 0}
    )
    return [str(FILES[strategy]), *(f"{key}={value}" for key, value in words.items())]


def run(strategy: str, processes: int, options: argparse.Namespace, plain: Plain, done: Any) -> dict[str, Any]:
    """One search, and what its processes have noted."""
    steps = options.steps if processes == 1 else max(LEAST, options.steps // 3)
    epochs = max(3, steps // EPOCH)
    stage = range(steps // epochs * WARMUP, steps)  # in which the architecture is searched
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = search_words(strategy, processes, options, steps, epochs, folder)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        began = time.perf_counter()
        with (folder / "log").open("w") as log:
            search = psutil.Popen(
                [sys.executable, "-m", "nni_proxyless", "search", *words], env=environment, stdout=subprocess.DEVNULL, stderr=log
            )  # fmt: skip
            helpers: set[psutil.Process] = set()
            try:
                halts = halted_now_and_then(search, helpers, processes, folder, stage, options, plain, done)
                left = left_over(helpers)
            finally:
                helpers |= set(search.children(recursive=True)) if is_alive(search) else set()
                for process in filter(is_alive, (*helpers, search)):
                    process.kill()
        seconds = time.perf_counter() - began
        if search.returncode:
            raise SystemExit(
                f"scale: the search with {strategy} in {processes} process(es) has failed:\n{(folder / 'log').read_text()}"
            )
        finished = (folder / "out" / "architecture.json").exists()
        notes = read_notes(folder)
    per_epoch = len(next(iter(notes.values()))) // (epochs + (CHILD if strategy == "dsnas" else 0))
    searched = {pid: rows[: per_epoch * epochs] for pid, rows in notes.items()}
    starts = [row[0] for row in next(iter(searched.values()))]  # all processes wait for each other in every step
    ratios = ratios_of_turns(starts, halts, per_epoch, WARMUP * per_epoch)
    return {
        "strategy": strategy, "processes": processes, "seconds": round(seconds, 1), "steps_per_epoch": per_epoch,
        "steps": [len(rows) for rows in notes.values()], "left_a_net": finished,
        "processes_that_trained": len(notes), "processes_left_over": left,
        "resident_mib": [[round(row[1], 1) for row in rows] for rows in searched.values()],
        "peak_mib": [round(rows[-1][2], 1) for rows in notes.values()],
        "growth": [growth([row[1] for row in rows]) for rows in searched.values()],
        "plain_seconds": statistics.mean(s for halt in halts for s in halt.plain),
        "ratios": ratios,
    }  # fmt: skip


def halted_now_and_then(
    search: psutil.Popen,
    helpers: set[psutil.Process],
    processes: int,
    folder: Path,
    stage: range,
    options: argparse.Namespace,
    plain: Plain,
    done: Any,
) -> list[Halt]:
    """Wait for the end of a search; while all its processes are in ``stage``, halt it every few steps to train plainly.

    ``helpers`` gets the processes that the search has started.
    """
    halts: list[Halt] = []
    seen, last = 0, -options.turn
    while search.poll() is None:
        time.sleep(0.2)
        notes = read_notes(folder)
        least = min(map(len, notes.values())) if len(notes) == processes else 0
        done.update(least - seen)
        seen = least
        if least - 1 not in stage or least < last + options.turn:
            continue
        last = least
        helpers |= set(search.children(recursive=True))
        halted = [search, *helpers]
        for process in halted:
            process.suspend()
        began = time.perf_counter()
        plain.step()  # the caches are the search's
        times = [plain.step() for _ in range(options.plain)]
        halts.append(Halt(began, time.perf_counter(), times))
        for process in reversed(halted):
            process.resume()
    return halts


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that has ended and that nobody has asked how does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_over(helpers: Iterable[psutil.Process]) -> int:
    """How many of them live on a minute after the search has ended."""
    end = time.monotonic() + 60
    while (alive := sum(map(is_alive, helpers))) and time.monotonic() < end:
        time.sleep(0.2)
    return alive


def read_notes(folder: Path) -> dict[int, list[list[float]]]:
    """Process -> its notes; a line that is being written is left out."""
    return {
        int(path.stem): [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        for path in sorted(folder.glob("*.jsonl"))
    }


def ratios_of_turns(starts: Sequence[float], halts: Sequence[Halt], per_epoch: int, first: int) -> list[float]:
    """Mean seconds of the search steps between two halts by the mean of the plain steps in both.

    Parameters
    ----------
    starts
        When each step began. The last one of an epoch has no end: what comes then is no training.
    first
        The first step that counts.
    """
    steps = [
        (begin, end) for i, (begin, end) in enumerate(itertools.pairwise(starts)) if i >= first and (i + 1) % per_epoch
    ]
    ratios = []
    for before, after in itertools.pairwise(halts):
        mine = [end - begin for begin, end in steps if begin >= before.ended and end <= after.began]
        if mine:
            ratios.append(statistics.mean(mine) / statistics.mean([*before.plain, *after.plain]))
    return ratios


def growth(mib: Sequence[float]) -> dict[str, float]:
    """How much memory grows over the second half, by its mean, and twice the standard error of that.

    A line through the means of :data:`BLOCKS` blocks: neighboring notes are not independent, blocks nearly so.
    """
    half = np.asarray(mib[len(mib) // 2 :], dtype=float)
    y = np.array([block.mean() for block in np.array_split(half, min(BLOCKS, len(half)))]) / half.mean()
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    error = float(np.sqrt(rest @ rest / max(1, len(y) - 2) / (x @ x)))
    return {"share": slope * len(y), "noise": 2 * error * len(y)}


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--short", action="store_true", help="fewer steps; 2 processes with one strategy alone, as 4 otherwise"
    )
    parser.add_argument(
        "--steps", type=int, help=f"of a search in one process, {LEAST} or more; a third in several (default: 240)"
    )
    parser.add_argument("--batch", type=int, default=2, help="images of a process and step (default: %(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", help="(default: 1 2 4; short: 1 2)")
    parser.add_argument("--strategies", nargs="+", choices=sorted(FILES), default=list(FILES))
    parser.add_argument("--turn", type=int, help="steps of the search between two halts (default: 10)")
    parser.add_argument("--plain", type=int, help="plain steps in a halt (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--picture", type=Path, help="SVG or PNG file for the picture")
    options = parser.parse_args(arguments)
    for name, value in (SHORT if options.short else LONG).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.steps < LEAST:
        parser.error(f"argument --steps: {options.steps}; allowed: {LEAST} or more")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    torch.set_num_threads(1)
    began = time.perf_counter()
    plain = Plain(options.batch, options.seed)
    runs = []
    most_with_all = 1 if options.short else 2
    todo = [
        (strategy, processes)
        for processes in options.processes
        for strategy in options.strategies[: 1 if processes > most_with_all else None]
    ]
    with bar(0, "scale", "step") as done:
        for strategy, processes in todo:
            runs.append(run(strategy, processes, options, plain, done))
    result = record.provenance(__file__, options, time.perf_counter() - began) | {
        "runs": runs,
        "bars": bars(runs, "short" if options.short else "long"),
    }
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
