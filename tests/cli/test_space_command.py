"""``nni-proxyless space``: what it prints against all networks of a small space, counted one by one."""

from __future__ import annotations

import itertools
import json
import shlex
import statistics
from pathlib import Path
from typing import Any

import pytest
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless.cli.main import _parser, main
from nni_proxyless.cli.space import _many
from nni_proxyless.derive import count_macs
from nni_proxyless.latency import (
    DeviceEstimator,
    LatencyProfiler,
    LookupTable,
    MacsEstimator,
    Measurement,
    ParametersEstimator,
    operation,
    trace_operations,
)
from nni_proxyless.search.search_time import SearchTime, Stage

from ..conftest import ROOT
from ..runs import MACS, TINY

SHAPE = (1, 8, 8)


LAYOUT: dict[str, Any] = {
    "widths": [8, 16], "depths": [2, 2], "strides": [2, 2], "stem_width": 8, "feature_mix": 32, "num_classes": 10, "in_channels": 1,
}  # fmt: skip


def space() -> MobileNetV2Space:
    return MobileNetV2Space("small", **LAYOUT)


def all_costs(profiler: LatencyProfiler) -> list[float]:
    values = {label: mutable.values for label, mutable in profiler.model_space.simplify().items()}
    return [profiler.profile(dict(zip(values, one, strict=True))) for one in itertools.product(*values.values())]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "search.yml").write_text(TINY)
    return tmp_path / "search.yml"


@pytest.fixture
def table(file: Path) -> LookupTable:
    """Of this machine, with a hundredth of the multiply-adds as milliseconds."""
    macs = MacsEstimator()
    rows = {op.key: Measurement(ms := 0.01 + macs.estimate(op), ms, 1) for op in trace_operations(space(), SHAPE)}
    table = LookupTable(rows, {**DeviceEstimator(runtime="torch").conditions, "resolution": "8x8"})
    table.write(file.with_name("table.yaml"))
    return table


def test_a_space_is_what_all_of_its_networks_are(file, table, capsys):
    """Fastest, slowest and count exactly; the network nearest to the target within what is promised; and it all as JSON."""
    costs = ["costs=[{estimator: {name: parameters}, target: 95%, weight: 0.1}]", "latency.target_ms=70%"]
    assert main(["space", str(file), *costs, "--no-time", "--json", str(file.with_name("a.json"))]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.with_name("a.json").read_text())
    everything = all_costs(LatencyProfiler(space(), table, SHAPE))
    assert (found["n_networks"], found["n_choices"], found["time"]) == (len(everything), 4, None)
    latency, parameters = found["costs"]["latency"], found["costs"]["parameters"]
    assert (latency["fastest"], latency["slowest"]) == pytest.approx((min(everything), max(everything)))
    assert latency["middle"] == pytest.approx(statistics.median(everything), rel=0.1)
    assert latency["target"] == pytest.approx(0.7 * max(everything))
    of_parameters = all_costs(LatencyProfiler(space(), ParametersEstimator(), SHAPE))
    within = [
        ms
        for ms, n in zip(everything, of_parameters, strict=True)
        if ms <= latency["target"] and n <= parameters["target"]
    ]
    assert 0.99 * max(within) <= latency["nearest"] <= max(within) + 1e-9
    assert set(found["costs"]) == {"latency", "parameters", "macs"}
    lines = printed.splitlines()
    assert lines[:2] == ["space:    mobilenetv2, 4 choices, 1764 networks", "images:   1x8x8, 10 classes"]
    assert sum(line.startswith("target:") for line in lines) == 2
    assert f"takes {latency['nearest']:.3f} ms" in printed


def test_a_space_that_chooses_shapes_is_all_of_its_networks_too(file, capsys):
    """By an image of another size than the network's, and priced by what each network itself is counted to compute."""
    shapes = {"resolution": [6, 8], "stem_stride": [1, 2], "stem_width": [8, 16], "kernels": [3], "depths": [1, 1]}
    words = [f"space.{name}={value}" for name, value in shapes.items()]
    out = file.with_name("a.json")
    assert main(["space", str(file), *words, *MACS, "latency.target_ms=50%", "--no-time", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    opened = MobileNetV2Space("small", **{**LAYOUT, **shapes})
    values = {label: mutable.values for label, mutable in opened.simplify().items()}
    samples = [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]
    counted = [count_macs(opened.freeze(sample), SHAPE) / 1e6 for sample in samples]
    latency = found["costs"]["latency"]
    assert (found["n_networks"], found["n_choices"]) == (len(samples), 5)
    assert (latency["fastest"], latency["slowest"]) == pytest.approx((min(counted), max(counted)))
    within = max(macs for macs in counted if macs <= latency["target"])
    assert 0.99 * within <= latency["nearest"] <= within + 1e-9
    assert "5 choices, 32 networks" in capsys.readouterr().out


def test_without_a_table_it_says_how_to_measure_one(file, capsys):
    assert main(["space", str(file), "--no-time"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("latency:"))
    words = shlex.split(line[line.index("nni-proxyless") :])
    _parser().parse_args(words[1:])
    assert words[1:5] == ["latency", "build", "--space", "mobilenetv2"]
    assert {"widths=[8, 16]", "num_classes=10", "torch", str(file.with_name("table.yaml"))} <= set(words)


def test_a_target_out_of_reach_is_said_and_a_table_of_something_else_refused(file, table, capsys, refused):
    assert main(["space", str(file), "latency.target_ms=0.001", "--no-time"]) == 0
    assert (
        "0.001 ms cannot be met: budget 0.001 ms: the fastest network that can be reached has"
        in capsys.readouterr().out.replace("00100", "001")
    )
    said = refused("space", file, "data.image_size=16", "--no-time")
    assert "latency.table: " in said
    assert "resolution is '8x8' in the table, '16x16' here" in said
    assert "command line: unknown key 'nothing'" in refused("space", file, "nothing=1")


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (("search={select: supernet, judged: 5}",), {"warm-up": 1, "search": 2}),
        (("strategy={name: dsnas, warmup_epochs: 1, search_epochs: 3}", "training.epochs=9"), {"warm-up": 1, "search": 3, "child": 5}),
    ],
)  # fmt: skip
def test_steps_of_every_stage_are_timed_for_real(file, table, words, stages, capsys):
    before = {path: path.read_bytes() for path in file.parent.iterdir()}
    assert main(["space", str(file), *words, "--json", str(file.parent / "a.json")]) == 0
    found = json.loads((file.parent / "a.json").read_text())["time"]
    assert {name: stage["epochs"] for name, stage in found["stages"].items()} == stages
    assert all(stage["seconds_per_batch"] > 0 for stage in found["stages"].values())
    assert found["batches"] == (17 if "child" in stages else 13)
    epochs = sum(stages.values())
    steps = sum(stage["epochs"] * found["batches"] * stage["seconds_per_batch"] for stage in found["stages"].values())
    selection = found["seconds_of_selection"]
    assert (selection > 0) == ("child" not in stages), "whose candidates are gone"
    assert found["seconds"] == pytest.approx(steps + epochs * found["seconds_per_judgment"] + selection)
    assert "an estimate from" in capsys.readouterr().out
    (file.parent / "a.json").unlink()
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == before, "nothing is written"


def test_the_shipped_search(capsys):
    assert main(["space", str(ROOT / "experiments" / "search.yml"), "latency.table=none.yaml", "--no-time"]) == 0
    expected = "space:    mobilenetv2, 9 choices, 2.5e7 networks\nimages:   1x16x16, 10 classes\n"
    assert capsys.readouterr().out.startswith(expected)


def test_time_adds_up():
    time = SearchTime(10, {"warm-up": Stage(2, 0.5), "search": Stage(3, 1.0)}, 4.0, 7, 11.0)
    assert time.seconds == 2 * 10 * 0.5 + 3 * 10 * 1.0 + 5 * 4.0 + 11.0


def test_a_space_of_more_networks_than_a_float_can_say():
    assert [_many(n) for n in (999_999, 1_000_000, 25_000_000, 7**648)] == ["999999", "1.0e6", "2.5e7", "4.2e547"]


def test_the_space_is_taken_apart_once_for_all_costs(file, table, monkeypatch, capsys):
    runs = []
    take_apart = operation.operations_of
    monkeypatch.setattr(operation, "operations_of", lambda *given: runs.append(given[1]) or take_apart(*given))
    costs = "costs=[{estimator: {name: parameters}, target: 95%, weight: 0.1}]"
    assert main(["space", str(file), costs, "--no-time"]) == 0
    assert runs == [SHAPE]
    assert "million multiply-adds" in capsys.readouterr().out
