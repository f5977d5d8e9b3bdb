"""The cost of a step on choices of values and on cells: what it counts is checked, what it times is not."""

from __future__ import annotations

import json
import math

import pytest

from experiments.benchmarks.step_cost_spaces import report
from experiments.benchmarks.step_cost_spaces import run as step_cost_spaces

SMALL = ["--pixels", "16", "--batch", "2", "--cells", "3", "--width", "4", "--rounds", "1"]


def test_everything_is_recorded_and_no_step_of_ours_keeps_more_than_its_paths(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step_cost_spaces, "TIMES", 2)
    monkeypatch.setattr(step_cost_spaces, "WARMING_PATHS", 10)
    file = tmp_path / "result.json"
    code = step_cost_spaces.main(["--spaces", "shufflenet", "darts", *SMALL, "--output", str(file)])
    said = capsys.readouterr()
    result = json.loads(file.read_text(encoding="utf-8"))
    missed = [bar["bar"] for bar in result["bars"] if bar["verdict"] == "missed"]
    assert [line.split(": ")[:2] for line in said.err.splitlines()] == [["missed", name] for name in missed]
    assert code == (1 if missed else 0)
    assert str(tmp_path) not in file.read_text(encoding="utf-8"), "no paths of this machine"
    assert said.out == "\n".join(report.markdown(result)) + "\n", "the record alone says all that was said"

    entries = {(e["space"], e["name"]): e for e in result["entries"]}
    assert set(entries) == {
        *(("shufflenet", name) for name in (report.CONTROL, report.DSNAS_BATCH)),
        *(("darts", name) for name in report.ON_CELLS),
    }
    assert all(e["ratio"] > 0 and math.isfinite(e["ratio"]) and e["seconds"] > 0 for e in entries.values())
    kept = {key: e["activation_ratio"] for key, e in entries.items()}
    for space in ("shufflenet", "darts"):
        assert kept[space, report.CONTROL] == pytest.approx(1), "weights of a network are none of its activations"
        assert kept[space, report.DSNAS_BATCH] == pytest.approx(1, abs=0.05), "one path"
    assert kept["darts", "weight step"] == pytest.approx(1, abs=0.05)
    assert kept["darts", "two-path step"] < 2
    assert all(kept["darts", name] > 3 for name in report.NNIS), "seven operations for each that a path has"


def entry(space: str, kind: str, name: str, ratio: float, kept: float = 1.0) -> dict:
    return {"space": space, "kind": kind, "name": name, "ratio": ratio, "noise": 0.02, "activation_ratio": kept}


def test_bars_compare_what_their_names_say():
    made_up = {
        report.WHOLE: (2.0, 2.0),
        report.DSNAS: (1.25, 1.0),
        "NNI DARTS batch": (10.0, 8.0),
        "NNI GumbelDARTS batch": (1.0, 4.0),
    }
    bars = report.bars(
        [
            entry("wide", report.VALUES, report.DSNAS_BATCH, 1.16),
            entry("deep", report.VALUES, report.DSNAS_BATCH, 1.3),
            *(entry("cell", report.CELLS, name, *figures) for name, figures in made_up.items()),
        ]
    )
    assert {bar["bar"]: (bar["value"], bar["verdict"]) for bar in bars} == {
        "DSNAS on wide, time": (1.16, "within noise"),
        "DSNAS on deep, time": (1.3, "missed"),
        "NNI DARTS batch by whole batch on cell, time": (5, "met"),
        "NNI DARTS batch by whole batch on cell, saved activations": (4, "met"),
        "NNI DARTS batch by DSNAS batch on cell, time": (8, "met"),
        "NNI DARTS batch by DSNAS batch on cell, saved activations": (8, "met"),
        "NNI GumbelDARTS batch by whole batch on cell, time": (0.5, "missed"),
        "NNI GumbelDARTS batch by whole batch on cell, saved activations": (2, "met"),
        "NNI GumbelDARTS batch by DSNAS batch on cell, time": (0.8, "missed"),
        "NNI GumbelDARTS batch by DSNAS batch on cell, saved activations": (4, "met"),
    }


def test_the_short_form_has_a_space_of_each_kind():
    options = step_cost_spaces.options_from(["--short"])
    assert {step_cost_spaces.SETTINGS[name].kind for name in options.spaces} == {report.VALUES, report.CELLS}
    assert step_cost_spaces.options_from([]).spaces == list(step_cost_spaces.SETTINGS)
