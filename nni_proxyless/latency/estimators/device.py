"""Timing on this machine."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ...core.file_lock import hold, of_this_machine
from ..calls import Call, Shape, map_structure
from ..estimator import LatencyEstimator
from ..operation import Operation
from .timing import (  # fmt: skip
    PRECISIONS,
    conditions_of,
    median_and_p95,
    noise,
    noise_like,
    problems_of,
    synchronize,
    time_ms,
    timing_settings,
)

__all__ = ["DeviceEstimator", "Measurement"]

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Measurement:
    """Repeated timings of one operation: median and 95th percentile in milliseconds, and how many there were.

    ``predicted``: not timed but computed from other rows, see :mod:`nni_proxyless.latency.tables.predict`; ``count`` is then
    the number of those rows.
    """

    median_ms: float
    p95_ms: float
    count: int
    predicted: bool = False

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Measurement:
        return cls(*median_and_p95(times_ms), len(times_ms))


class DeviceEstimator(LatencyEstimator):
    """Times operations with torch on the machine it runs on.

    Evaluation and inference mode; every operation is warmed up, then all are timed in turn, round after round, so that a
    drift of the machine hits all alike; an accelerator is synchronized around every run. The median is what counts.

    Parameters
    ----------
    device
        ``'cpu'``, ``'cuda'``, ``'cuda:1'`` …, as torch names it.
    threads
        CPU threads while measuring. One gives the steadiest ranking.
    batch
        Images per run.
    precision
        ``'float32'``, ``'float16'`` or ``'bfloat16'``: what weights and inputs are cast to, whatever type they have.
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
        problems = problems_of(device, threads, batch, precision, warmup, repeats)
        if problems:
            raise ValueError("; ".join(problems))
        self.device = torch.device(device)
        self.threads, self.batch, self.precision = threads, batch, precision
        self.warmup, self.repeats = warmup, repeats

    @property
    def conditions(self) -> Mapping[str, object]:
        runtime = f"torch {torch.__version__}"
        return conditions_of(self.device, runtime, self.threads, self.batch, self.precision)

    def estimate(self, operation: Operation) -> float:
        """Median milliseconds of ``operation``, timed now."""
        return self.measure([operation])[0].median_ms

    def measure(
        self, operations: Sequence[Operation | tuple[nn.Module, Shape]], *, progress: Callable[[], None] | None = None
    ) -> list[Measurement]:
        """Time modules in interleaved rounds.

        Parameters
        ----------
        operations
            Operations, or pairs of a module and the shape of one sample of its input.
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
        self, operations: Sequence[Operation | tuple[nn.Module, Shape]], *, progress: Callable[[], None] | None = None
    ) -> list[list[float]]:
        """The same as it was timed: milliseconds of every operation, per round."""
        wanted = [op if isinstance(op, Operation) else Operation(type(op[0]).__name__, *op) for op in operations]
        with self.prepared([op.module for op in wanted]) as modules:
            runs = [self.run_of(op, module) for op, module in zip(wanted, modules, strict=True)]
            return self.rounds(runs, progress=progress)

    def rounds(
        self, runs: Sequence[Callable[[], float]], *, progress: Callable[[], None] | None = None
    ) -> list[list[float]]:
        """Warm up, then time in turns, so that a drift of the machine hits all alike; within :meth:`prepared`.

        Parameters
        ----------
        runs
            Each runs something once and returns its milliseconds; as :meth:`run_of` makes them.

        Returns
        -------
        list
            Milliseconds of each, per round.
        """
        for run in runs:
            for _ in range(self.warmup):
                run()
        found = []
        for _ in range(self.repeats):
            found.append([run() for run in runs])
            if progress is not None:
                progress()
        return found

    @contextmanager
    def prepared(self, modules: Sequence[_Module]) -> Iterator[list[_Module]]:
        """Copies of modules as and where they are to be timed, torch as it is to be while they are, and :meth:`alone`.

        The originals stay in their mode and place. Copied in one go: what several networks share, their copies share. But a
        parameter that is a view of another one's memory gets its own, as it has in a derived network: a kernel cut out of a
        larger one would be laid out anew at every run.
        """
        copies = [
            m.to(device=self.device, dtype=PRECISIONS[self.precision]).eval() for m in copy.deepcopy(list(modules))
        ]
        for parameter in {p for m in copies for p in m.parameters()}:
            parameter.data = parameter.data.clone()
        with self.alone(), timing_settings(self.device, self.threads):
            yield copies

    def alone(self) -> AbstractContextManager[None]:
        """While it lasts, no other process of this user measures on this device: two at once would time each other.

        Whoever comes second waits, and the log says for whom.
        """
        name = self.device.type
        if name == "cuda":
            name += str(torch.cuda.current_device() if self.device.index is None else self.device.index)
        return hold(of_this_machine(f"measures-{name}"), f"measures on this machine's {name}")

    def input_of(self, shape: Shape) -> torch.Tensor:
        """A batch of noise; ``shape`` is that of one sample."""
        return noise(shape, self.batch, self.device, self.precision)

    def run_of(self, operation: Operation, module: nn.Module) -> Callable[[], float]:
        """What times an operation once, in milliseconds; ``module`` is its module as :meth:`prepared` gives it.

        Raises
        ------
        ValueError
            It is not known what a batch of its input looks like; the message names the key.
        """
        if operation.call is None:
            return functools.partial(self.time, module, self.input_of(operation.input_shape))
        try:
            args, kwargs = self._inputs_of(operation.call)
        except ValueError as error:
            raise ValueError(f"operation '{operation.key}': {error}") from error
        return functools.partial(time_ms, module, args, self.device, **kwargs)

    def _inputs_of(self, call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A batch of noise for every tensor of floating point, and of what was seen for the others."""

        def make(sizes: Shape, dtype: torch.dtype) -> torch.Tensor:
            x = noise_like(sizes, self.device, self.precision)
            return x if dtype.is_floating_point else x.to(dtype)

        inputs = call.example(self.batch, make)
        return map_structure(inputs, torch.Tensor, lambda tensor: tensor.to(self.device))

    def time(self, module: Callable[[torch.Tensor], Any], x: torch.Tensor) -> float:
        """Milliseconds of one run, of what :meth:`prepared` gives."""
        return time_ms(module, x, self.device)

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked for."""
        synchronize(self.device)
