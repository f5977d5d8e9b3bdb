"""Tables and derived networks by other runtimes than torch: built, checked, gone on with, and refused by the candidate's name."""

from __future__ import annotations

import argparse
import logging
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_proxyless.cli.latency import OF_PROGRAMS, _estimator_of
from nni_proxyless.cli.main import main
from nni_proxyless.core.errors import UserError
from nni_proxyless.latency import DeviceEstimator, LatencyProfiler, LookupTable, TimingError, build_lookup_table
from nni_proxyless.latency.estimators.device import Measurement
from nni_proxyless.latency.estimators.whole_networks import MOST, NetworkMeasurement, eager_ms, time_networks
from nni_proxyless.latency.operation import trace_operations
from nni_proxyless.latency.runtimes.runtime import RefusedByRuntime
from nni_proxyless.latency.tables import time_in_chunks
from nni_proxyless.latency.tables.check import time_networks as time_checking
from nni_proxyless.latency.tables.kept_timings import KeptTimings
from nni_proxyless.search import latency_table
from nni_proxyless.search.latency_table import build_table, make_profiler, said_of_fit
from nni_proxyless.search.measured_network import measure_derived

from ..conftest import ROOT
from ..forked import fork


class Determinant(nn.Module):
    """ONNX Runtime has no such operator behind the exporter."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.linalg.eigvalsh(x.reshape(-1, 2, 4)[:, :, :2]).sum()


class Space(ModelSpace):
    def __init__(self, odd: bool = False):
        super().__init__()
        self.first = nn.Linear(8, 8)
        candidates = {"wide": nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)), "skip": nn.Identity()}
        self.one = LayerChoice({**candidates, **({"odd": Determinant()} if odd else {})}, label="one")
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.one(self.first(x)))


def program(folder: Path, *lines: str) -> list[str]:
    path = folder / "bench.sh"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path), "{file}"]


def by_command(words: list[str], **options) -> DeviceEstimator:
    return DeviceEstimator(runtime="command", options={"command": words, "retries": 0, **options}, repeats=3)


def test_isolated_operations_in_another_runtime(tmp_path):
    estimator = DeviceEstimator(runtime="onnxruntime", warmup=1, repeats=3)
    table = build_lookup_table(Space(), (8,), estimator, method="isolated")
    assert len(table.rows) == 3
    assert all(row.median_ms > 0 for row in table.rows.values())
    assert str(table.conditions["runtime"]).startswith("onnxruntime ")
    table.write(tmp_path / "table.yaml")
    LookupTable.read(tmp_path / "table.yaml").require(estimator.conditions)


def test_a_build_whose_command_dies_goes_on_where_it_was(tmp_path):
    """Of 10 runs before, 9 and 10 after none is made twice but the one that failed."""
    words = program(
        tmp_path, f"echo x >> {tmp_path}/runs", f"test $(wc -l < {tmp_path}/runs) -ne 15 || exit 9", "echo 1.5"
    )
    arguments = {"method": "isolated", "partial": tmp_path / "partial"}
    with pytest.raises(TimingError, match="the command ended with code 9"):
        build_lookup_table(Space(), (8,), by_command(words), **arguments)
    table = build_lookup_table(Space(), (8,), by_command(words), **arguments)
    assert {row.median_ms for row in table.rows.values()} == {1.5}
    assert len((tmp_path / "runs").read_text().split()) == 10 + 3 * 3 + 10 + 1


def test_a_candidate_that_a_runtime_cannot_run_is_named(tmp_path, capfd):
    """With what the exporter stumbled over, not with its advice, and not beside the graph that it prints from C."""
    estimator = DeviceEstimator(runtime="onnxruntime", warmup=0, repeats=1)
    with pytest.raises(
        TimingError,
        match=r"runtime onnxruntime cannot run 'Determinant-.*': torch cannot write it as ONNX: .*eig.*; it runs when one is odd$",
    ) as caught:
        build_table(Space(odd=True), (8,), estimator, partial=tmp_path / "partial", method="isolated")
    assert str(caught.value).isprintable()
    assert capfd.readouterr().out == ""


def test_a_full_disk_is_no_fault_of_a_candidate(tmp_path):
    """Files of more than 4 KB cannot be written for a while."""
    estimator = DeviceEstimator(runtime="onnxruntime", warmup=0, repeats=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(TimingError) as caught:
            build_table(Space(), (8,), estimator, partial=tmp_path / "partial", method="isolated")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not isinstance(caught.value, RefusedByRuntime)
    assert re.search(r"runtime onnxruntime failed at '.*': .*File too large.* \(temporary folder ", str(caught.value))


def test_a_package_that_is_there_and_does_not_import_is_said(tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(
        "raise ImportError('libnothing.so.1: cannot open shared object file')"
    )
    code = "from nni_proxyless.latency import DeviceEstimator; DeviceEstimator(runtime='onnxruntime')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip().endswith(
        "ValueError: runtime onnxruntime is installed, but does not import: ImportError: libnothing.so.1: cannot open shared object file"
    )


def test_a_program_that_says_the_same_of_every_network_has_no_table(tmp_path):
    with pytest.raises(
        ValueError, match=r"all 2 networks took 5.0 ms, to the last digit: rows cannot be told from that"
    ):
        build_lookup_table(Space(), (8,), by_command(program(tmp_path, "echo 5")), partial=tmp_path / "partial")
    assert not (tmp_path / "partial").exists(), "the next build would go on with it"


def test_of_two_networks_it_is_not_said_how_true_a_fit_is(tmp_path):
    """Each left out in turn would be far off, with a rank correlation of -1."""
    table = build_lookup_table(Space(), (8,), by_command(program(tmp_path, 'wc -c < "$1"')))
    assert said_of_fit(table) == "fitted to 2 networks, too few to say how true it is"


def test_the_log_says_how_long_the_first_networks_take(tmp_path, monkeypatch, caplog):
    """After two rounds, where it is long."""
    monkeypatch.setattr(time_in_chunks, "LONG_S", 0.0)
    caplog.set_level(logging.INFO)
    build_lookup_table(Space(), (8,), by_command(program(tmp_path, 'wc -c < "$1"')))
    assert re.search("latencies: 2 networks take about [0-9]+ s more, 1 rounds", caplog.text)


def test_a_fit_whose_command_dies_goes_on_in_the_round_in_which_it_was(tmp_path):
    """Of the two networks three rounds are timed; the seventh run would be one too many."""
    words = program(
        tmp_path, f"echo x >> {tmp_path}/runs", f"test $(wc -l < {tmp_path}/runs) -ne 4 || exit 9", 'wc -c < "$1"'
    )
    with pytest.raises(TimingError, match="the command ended with code 9"):
        build_lookup_table(Space(), (8,), by_command(words), partial=tmp_path / "partial")
    build_lookup_table(Space(), (8,), by_command(words), partial=tmp_path / "partial")
    assert len((tmp_path / "runs").read_text().split()) == 4 + 4, "the second round, in which it died, and the third"


def test_a_search_that_goes_on_beside_another_version_of_its_runtime_is_told_how(tmp_path):
    """Not to delete its table: it would steer by another one."""
    estimator = DeviceEstimator(runtime="onnxruntime", warmup=0, repeats=1)
    table = build_lookup_table(Space(), (8,), estimator)
    old = LookupTable(table.rows, {**table.conditions, "runtime": "onnxruntime 1.0"}, constant=table.constant)
    old.write(tmp_path / "kept.yaml")
    with pytest.raises(
        UserError, match=r"runtime is 'onnxruntime 1.0' in the table, .* restore these conditions, a version by ins"
    ) as caught:
        make_profiler(Space(), (8,), estimator, None, tmp_path / "kept.yaml")
    assert "delete" not in str(caught.value)


def test_a_derived_network_is_timed_in_the_runtime_of_its_search(tmp_path):
    space, sample = Space(), {"one": "wide"}
    estimator = DeviceEstimator(runtime="onnxruntime", warmup=1, repeats=3)
    profiler = LatencyProfiler(space, estimator, (8,))
    timed = measure_derived(profiler, estimator, space.freeze(sample), (8,), space, sample, tmp_path)
    assert timed["measured_ms"] > 0
    assert timed["measured_eager_ms"] > 0, "for the record"
    assert timed["measured_conditions"] == estimator.conditions


def test_single_networks_are_prepared_several_times_and_timed_for_a_while():
    """Those beside them once; small ones take more rounds than the estimator asks for. A program runs for each timing: it does not."""
    estimator = DeviceEstimator(warmup=0, repeats=3)
    (one, other) = time_networks(estimator, [(nn.Linear(8, 4), (8,))], [(nn.Linear(8, 2), (8,))])
    assert (one.count, other.count) == (3 * 3 * MOST, 3 * MOST)
    eager = DeviceEstimator(runtime="torch", warmup=0, repeats=3)
    assert [m.count for m in time_networks(eager, [(nn.Linear(8, 4), (8,))])] == [3]
    assert eager_ms(by_command(["sh", "-c", "echo 1", "{file}"]), nn.Linear(8, 4), (8,)) is None


@pytest.mark.parametrize(("runtime", "preparations"), [("onnxruntime", 3), ("torch", 1), ("command", 1)])
def test_networks_that_check_a_table_are_prepared_several_times(runtime, preparations, tmp_path):
    """Where that takes long, once: half a minute is the limit."""
    estimator = (
        by_command(program(tmp_path, "echo 2")) if runtime == "command" else DeviceEstimator(runtime=runtime, warmup=1, repeats=3)
    )  # fmt: skip
    rounds: list[tuple[int, int]] = []
    samples = [{"one": "wide"}, {"one": "skip"}]
    found = time_checking(Space(), samples, (8,), estimator, lambda *done: rounds.append(done))
    assert len(rounds) == 3 * preparations
    assert rounds[-1] == (3 * preparations, 3 * preparations)
    assert len(found) == 2
    assert found == [2.0, 2.0] if runtime == "command" else min(found) > 0


def test_how_far_parts_of_a_timing_are_apart():
    """By halves of each preparation: a network that lies elsewhere in memory, and a machine that changes its speed meanwhile."""
    steady = NetworkMeasurement.of_preparations([[2.0, 2.0, 9.0, 2.0, 2.0]])
    assert (steady.median_ms, steady.count, steady.scatter) == (2.0, 5, 0.0), "a single outlier is none"
    assert NetworkMeasurement.of_preparations([[1.9] * 4, [2.0] * 4, [2.1] * 4]).scatter == pytest.approx(0.05)
    assert NetworkMeasurement.of_preparations([[1.0, 1.0, 2.0, 2.0]]).scatter == pytest.approx(1 / 3)
    assert NetworkMeasurement.of_preparations([[3.0]]).scatter == 0


@pytest.mark.parametrize(
    ("ms", "taken", "timings"), [("4", 4.0, 3), ("4 12 12 8 8 8", 8.0, 6), ("8 8 8 4 12 12", 8.0, 6)]
)
def test_a_time_that_deviates_is_taken_once_more_and_the_steadier_counts(tmp_path, ms, taken, timings):
    """The table says 4 ms."""
    program(
        tmp_path,
        f"echo x >> {tmp_path}/runs",
        f"echo {ms} | cut -d ' ' -f $(wc -l < {tmp_path}/runs)" if " " in ms else f"echo {ms}",
    )
    estimator, space, sample = by_command([str(tmp_path / "bench.sh"), "{file}"]), Space(), {"one": "skip"}
    rows = {op.key: Measurement(2.0, 2.0, 1) for op in trace_operations(space, (8,))}
    profiler = LatencyProfiler(space, LookupTable(rows, estimator.conditions), (8,))
    assert profiler.profile(sample) == 4.0
    timed = measure_derived(profiler, estimator, space.freeze(sample), (8,), space, sample, tmp_path)
    assert (timed["measured_ms"], timed["measured_scatter"]) == (taken, 0)
    assert lines_in(tmp_path / "runs") == timings


def test_a_search_is_not_lost_because_its_network_cannot_be_timed(tmp_path, caplog):
    space, sample = Space(), {"one": "wide"}
    estimator = by_command(program(tmp_path, "echo no phone >&2; exit 1"))
    profiler = LatencyProfiler(space, DeviceEstimator(runtime="torch", warmup=0, repeats=1), (8,))
    with caplog.at_level(logging.WARNING):
        timed = measure_derived(profiler, estimator, space.freeze(sample), (8,), space, sample, tmp_path)
    assert timed == {"measured_ms": None, "measured_conditions": estimator.conditions}
    assert "the derived network is not timed: runtime command failed at" in caplog.text
    assert "ended with code 1: no phone" in caplog.text


def build_words(folder: Path, *words: str) -> list[str]:
    space = ["--space", f"{__name__}:Space", "--resolution", "8", "--channels", "8"]
    return ["latency", "build", *space, "--repeats", "1", "--output", str(folder / "table.yaml"), *words]


def build(folder: Path, *words: str) -> int:
    return main(build_words(folder, *words))


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_build_that_is_killed_goes_on(tmp_path, monkeypatch):
    """By SIGKILL, amid its rounds; the same command times the rest."""
    partial = tmp_path / "table.yaml.partial"
    words = ["--runtime", "onnxruntime", "--repeats", "3000", "--warmup", "0"]
    process = fork(main, build_words(tmp_path, *words), cwd=ROOT, said=tmp_path / "said")
    while lines_in(partial) < 100 and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "said").read_text()
    n_kept, added, add = lines_in(partial) - 1, [], KeptTimings.add
    monkeypatch.setattr(KeptTimings, "add", lambda self, run: (added.append(1), add(self, run)))
    assert build(tmp_path, *words) == 0
    assert 99 <= n_kept < 3000
    assert len(added) == 3000 - n_kept
    assert LookupTable.read(tmp_path / "table.yaml").measured["repeats"] == 3000
    assert not partial.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runtime", "onxruntime"], r"latency build: runtime: 'onxruntime' is unknown; allowed: command, .*Did you mean 'onnxruntime'\?"),
        (["--runtime", "onnxruntime", "--device", "cpu:x"], "device is 'cpu:x'; allowed with runtime onnxruntime: cpu, cuda"),
        (["--device", "cuda:"], "device is 'cuda:'; allowed: cpu, cuda, cuda:N, mps"),
        (["--runtime", "onnxruntime", "--networks", "1"], "latency build: networks is 1; allowed: 10 or more"),
        (["--runtime", "torch", "--networks", "20"], "networks is 20, but method is 'networks'"),
        (["--runtime", "onnxruntime", "--method", "networks"], "runtime onnxruntime cannot time operations inside of networks"),
        (["--runtime", "command"], "latency build: command is empty"),
        (["--runtime", "command", "--runtime-option", "command"], "--runtime-option: command: an option has the form key=value"),
        (["--runtime", "openvino", "--precision", "int4"], "precision is 'int4'; allowed with runtime openvino: float32, bfloat16, int8"),
    ],
)  # fmt: skip
def test_the_command_line_says_what_is_wrong(tmp_path, capsys, monkeypatch, words, message):
    """Before it waits for a quiet machine, which takes a minute."""
    monkeypatch.setattr(latency_table, "wait_until_quiet", lambda threads: pytest.fail("it has waited"))
    assert build(tmp_path, *words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_table_runs_no_program_unless_it_is_asked_to(tmp_path, capsys):
    """Its head may be anybody's."""
    words = program(tmp_path, f"echo x >> {tmp_path}/runs", "echo 1.5")
    table = build_lookup_table(
        Space(), (8,), by_command(words), method="isolated", description={"name": f"{__name__}:Space", "arguments": {}}
    )
    table.write(tmp_path / "table.yaml")
    (tmp_path / "runs").unlink()
    check = ["latency", "check", str(tmp_path / "table.yaml"), "--repeats", "1"]
    assert main(check) == 2
    assert not (tmp_path / "runs").exists()
    assert "which its head names: runtime command, options" in (said := capsys.readouterr().err)
    assert "If you trust it, say --runtime command" in said
    assert main([*check, "--runtime", "command"]) == 2
    assert "the space has 2 different networks" in capsys.readouterr().err


def test_a_program_runs_a_few_times_for_each_network(tmp_path):
    """Not the 30 and 100 times of a runtime here: it times a network several times over by itself."""
    words = " ".join(program(tmp_path, f"echo x >> {tmp_path}/runs", 'wc -c < "$1"'))
    space = [
        "--space",
        f"{__name__}:Space",
        "--resolution",
        "8",
        "--channels",
        "8",
        "--output",
        str(tmp_path / "table.yaml"),
    ]
    assert main(["latency", "build", *space, "--runtime", "command", "--runtime-option", f"command={words}"]) == 0
    assert (tmp_path / "runs").read_text().count("x") == 2 * OF_PROGRAMS
    read = LookupTable.read(tmp_path / "table.yaml")
    check = argparse.Namespace(runtime="command", runtime_option=[], warmup=0, repeats=None)
    assert _estimator_of(read, check).repeats == OF_PROGRAMS


def test_a_report_runs_no_program(tmp_path):
    from nni_proxyless.models.architecture import Architecture
    from nni_proxyless.models.compare_latency import measure_side_by_side

    words = program(tmp_path, f"echo x >> {tmp_path}/runs", "echo 1.5")
    latency = {"measured_ms": 7.0, "measured_conditions": dict(by_command(words).conditions)}
    architecture = Architecture(
        space={"name": f"{__name__}:Space", "arguments": {}},
        choices={"one": "wide"},
        input_shape=(8,),
        network=None,
        latency=latency,
    )
    assert measure_side_by_side([architecture, None]) == [latency, {}]
    assert not (tmp_path / "runs").exists()
