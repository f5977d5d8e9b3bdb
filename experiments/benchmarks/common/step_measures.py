"""Measuring one step: its time by that of a plain step, candidates that run, saved activations, and resident memory."""

from __future__ import annotations

import functools
import gc
import math
import multiprocessing
import random
import re
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nni_proxyless.core.progress import bar

from .chain import Floor, Path, Search, attached
from .steps import Step, one_path

# -- what runs, and what autograd keeps ----------------------------------------------------------------------------------


class SavedActivations:
    """How many bytes autograd keeps for backward at most at one time, of each storage once, beside networks and batches."""

    def __init__(self, search: Search, *networks: nn.Module):
        tensors = [*search.batch, *search.held_out]
        for network in (search.space, *networks):
            tensors += [*network.parameters(), *network.buffers()]
        self._ignored = {t.untyped_storage().data_ptr() for t in tensors}
        self._held: Counter[int] = Counter()
        self.now = self.peak = 0

    def __enter__(self) -> SavedActivations:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(
            functools.partial(_Saved, self), lambda saved: saved.tensor
        )
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._hooks.__exit__(*exc)

    def count(self, tensor: Tensor, change: int) -> None:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self._ignored:
            return
        before = self._held[place]
        self._held[place] += change
        if (before == 0) != (self._held[place] == 0):
            self.now += change * storage.nbytes()
            self.peak = max(self.peak, self.now)


class _Saved:
    """A tensor that autograd keeps; it goes when autograd lets go of it."""

    def __init__(self, activations: SavedActivations, tensor: Tensor):
        self.activations, self.tensor = activations, tensor
        activations.count(tensor, 1)

    def __del__(self) -> None:
        self.activations.count(self.tensor, -1)


@contextmanager
def executions_counted(search: Search) -> Any:
    """Counts, per layer, how often each candidate runs."""
    counts: dict[str, Counter[str]] = {layer.label: Counter() for layer in search.layers}
    handles = [
        layer[name].register_forward_hook(lambda *_, label=layer.label, name=name: counts[label].update([name]))
        for layer in search.layers
        for name in layer.names
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def paths_before(step: Step) -> list[Path]:
    return step.paths() if step.paths else []


def paths_after(step: Step) -> list[Path]:
    return step.paths_after() if step.paths_after else []


def run_once(step: Step) -> None:
    paths_before(step)
    with step.search.autocast():
        step.run()


def inspect(step: Step) -> None:
    """Count executions and activations of a run, untimed, and check that it ran the paths that were foreseen."""
    paths = paths_before(step)
    ours = SavedActivations(step.runs_on or step.search, *step.networks())
    with executions_counted(step.runs_on or step.search) as counts, ours, step.search.autocast():
        step.run()
    paths += paths_after(step)
    for label, count in counts.items():
        if missing := {path[label] for path in paths} - set(count):
            raise RuntimeError(f"{step.name}: {missing} of {label} was foreseen, {set(count)} ran")
        step.executed.add(sum(count.values()) / step.batches)
    floors = [Floor(step.search, path) for path in paths]
    with SavedActivations(step.search, *(each.network for each in floors)) as floor:
        for each in floors:
            each.step()
    step.activations.append((ours.peak, floor.peak))


# -- time ------------------------------------------------------------------------------------------------------------------


class Clocks(NamedTuple):
    """Seconds on the wall, and of the processor for this process, which others on the machine disturb less."""

    wall: float
    cpu: float


def timed(device: torch.device, runs: Sequence[Callable[[], Any]]) -> Clocks:
    """What the runs take together."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for run in runs:
        run()
    wait()
    return Clocks(time.perf_counter() - wall, time.process_time() - cpu)


def measure(step: Step) -> None:
    """Time one run between floor steps on its paths: one path before and after; of several, half before and half after."""
    search = step.search

    def run() -> None:
        with search.autocast():
            step.run()

    def floors_on(paths: list[Path]) -> list[Callable[[], None]]:
        return [Floor(search, path).step for path in paths]

    floors = floors_on(paths_before(step))
    half = max(1, len(floors) // 2)
    first, last = floors[:half], floors[half:]
    before = timed(search.device, first)
    taken = timed(search.device, [run])
    last = floors_on(step.paths_after()) if step.paths_after else last or first
    after = timed(search.device, last)
    n = len(first) + len(last)
    step.times.append(
        (Clocks(*(t / step.batches for t in taken)), Clocks(*((a + b) / n for a, b in zip(before, after, strict=True))))
    )


def measure_in_turns(
    searches: Sequence[Search], warmed: Sequence[Step], inspected: Sequence[Step], order: Sequence[Step], rounds: int
) -> None:
    """Inside fits of all searches: run some steps once, inspect some, then time all in every round, in random order.

    Parameters
    ----------
    order
        The steps of a round; one that stands there several times is timed so often.
    """

    def inside() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning's handler waits for the end of a batch
        for search in searches:
            search.prepare()
        with bar(len(warmed) + len(inspected) + rounds * len(order), "step cost", "step") as done:
            for step in warmed:
                run_once(step)
                done.update()
            for step in inspected:
                inspect(step)
                done.update()
            gc.collect()
            gc.freeze()  # the collector is on, as it is for users, but walks through one step's objects and no more
            for _ in range(rounds):
                for step in random.sample(order, len(order)):
                    measure(step)
                    done.update()

    attached(searches, inside)
    gc.unfreeze()


# -- memory ----------------------------------------------------------------------------------------------------------------


def added_bytes(step: Callable[[], Step], runs: int, *, plain: bool, device: torch.device) -> int:
    """By how much the first runs of a step, or plain steps on the same kind of paths, add to a process's memory at most.

    On a CPU to the resident memory of a process of its own, on CUDA to what torch has allocated there. Weights and their
    momentum are there before.
    """
    if device.type == "cuda":
        return _added(step, runs, plain)
    context = multiprocessing.get_context(
        "fork"
    )  # imports are there already, and the memory of this process stays its own
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(_added(step, runs, plain)))
    child.start()
    theirs.close()
    try:
        return int(ours.recv())
    except EOFError:
        raise RuntimeError("the process whose memory was measured has ended without a figure") from None
    finally:
        child.join()


def _added(make: Callable[[], Step], runs: int, plain: bool) -> int:
    step = make()
    search = step.search
    found = []

    def inside() -> None:
        search.prepare()
        small = Floor(search, {layer.label: layer.names[0] for layer in search.layers})
        small.batch = tuple(t[:2] for t in search.batch)
        small.step()  # what torch loads with its first step is not the step's
        before = _memory(search.device, reset=True)
        for _ in range(runs):
            if plain:
                Floor(search, one_path(search.module)).step()
            else:
                with search.autocast():
                    step.run()
        found.append(_memory(search.device) - before)

    attached([search], inside)
    return found[0]


def _memory(device: torch.device, *, reset: bool = False) -> int:
    """The most bytes since the last reset, which makes it the bytes of now."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if reset:
        File("/proc/self/clear_refs").write_text("5")  # Linux's way to reset the high-water mark
    found = re.search(r"VmHWM:\s+(\d+) kB", File("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def can_measure_memory(device: torch.device) -> bool:
    return device.type == "cuda" or sys.platform == "linux"


# -- the record ------------------------------------------------------------------------------------------------------------


def times(step: Step) -> dict[str, Any]:
    """Medians over the samples of a step, quartiles of the ratio."""
    ratios = [taken.wall / floor.wall for taken, floor in step.times]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {
        "memory_format": step.search.memory,
        **step.search.sizes,
        "name": step.name,
        "seconds": statistics.median(taken.wall for taken, _ in step.times),
        "floor_seconds": statistics.median(floor.wall for _, floor in step.times),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [low, high],
        "cpu_ratio": statistics.median(taken.cpu / floor.cpu for taken, floor in step.times),
        "ratios": ratios,
    }


def entry(step: Step) -> dict[str, Any]:
    """What is recorded of one step."""
    if len(step.executed) > 1:
        raise RuntimeError(f"{step.name}: different numbers of candidates were run: {sorted(step.executed)}")
    if not step.activations:  # timed alone
        return times(step)
    counted = {"executed_per_layer": next(iter(step.executed))} if step.executed else {}  # else of no layer
    return times(step) | {
        **counted,
        "activation_bytes": statistics.median(ours for ours, _ in step.activations),
        "floor_activation_bytes": statistics.median(floor for _, floor in step.activations),
        "activation_ratio": statistics.median(ours / floor for ours, floor in step.activations),
    }


def noise(measured: dict[str, Any], control: dict[str, Any] | None) -> float:
    """How far a ratio may be off: what the control of the same configuration is off by, and two standard errors.

    The control, a floor step in the place of a step, must come out as 1; what it misses, in proportion, every other step may
    miss as well. The error of a median of n samples is 1.25 sigma / sqrt(n), and sigma, by the quartiles, is 0.74 of their
    distance. A few samples may lie close together by chance: they are taken to spread as the control's do at least.
    """
    control = control or measured
    spread = max((e["ratio_quartiles"][1] - e["ratio_quartiles"][0]) / e["ratio"] for e in (measured, control))
    own = 2 * 1.25 * 0.74 * spread / math.sqrt(len(measured["ratios"]))
    return measured["ratio"] * (own if measured is control else abs(control["ratio"] - 1) + own)
