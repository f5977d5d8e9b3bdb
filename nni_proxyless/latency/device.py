"""Timing on this machine."""

from __future__ import annotations

import copy
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import nn

from .estimator import LatencyEstimator
from .operation import Operation, Shape

__all__ = ["DeviceEstimator", "Measurement"]

_Module = TypeVar("_Module", bound=nn.Module)

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Measurement:
    """Repeated timings of one operation: median and 95th percentile in milliseconds, and how many there were.

    ``predicted``: not timed but computed from other rows, see :mod:`nni_proxyless.latency.prediction`; ``count`` is then
    the number of those rows.
    """

    median_ms: float
    p95_ms: float
    count: int
    predicted: bool = False

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Measurement:
        ordered = sorted(times_ms)
        return cls(statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], len(ordered))


class DeviceEstimator(LatencyEstimator):
    """Times operations with torch on the machine it runs on.

    Evaluation and inference mode; every operation is warmed up, then all are timed in turn, round after round, so that a
    drift of the machine hits all alike; an accelerator is synchronised around every run. The median is what counts.

    Parameters
    ----------
    device
        ``'cpu'``, ``'cuda'``, ``'cuda:1'`` …, as torch names it.
    threads
        CPU threads while measuring. One gives the steadiest ranking (FACTS 7).
    batch
        Images per run.
    precision
        ``'float32'``, ``'float16'`` or ``'bfloat16'``.
    warmup
        Untimed runs of each operation.
    repeats
        Timed runs of each operation, one per round.

    Raises
    ------
    ValueError
        An argument outside its range; the message names all such arguments.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        threads: int = 1,
        batch: int = 1,
        precision: str = "float32",
        warmup: int = 10,
        repeats: int = 50,
    ):
        problems = [
            f"{name} is {value}; allowed: 1 or more"
            for name, value in {"threads": threads, "batch": batch, "repeats": repeats}.items()
            if value < 1
        ]
        if warmup < 0:
            problems.append(f"warmup is {warmup}; allowed: 0 or more")
        if precision not in PRECISIONS:
            problems.append(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}")
        if device.partition(":")[0] not in ("cpu", "cuda", "mps"):
            problems.append(f"device is {device!r}; allowed: cpu, cuda, cuda:N, mps")
        elif device.startswith("cuda") and not torch.cuda.is_available():
            problems.append(f"device is {device!r}, but torch finds no CUDA device here")
        if problems:
            raise ValueError("; ".join(problems))
        self.device = torch.device(device)
        self.threads, self.batch, self.precision = threads, batch, precision
        self.warmup, self.repeats = warmup, repeats

    @property
    def conditions(self) -> Mapping[str, object]:
        return {
            "device": device_name(self.device),
            "torch_device": self.device.type,
            "runtime": f"torch {torch.__version__}",
            "threads": self.threads,
            "batch": self.batch,
            "precision": self.precision,
            # Of a job that torchrun or Lightning has started on several; they would measure beside each other.
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
        }

    def estimate(self, operation: Operation) -> float:
        """Median milliseconds of ``operation``, timed now."""
        return self.measure([(operation.module, operation.input_shape)])[0].median_ms

    def measure(
        self, operations: Sequence[tuple[nn.Module, Shape]], *, progress: Callable[[], None] | None = None
    ) -> list[Measurement]:
        """Time modules in interleaved rounds.

        Parameters
        ----------
        operations
            Pairs of a module and the shape of one sample of its input.
        progress
            Called once per round.

        Returns
        -------
        list
            One :class:`Measurement` per operation, in the same order.
        """
        rounds = self.time_in_turns(operations, progress=progress)
        return [Measurement.of(times) for times in zip(*rounds, strict=True)]

    def time_in_turns(
        self, operations: Sequence[tuple[nn.Module, Shape]], *, progress: Callable[[], None] | None = None
    ) -> list[list[float]]:
        """The same as it was timed: milliseconds of every operation, per round."""
        rounds: list[list[float]] = []
        with self.prepared([m for m, _ in operations]) as modules:
            inputs = [self.input_of(shape) for _, shape in operations]
            for module, x in zip(modules, inputs, strict=True):
                for _ in range(self.warmup):
                    module(x)
            for _ in range(self.repeats):
                rounds.append([self.time(module, x) for module, x in zip(modules, inputs, strict=True)])
                if progress is not None:
                    progress()
        return rounds

    @contextmanager
    def prepared(self, modules: Sequence[_Module]) -> Iterator[list[_Module]]:
        """Copies of modules as and where they are to be timed, and torch as it is to be while they are.

        The originals stay in their mode and place. Copied in one go: what several networks share, their copies share.
        """
        copies = [
            m.to(device=self.device, dtype=PRECISIONS[self.precision]).eval() for m in copy.deepcopy(list(modules))
        ]
        if self.device.type == "cpu":
            _keep_freed_memory()
        with torch.inference_mode(), _cpu_threads(self.threads):
            yield copies

    def input_of(self, shape: Shape) -> torch.Tensor:
        """A batch of noise; ``shape`` is that of one sample."""
        # A generator of its own: whether latencies were measured or read must not change what a search draws.
        random = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, *shape, generator=random).to(self.device, PRECISIONS[self.precision])

    def time(self, module: nn.Module, x: torch.Tensor) -> float:
        """Milliseconds of one run, of what :meth:`prepared` gives."""
        self.synchronize()
        start = time.perf_counter()
        module(x)
        self.synchronize()
        return (time.perf_counter() - start) * 1e3

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


@lru_cache(maxsize=8)
def device_name(device: torch.device) -> str:
    """What the hardware calls itself, for the head of a table."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _keep_freed_memory() -> None:
    """Let the C library keep the memory of large tensors for the next ones, as it does in any process that runs for a while.

    glibc gives freed memory back to the system above a threshold, and raises it when a larger block is freed. As long as it is
    low, every large activation is paid for in page faults: a block with 5 MB of them took 8.2 ms in a young process and 5.0 ms
    in an older one, which no table can know. One block just below the most that glibc goes along with settles it.
    """
    del [torch.empty(31 * 2**20, dtype=torch.uint8)][:]


@contextmanager
def _cpu_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
