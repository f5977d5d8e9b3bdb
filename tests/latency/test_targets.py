"""experiments/targets: programs that the pages of docs/how-to start from, against what they run; one of them over ssh."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from nni_proxyless.cli.main import main
from nni_proxyless.latency import LatencyProfiler, LookupTable, Operation, TimingError
from nni_proxyless.latency.runtimes.command import milliseconds_in, run_command

from ..conftest import ROOT
from ..report.test_remote import Host, folder_of_sshd, make_key, needs_sshd
from .test_runtime_tables import Space

TARGETS = ROOT / "experiments" / "targets"


def on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *lines: str) -> None:
    """A program of this name that does what a script says, before all others."""
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


BENCHNCNN = """loop_count = 50
num_threads = 4
cooling_down = 0
         model.param  min =    1.23  max =   11.50  avg =    1.30"""
BENCHMARK_MODEL = """INFO: Loaded model model.tflite
INFO: Inference timings in us: Init: 1234, First inference: 567, Warmup (avg): 89.5, Inference (avg): 90.1
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE"""
TRTEXEC = """[I] === Performance summary ===
[I] Latency: min = 0.6 ms, max = 1.2 ms, mean = 0.7 ms, median = 0.69 ms, percentile(90%) = 0.8 ms
[I] GPU Compute Time: min = 0.5 ms, max = 1.1 ms, mean = 0.6 ms, median = 0.58 ms, percentile(90%) = 0.7 ms
&&&& PASSED"""


@pytest.mark.parametrize(
    ("program", "arguments", "tool", "prints", "asked", "ms"),
    [
        ("bench_adb.sh", ["1x3x32x48", "4"], "adb", BENCHNCNN, "./benchncnn 50 4 2 -1 0 param=model.param shape=[48,32,3]", 1.23),
        ("bench_adb_tflite.sh", ["2"], "adb", BENCHMARK_MODEL, "./benchmark_model --graph=model.tflite --num_threads=2", 0.0901),
        ("bench_trtexec.sh", [], "trtexec", TRTEXEC, "--onnx=model", 0.58),
    ],
)  # fmt: skip
def test_what_a_tool_prints_is_read(tmp_path, monkeypatch, program, arguments, tool, prints, asked, ms):
    """And what it says when it fails is passed on."""
    on_path(tmp_path, monkeypatch, tool, 'echo "$@" >> asked', f"cat <<'END'\n{prints}\nEND")
    monkeypatch.chdir(tmp_path)
    words = [str(TARGETS / program), "model", *arguments]
    assert milliseconds_in(run_command(words, 20)) == ms
    assert asked in (tmp_path / "asked").read_text()
    on_path(tmp_path, monkeypatch, tool, "case $1 in push) ;; *) echo no device; exit 1;; esac")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "no device\n")


@contextlib.contextmanager
def board(folder: Path) -> Iterator[tuple[Host, Path]]:
    """An sshd that is not listening yet, and a configuration by which ssh calls it ``board``."""
    host = Host(folder / "board", "127.0.0.1")
    make_key(folder / "key")
    host.prepare(folder / "key.pub")
    (folder / "known").write_text(host.known)
    (folder / "config").write_text(
        f"Host board\nHostName {host.address}\nPort {host.port}\nUser {getpass.getuser()}\nIdentityFile {folder}/key\n"
        f"IdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
    )
    with folder_of_sshd():
        yield host, folder / "config"


@needs_sshd
def test_a_table_of_a_board_over_ssh(tmp_path, monkeypatch, capsys):
    """The walk of docs/how-to/target_board.md: a board that is not there is said, then it is measured, and nothing is left on it."""
    table = tmp_path / "table.yaml"
    words = f"command={TARGETS}/bench_ssh.sh board {{file}} '{sys.executable} $HOME/bench_onnx.py' {{threads}} 5"
    build = [
        "latency", "build", "--space", "tests.latency.test_runtime_tables:Space", "--resolution", "8", "--channels", "8", "--runtime",
        "command", "--runtime-option", words, "target=a board", "retries=0", "--repeats", "2", "--output", str(table),
    ]  # fmt: skip
    with board(tmp_path) as (host, config):
        monkeypatch.setenv("SSH_CONFIG", str(config))
        assert main(build) == 2
        assert re.search("failed at '.*': the command ended with code [0-9]+: .*", capsys.readouterr().err)
        with host.listening():
            (host.home / "bench_onnx.py").write_bytes((TARGETS / "bench_onnx.py").read_bytes())
            assert main(build) == 0
    read = LookupTable.read(table)
    assert (read.conditions["device"], read.conditions["runtime"]) == ("a board", "command")
    profiler = LatencyProfiler(Space(), read, (8, 8, 8))
    assert read.rows, "one, which so small a layer may leave at 0"
    assert all(profiler.profile({"one": choice}) > 0 for choice in ("wide", "skip"))
    assert list(Path("/tmp").glob(f"nni-proxyless-{os.uname().nodename}-*-model.onnx")) == []


def test_a_board_that_does_not_answer_is_said(tmp_path, monkeypatch):
    """Within the seconds that a variable has; else 50."""
    on_path(tmp_path, monkeypatch, "scp", ":")
    on_path(tmp_path, monkeypatch, "ssh", 'for last; do :; done; echo "$last" >> asked; exec sh -c "$last"')
    monkeypatch.chdir(tmp_path)
    words = [str(TARGETS / "bench_ssh.sh"), "board", "model"]
    monkeypatch.setenv("SSH_TIMEOUT", "0.3")
    with pytest.raises(TimingError, match=r"ended with code 124: board: no answer within 0.3 s, which is SSH_TIMEOUT$"):
        run_command([*words, "sh -c 'sleep 600'"], 20)
    monkeypatch.delenv("SSH_TIMEOUT")
    assert run_command([*words, "sh -c 'echo 1.5'"], 20) == "1.5\n"
    with pytest.raises(TimingError, match="ended with code 3, without a word"):
        run_command([*words, "sh -c 'exit 3'"], 20)
    first, second, _ = (tmp_path / "asked").read_text().splitlines()
    assert "; timeout 0.3 sh -c 'sleep 600' /tmp/nni-proxyless-" in first
    assert "; timeout 50 sh -c 'echo 1.5' /tmp/nni-proxyless-" in second


def test_openvino_by_its_own_program(tmp_path, monkeypatch):
    from nni_proxyless.latency.runtimes.command import Command

    monkeypatch.setenv("BENCHMARK_APP", str(Path(sys.executable).with_name("benchmark_app")))
    command = Command(command=[str(TARGETS / "bench_openvino.sh"), "{file}", "{threads}"])
    with torch.random.fork_rng(), command.prepare([Operation("a layer", nn.Conv2d(3, 8, 3), (3, 16, 16))]) as (runner,):
        assert 0 < runner.run_ms() < 1000
