"""Timing on this machine."""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from .estimator import LatencyEstimator
from .operation import Operation, Shape

__all__ = ["DeviceEstimator", "Measurement"]

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Measurement:
    """Repeated timings of one operation: median and 95th percentile in milliseconds, and how many there were."""

    median_ms: float
    p95_ms: float
    count: int

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
        dtype = PRECISIONS[self.precision]
        times: list[list[float]] = [[] for _ in operations]
        with (
            torch.inference_mode(),
            _cpu_threads(self.threads),
            _evaluation([m for m, _ in operations], self.device, dtype) as modules,
        ):
            # A generator of its own: whether latencies were measured or read must not change what a search draws.
            random = torch.Generator().manual_seed(0)
            inputs = [
                torch.randn(self.batch, *shape, generator=random).to(device=self.device, dtype=dtype)
                for _, shape in operations
            ]
            for module, x in zip(modules, inputs, strict=True):
                for _ in range(self.warmup):
                    module(x)
            for _ in range(self.repeats):
                for seconds, module, x in zip(times, modules, inputs, strict=True):
                    seconds.append(self._run(module, x))
                if progress is not None:
                    progress()
        return [Measurement.of(t) for t in times]

    def _run(self, module: nn.Module, x: torch.Tensor) -> float:
        self._synchronize()
        start = time.perf_counter()
        module(x)
        self._synchronize()
        return (time.perf_counter() - start) * 1e3

    def _synchronize(self) -> None:
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


@contextmanager
def _cpu_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _evaluation(modules: Sequence[nn.Module], device: torch.device, dtype: torch.dtype) -> Iterator[list[nn.Module]]:
    """Copies of the modules, where and as they are to be timed; the originals stay in their mode and place."""
    yield [copy.deepcopy(module).to(device=device, dtype=dtype).eval() for module in modules]
