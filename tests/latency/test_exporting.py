"""Another target: what is exported, measured there by a script that knows torch only, and read back."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import Tensor, nn

from nni_proxyless.cli.latency import _is_of_here
from nni_proxyless.cli.main import main
from nni_proxyless.latency import (
    DeviceEstimator,
    LatencyProfiler,
    LookupTable,
    Measurement,
    TableError,
    trace_operations,
)
from nni_proxyless.latency.tables.check import check_recorded, report
from nni_proxyless.latency.tables.drift import without_drift
from nni_proxyless.latency.tables.export import COPIED, export_space
from nni_proxyless.latency.tables.timed_networks import random_samples
from nni_proxyless.latency.tables.yaml_format import TimedNetwork

from .spaces import Timed

ABSENT = ("nni", "nni_proxyless", "yaml", "numpy", "tqdm", "pytorch_lightning", "scipy")
# A target: none of these can be imported, and -I hides this repository.
TARGET = (
    sys.executable, "-I", "-c",
    f"import runpy, sys; sys.modules.update(dict.fromkeys({ABSENT!r})); sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')",
)  # fmt: skip
ROUNDS = 600  # of about a millisecond: long enough to be killed in


def measure(folder: Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python measure.py …`` on the target."""
    words = (*TARGET, folder / "measure.py", *words)
    return subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "space"
    export_space(
        Timed(32), (8,), folder, description={"name": "tests:Space", "arguments": {"small": 1e-05}}, n_networks=8
    )
    return folder


# -- exporting -------------------------------------------------------------------------------------------------------------


def test_every_operation_is_exported_once_and_computes_the_same(exported):
    content = json.loads((exported / "operations.json").read_text())
    operations = {op.key: op for op in trace_operations(Timed(32), (8,))}
    assert [entry["key"] for entry in content["operations"]] == list(operations)
    assert content["space"] == {"name": "tests:Space", "arguments": {"small": 1e-05}, "input_shape": [8]}
    assert content["resolution"] == "8"
    samples = [network["architecture"] for network in content["networks"]]
    assert len({json.dumps(s, sort_keys=True) for s in samples}) == 8
    assert all(set(sample) == {"one", "inner", "two", "body", "depth"} for sample in samples)
    files = [entry["file"] for entry in (*content["operations"], *content["networks"])]
    assert sorted(str(p.relative_to(exported)) for p in exported.rglob("*.pt")) == sorted(files)
    for name, source in COPIED.items():
        assert (exported / name).read_bytes() == source.read_bytes()


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:FutureWarning")  # as in measure.py
def test_what_is_in_the_files_is_the_space_itself(tmp_path):
    """On five images, where one was traced and two were compared."""
    space = Timed(32).train()
    content = export_space(space, (8,), tmp_path / "e", description={"name": "s", "arguments": {}}, n_networks=1)
    x = torch.randn(5, 8)
    (network,) = content["networks"]
    first = next(entry for entry in content["operations"] if entry["key"].startswith("Linear-input:8-"))
    files = {network["file"]: space.freeze(network["architecture"]), first["file"]: space.first}
    for file, module in files.items():
        loaded = torch.jit.load(str(tmp_path / "e" / file))
        torch.testing.assert_close(loaded(x), module(x))
        assert not loaded.training
    assert space.training, "what is exported is a copy"


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(())


class NoisySpace(ModelSpace):
    def __init__(self):
        super().__init__()
        self.one = LayerChoice([nn.Linear(8, 8), Noisy()], label="one")

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x)


def test_an_operation_whose_trace_computes_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'Noisy-input:8-output:8-.*' has no TorchScript: Tensor-likes are not close"):
        export_space(NoisySpace(), (8,), tmp_path / "e", description={"name": "s", "arguments": {}})
    assert list(tmp_path.iterdir()) == [], "there whole, or not at all"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--networks", "-1"], "latency export: networks is -1; allowed: 0 or more"),
        (["--seed", "-1"], "latency export: seed is -1; allowed: 0 to 4294967295"),
        (["--output", "full"], "latency export: full: is there already; allowed: a new folder, or an empty one"),
    ],
)
def test_wrong_options_of_export_end_with_code_2(tmp_path, monkeypatch, capsys, words, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    small = ["--space", "mobilenetv2", "preset=small", "--resolution", "16", "--output", "new"]
    assert main(["latency", "export", *small, *words]) == 2
    assert error in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "thesis.tex"]


def test_onnx_is_written_where_it_is_installed_and_else_refused_before_anything_is_written(tmp_path):
    def export() -> None:
        export_space(
            Timed(32), (8,), tmp_path / "e", description={"name": "s", "arguments": {}}, n_networks=1, onnx=True
        )

    if importlib.util.find_spec("onnx") is None:
        with pytest.raises(ValueError, match="need the package 'onnx', which is not installed: pip install onnx"):
            export()
        assert list(tmp_path.iterdir()) == []
    else:
        export()
        scripts = {path.with_suffix(".onnx") for path in tmp_path.rglob("*.pt")}
        assert len(scripts) > 1
        assert set(tmp_path.rglob("*.onnx")) == scripts


# -- measuring on the target -----------------------------------------------------------------------------------------------


def test_the_target_of_these_tests_has_no_yaml(tmp_path):
    (tmp_path / "measure.py").write_text("import yaml")
    assert "import of yaml halted" in measure(tmp_path, cwd=tmp_path).stderr


def test_a_killed_measurement_goes_on_and_its_table_is_read(exported, tmp_path):
    """SIGKILL: no round that was written is lost or timed again, half a line is thrown away; every row is the polished median."""
    table, partial, kept = tmp_path / "t.yaml", tmp_path / "t.yaml.partial", tmp_path / "kept"
    words = ("--repeats", str(ROUNDS), "--warmup", "3", "--output", "t.yaml")
    running = subprocess.Popen([*TARGET, str(exported / "measure.py"), *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not partial.exists() or partial.read_text().count("\n") < 10:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    running.kill()
    running.wait()
    assert not table.exists()
    before = partial.read_text()
    before = before[: before.rindex("\n") + 1]
    partial.write_text(before + "[0.1, 0.2")
    other = tmp_path / "other.yaml"
    other.with_name("other.yaml.partial").write_text(before)
    os.link(partial, kept)  # the file itself goes when the table is there

    done = measure(exported, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    n_before = before.count("\n") - 2
    assert f"going on with t.yaml.partial: {n_before} of {ROUNDS} rounds are there" in done.stderr
    assert f"round {ROUNDS} of {ROUNDS}" in done.stderr
    assert not partial.exists()
    assert kept.read_text().startswith(before)
    _, first, *rounds = kept.read_text().splitlines()
    assert len(rounds) == ROUNDS
    assert len(json.loads(first)) == 10

    content = json.loads((exported / "operations.json").read_text())
    found = LookupTable.read(table)  # its checksum included
    assert yaml.safe_load(table.read_text())["checksum"]
    times, _ = without_drift([list(enumerate(json.loads(line))) for line in rounds])
    medians = [statistics.median(times[i]) for i in range(len(times))]
    keys = [entry["key"] for entry in content["operations"]]
    assert [found.rows[key].median_ms for key in keys] == pytest.approx(medians[: len(keys)], abs=1e-6)
    assert [network.measurement.median_ms for network in found.networks] == pytest.approx(
        medians[len(keys) :], abs=1e-6
    )
    assert [network.architecture for network in found.networks] == [n["architecture"] for n in content["networks"]]
    assert all(row.count == ROUNDS and 0 < row.median_ms <= row.p95_ms for row in found.rows.values())
    assert found.space == content["space"], "1e-05 included, which is a text to YAML unless it is written 1.0e-05"
    here = DeviceEstimator(runtime="torch").conditions
    assert found.conditions == {**here, "runtime": f"torchscript, {here['runtime']}", "resolution": "8"}
    assert found.measured.keys() == {"date", "method", "repeats", "warmup", "drift", "unrest"}
    assert found.measured.items() >= {"method": "isolated", "repeats": ROUNDS, "warmup": 3}.items()
    profiler = LatencyProfiler(Timed(32), found, (8,))
    (sample, *_) = (network.architecture for network in found.networks)
    by_hand = sum(found.rows[op.key].median_ms for op in trace_operations(Timed(32), (8,)) if op.runs_in(sample))
    assert profiler.profile(dict(sample)) == pytest.approx(by_hand)

    # What was timed with other settings is not taken over.
    options = ("--batch", "3", "--precision", "bfloat16", "--repeats", "2", "--warmup", "0", "--output", "other.yaml")
    done = measure(exported, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on" not in done.stderr
    found = LookupTable.read(other)
    assert found.conditions.items() >= {"batch": 3, "precision": "bfloat16"}.items()
    assert all(row.count == 2 for row in found.rows.values())


@pytest.fixture
def refused_by_measure(monkeypatch, capsys) -> Callable[..., str]:
    """``python measure.py …`` that must end with code 2, in this process, where torch is imported already; what it says last on stderr."""

    def run(folder: Path, *words: str) -> str:
        with monkeypatch.context() as there:
            there.setattr(sys, "argv", ["measure.py", *words])
            there.setattr(sys, "path", [*sys.path])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(folder / "measure.py"), run_name="__main__")
        for name in COPIED:  # which it has imported by these names
            sys.modules.pop(Path(name).stem, None)
        assert ended.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


def test_wrong_options_of_measure_end_with_code_2(exported, tmp_path, monkeypatch, refused_by_measure):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.yaml").touch()
    words = ("--device", "gpu", "--threads", "0", "--precision", "int8", "--warmup", "-1")
    assert refused_by_measure(exported, *words) == (
        "measure.py: threads is 0; allowed: 1 or more; warmup is -1; allowed: 0 or more; precision is 'int8'; allowed: "
        "float32, float16, bfloat16; device is 'gpu'; allowed: cpu, cuda, cuda:N, mps; --output table.yaml: is there already. "
        "Name another file, or delete it to measure anew"
    )
    assert (tmp_path / "table.yaml").read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["table.yaml"]


def test_a_folder_that_was_not_copied_whole_is_said_to_be(exported, tmp_path, monkeypatch, refused_by_measure):
    monkeypatch.chdir(tmp_path)
    for name in (*COPIED, "operations.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    said = refused_by_measure(tmp_path)
    assert "17 files are not there, the first is operations/000.pt. Copy the folder once more" in said


# -- checking with what was timed there ------------------------------------------------------------------------------------


def test_a_command_exports_a_script_measures_and_a_command_calibrates(tmp_path, monkeypatch, capsys):
    """The walk of docs/how-to/other_targets.md, on the project's own space."""
    monkeypatch.chdir(tmp_path)
    space = ("--space", "mobilenetv2", "preset=small", "kernels=[3]", "expansions=[6]", "num_classes=10")
    options = ("--resolution", "16", "--channels", "1", "--networks", "6", "--seed", "22", "--output", "there")
    assert main(["latency", "export", *space, *options]) == 0
    assert "there: 10 operations, 6 networks" in capsys.readouterr().out
    done = measure(tmp_path / "there", "--repeats", "20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "table: table.yaml  (10 rows, 6 networks; " in done.stdout

    timed = LookupTable.read("table.yaml")
    assert all(network.measurement.median_ms > 0 for network in timed.networks)
    profiler = LatencyProfiler(MobileNetV2Space(**timed.space["arguments"]), timed, (1, 16, 16))
    sums = [profiler.profile(dict(network.architecture)) for network in timed.networks]
    # Three networks timed while other tests run may calibrate to less than no time, which is refused: so to a line.
    on_a_line = [
        TimedNetwork(network.architecture, Measurement(0.1 + 2 * ms, 0.1 + 2 * ms, 20))
        for network, ms in zip(timed.networks, sums, strict=True)
    ]
    timed.replace(networks=on_a_line).write("table.yaml")
    raw = LookupTable.read("table.yaml")
    assert main(["latency", "check", "table.yaml"]) == 0
    said = capsys.readouterr().out
    assert "timed on the target of the table, not here: " in said
    assert ", torchscript, torch " in said
    assert "3 networks, " in said
    assert "fitted on 3 other networks" in said
    table = LookupTable.read("table.yaml")
    assert table.calibration.n_networks == 3
    assert table.networks == raw.networks
    assert (table.calibration.fixed_ms, table.calibration.slope) == pytest.approx((0.1, 2.0), abs=1e-4)


def recorded(n: int = 12, **changes) -> LookupTable:
    """Rows of a millisecond; networks that took half a millisecond and twice their rows."""
    rows = {op.key: Measurement(1.0 + i, 2.0 + i, 5) for i, op in enumerate(trace_operations(Timed(32), (8,)))}
    table = LookupTable(
        rows, {"device": "a phone", "runtime": "its own"}, measured={"date": "2026-11-22"}, source="t.yaml"
    )
    profiler = LatencyProfiler(Timed(32), table, (8,))
    timed = [(sample, 0.5 + 2 * profiler.profile(sample)) for sample in random_samples(Timed(32), n, seed=0)]
    return table.replace(networks=[TimedNetwork(sample, Measurement(ms, ms, 5)) for sample, ms in timed], **changes)


def test_recorded_networks_judge_and_calibrate():
    table = recorded(11)
    check = check_recorded(table, Timed(32), (8,))
    assert (check.calibration.fixed_ms, check.calibration.slope) == pytest.approx((0.5, 2.0))
    assert check.calibration.n_networks == 5
    assert check.samples == [dict(network.architecture) for network in table.networks[:6]]
    assert check.measured_ms == [network.measurement.median_ms for network in table.networks[:6]]
    assert check.calibrated_ms == pytest.approx(check.measured_ms)
    assert "timed on the target of the table, not here: a phone, its own, 2026-11-22" in report(check)


def test_recorded_networks_of_another_space_are_refused():
    with pytest.raises(ValueError, match=r"t\.yaml: holds 5 networks; allowed: 6 or more"):
        check_recorded(recorded(5), Timed(32), (8,))
    other = recorded()
    other.networks[2] = TimedNetwork({**other.networks[2].architecture, "one": "wider"}, Measurement(1.0, 1.0, 5))
    with pytest.raises(ValueError, match=r"t\.yaml: network 3 is of another space: label 'one': wider not found"):
        check_recorded(other, Timed(32), (8,))
    other.networks[2] = TimedNetwork({"one": "wide"}, Measurement(1.0, 1.0, 5))
    with pytest.raises(
        ValueError, match=r"network 3 is of another space: the labels body, depth, inner, two are in one"
    ):
        check_recorded(other, Timed(32), (8,))


def test_a_calibration_by_which_the_cheapest_network_takes_no_time_is_not_stored(tmp_path, capsys):
    """As on a busy machine, where what dear networks took says nothing of the cheapest."""
    table = recorded(40, space={"name": f"{Timed.__module__}:Timed", "arguments": {"width": 32}, "input_shape": [8]})
    sums = [(network.architecture, (network.measurement.median_ms - 0.5) / 2) for network in table.networks]
    dear = sorted(sums, key=lambda pair: pair[1])[20:]
    timed = [
        TimedNetwork(sample, Measurement(ms, ms, 5)) for sample, ms in ((s, t - dear[0][1] + 0.1) for s, t in dear)
    ]
    table.replace(networks=timed).write(tmp_path / "t.yaml")
    before = (tmp_path / "t.yaml").read_bytes()
    assert main(["latency", "check", str(tmp_path / "t.yaml"), "--dry-run"]) == 0
    assert main(["latency", "check", str(tmp_path / "t.yaml")]) == 2
    said = capsys.readouterr().err
    assert re.search(
        r"nothing is stored in .*t\.yaml: constant and calibration of the table make -\d.* ms of the cheapest", said
    )
    assert (tmp_path / "t.yaml").read_bytes() == before


def test_a_machine_knows_its_own_tables():
    """Those are checked by networks that are timed now, whatever they hold."""
    options = argparse.Namespace(warmup=1, repeats=1, runtime=None, runtime_option=[])
    here = dict(DeviceEstimator(runtime="torch").conditions)
    assert _is_of_here(recorded(conditions=here), options)
    assert not _is_of_here(recorded(conditions={**here, "device": "a phone"}), options)
    assert not _is_of_here(recorded(), options)


# -- networks in a table ---------------------------------------------------------------------------------------------------


def test_networks_survive_the_file(tmp_path):
    table = recorded()
    table.write(tmp_path / "t.yaml")
    assert LookupTable.read(tmp_path / "t.yaml").networks == [
        TimedNetwork(n.architecture, Measurement(round(n.measurement.median_ms, 6), round(n.measurement.p95_ms, 6), 5))
        for n in table.networks
    ]
    table.replace(networks=[]).write(tmp_path / "none.yaml")
    assert "networks" not in yaml.safe_load((tmp_path / "none.yaml").read_text())
    text = (tmp_path / "t.yaml").read_text()
    (tmp_path / "t.yaml").write_text(text.replace("one: wide", "one: narrow"))
    with pytest.raises(TableError, match=r"the content is not what was measured|the same architecture"):
        LookupTable.read(tmp_path / "t.yaml")


NETWORK = {"architecture": {"one": "wide", "depth": 2}, "median": 1.0, "p95": 1.5, "count": 5}


@pytest.mark.parametrize(
    ("networks", "error"),
    [
        ([], "networks is []; allowed: a list of one network or more"),
        ({"a": NETWORK}, "networks is {'a': {"),
        ([NETWORK, 3], "network 2: 3; allowed: a mapping of architecture, median, p95, count"),
        ([{**NETWORK, "predicted": True}], "allowed: a mapping of architecture, median, p95, count"),
        ([{**NETWORK, "architecture": {}}], "network 1: architecture is {}; allowed: a mapping of labels to choices"),
        ([{**NETWORK, "architecture": {3: "wide"}}], "network 1: 3 has the choice 'wide'; allowed: a text, a number, or a list"),
        ([{**NETWORK, "architecture": {"one": {}}}], "network 1: 'one' has the choice {}; allowed: a text, a number, or a list"),
        ([{**NETWORK, "median": -1.0}], "network 1: median is -1.0; allowed: a number of 0 or more"),
        ([{**NETWORK, "median": 0.0}], "network 1: median is 0.0; allowed: greater than 0"),
        ([{**NETWORK, "p95": None}], "network 1: p95 is None; allowed: a number of 0 or more"),
        ([{**NETWORK, "count": 0}], "network 1: count is 0; allowed: a whole number of 1 or more"),
        ([NETWORK, {**NETWORK, "median": 2.0}], "network 2: the same architecture as network 1"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_are_refused(tmp_path, networks, error):
    path = tmp_path / "t.yaml"
    recorded(0).write(path)
    content = {name: part for name, part in yaml.safe_load(path.read_text()).items() if name != "checksum"}
    path.write_text(yaml.safe_dump({**content, "networks": networks}))
    with pytest.raises(TableError) as caught:
        LookupTable.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert error in str(caught.value)


# -- several inputs --------------------------------------------------------------------------------------------------------


class Looked(nn.Module):
    """A tensor and indices in, a dict out."""

    def __init__(self, width: int):
        super().__init__()
        self.table, self.line, self.last = nn.Embedding(5, 8), nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, xs: tuple[Tensor, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
        return {"out": self.last(self.line(xs[0] + scale * self.table(xs[1]))), "table": self.table(xs[1])}


class SeveralInputs(ModelSpace):
    """In float64; rows that are no batch, and a product that no module is called for."""

    def __init__(self):
        super().__init__()
        self.one = LayerChoice({"narrow": Looked(4), "wide": Looked(64)}, label="one")
        self.fixed, self.last = Looked(8), nn.Linear(2, 3)
        self.register_buffer("index", torch.tensor([4, 2]))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        index = self.index.repeat(x.shape[0])
        x = self.fixed((x.reshape(-1, 8), index), scale=2.0)["out"]
        x = self.one((x, index))["out"].reshape(-1, 2, 8)
        return self.last(x @ x.transpose(1, 2))


def test_operations_of_several_inputs_are_exported_and_measured_with_a_batch(tmp_path):
    """Indices that a table of five knows, and two rows a sample."""
    content = export_space(
        SeveralInputs(), (16,), tmp_path / "e", description={"name": "s", "arguments": {}}, n_networks=2
    )
    first = next(entry for entry in content["operations"] if entry["key"].startswith("Looked"))
    assert first["inputs"] == [
        {"shape": [2, 8], "dtype": "float64", "batch_dims": [0]},
        {"shape": [2], "dtype": "int64", "value": [4, 2], "batch_dims": [0]},
    ]
    done = measure(
        tmp_path / "e", "--repeats", "2", "--warmup", "0", "--batch", "3", "--output", "t.yaml", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    table = LookupTable.read(tmp_path / "t.yaml")
    operations = trace_operations(SeveralInputs(), (16,))
    assert set(table.rows) == {op.key for op in operations}
    assert any(op.is_beside for op in operations)
    profiler = LatencyProfiler(SeveralInputs(), table, (16,))
    assert profiler.profile({"one": "wide"}) > 0
