"""What benchmarks record besides their figures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from experiments.benchmarks.common import record


@pytest.mark.parametrize(
    ("value", "limits", "noise", "verdict"),
    [
        (1.05, {"at_most": 1.05}, 0, "met"),
        (1.06, {"at_most": 1.05}, 0, "missed"),
        (1.06, {"at_most": 1.05}, 0.02, "within noise"),
        (0.90, {"at_least": 0.95, "at_most": 1.05}, 0.02, "missed"),
        (0.94, {"at_least": 0.95, "at_most": 1.05}, 0.02, "within noise"),
        (3.9, {"at_least": 4}, 0, "missed"),
    ],
)
def test_a_bar_is_met_or_missed_by_less_or_more_than_its_noise(value, limits, noise, verdict):
    found = record.bar("a ratio", value, **limits, noise=noise)
    assert found["verdict"] == verdict
    assert bool(record.missed([found])) == (verdict == "missed")
    assert record.bars_table([found])[-1].endswith(f"| {verdict} |")


def test_the_command_repeats_the_run_and_names_no_place(tmp_path):
    options = argparse.Namespace(seeds=[0, 1], short=True, quick=False, steps=None, a_name="two words", output=tmp_path)
    result = record.provenance(
        record.ROOT / "experiments" / "benchmarks" / "step_cost" / "run.py", options, seconds=90
    ) | {"bars": []}
    assert (
        result["command"] == "python -m experiments.benchmarks.step_cost.run --seeds 0 1 --short --a-name 'two words'"
    )
    record.write(result, tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert json.loads(text) == result
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert "took 2 min" in record.head(result)[0]


def test_a_record_names_no_place_of_its_machine():
    found = {"options": [json.dumps([sys.executable, str(Path(record.__file__)), "{file}"])], "networks": 3}
    assert record.without_places(found) == {
        "options": ['["python", "experiments/benchmarks/common/record.py", "{file}"]'],
        "networks": 3,
    }
