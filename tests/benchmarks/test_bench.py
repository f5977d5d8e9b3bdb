"""``make bench``: what it makes of benchmarks that meet their bars, miss them, or end with an error."""

from __future__ import annotations

import json

import pytest

from experiments.benchmarks import bench
from experiments.benchmarks.common import record

from ..conftest import ROOT

# As a benchmark behaves: writes its result, and ends with 1 if a bar is missed.
SCRIPT = """
import json, pathlib, sys
assert sys.argv[1:3] == ["--short", "--output"]
bars = json.loads({bars!r})
pathlib.Path(sys.argv[3]).write_text(json.dumps({{"bars": bars}}))
sys.exit(any(b["verdict"] == "missed" for b in bars))
"""


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ([1.0, 1.06], None),
        ([1.08, 1.0], "step_cost: a ratio: 1.08, bar ≤ 1.05, noise 0.02 (in its record too)"),
        ([1.0, 1.08], "budget: a ratio: 1.08, bar ≤ 1.05, noise 0.02"),
        ([None, 1.0], "step_cost: failed, see"),
    ],
)
def test_all_run_and_a_missed_bar_or_an_error_fails(values, complaint, tmp_path, monkeypatch, capsys):
    names = ["step_cost", "budget"]
    for name, value in zip(names, values, strict=True):
        bars = "a defect" if value is None else json.dumps([record.bar("a ratio", value, at_most=1.05, noise=0.02)])
        (tmp_path / "made_up" / name).mkdir(parents=True)
        (tmp_path / "made_up" / name / "run.py").write_text(SCRIPT.format(bars=bars))
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "PACKAGE", "made_up")
    monkeypatch.setattr(bench, "missed_in_records", lambda: {("step_cost", "a ratio"), ("budget", "another")})
    words = ["--folder", str(tmp_path / "bench"), "--only", *names]
    if complaint is None:
        bench.main(words)
    else:
        with pytest.raises(SystemExit) as ended:
            bench.main(words)
        assert complaint in ended.value.code
        assert ("in its record" in complaint) == ("in its record" in ended.value.code)
    found = json.loads((tmp_path / "bench" / "bench.json").read_text(encoding="utf-8"))
    assert [run["benchmark"] for run in found["runs"]] == names, "one that fails stops no other"
    verdicts = [[b["verdict"] for b in run["bars"]] for run in found["runs"]]
    assert verdicts == [[] if v is None else [record.bar("", v, at_most=1.05, noise=0.02)["verdict"]] for v in values]
    said = capsys.readouterr().out
    assert ("FAILED" in said) == (None in values)
    assert str(tmp_path) not in (tmp_path / "bench" / "bench.json").read_text(encoding="utf-8")


def test_every_benchmark_is_among_them_and_has_a_short_form():
    """A file of its own with ``--short``, and nothing that has one is forgotten."""
    folder = ROOT / "experiments" / "benchmarks"
    with_short = {
        path.parent.name for path in folder.glob("*/run.py") if '"--short"' in path.read_text(encoding="utf-8")
    }
    assert set(bench.ALL) == with_short
