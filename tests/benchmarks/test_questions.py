"""Questions are found by looking, and one that is not whole is noticed."""

from __future__ import annotations

import importlib
import json

import pytest

from experiments.benchmarks import results
from experiments.benchmarks.common import record
from experiments.benchmarks.common.questions import problems, questions, unrecorded

from .test_bench import a_package

EVERY = {question.name: question for question in questions()}


@pytest.mark.parametrize("question", EVERY.values(), ids=EVERY)
def test_every_question_is_whole(question, capsys):
    assert problems(question) == []
    with pytest.raises(SystemExit, match=r"^0$"):
        importlib.import_module(question.module).main(["--help"])
    usage = capsys.readouterr().out
    assert "[--short]" in usage
    assert "[--output OUTPUT]" in usage


def test_questions_have_places_of_their_own_and_all_files_belong_to_one():
    places = [question.place for question in EVERY.values()]
    assert places == sorted(set(places))
    home = results.HERE
    assert {path.name for path in home.glob("*.py")} == {"__init__.py", "bench.py", "results.py"}
    assert {path.parent.name for path in home.glob("*/run.py")} == set(EVERY)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Two questions, the second without a record."""
    a_package(tmp_path, package := f"questions_in_{tmp_path.name}", whole="", fresh="")
    for name in ("whole", "fresh"):
        (tmp_path / package / name / "report.py").write_text("def markdown(result): return ['# Deeper', 'a figure']")
    result = {"date": "2026-11-29", "bars": [record.bar("a ratio", 2.0, at_most=1.0)]}
    (tmp_path / package / "whole" / "records" / "a.json").write_text(json.dumps(result))
    monkeypatch.syspath_prepend(tmp_path)
    return package, tmp_path / package


def test_what_python_and_editors_leave_is_no_question(made_up):
    package, folder = made_up
    for name in ("__pycache__", ".idea"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "a_file").touch()
    assert [question.name for question in questions(package)] == ["whole", "fresh"]


def test_a_question_without_a_record_is_named(made_up, monkeypatch):
    whole, fresh = questions(made_up[0])
    assert [problems(q) for q in (whole, fresh)] == [[], []]
    assert [[one.file for one in unrecorded(q)] for q in (whole, fresh)] == [[], ["a.json"]]
    assert f"Not recorded yet: `python -m {made_up[0]}.fresh.run`." in list(results.lines(made_up[0]))
    *_, first, second = results.front(made_up[0])
    assert first == "| [A question?](whole/README.md) | An answer. | 2026-11-29 | 1 missed |"
    assert second == "| [A question?](fresh/README.md) | An answer. | not recorded yet |  |"
    more = [("a.json", "A"), ("b.json", "B")]
    monkeypatch.setattr(importlib.import_module(f"{made_up[0]}.whole"), "RECORDS", more)
    assert results.front(made_up[0])[-2].endswith("| 2026-11-29; 1 not yet | 1 missed |")


@pytest.mark.parametrize("name", ["__init__.py", "run.py", "report.py", "README.md"])
def test_a_file_that_is_missing_is_named(made_up, name):
    package, folder = made_up
    (folder / "whole" / name).unlink()
    found = {question.name: question for question in questions(package)}
    assert problems(found["whole"])[0] == f"whole: no {name}"
    assert problems(found["fresh"]) == []


def test_a_page_without_an_answer_and_a_record_that_nobody_shows_are_named(made_up):
    package, folder = made_up
    (folder / "whole" / "README.md").write_text("# A statement\n")
    (folder / "whole" / "records" / "b.json").write_text("{}")
    whole, _ = questions(package)
    said = problems(whole)
    assert "needed: '# question?', an empty line, the answer in one line" in said[0]
    assert said[1:] == ["whole: records/b.json is neither in RECORDS nor on a page of its folder"]


def test_a_missed_bar_of_a_record_is_told_as_missed(made_up):
    assert [(q.name, b["verdict"]) for q, _, b in results.recorded_bars(made_up[0])] == [("whole", "missed")]
    assert "| A | a ratio | 2 | ≤ 1 |" in list(results.missed_bars(made_up[0]))
