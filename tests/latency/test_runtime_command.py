"""A user's program as a runtime: what it prints is read strictly, and whatever it does ends in one clear line."""

from __future__ import annotations

import os
import random
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from nni_proxyless.cli.main import main
from nni_proxyless.latency import DeviceEstimator, Operation, TimingError
from nni_proxyless.latency.runtimes.command import Command, EndedBySignal, milliseconds_in, run_command
from nni_proxyless.latency.tables.build import _policy_of
from nni_proxyless.search import latency_table

from ..conftest import ROOT
from ..forked import fork


def program(folder: Path, *lines: str) -> str:
    path = folder / "bench.sh"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def estimator(words: list[str] | str, **options) -> DeviceEstimator:
    return DeviceEstimator(runtime="command", options={"command": words, **options}, repeats=2)


def layer() -> Operation:
    return Operation("a layer", nn.Linear(4, 2), (4,))


# -- what is printed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "ms"),
    [
        ("1.5\n", 1.5), ("1.5", 1.5), ("warming up\n\n 2 \n\n", 2.0), ("3 1 2", 2.0), ("1, 2, 4, 5", 3.0), ("1.0,2.5", 1.75), ("1e-3", 0.001), ("+.5\r\n", 0.5),
        ("2.\n", 2.0), ("nan\n7\n", 7.0), ("\x1b[0m\n4\t6\n", 5.0),
        ("1.5,2.5,3.5", 2.5), ("12, 13, 14", 13.0), ("1.5,234.5", 118.0), ("1.234,5.678", 3.456), ("1,2.5,3.5", 2.5), ("1, 234.5", 117.75), ("1234.5", 1234.5),
    ],
)  # fmt: skip
def test_the_last_line_has_the_milliseconds(output, ms):
    assert milliseconds_in(output) == ms


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "the command printed nothing; allowed: milliseconds in the last line"),
        (" \n\t\n", "the command printed nothing"),
        ("3.2 ms\n", "the last line that the command printed is '3.2 ms'; allowed: milliseconds, one number or several, and nothing else"),
        ("3.2\ndone\n", "the last line that the command printed is 'done'"),
        ("avg=3.2", "is 'avg=3.2'"), ("nan", "is 'nan'"), ("inf", "is 'inf'"), ("1_000", "is '1_000'"), ("0x10", "is '0x10'"), (",", "is ','"),
        ("3,51", "is '3,51': 3,51 may be one number or two; allowed: a decimal point, and blanks between numbers"), ("1.5 0,25", "0,25 may be one"),
        ("1,234.5", "is '1,234.5': 1,234.5 may be one number or two; allowed: a decimal point, and blanks between numbers; nothing between thousands"),
        ("12,345.6", "12,345.6 may be one"), ("1,234,567", "1,234,567 may be one"), ("2.5, 1,234.5, 3", "1,234.5 may be one"), ("1,234.", "1,234. may be one"),
        ("1.234,5", "1.234,5 may be one"), ("-1,234.5e3", "-1,234.5e3 may be one"), ("1\u202f234.5", r"is '1\u202f234.5'"), ("1'234.5", '"1\'234.5"'),
        ("1.2.3", "is '1.2.3'"), ("1;2", "is '1;2'"), ("١", "is '١'"), ("--5", "is '--5'"), ("\x00", r"is '\x00'"),
        ("0", "the command printed 0 for milliseconds; allowed: more than 0, and from a nanosecond to eleven days"), ("-3", "printed -3 for"), ("1 2 -3", "printed -3 for"),
        ("1e999", "printed 1e999 for"), ("1795936000123", "printed 1795936000123 for"), ("1e-310", "printed 1e-310 for"), ("0.0", "printed 0.0 for"), ("1e-999", "printed 1e-999 for"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(output, message):
    with pytest.raises(TimingError, match=re.escape(message)):
        milliseconds_in(output)


def mutated(draw: random.Random) -> bytes:
    """A good output with some of it changed, left out or put in."""
    good = draw.choice(["loading model.onnx\navg\n12.5\n", "1.25 1.5 1.75\n", "3\n", "warm up: 10 runs\n0.5,0.6,0.7\n"])
    output = bytearray(good.encode())
    for _ in range(draw.randint(1, 4)):
        i = draw.randrange(len(output) + 1)
        kind = draw.randrange(5)
        if kind == 0 and i < len(output):
            output[i] = draw.randrange(256)
        elif kind == 1:
            output[i:i] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 5)))
        elif kind == 2:
            del output[i : i + draw.randint(1, 8)]
        elif kind == 3:
            output[i:i] = draw.choice(
                [b"nan", b"-", b"e400", b"\n", b"\r", b" ", b"inf", b"\xff\xfe", b"\x00", b"0", b"ms", b"\x1b[31m"]
            )
        else:
            output *= 2
    return bytes(output)


def test_mutated_outputs_are_milliseconds_or_one_clear_line():
    draw, refused = random.Random(0), []
    for _ in range(200):
        try:
            assert 0 < milliseconds_in(mutated(draw).decode("utf-8", errors="replace")) < float("inf")
        except TimingError as error:
            refused.append(str(error))
    assert 20 < len(refused) < 180
    for message in refused:
        assert re.search("allowed: (milliseconds|more than 0)", message)
        assert message.isprintable(), repr(message)


def test_mutated_outputs_through_processes(tmp_path):
    draw = random.Random(1)
    words = [program(tmp_path, 'cat "$1"'), str(tmp_path / "output")]
    for _ in range(20):
        (tmp_path / "output").write_bytes(output := mutated(draw))
        assert run_command(words, 30) == output.decode("utf-8", errors="replace")


# -- what a program does -----------------------------------------------------------------------------------------------------


def test_it_gets_what_it_is_asked_to_time(tmp_path):
    said = tmp_path / "said"
    bench = program(tmp_path, f'echo "$@" >> {said}', 'test -s "$1" && echo 2.5 3.5')
    words = [bench, "{file}", "--in={shape}", "-t", "{threads}", "x{batch}{}", "{other}"]
    timed = DeviceEstimator(runtime="command", options={"command": words}, threads=3, batch=2, repeats=4, warmup=9)
    assert timed.time_in_turns([(nn.Linear(4, 2), (4,))]) == [[3.0]] * 4
    lines = said.read_text().splitlines()
    assert len(lines) == 4  # it warms up by itself
    file, *others = lines[0].split()
    assert file.endswith("/model.onnx")
    assert others == ["--in=2x4", "-t", "3", "x2{}", "{other}"]
    assert not Path(file).exists()


@pytest.mark.parametrize(("form", "ending"), [("onnx", ".onnx"), ("torchscript", ".pt"), ("ncnn", ".ncnn.param")])
def test_the_format_of_the_file(tmp_path, form, ending):
    bench = program(
        tmp_path, f'echo "$1" > {tmp_path}/said', 'test -s "$1" && test $(ls "$(dirname "$1")" | wc -l) -gt 0 && echo 1'
    )
    assert estimator(f"{bench} {{file}}", format=form).estimate(layer()) == 1.0
    assert (tmp_path / "said").read_text().strip().endswith(f"model{ending}")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["echo 'no device' >&2", "exit 3"], "the command ended with code 3: no device"),
        (["echo 1.5", "exit 1"], "the command ended with code 1, without a word on standard error"),
        (["kill -9 $$"], "the command was ended by SIGKILL, without a word on standard error"),
        (["printf 'bad\\033[31m \\n\\n' >&2; exit 1"], r"the command ended with code 1: bad\x1b[31m"),
        (["echo 1.5 >&2"], "the command printed nothing"),
        (["echo fast"], "the last line that the command printed is 'fast'"),
    ],
)  # fmt: skip
def test_a_failure_is_said_in_one_line(tmp_path, lines, message):
    words = [program(tmp_path, f"echo x >> {tmp_path}/tried", *lines), "{file}"]
    with pytest.raises(TimingError) as caught:
        estimator(words, retries=2).estimate(layer())
    assert str(caught.value).startswith(f"runtime command failed at 'a layer': {message}"), str(caught.value)
    assert str(caught.value).endswith("(tried 3 times)")
    assert str(caught.value).isprintable()
    assert (tmp_path / "tried").read_text() == "x\n" * 3


def test_a_failure_that_passes_is_none(tmp_path):
    words = [program(tmp_path, f"mkdir {tmp_path}/there 2>/dev/null && exit 1", "echo 4"), "{file}"]
    assert estimator(words, retries=1).estimate(layer()) == 4.0


@pytest.mark.parametrize(
    "what", ["sleep 600", "sleep 600 & echo $! > {folder}/child; wait", "trap '' TERM INT; sleep 600", "yes"]
)
def test_one_that_hangs_is_ended_with_all_that_it_has_started(tmp_path, what):
    words = [program(tmp_path, what.replace("{folder}", str(tmp_path))), "{file}"]
    start = time.monotonic()
    with pytest.raises(TimingError, match=r"failed at 'a layer': the command timed out after 0.4 s$"):
        estimator(words, timeout=0.4, retries=0).estimate(layer())
    assert time.monotonic() - start < 10
    if (child := tmp_path / "child").exists():
        require_gone(int(child.read_text()))


def require_gone(pid: int) -> None:
    for _ in range(50):
        if not is_running(pid):
            return
        time.sleep(0.1)
    pytest.fail("what it has started is still running")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def default_signals() -> Iterator[None]:
    """As a shell starts a command; whoever runs these tests may ignore SIGHUP."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == [signal.SIG_DFL] * 2
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


HANGS = "sleep 600 & echo $! > {folder}/child.new; mv {folder}/child.new {folder}/child; wait"


def build_with_default_signals(words: list[str]) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    tempfile.tempdir = None  # TMPDIR is another one by now
    return main(words)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_one_that_runs_while_the_command_is_stopped_ends_with_it(tmp_path, number):
    """With all that it has started, and no file is left; the command ends by the signal, of which a shell makes 128 and its number."""
    bench, temporary = program(tmp_path, HANGS.replace("{folder}", str(tmp_path))), tmp_path / "temporary"
    temporary.mkdir()
    words = [
        "latency", "build", "--space", "tests.latency.test_runtime_tables:Space", "--resolution", "8", "--channels", "8", "--runtime",
        "command", "--runtime-option", f"command={bench} {{file}}", "--output", str(tmp_path / "table.yaml"),
    ]  # fmt: skip
    said, child = tmp_path / "said", tmp_path / "child"
    process = fork(build_with_default_signals, words, cwd=ROOT, said=said, TMPDIR=str(temporary))
    while not child.exists():
        assert process.exitcode is None, said.read_text()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(30)
    require_gone(int(child.read_text()))
    assert process.exitcode == -number, said.read_text()
    assert said.read_text().endswith("nni-proxyless: terminated\n")
    assert [path.name for path in temporary.iterdir()] == []


def test_a_signal_is_an_exit_and_is_not_tried_again(tmp_path, default_signals):
    """And as before once nothing is measured, which ``default_signals`` asks."""
    child = tmp_path / "child"
    words = [program(tmp_path, f"echo x >> {tmp_path}/tried", HANGS.replace("{folder}", str(tmp_path))), "{file}"]

    def stop_oneself() -> None:
        while not child.exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=stop_oneself, daemon=True).start()
    with pytest.raises(EndedBySignal) as ended:
        estimator(words, retries=2).estimate(layer())
    assert ended.value.code == 128 + signal.SIGHUP
    assert (tmp_path / "tried").read_text() == "x\n"
    require_gone(int(child.read_text()))


def test_a_signal_amid_the_start_of_a_program_ends_it(tmp_path, monkeypatch, default_signals):
    """Nobody knows its number yet."""
    child, start = tmp_path / "child", subprocess.Popen

    def slow(*arguments, **named):
        process = start(*arguments, **named)
        while not child.exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(subprocess, "Popen", slow)
    with pytest.raises(EndedBySignal):
        run_command([program(tmp_path, HANGS.replace("{folder}", str(tmp_path)))], 60)
    require_gone(int(child.read_text()))


def test_a_signal_between_programs_leaves_no_files(tmp_path, monkeypatch, default_signals):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def stop_oneself() -> None:
        with Command(command=["sh", "{file}"]).prepare([layer()]):
            assert list((tmp_path / "temporary").iterdir()) != []
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(EndedBySignal):
        stop_oneself()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_another_s_handler_stays(tmp_path, default_signals, handler):
    """As that of nohup, and Lightning's, which ends a training after the step."""
    signal.signal(signal.SIGTERM, handler)
    bench = program(tmp_path, f"kill -TERM {os.getpid()}", "sleep 0.2", "echo 4")
    assert estimator([bench, "{file}"], retries=0).estimate(layer()) == 4.0
    assert signal.getsignal(signal.SIGTERM) is handler
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_in_another_thread_no_signal_is_meant(tmp_path, default_signals):
    found: list[float] = []
    words = [program(tmp_path, "echo 4"), "{file}"]
    thread = threading.Thread(target=lambda: found.append(estimator(words).estimate(layer())))
    thread.start()
    thread.join()
    assert found == [4.0]


def test_one_that_prints_without_end_is_read_without_end(tmp_path):
    """Its writer is not held up, and memory does not grow with it."""
    output = run_command([sys.executable, "-c", "print('x' * 5_000_000); print(2.5)"], 60)
    assert len(output) <= 65536
    assert output.endswith("x\n2.5\n")


def test_one_that_goes_between_two_runs(tmp_path):
    """As a phone that is unplugged: what was timed before is not touched by it."""
    bench = program(tmp_path, "echo 1")
    timed, done = estimator([bench, "{file}"], retries=0), []

    def progress():
        done.append(1)
        os.remove(bench)

    with pytest.raises(
        TimingError, match=f"failed at 'a layer': the command does not start: {bench}: No such file or directory"
    ):
        timed.time_in_turns([layer()], progress=progress)
    assert done == [1]


@pytest.mark.parametrize("here", [False, True])
def test_another_machine_is_measured_beside_what_is_measured_here(tmp_path, monkeypatch, here):
    """Only a program that runs here waits for a quiet machine; of one target another process measures at a time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(latency_table, "wait_until_quiet", lambda threads: 0.5)
    timed = DeviceEstimator(
        runtime="command", options={"command": ["sh", "{file}"], "target": "a\n/phone", "here": here}, threads=2
    )
    with latency_table.measuring_alone(timed) as busy:
        (lock,) = tmp_path.glob("*.lock")
        assert ("a\\n/phone" in lock.read_text(), lock.name.endswith("-cpu.lock"), busy) == (
            (False, True, 0.5) if here else (True, False, 0.0)
        )
    assert ('"here": true' in str(timed.conditions["options"])) is here
    assert ("waiting" in _policy_of(timed)) is here


def test_one_that_is_no_program(tmp_path):
    bench = Path(program(tmp_path))
    bench.write_bytes(b"\x7fELF nothing")
    with pytest.raises(TimingError, match=r"the command does not start: .*: Exec format error"):
        estimator([str(bench), "{file}"]).estimate(layer())


def test_a_text_is_taken_apart_as_a_shell_does_it():
    command = Command(command="""adb -s 'a phone' shell "bench {file}" """)
    assert command.words == ["adb", "-s", "a phone", "shell", "bench {file}"]
    assert command.conditions["device"] == "adb"
