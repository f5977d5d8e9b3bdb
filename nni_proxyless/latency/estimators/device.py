"""Timing on this machine."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ...core import entry_point_names
from ...core.errors import on_one_line
from ...core.file_lock import hold, of_this_machine
from ..calls import Call, Shape, map_structure
from ..estimator import LatencyEstimator
from ..operation import Operation
from ..runtimes.default import TORCH, default_runtime
from ..runtimes.runtime import GROUP, Runtime, as_operation, make_runtime
from ..runtimes.torch_eager import TorchEager
from .timing import (  # fmt: skip
    PRECISIONS,
    median_and_p95,
    noise,
    noise_like,
    problems_of,
    synchronize,
    time_ms,
    timing_settings,
)

__all__ = ["TORCH", "DeviceEstimator", "InARow", "Measurement", "runs_foreign_code", "runtime_of"]

_Module = TypeVar("_Module", bound=nn.Module)

SHORT_MS = 1.0
ANYTHING: dict[str, Any] = {
    "device": "cpu",
    "threads": 1,
    "batch": 1,
    "precision": "float32",
}  # that is allowed: a runtime judges its own


class InARow:
    """Of runs in a row the last, as in an application that runs one network image after image.

    The first finds the caches full of the other networks that are timed in turns with it. 24 of ``small`` in ONNX Runtime, by what each
    takes when it runs alone: at 16x16 (0.08 ms) the first run takes 2.2 times that, the second 7 % more, the third 2 %, the fourth 1 %;
    at 32x32 (0.26 ms) 45, 2, 0.7 and 0.6 % more. So the fourth counts where a run takes less than :data:`SHORT_MS`, else the second.
    """

    def __init__(self, once: Callable[[], float]):
        self.once = once

    def __call__(self) -> float:
        if self.once() < SHORT_MS:
            self.once()
            self.once()
        return self.once()


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


def runtime_of(conditions: Mapping[str, object]) -> str:
    """The name of the runtime in conditions, with which it is made again."""
    return str(conditions.get("runtime", TORCH)).partition(" ")[0]


def runs_foreign_code(name: str) -> bool:
    """Whether a runtime of this name runs what a file may say: a program, or a module. Nobody expects that of reading a table."""
    return name == "command" or ":" in name


class DeviceEstimator(LatencyEstimator):
    """Times operations on the machine it runs on, or wherever a runtime takes them.

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
        ``'float32'``, ``'float16'`` or ``'bfloat16'``: what weights and inputs are cast to, whatever type they have. Other runtimes
        than torch know others: ONNX Runtime and OpenVINO ``'int8'``, to which networks are quantized.
    warmup
        Untimed runs of each operation; a command warms up by itself.
    repeats
        Timed runs of each operation, one per round.
    runtime
        What runs them: ``'onnxruntime'``, ``'torch'``, which is eager mode, and so on, or ``package.module:Class`` of a
        :class:`~nni_proxyless.latency.Runtime`; None: onnxruntime on a CPU, torch on other devices.
    options
        Of the runtime, by name.

    Raises
    ------
    ValueError
        An argument outside its range, a runtime that is unknown or not installed; the message names all such arguments.
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
        runtime: str | None = None,
        options: dict[str, Any] | None = None,
    ):
        runtime = default_runtime(device) if runtime is None else runtime
        settings: dict[str, Any] = {"device": device, "threads": threads, "batch": batch, "precision": precision}
        # Entry points are read only for others: that takes longer than all else here.
        is_plain = runtime == TORCH and not options
        problems = problems_of(**(settings if is_plain else ANYTHING), warmup=warmup, repeats=repeats)
        try:
            made = None if is_plain else make_runtime(runtime, options, **settings)
        except ValueError as error:
            problems.insert(0, str(error))
        if problems:
            raise ValueError("; ".join(problems))
        self.runtime, self.options = runtime, dict(options or {})
        self._runtime: Runtime = made or TorchEager(**settings)
        self.device = torch.device(device)
        self.threads, self.batch, self.precision = threads, batch, precision
        self.warmup, self.repeats = 0 if self._runtime.warms_up_itself else warmup, repeats

    @property
    def profiles(self) -> bool:
        """Whether the runtime itself says what the parts of a network take."""
        return self._runtime.profiles

    @property
    def elsewhere(self) -> str:
        """The other machine that is measured, by its name; empty where it is this one."""
        return self._runtime.elsewhere

    @property
    def runs_programs(self) -> bool:
        """Whether every timing is a run of a program, here or elsewhere, which warms up by itself."""
        return self._runtime.warms_up_itself

    @property
    def conditions(self) -> Mapping[str, object]:
        # The name by which it is made again, see :meth:`of_conditions`.
        return {**self._runtime.conditions, "runtime": f"{self.runtime} {self._runtime.version}".strip()}

    @classmethod
    def of_conditions(cls, conditions: Mapping[str, object], **arguments: Any) -> DeviceEstimator:
        """The estimator whose conditions these are, if that can be made here: compare its own with them.

        Parameters
        ----------
        arguments
            ``warmup`` and so on, which conditions do not say.

        Raises
        ------
        ValueError
            They do not say all of device, threads, batch and precision, or name a runtime that is not here.
        """
        missing = [name for name in ("torch_device", "threads", "batch", "precision") if name not in conditions]
        if missing:
            raise ValueError(f"does not say {', '.join(missing)}: its target cannot be timed here")
        said = {name: str(conditions[name]) for name in ("torch_device", "threads", "batch", "precision")}
        try:
            settings: dict[str, Any] = {"threads": int(said["threads"]), "batch": int(said["batch"])}
            options = json.loads(str(conditions.get("options", "{}")))
        except ValueError as error:
            raise ValueError(f"its conditions are no settings of an estimator: {error}") from error
        name = runtime_of(conditions)
        if name not in entry_point_names.names(GROUP) and ":" not in name:
            name = TORCH  # a table of something else, as its conditions then say
        return cls(
            device=said["torch_device"], precision=said["precision"], runtime=name, **settings,
            **{**arguments, "options": {**options, **(arguments.get("options") or {})}},
        )  # fmt: skip

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
        self, operations: Sequence[Operation | tuple[nn.Module, Shape]], *, progress: Callable[[], None] | None = None,
        repeats: int | None = None, each: Callable[[list[float]], None] | None = None,
        profiled: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> list[list[float]]:  # fmt: skip
        """The same as it was timed: milliseconds of every operation, per round.

        Other arguments as :meth:`rounds` and :meth:`.runtimes.runtime.Runtime.prepare` have them.
        """
        with self.runs(operations, profiled) as runs:
            return self.rounds(runs, progress=progress, repeats=repeats, each=each)

    @contextmanager
    def runs(
        self, operations: Sequence[Operation | tuple[nn.Module, Shape]],
        profiled: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> Iterator[list[Callable[[], float]]]:  # fmt: skip
        """What times each of these once, in milliseconds, in the runtime; and :meth:`alone`, while it lasts.

        Raises
        ------
        ValueError
            One of them cannot be run; the message has its key.
        """
        wanted = [as_operation(operation) for operation in operations]
        if self.runtime == TORCH:
            with self.prepared([op.module for op in wanted]) as modules:
                yield [self.run_of(op, module) for op, module in zip(wanted, modules, strict=True)]
        else:
            with self.alone(), self._runtime.prepare(wanted, profiled) as runners:
                yield [runner.run_ms if self._runtime.warms_up_itself else InARow(runner.run_ms) for runner in runners]

    def rounds(
        self, runs: Sequence[Callable[[], float]], *, progress: Callable[[], None] | None = None, repeats: int | None = None,
        each: Callable[[list[float]], None] | None = None,
    ) -> list[list[float]]:  # fmt: skip
        """Warm up, then time in turns, so that a drift of the machine hits all alike; within :meth:`runs` or :meth:`prepared`.

        Parameters
        ----------
        runs
            Each runs something once and returns its milliseconds; as :meth:`runs` gives and :meth:`run_of` makes them.
        repeats
            Rounds, in the place of ``self.repeats``.
        each
            Called with the milliseconds of a round as soon as it is timed.

        Returns
        -------
        list
            Milliseconds of each, per round.
        """
        self.warm_up(runs)
        found = []
        for _ in range(self.repeats if repeats is None else repeats):
            found.append([run() for run in runs])
            if each is not None:
                each(found[-1])
            if progress is not None:
                progress()
        return found

    def warm_up(self, runs: Sequence[Callable[[], float]]) -> None:
        """Run each ``self.warmup`` times, as :meth:`rounds` does before it times them."""
        for run in runs:
            once = run.once if isinstance(run, InARow) else run
            for _ in range(self.warmup):
                once()

    @contextmanager
    def prepared(self, modules: Sequence[_Module]) -> Iterator[list[_Module]]:
        """Copies of modules as and where they are to be timed, torch as it is to be while they are, and :meth:`alone`.

        The originals stay in their mode and place. Copied in one go: what several networks share, their copies share. But a
        parameter that is a view of another one's memory gets its own, as it has in a derived network: a kernel cut out of a
        larger one would be laid out anew at every run.

        Raises
        ------
        ValueError
            The runtime is another one than torch.
        """
        self.require_inside()
        copies = [
            m.to(device=self.device, dtype=PRECISIONS[self.precision]).eval() for m in copy.deepcopy(list(modules))
        ]
        for parameter in {p for m in copies for p in m.parameters()}:
            parameter.data = parameter.data.clone()
        with self.alone(), timing_settings(self.device, self.threads):
            yield copies

    def require_inside(self) -> None:
        """Refuse a runtime that cannot be stopped between the operations of a network.

        Raises
        ------
        ValueError
            The runtime is another one than torch.
        """
        if self.runtime != TORCH:
            raise ValueError(
                f"runtime {self.runtime} cannot time operations inside of networks, as method 'networks' does; allowed with it: "
                "methods 'fit' and 'isolated'; with method 'networks': runtime torch"
            )

    def alone(self) -> AbstractContextManager[None]:
        """While it lasts, no other process of this user measures on this device: two at once would time each other.

        Whoever comes second waits, and the log says for whom. Of another machine it is those who measure there from here.
        """
        if self.elsewhere:
            name = hashlib.sha256(self.elsewhere.encode()).hexdigest()[:16]
            return hold(of_this_machine(f"measures-{name}"), f"measures on {on_one_line(self.elsewhere)}")
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
