"""RESULTS.md says what the records say."""

from __future__ import annotations

from experiments.benchmarks import results


def test_results_are_those_of_the_records():
    """Written anew they are the same: no figure was changed by hand, none is of an older record."""
    assert (results.HERE / "RESULTS.md").read_text(encoding="utf-8").splitlines() == list(results.lines())


def test_every_picture_of_a_record_is_there():
    for section in results.SECTIONS:
        if section.picture and (results.HERE / section.benchmark / "records" / section.record).exists():
            assert (results.DOCS / section.picture).exists(), section


def test_missed_bars_are_told_in_one_place():
    missed = [b["bar"] for _, b in results.recorded_bars() if b["verdict"] == "missed"]
    text = "\n".join(results.missed_bars())
    assert [bar for bar in missed if f"| {bar} |" not in text] == []
    assert text.count("\n|") == len(missed) + 2 * bool(missed)
