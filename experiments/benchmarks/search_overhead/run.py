"""What a search takes beside its steps: ``nni-proxyless search`` from its first epoch to its end, by the same steps in a plain loop.

    python -m experiments.benchmarks.search_overhead.run --output search_overhead.json
    python -m experiments.benchmarks.search_overhead.run --short      # digits alone, fewer epochs

The *search* is the command, with the shipped file of its method, multiply-adds in the place of milliseconds (nothing is
measured) and fewer epochs. Its clock begins with its first epoch and stops when the command returns: reading and augmenting
images, judging, checkpoints, curves and pictures, and all that it writes at its end (network, drawing, ONNX) are in it.

The *floor* is :mod:`.plain_loop`: the very same steps, from the same weights on the same batches, which lie augmented in memory. That
they are the same is checked: in the end weights and logits are equal to the bit. After each epoch of the search its clock
stands still while the floor goes through that epoch, so that a machine's drift is in both.

Time is wall time; CPU time of the process stands beside it, and says more where others use the cores.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pytorch_lightning import Callback

import nni_proxyless.search.build
from nni_proxyless.cli import main as cli

from .. import ROOT
from ..common import record
from .plain_loop import PlainLoop
from .report import PARTS, bars, markdown

FILES = {"proxyless": "experiments/search.yml", "dsnas": "experiments/search_dsnas.yml"}
DATA = {"digits": [], "fashion-mnist": ["data.n_train=10000"]}
EPOCHS = {"digits": (16, 16), "fashion-mnist": (2, 3)}  # of ProxylessNAS and DSNAS, which needs three
EPOCHS_SHORT = 8


class Clock:
    """Wall and CPU time by part; stands still between :meth:`stop` and the next :meth:`part`."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._running: tuple[str, float, float] | None = None

    def part(self, name: str) -> None:
        """What runs from now on belongs to this part."""
        self.stop()
        self._running = name, time.perf_counter(), time.process_time()

    def stop(self) -> None:
        if self._running is None:
            return
        name, *began = self._running
        took = self.seconds.setdefault(name, [0.0, 0.0])
        for i, now in enumerate((time.perf_counter(), time.process_time())):
            took[i] += now - began[i]
        self._running = None

    def total(self, i: int) -> float:
        """Of all parts: 0 wall, 1 CPU."""
        return sum(took[i] for took in self.seconds.values())


class Beside(Callback):
    """Times a search, and goes through each of its epochs once more in a plain loop."""

    def __init__(self) -> None:
        self.search, self.floor = Clock(), Clock()
        self.ratios: list[float] = []  # of the epochs
        self.module: Any = None
        self._batches: list[Any] = []
        self._held_out: list[Any] = []
        self._epoch, self._before = 0, 0.0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if self.module is None:
            self.module = module
            draw = module.next_held_out_batch
            module.next_held_out_batch = lambda: self._noted(draw())
            self.loop = PlainLoop(module)
        else:
            self.replay()
        self._epoch = trainer.current_epoch
        self.search.part("reading")

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._batches.append(batch)
        self.search.part("steps")

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.search.part("reading")

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.search.part("end of epochs")

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.search.part("end")

    def replay(self) -> None:
        """The epoch that has just ended, as a plain loop; the search's clock stands still."""
        self.search.stop()
        if not self._batches:
            return
        before = self.floor.total(0)
        self.floor.part("steps")
        self.loop.epoch(self._epoch, self._batches, self._held_out)
        self.floor.stop()
        took = sum(self.search.seconds[name][0] for name in PARTS[:3] if name in self.search.seconds)
        self.ratios.append((took - self._before) / (self.floor.total(0) - before))
        self._before = took
        self._batches, self._held_out = [], []

    def _noted(self, batch: Any) -> Any:
        self._held_out.append(batch)
        return batch


def measured(strategy: str, data: str, epochs: int, options: argparse.Namespace) -> dict[str, Any]:
    """One search beside its floor."""
    beside = Beside()
    make = nni_proxyless.search.build.make_evaluator

    def make_evaluator(*arguments: Any, **more: Any) -> Any:
        evaluator = make(*arguments, **more)
        evaluator.trainer.callbacks.insert(0, beside)
        return evaluator

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(nni_proxyless.search.build, "make_evaluator", make_evaluator),
    ):
        warmup, searching = max(1, 3 * epochs // 8), max(1, epochs // 4)
        words = [
            f"data.name={data}", *DATA[data], "latency.estimator={name: macs}", "latency.table=null",
            f"training.epochs={epochs}", f"strategy.warmup_epochs={warmup if strategy == 'proxyless' else max(1, epochs // 8)}",
            *([f"strategy.search_epochs={searching}"] if strategy == "dsnas" else []),
            f"trainer.threads={options.threads}", f"seed={options.seed}", f"output={folder}/run", *(options.set or []),
        ]  # fmt: skip
        with redirect_stdout(sys.stderr):
            code = cli.main(["search", str(ROOT / FILES[strategy]), *words])
        beside.search.stop()
    if code:
        raise RuntimeError(f"nni-proxyless search ended with {code}")
    beside.replay()
    if not beside.loop.same_as(beside.module):
        raise RuntimeError(f"{strategy} on {data}: the plain loop has taken other steps than the search")
    search, floor = beside.search, beside.floor
    return {
        "strategy": strategy, "data": data, "epochs": epochs, "ratio": search.total(0) / floor.total(0),
        "cpu_ratio": search.total(1) / floor.total(1), "floor_seconds": floor.total(0), "search_seconds": search.total(0),
        "floor_cpu_seconds": floor.total(1), "search_cpu_seconds": search.total(1),
        "cpu_by_floor": {name: search.seconds[name][1] / floor.total(1) for name in PARTS},
        "ratios_of_epochs": beside.ratios, "noise": noise(beside.ratios),
    }  # fmt: skip


def noise(ratios: Sequence[float]) -> float:
    """Two standard errors of the mean ratio of the epochs, from their quartiles."""
    if len(ratios) < 4:
        return max(ratios) - min(ratios)
    low, _, high = statistics.quantiles(ratios, n=4)
    return 2 * 0.74 * (high - low) / len(ratios) ** 0.5


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help=f"digits alone, {EPOCHS_SHORT} epochs")
    parser.add_argument("--data", nargs="+", choices=sorted(DATA), help="(default: all; with --short digits)")
    parser.add_argument("--strategies", nargs="+", choices=sorted(FILES), help="(default: all)")
    parser.add_argument("--epochs", type=int, help="of each search (default: 16 on digits, 2 or 3 on Fashion-MNIST)")
    parser.add_argument("--rounds", type=int, default=1, help="searches of each kind (default: %(default)s)")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", help="more settings of all searches")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    options = parser.parse_args(arguments)
    options.data = options.data or (["digits"] if options.short else list(DATA))
    options.strategies = options.strategies or list(FILES)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    began = time.perf_counter()
    for name in ("pytorch_lightning", "lightning", "nni", "nni_proxyless"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    entries = []
    for _ in range(options.rounds):
        for data in options.data:
            for strategy in options.strategies:
                usual = EPOCHS_SHORT if options.short else EPOCHS[data][strategy == "dsnas"]
                epochs = options.epochs or usual
                entries.append(measured(strategy, data, epochs, options))
                print("{strategy} on {data}: {ratio:.3f}, CPU {cpu_ratio:.3f}".format(**entries[-1]), file=sys.stderr)
    result = {
        **record.provenance(__file__, options, time.perf_counter() - began), "bars": bars(entries), "entries": entries
    }  # fmt: skip
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
