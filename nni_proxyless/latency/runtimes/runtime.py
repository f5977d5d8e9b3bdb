"""The interface of what runs a network while it is timed, and how one is made by its name.

A runtime loads a module once, with everything that takes time and is done once: a copy, a conversion, a compilation. What it gives
back, a :class:`Runner`, runs that module on a fixed input of noise, as often as it is asked to, and says how long that took.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from ...core import entry_point_names
from ...core.errors import did_you_mean, shown
from ...core.ranges import option_types
from ...core.ranges import problems_of as problems_of_ranges
from ...core.resource_errors import explain
from ...core.silenced import first_line
from ..calls import Call, Flat, Shape, TensorSpec, tensors_in
from ..estimators.timing import conditions_of, keep_freed_memory, noise_like
from ..operation import Operation

__all__ = [
    "GROUP",
    "PROFILED_RUNS",
    "InProcess",
    "Program",
    "RefusedByRuntime",
    "Runner",
    "Runtime",
    "TimingError",
    "as_operation",
    "make_runtime",
]

GROUP = "nni_proxyless.runtimes"
PROFILED_RUNS = 10  # of a module that says what its nodes take
SETTINGS = ("device", "threads", "batch", "precision")  # what every runtime has; all else are options of its own


class TimingError(ValueError):
    """A runtime cannot run something, or a run has failed. The message names the runtime and what was to run."""


class RefusedByRuntime(TimingError):
    """A runtime cannot run a module: it has an operator that the runtime does not have, or that cannot be exported to it."""


@dataclass(frozen=True)
class Program:
    """A module as a function of tensors to one tensor or a tuple of them.

    Attributes
    ----------
    key
        Of the operation, for messages.
    module
        A copy that a runtime may do with as it likes: on the CPU, in float32 and in evaluation mode.
    inputs
        What it is run on, the batch included: noise in float32, and of integers and truth values those that were seen.
    """

    key: str
    module: nn.Module
    inputs: tuple[Tensor, ...]


class Runner(ABC):
    """One module in a runtime, on a fixed input."""

    @abstractmethod
    def run_ms(self) -> float:
        """Run once; returns how long that took, in milliseconds, more than 0.

        Raises
        ------
        TimingError
            The run has failed. Other exceptions become one, with the name of what was to run.
        """

    def outputs(self) -> list[Tensor] | None:
        """What the module gives for its input, on the CPU; None where a runtime cannot hand that out."""
        return None

    def profile(self) -> Mapping[str, float]:
        """What the runtime itself says that the nodes of the module take, in milliseconds of a run.

        By the dotted name of the module that nodes are of, as far as that is known, else by any other name. Asked where
        :attr:`Runtime.profiles`, once, before the first timed run and while the files of :meth:`Runtime.load` are there.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what it holds. Called once."""
        return


class InProcess(Runner):
    """One that runs here: the time is that between the beginning and the end of :meth:`run`."""

    @abstractmethod
    def run(self) -> Any:
        """Run once, and wait until all of it is done."""

    def run_ms(self) -> float:
        start = time.perf_counter()
        self.run()
        return (time.perf_counter() - start) * 1e3


@dataclass(frozen=True, kw_only=True)
class Runtime(ABC):
    """Runs modules. A new one is a dataclass like those beside this file, with :meth:`load` and :attr:`version`.

    It is registered under the entry-point group ``nni_proxyless.runtimes``, or named as ``package.module:Class``. Fields that it
    adds are its options, which users set by name; their types are checked, :meth:`problems` says what else is wrong with them.

    Attributes
    ----------
    device
        ``'cpu'``, ``'cuda'`` …, one of :attr:`devices`; ``'cuda:1'`` is one of ``'cuda'``.
    threads
        CPU threads of a run.
    batch
        Samples per run.
    precision
        One of :attr:`precisions`.
    name
        What it is called in messages.
    packages
        What must be installed to import, and the ``extra`` of this package that brings it.
    devices, precisions
        Those that it can do.
    silent
        Options that make no difference to the milliseconds, and are not among the conditions.
    warms_up_itself
        Whether a run is a measurement of its own, with untimed runs before it, as a user's program makes it.
    needs_files
        Whether what :meth:`load` leaves in its folder is needed as long as the runner is.
    """

    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    precision: str = "float32"

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    silent: ClassVar[tuple[str, ...]] = ()
    warms_up_itself: ClassVar[bool] = False
    needs_files: ClassVar[bool] = False

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the runtime, for the head of a table; empty if it has none."""

    @abstractmethod
    def load(self, program: Program, folder: Path) -> Runner:
        """Make a module ready to run.

        Parameters
        ----------
        folder
            An empty one of its own, for files on the way.

        Raises
        ------
        Exception
            Of any kind, if it cannot run the module; the first line is what users read, after the name of the module.
        """

    def surroundings(self) -> AbstractContextManager[Any]:
        """What holds in this process while modules are loaded and run."""
        return nullcontext()

    def problems(self) -> list[str]:
        """What is wrong with the settings, each with what is allowed, and which packages are missing."""
        found = [
            f"{name} is {value}; allowed: 1 or more"
            for name, value in {"threads": self.threads, "batch": self.batch}.items()
            if value < 1
        ]
        if self.precision not in self.precisions:
            found.append(
                f"precision is {self.precision!r}; allowed with runtime {self.name}: {', '.join(self.precisions)}"
            )
        kind, colon, number = self.device.partition(":")
        if kind not in self.devices or (colon and not number.isdecimal()):
            found.append(f"device is {self.device!r}; allowed with runtime {self.name}: {', '.join(self.devices)}")
        own = {name: kind for name, kind in option_types(type(self)).items() if name not in SETTINGS}
        return found + problems_of_ranges(own, self) + self.missing()

    def missing(self) -> list[str]:
        """The packages that are not installed, in words; empty if all are."""
        names = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if not names:
            return []
        install = f"nni-proxyless[{self.extra}]" if self.extra else "nni-proxyless"
        return [
            f"runtime {self.name} needs {', '.join(self.packages)}; not installed: {', '.join(names)}. pip install '{install}'"
        ]

    @property
    def conditions(self) -> Mapping[str, object]:
        """What milliseconds hold for, as the head of a table says it: plain values, equal for equal settings."""
        runtime = f"{self.name} {self.version}".strip()
        said = conditions_of(torch.device(self.device), runtime, self.threads, self.batch, self.precision)
        return {**said, "options": json.dumps(self.options, sort_keys=True)} if self.options else said

    @property
    def profiles(self) -> bool:
        """Whether its runners have a :meth:`Runner.profile`."""
        return False

    @property
    def elsewhere(self) -> str:
        """The other machine that modules run on, by a name of its own; empty where it is this one.

        What runs elsewhere waits for no others who measure here, nor until this machine is quiet, but for others who measure there.
        """
        return ""

    @property
    def options(self) -> dict[str, Any]:
        """Options that are set and make a difference."""
        own = [field for field in dataclasses.fields(self) if field.name not in (*SETTINGS, *self.silent)]
        return {field.name: value for field in own if (value := getattr(self, field.name)) != field.default}

    @contextmanager
    def prepare(
        self, operations: Sequence[Operation | tuple[nn.Module, Shape]],
        profiled: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> Iterator[list[Runner]]:  # fmt: skip
        """Load modules, give one runner for each in the same order, and close them all in the end.

        Modules stay as they are: what is loaded is a copy of each.

        Parameters
        ----------
        operations
            Operations, or pairs of a module and the shape of one sample of its input.
        profiled
            Called with the number of each and its :meth:`Runner.profile`.

        Raises
        ------
        RefusedByRuntime
            One of them cannot be run; the message has its key.
        """
        if self.device == "cpu":
            keep_freed_memory()
        with tempfile.TemporaryDirectory(prefix="nni-proxyless-") as folder, ExitStack() as opened:
            opened.enter_context(self.surroundings())
            runners: list[Runner] = []
            for i, operation in enumerate(map(as_operation, operations)):
                place = Path(folder) / f"{i:04d}"
                place.mkdir()
                with self._named(operation.key, "cannot run", RefusedByRuntime):
                    runner = self.load(_program(operation, self.batch), place)
                    opened.callback(runner.close)
                    if not self.warms_up_itself:
                        runner.run_ms()  # some say only now that they cannot
                    if profiled is not None:
                        profiled(i, runner.profile())
                if not self.needs_files:
                    shutil.rmtree(place)
                runners.append(_Watched(self, operation.key, runner))
            yield runners

    @contextmanager
    def _named(self, key: str, what: str, kind: type[TimingError] = TimingError) -> Iterator[None]:
        """Errors of a runtime with its name, and that of what was to run.

        A full disk, or a package that is there and does not import, is none that the module is to be blamed for.
        """
        try:
            yield
        except Exception as error:  # runtimes and exporters raise what they like
            said = first_line(error)
            if not isinstance(error, (RuntimeError, ValueError, OSError)) and said != type(error).__name__:
                said = f"{type(error).__name__}: {said}"
            if isinstance(error, ImportError) or explain(error) is not None:
                kind, what = TimingError, "failed at"
            if isinstance(error, OSError) and explain(error) is not None:
                said += f" (temporary folder {tempfile.gettempdir()}; TMPDIR names another)"
            raise kind(f"runtime {self.name} {what} '{key}': {said}") from error


class _Watched(Runner):
    """A runner whose errors name what it runs, and whose milliseconds are some."""

    def __init__(self, runtime: Runtime, key: str, runner: Runner):
        self._runtime, self._key, self._runner = runtime, key, runner

    def run_ms(self) -> float:
        with self._runtime._named(self._key, "failed at"):
            return self._runner.run_ms()

    def outputs(self) -> list[Tensor] | None:
        with self._runtime._named(self._key, "failed at"):
            return self._runner.outputs()


def as_operation(given: Operation | tuple[nn.Module, Shape]) -> Operation:
    """An operation, or that of a module which is given one tensor of that shape."""
    if isinstance(given, Operation):
        return given
    module, shape = given
    return Operation(type(module).__name__, module, tuple(shape))


def _program(operation: Operation, batch: int) -> Program:
    module = copy.deepcopy(operation.module).to(device="cpu", dtype=torch.float32).eval()
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()  # one that is a view of a larger one, as in DeviceEstimator.prepared
    call = operation.call or Call((TensorSpec((1, *operation.input_shape), torch.float32),))

    def make(sizes: Shape, dtype: torch.dtype) -> Tensor:
        x = noise_like(sizes, torch.device("cpu"), "float32")
        return x if dtype.is_floating_point else x.to(dtype)

    inputs = tuple(x.cpu() for x in tensors_in(call.example(batch, make)))
    return Program(operation.key, module if operation.call is None else Flat(module, operation.call).eval(), inputs)


def make_runtime(name: str, options: Mapping[str, Any] | None = None, **settings: Any) -> Runtime:
    """The runtime of a name.

    Parameters
    ----------
    name
        Of an entry point, or ``package.module:Class``.
    options
        Of that runtime.
    settings
        ``device``, ``threads``, ``batch``, ``precision``.

    Raises
    ------
    ValueError
        An unknown name, a package that is missing, an unknown option, a value that is not allowed; the message names all of them.
    """
    try:
        found = entry_point_names.load(GROUP, name)
    except ValueError as error:
        raise ValueError(f"runtime: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise ValueError(
            f"runtime: '{name}' is of another kind; allowed: a class that inherits nni_proxyless.latency.Runtime"
        )
    options = dict(options or {})
    problems = _problems_of_options(found, options)
    if not problems:
        runtime = found(**settings, **options)
        try:
            problems = runtime.problems()
            if not problems:
                _ = runtime.version
        except ImportError as error:
            problems = [
                f"runtime {found.name} is installed, but does not import: {type(error).__name__}: {first_line(error)}"
            ]
    if problems:
        raise ValueError("; ".join(problems))
    return runtime


def _problems_of_options(found: type[Runtime], options: Mapping[str, Any]) -> list[str]:
    """Unknown options, and those of the wrong type."""
    types = {n: t for n, t in option_types(found).items() if n not in SETTINGS}
    problems = []
    for name, value in options.items():
        if name not in types:
            allowed = f"allowed: {', '.join(types)}" if types else "it has none"
            problems.append(f"runtime {found.name}: unknown option '{name}'; {allowed}.{did_you_mean(name, types)}")
            continue
        try:
            TypeAdapter(types[name], config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            problems.append(f"runtime {found.name}: option {name} is {shown(value)}: {said[:1].lower()}{said[1:]}")
    return problems
