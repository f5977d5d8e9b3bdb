"""The benchmarks of tables and ranks in every runtime: that they go on where they were, and what they make of known figures."""

from __future__ import annotations

import json

import pytest

from experiments.benchmarks.common.runtimes import chosen
from experiments.benchmarks.runtime_ranks import report as ranks_report
from experiments.benchmarks.runtime_ranks import run as ranks
from experiments.benchmarks.runtime_tables import report
from experiments.benchmarks.runtime_tables import run as tables


def test_a_cell_is_made_step_by_step_and_no_step_twice(tmp_path, monkeypatch, capsys):
    output = tmp_path / "record.json"
    words = ["--short", "--only", "tiny:onnxruntime", "--folder", str(tmp_path), "--output", str(output)]
    again = tables.again
    monkeypatch.setattr(tables, "again", lambda *_: (_ for _ in ()).throw(ValueError("interrupted")))
    tables.main(words)
    assert "tiny:onnxruntime failed: interrupted" in capsys.readouterr().err
    cell = json.loads(output.read_text())["cells"]["tiny:onnxruntime"]
    assert list(cell) == ["build", "check"]
    assert report.whole({"tiny:onnxruntime": cell}) == {}

    monkeypatch.setattr(tables, "again", again)
    for done in ("build", "check"):
        monkeypatch.setattr(tables, done, None)
    assert tables.main([*words, "--picture", str(tmp_path / "p.svg")]) == 0
    result = json.loads(output.read_text())
    assert {step: found["date"] for step, found in result["cells"]["tiny:onnxruntime"].items()}.keys() == set(
        tables.STEPS
    )
    assert result["cells"]["tiny:onnxruntime"]["build"]["method"] == "fit"
    assert "| onnxruntime | " in capsys.readouterr().out
    assert (tmp_path / "p.svg").exists()


def a_cell(seconds: float, mean: float, worst: float, spearman: float, apart: float) -> dict:
    def of(mean: float, worst: float, spearman: float) -> dict:
        return {"bias": 0.0, "mean_error": mean, "worst_error": worst, "spearman": [spearman, spearman - 0.004, 1.0]}

    check = {
        "before": of(mean, worst, spearman),
        "after": of(mean, worst, spearman),
        "date": "2026-11-29",
        "measured_ms": [0.2, 0.4],
    }
    measured = {"networks": 72, "mean_error": 0.01}
    return {"build": {"seconds": seconds, "method": "fit", "measured": measured}, "check": check,
            "again": {"apart": of(apart, 2 * apart, 0.98)}}  # fmt: skip


def test_bars_are_read_against_the_second_timing():
    cells = {"small:ncnn": a_cell(200, 0.025, 0.09, 0.987, apart=0.02), "small:mnn": {"build": {}}}
    verdicts = {b["bar"]: b["verdict"] for b in report.bars(cells)}
    assert verdicts == {
        "small:ncnn, build, seconds": "met", "small:ncnn, mean error": "within noise", "small:ncnn, worst error": "missed",
        "small:ncnn, Spearman": "within noise",
    }  # fmt: skip


def test_cells_are_named_on_the_command_line():
    assert chosen(["small:ncnn,mnn", "imagenet"], [], ["torch"]) == [
        ("small", "ncnn"),
        ("small", "mnn"),
        ("imagenet", "torch"),
    ]
    with pytest.raises(ValueError, match=r"small:nccn: no target is called 'nccn'; allowed: torch, "):
        chosen(["small:nccn"], [], [])


def test_networks_are_timed_in_every_runtime_in_turns(tmp_path, capsys):
    output = tmp_path / "ranks.json"
    words = [
        "--short",
        "--times",
        "2",
        "--only",
        "tiny:torch,onnxruntime",
        "--output",
        str(output),
        "--picture",
        str(tmp_path / "p.svg"),
    ]
    assert ranks.main(words) == 0
    runs = json.loads(output.read_text())["spaces"]["tiny"]
    assert [len(run["ms"][name]) for run in runs for name in ("torch", "onnxruntime")] == [8] * 4
    assert "| PyTorch eager | " in capsys.readouterr().out


def test_what_is_equal_in_one_runtime_may_differ_in_another():
    assert ranks_report.spread_among_equal([1.0, 1.01, 2.0], [1.0, 1.5, 9.0]) == pytest.approx((1.5, 1.5, 1.5))
    assert ranks_report.spread_among_equal([1.0, 2.0], [1.0, 1.0]) is None
    runs = [{"ms": {"a": [1, 2, 3], "b": [1, 3, 2]}}, {"ms": {"a": [3, 2, 1], "b": [1, 2, 3]}}]
    assert ranks_report.correlations(runs, "a", "a") == pytest.approx([-1.0])
    assert ranks_report.correlations(runs, "a", "b") == pytest.approx([0.5, -1.0])
