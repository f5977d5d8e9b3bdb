"""``make bench``: what it makes of benchmarks that meet their bars, miss them, or end with an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.benchmarks import bench
from experiments.benchmarks.common import record

# As a benchmark behaves: writes its result, and ends with 1 if a bar is missed.
SCRIPT = """
import json, pathlib, sys
assert sys.argv[1:3] == ["--short", "--output"]
bars = json.loads({bars!r})
pathlib.Path(sys.argv[3]).write_text(json.dumps({{"bars": bars}}))
sys.exit(any(b["verdict"] == "missed" for b in bars))
"""


def a_package(folder: Path, name: str, **runs: str) -> None:
    """A package of questions, and what their run.py is."""
    for place, (question, run) in enumerate(runs.items()):
        here = folder / name / question
        (here / "records").mkdir(parents=True)
        (here / "run.py").write_text(run)
        (here / "README.md").write_text("# A question?\n\nAn answer.\n")
        (here / "__init__.py").write_text(f"PLACE = {place}\nRECORDS = [('a.json', 'A')]\n")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ([1.0, 1.06], None),
        ([1.08, 1.0], "one: a ratio: 1.08, bar ≤ 1.05, noise 0.02 (in its record too)"),
        ([1.0, 1.08], "two: a ratio: 1.08, bar ≤ 1.05, noise 0.02"),
        ([None, 1.0], "one: failed, see"),
    ],
)
def test_all_run_and_a_missed_bar_or_an_error_fails(values, complaint, tmp_path, monkeypatch, capsys):
    bars = [
        "a defect" if v is None else json.dumps([record.bar("a ratio", v, at_most=1.05, noise=0.02)]) for v in values
    ]
    package = f"questions_of_{tmp_path.name}"
    a_package(tmp_path, package, one=SCRIPT.format(bars=bars[0]), two=SCRIPT.format(bars=bars[1]))
    missed = record.bar("a ratio", 2.0, at_most=1.05)
    (tmp_path / package / "one" / "records" / "a.json").write_text(json.dumps({"bars": [missed]}))
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--folder", str(tmp_path / "bench")]
    if complaint is None:
        bench.main(words, package)
    else:
        with pytest.raises(SystemExit) as ended:
            bench.main(words, package)
        assert complaint in ended.value.code
        assert ("in its record" in complaint) == ("in its record" in ended.value.code)
    found = json.loads((tmp_path / "bench" / "bench.json").read_text(encoding="utf-8"))
    assert [run["benchmark"] for run in found["runs"]] == ["one", "two"], "one that fails stops no other"
    verdicts = [[b["verdict"] for b in run["bars"]] for run in found["runs"]]
    assert verdicts == [[] if v is None else [record.bar("", v, at_most=1.05, noise=0.02)["verdict"]] for v in values]
    assert ("FAILED" in capsys.readouterr().out) == (None in values)
    assert str(tmp_path) not in (tmp_path / "bench" / "bench.json").read_text(encoding="utf-8")
