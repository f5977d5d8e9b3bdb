"""RESULTS.md and the table of README.md say what the records say."""

from __future__ import annotations

import pytest

from experiments.benchmarks import results
from experiments.benchmarks.common import record
from experiments.benchmarks.common.questions import questions

PICTURES = [(q, one) for q in questions() for one, _ in results.recorded(q) if one.picture]


def test_pages_are_those_of_the_records():
    """Written anew they are the same: no figure was changed by hand, none is of an older record."""
    assert (results.HERE / "RESULTS.md").read_text(encoding="utf-8").splitlines() == list(results.lines())
    page = (results.HERE / "README.md").read_text(encoding="utf-8")
    assert page == results.with_front(page)


def test_verdicts_of_records_are_those_of_their_figures():
    """Also of the oldest: no bar that its figure misses by more than its noise is called met."""
    for question, one, b in results.recorded_bars():
        again = record.bar(b["bar"], b["value"], at_least=b["at_least"], at_most=b["at_most"], noise=b["noise"])
        assert again["verdict"] == b["verdict"], (question.name, one.file)


@pytest.mark.parametrize(("question", "one"), PICTURES, ids=[one.picture for _, one in PICTURES])
def test_a_picture_is_drawn_from_its_record(question, one, tmp_path):
    assert (results.DOCS / one.picture).exists()
    result = dict(results.recorded(question))[one]
    question.report.picture(result, tmp_path / "drawn.svg")
    assert (tmp_path / "drawn.svg").stat().st_size > 1000
