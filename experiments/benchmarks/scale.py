"""Does a search of the paper's ImageNet space last at 224 pixels: in how much memory, without growing, and how fast?

    python experiments/benchmarks/scale.py --output experiments/benchmarks/scale.json --picture docs/scale.svg

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

# ruff: noqa: E402  (NNI warns while it is imported)

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
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module")

import numpy as np
import psutil
import record
import torch
from torch.utils.data import Dataset, Subset

from nni_proxyless.data import ImageData, synthetic
from nni_proxyless.progress import bar

HERE = Path(__file__).resolve().parent
FILES = {name: HERE.parent / "imagenet" / f"search_{name}.yml" for name in ("proxyless", "dsnas")}
ALPHAS, VALIDATION, CLASSES, PIXELS = 0.2, 0.05, 2, 224
WARMUP, CHILD = 1, 1  # epochs
EPOCH = 50  # steps, or fewer: three epochs at least
LEAST = 42  # steps, after half of which one candidate in 25 has not been on a path yet
BLOCKS = 10  # of notes, in a half
# Bars. A short run is not over the first tens of steps, in which every candidate gets its momentum and its buffers.
GROWTH = {"long": 0.01, "short": 0.05}
TIME = {"proxyless": 1.25, "dsnas": 1.15}
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
        self.space = MobileNetV2Space().to(memory_format=torch.channels_last)
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
    data = {"name": "scale:watched_noise", "n_images": n_images, "batch": options.batch, "folder": str(folder),
            "batch_size": options.batch, "alphas": ALPHAS, "validation": VALIDATION}  # fmt: skip
    child = CHILD if strategy == "dsnas" else 0
    words = {
        "seed": options.seed, "data": json.dumps(data), "space.num_classes": 1000, "strategy.warmup_epochs": WARMUP,
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
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
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

    A line through the means of :data:`BLOCKS` blocks: neighbouring notes are not independent, blocks nearly so.
    """
    half = np.asarray(mib[len(mib) // 2 :], dtype=float)
    y = np.array([block.mean() for block in np.array_split(half, min(BLOCKS, len(half)))]) / half.mean()
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    error = float(np.sqrt(rest @ rest / max(1, len(y) - 2) / (x @ x)))
    return {"share": slope * len(y), "noise": 2 * error * len(y)}


def bars(runs: Sequence[dict[str, Any]], form: str) -> list[dict[str, Any]]:
    found = []
    for r in runs:
        name = f"{r['strategy']}, {r['processes']} process{'es' if r['processes'] > 1 else ''}"
        worst = max(r["growth"], key=lambda g: g["share"] - g["noise"])
        found.append(
            record.bar(f"{name}: growth of memory", worst["share"], at_most=GROWTH[form], noise=worst["noise"])
        )
        well = r["left_a_net"] and r["processes_that_trained"] == r["processes"] and not r["processes_left_over"]
        same = well and len(set(r["steps"])) == 1
        found.append(
            record.bar(f"{name}: searched to the end, equal steps, no process left over", float(same), at_least=1)
        )
        if r["processes"] == 1:
            value, noise = mean_and_noise(r["ratios"])
            found.append(
                record.bar(f"{name}: time of a step by a plain one", value, at_most=TIME[r["strategy"]], noise=noise)
            )
    return found


def mean_and_noise(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and twice its standard error."""
    if len(values) < 2:
        raise SystemExit(f"scale: {len(values)} turn(s) of search and plain steps; 2 or more are needed: more --steps")
    return statistics.mean(values), 2 * statistics.stdev(values) / len(values) ** 0.5


# -- the report ----------------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    s = result["settings"]
    rows = []
    for r in result["runs"]:
        ratio, noise = mean_and_noise(r["ratios"])
        grown = max(r["growth"], key=lambda g: g["share"])
        rows.append((
            r["strategy"], r["processes"], max(r["steps"]), f"{statistics.mean(map(statistics.mean, r['resident_mib'])):.0f}",
            f"{max(r['peak_mib']):.0f}", f"{grown['share']:+.2%} ± {grown['noise']:.2%}", f"{ratio:.2f} ± {noise:.2f}",
            f"{r['processes'] / ratio:.2f}", f"{r['processes'] * s['batch'] / ratio / r['plain_seconds']:.1f}", f"{r['seconds']:.0f}",
        ))  # fmt: skip
    return [
        *record.head(result),
        "",
        f"The ImageNet space, 21 choices, {PIXELS} pixels, batches of {s['batch']} per process, one thread each; noise as images.",
        "",
        *record.table(
            ("strategy", "processes", "steps each", "resident MiB", "peak MiB", "growth", "step by plain step", "images by plain images",
             "images/s", "seconds"),
            rows,
        ),
        "",
        *record.bars_table(result["bars"]),
        "",
        "*Resident*: mean of a process between two steps, images and libraries included, which processes share; *peak*: the most of any. *Growth*: "
        "over the second half of the search, of the process that grew most. *Step by plain step*: of the search stage, data, "
        "logging and, with ProxylessNAS, an architecture step after every 5th batch included; the judging of the net after every "
        "epoch not. *Images by plain images*: all processes together, per second, against one process that trains plainly and has "
        "the machine for itself. ± is twice the standard error. *Seconds*: of the whole command, its start and the halts included.",
        "",
        f"More processes than cores show that it works and what it takes in memory, not a gain: this machine has "
        f"{result['machine']['cores']} logical cores, which may be two threads of one. A step of several processes also sends all gradients "
        "of a path from one to the other, which at such small batches is much of it.",
    ]  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Memory over the steps of every run; images per second against plain training."""
    from matplotlib.figure import Figure

    from nni_proxyless.pictures.nets import save_picture

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = {"proxyless": "#a8480f", "dsnas": "#3b6ea5"}
    styles = {1: "-", 2: "--", 4: ":"}
    for r in result["runs"]:
        for i, mib in enumerate(r["resident_mib"]):
            label = f"{r['strategy']}, {r['processes']}" if i == 0 else None
            left.plot(mib, styles.get(r["processes"], "-."), color=colours[r["strategy"]], linewidth=1, label=label)
    left.set(xlabel="step", ylabel="resident memory of a process, MiB", ylim=(0, None))
    left.legend(fontsize=8, title="strategy, processes", title_fontsize=8, loc="lower right")
    names = []
    for i, r in enumerate(result["runs"]):
        ratio, noise = mean_and_noise(r["ratios"])
        right.bar(i, r["processes"] / ratio, yerr=r["processes"] * noise / ratio**2, color=colours[r["strategy"]])
        names.append(f"{r['strategy']}\n{r['processes']}")
    right.axhline(1, color="#6b6b6b", linewidth=1)
    right.set_xticks(range(len(names)), names, fontsize=8)
    right.set(ylabel="images by those of plain training")
    save_picture(figure, path)


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
