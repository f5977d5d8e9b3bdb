"""A program of the user's that gets a model file and prints milliseconds: how a phone, a board or an emulator is reached.

    command: [./bench.sh, "{file}", "{threads}"]

runs once for every timing. The last line of its output that is not blank has the milliseconds: a number, or several apart by blanks
or commas, whose median counts; nothing else may stand in that line. ``3,51`` and ``1,234.5`` are refused: each may be one number or two.
What it prints before that, and to standard error, is its own affair. It ends with code 0.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar, Literal

import torch

from ...core.errors import on_one_line, shown
from ...core.ranges import AtLeast, GreaterThan
from ..calls import shape_text
from .litert_runtime import LiteRt, write_tflite
from .ncnn_runtime import Ncnn, write_ncnn
from .onnx_file import write_onnx
from .runtime import Program, Runner, Runtime, TimingError

__all__ = ["Command", "EndedBySignal", "milliseconds_in", "run_command"]

PLACEHOLDERS = ("file", "shape", "threads", "batch")
KEPT_BYTES = 65536  # of what a program prints; the end of it
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
ONE_OR_TWO = re.compile(  # 1,234.5 and 1,234,567; 1.234,5; 3,51
    r"(?<![^\s,])[+-]?(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]*)?|[1-9][0-9]{0,2}\.[0-9]{3},[0-9]+|[0-9]+,[0-9]+)"
    r"(?:[eE][+-]?[0-9]+)?(?![^\s,])"
)
ALLOWED_MS = (1e-6, 1e9)  # the time of day is none
END_SECONDS = 5.0  # for output to arrive after the end of a program


@dataclass(frozen=True, kw_only=True)
class Command(Runtime):
    """Milliseconds of a user's program. It warms up by itself, and it alone knows on what it runs.

    Attributes
    ----------
    command
        The program and its arguments, in a list, or a text that is taken apart as a shell does it; no shell runs. ``{file}`` in it stands
        for the model file, ``{shape}`` for the shapes of its inputs, batch included (``1x3x32x32``, several apart by commas),
        ``{threads}`` and ``{batch}`` for these settings. A program that is no path is looked for in ``PATH``; a relative path begins in the
        current folder.
    target
        What milliseconds hold for, as the head of a table says it: ``Pixel 8``. Where it is empty, the program. Of several commands
        with the same target one measures at a time.
    here
        Whether the program runs the model on this machine. It then waits for others who measure here, and until the machine is quiet.
    format
        Of the file: ``onnx``, ``torchscript``, ``tflite``, or ``ncnn``, whose ``{file}`` is ``model.ncnn.param``, with ``model.ncnn.bin``
        beside it.
    timeout
        Seconds of one run of the program, after which it is ended with all that it has started.
    retries
        How often it is tried again after a failure.
    """

    command: str | list[str] = ""
    target: str = ""
    here: bool = False
    format: Literal["onnx", "torchscript", "ncnn", "tflite"] = "onnx"
    timeout: Annotated[float, GreaterThan(0)] = 60.0
    retries: Annotated[int, AtLeast(0)] = 1

    name: ClassVar[str] = "command"
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    silent: ClassVar[tuple[str, ...]] = ("timeout", "retries")
    warms_up_itself: ClassVar[bool] = True
    needs_files: ClassVar[bool] = True

    @property
    def version(self) -> str:
        return ""

    @property
    def words(self) -> list[str]:
        """The command, taken apart.

        Raises
        ------
        ValueError
            A quotation in it has no end.
        """
        return shlex.split(self.command) if isinstance(self.command, str) else list(self.command)

    def problems(self) -> list[str]:
        found = super().problems()
        try:
            words = self.words
        except ValueError as error:
            return [*found, f"command is {shown(self.command)}: {error}"]
        if not words or not words[0]:
            return [*found, "command is empty; allowed: a program and its arguments, such as [./bench.sh, '{file}']"]
        if not any("{file}" in word for word in words[1:]):
            found.append(f"command is {shown(self.command)}: no argument holds {{file}}, the model that is to be timed")
        if any("\0" in word for word in words):
            found.append("command holds a character of code 0")
        elif shutil.which(words[0]) is None:
            found.append(f"command: {_why_not_there(words[0])}")
        converts: Runtime | None = {"ncnn": Ncnn(batch=self.batch), "tflite": LiteRt()}.get(self.format)
        if converts is not None:
            found += [problem for problem in converts.problems() if problem not in found]
        return found

    @property
    def conditions(self) -> Mapping[str, object]:
        return {**super().conditions, "device": self.target or self.words[0]}

    @property
    def elsewhere(self) -> str:
        return "" if self.here else self.target or self.words[0]

    def surroundings(self) -> AbstractContextManager[Any]:
        return _on_signals(_exit)

    def load(self, program: Program, folder: Path) -> Runner:
        file = self._write(program, folder)
        said = {
            "file": str(file), "threads": str(self.threads), "batch": str(self.batch),
            "shape": ",".join(shape_text(tuple(x.shape)) for x in program.inputs),
        }  # fmt: skip
        return _Calls([_filled(word, said) for word in self.words], self.timeout, self.retries)

    def _write(self, program: Program, folder: Path) -> Path:
        if self.format == "ncnn":
            return write_ncnn(program, folder).param
        if self.format == "tflite":
            return write_tflite(program, folder / "model.tflite")
        if self.format == "onnx":
            return write_onnx(program, folder / "model.onnx").path
        from ...core.silenced import exporters_silenced

        path = folder / "model.pt"
        with exporters_silenced(), torch.no_grad():
            torch.jit.save(torch.jit.trace(program.module, program.inputs, check_trace=False), str(path))
        return path


class _Calls(Runner):
    def __init__(self, words: Sequence[str], timeout: float, retries: int):
        self.words, self.timeout, self.retries = words, timeout, retries

    def run_ms(self) -> float:
        for tried in range(self.retries + 1):
            try:
                return milliseconds_in(run_command(self.words, self.timeout))
            except TimingError as error:
                if tried == self.retries:
                    times = "" if tried == 0 else f" (tried {tried + 1} times)"
                    raise TimingError(f"{error}{times}") from error
        raise AssertionError("there is one try at least")


def milliseconds_in(output: str) -> float:
    """The milliseconds that a program has printed: the number of its last line, or the median of several.

    Raises
    ------
    TimingError
        There is no line, or it holds something else than finite numbers greater than 0.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        raise TimingError("the command printed nothing; allowed: milliseconds in the last line")
    last = lines[-1].strip()
    # ASCII: a blank that does not break a line stands between thousands, not between numbers.
    words = [word for word in re.split(r"[\s,]+", last, flags=re.ASCII) if word]
    if not words or not all(NUMBER.fullmatch(word) for word in words):
        raise TimingError(
            f"the last line that the command printed is {shown(last)}; allowed: milliseconds, one number or several, and nothing else"
        )
    if unclear := ONE_OR_TWO.search(last):
        raise TimingError(
            f"the last line that the command printed is {shown(last)}: {unclear[0]} may be one number or two; allowed: a decimal point, and "
            "blanks between numbers; nothing between thousands. A program that follows the language of its user does so with LC_ALL=C"
        )
    found = [float(word) for word in words]
    low, high = ALLOWED_MS
    if wrong := [word for word, ms in zip(words, found, strict=True) if not low <= ms <= high]:
        raise TimingError(
            f"the command printed {wrong[0]} for milliseconds; allowed: more than 0, and from a nanosecond to eleven days"
        )
    return statistics.median(found)


def run_command(words: Sequence[str], timeout: float) -> str:
    """The end of what a program prints to standard output; it reads nothing.

    Raises
    ------
    TimingError
        It cannot be started, takes longer than ``timeout`` seconds, or ends with another code than 0; the message has the last line
        of its standard error.
    EndedBySignal
        SIGTERM or SIGHUP has come; the program has been ended.
    """
    running: list[subprocess.Popen[bytes]] = []
    came: list[int] = []

    def end(number: int, frame: Any) -> None:
        """No exit from here: amid its start, a program is not known yet."""
        came.append(number)
        _kill_those(running)

    def started(process: subprocess.Popen[bytes]) -> None:
        running.append(process)
        if came:
            _kill_those(running)

    try:
        with _on_signals(end):
            return _output_of(words, timeout, started)
    finally:
        if came:
            raise EndedBySignal(came[0])


def _output_of(words: Sequence[str], timeout: float, started: Callable[[subprocess.Popen[bytes]], None]) -> str:
    try:
        # In a group of its own: what it has started ends with it.
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise TimingError(f"the command does not start: {words[0]}: {error.strerror}") from error
    started(process)
    assert process.stdout is not None
    assert process.stderr is not None
    outputs = _Tail(process.stdout), _Tail(process.stderr)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise TimingError(f"the command timed out after {timeout:g} s") from None
    finally:
        _end(process)
        printed, complained = (output.text() for output in outputs)
    if code != 0:
        how = f"ended with code {code}" if code > 0 else f"was ended by {_signal_name(-code)}"
        last = next((line.strip() for line in reversed(complained.splitlines()) if line.strip()), "")
        raise TimingError(
            f"the command {how}" + (f": {on_one_line(last)[:300]}" if last else ", without a word on standard error")
        )
    return printed


class EndedBySignal(SystemExit):
    """SIGTERM or SIGHUP has come while a program was timed: an exit, so that clean-up runs, with the code that a shell gives for it."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


def _exit(number: int, frame: Any) -> None:
    raise EndedBySignal(number)


@contextmanager
def _on_signals(do: Callable[[int, Any], None]) -> Iterator[None]:
    """What SIGTERM and SIGHUP do meanwhile, in the place of an end without clean-up.

    The handler of somebody else stays, and so does SIGHUP ignored, by nohup. In other threads than the main one, which alone gets
    signals, nothing changes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if is_main and hasattr(signal, name)]
    before = {n: handler for n in numbers if (handler := signal.getsignal(n)) in (signal.SIG_DFL, _exit)}
    for number in before:
        signal.signal(number, do)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Tail:
    """Reads all of a stream, so that its writer goes on, and keeps the end."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._kept = stream, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while part := os.read(self._stream.fileno(), KEPT_BYTES):
                self._kept = (self._kept + part)[-KEPT_BYTES:]
        except (OSError, ValueError):  # closed meanwhile
            return

    def text(self) -> str:
        """What was kept, once there is no more; a program that has left the group may hold a stream open."""
        self._thread.join(END_SECONDS)
        if not self._thread.is_alive():
            self._stream.close()
        return self._kept.decode("utf-8", errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it has started."""
    _kill(process)
    process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)


def _kill_those(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        if process.returncode is None:  # else its number may be another one's by now
            _kill(process)


def _filled(word: str, said: Mapping[str, str]) -> str:
    """A word with its placeholders; other braces stay as they are."""
    return re.sub(r"\{(" + "|".join(PLACEHOLDERS) + r")\}", lambda match: said[match.group(1)], word)


def _why_not_there(program: str) -> str:
    path = Path(program)
    if os.sep not in program:
        return f"{program} is not found in PATH"
    if path.is_dir():
        return f"{program} is a folder"
    return f"{program} may not be executed: chmod +x" if path.exists() else f"{program} is not there"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
