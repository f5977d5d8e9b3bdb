"""Networks of several searches, timed in turns, and beside them networks of their tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_proxyless.latency import DeviceEstimator, LookupTable, build_lookup_table
from nni_proxyless.latency.estimators.device import Measurement
from nni_proxyless.latency.tables.yaml_format import TimedNetwork
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.compare_latency import measure_side_by_side

SHAPE = (8,)


class Space(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.one = LayerChoice({"wide": nn.Linear(8, 64), "narrow": nn.Linear(8, 64, bias=False)}, label="one")

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x)


@pytest.fixture(scope="module")
def table() -> LookupTable:
    return build_lookup_table(Space(), SHAPE, DeviceEstimator(runtime="torch", repeats=3, warmup=1), method="fit")


def architecture(**latency: Any) -> Architecture:
    conditions = dict(DeviceEstimator(runtime="torch").conditions)
    return Architecture(
        space={"name": f"{__name__}:Space", "arguments": {}}, choices={"one": "wide"}, input_shape=SHAPE, network=None,
        latency={"table_ms": 2.0, "measured_ms": 7.0, "measured_conditions": conditions, **latency},
    )  # fmt: skip


def written(table: LookupTable, path: Path, slower: float, **changes: Any) -> Path:
    """With its networks timed on a machine so many times as slow as that of the table."""
    references = [
        TimedNetwork(n.architecture, Measurement(slower * n.measurement.median_ms, slower * n.measurement.p95_ms, 3))
        for n in table.references
    ]
    table.replace(references=references, **changes).write(path)
    return path


def test_what_a_table_says_at_the_speed_of_today(table, tmp_path):
    """One table is of a machine 1000 times as slow as this one, one of a machine 1000 times as fast."""
    slow, fast = (written(table, tmp_path / f"{f}.yaml", f) for f in (1000.0, 0.001))
    found = measure_side_by_side([architecture(), architecture(), None, architecture()], [slow, fast, None, None])
    assert found[2] == {}
    assert all(0 < found[i]["measured_ms"] < 7 for i in (0, 1, 3))
    assert found[0]["table_again_ms"] < 2 / 50
    assert found[1]["table_again_ms"] > 2 * 50
    # The same networks of the same run, seen by both.
    assert found[1]["table_again_ms"] / found[0]["table_again_ms"] == pytest.approx(1e6)
    assert found[3]["table_again_ms"] is None


@pytest.mark.parametrize("wrong", ["gone", "no table", "another runtime", "another space"])
def test_a_table_that_says_nothing_of_this_machine_is_left_alone(table, tmp_path, wrong):
    path = written(table, tmp_path / "table.yaml", 1.0)
    if wrong == "gone":
        path.unlink()
    elif wrong == "no table":
        path.write_text("rows: [\n")
    elif wrong == "another runtime":
        written(table, path, 1.0, conditions={**table.conditions, "runtime": "onnxruntime 1.0"})
    else:
        written(
            table.replace(references=[TimedNetwork({"two": "wide"}, n.measurement) for n in table.references]),
            path,
            1.0,
        )
    (found,) = measure_side_by_side([architecture()], [path])
    assert 0 < found["measured_ms"] < 7
    assert found["table_again_ms"] is None
