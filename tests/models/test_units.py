"""What a network costs is said in the unit of the search's estimator, by every command and file that says it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from nni_proxyless.cli.main import main
from nni_proxyless.latency import MacsEstimator
from nni_proxyless.latency.digits import in_words
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.record import latency_record, record_without_table, unit_of

from ..report_page import Page
from ..runs import search

UNITS = {"macs": "million multiply-adds", "activations": "MiB"}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("estimator", UNITS)
def test_everywhere_in_the_unit_of_the_estimator(estimator, tmp_path, capsys):
    unit = UNITS[estimator]
    (runs := tmp_path / "runs").mkdir()
    words = ["latency.table=null", "latency.target_ms=100%", "training.epochs=1", "strategy.warmup_epochs=0"]
    run = search(runs, *words, f"latency.estimator={{name: {estimator}}}")
    (runs / "search.yml").unlink()
    assert f"{unit}, expected" in capsys.readouterr().out
    searched = Architecture.read(run / "architecture.json")
    target = searched.latency["target_ms"]

    assert main(["derive", str(run), "--budget-ms", repr(target), "--judge", "3", "--output", str(run / "one")]) == 0
    assert f"target {in_words(target)} {unit}, expected -; the network: predicted" in capsys.readouterr().out
    assert {row["unit"] for row in rows_of(run / "one" / "judged.csv")} == {unit}
    assert main(["derive", str(run), "--front", "2", "--output", str(run / "front")]) == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert f"table {unit}" in header
    assert " ms" not in header
    assert {row["unit"] for row in rows_of(run / "front" / "front.csv")} == {unit}
    assert main(["reference", str(run), "--random", "1", "--widths", "1.0"]) == 0
    assert f"table {unit}" in capsys.readouterr().out
    files = sorted((tmp_path / "runs").rglob("architecture.json"))
    records = {path.parent.name: json.loads(path.read_text())["latency"] for path in files}
    assert len(records) == 6
    assert {record["unit"] for record in records.values()} == {unit}
    assert {frozenset(record) for record in records.values()} == {frozenset(searched.latency)}
    if estimator != "macs":  # those are counted anyway
        cost = searched.latency["table_ms"]
        words = f"{cost:.2f}" if cost >= 0.1 else f"{cost:.2g}"
        assert f"{words} {unit} by its table" in (run / "network.svg").read_text()

    finished = shutil.ignore_patterns("architecture.json", "one", "front")
    shutil.copytree(run, tmp_path / "runs" / "going", ignore=finished)
    (tmp_path / "runs" / "going" / "checkpoint").mkdir()
    capsys.readouterr()
    assert main(["report", str(tmp_path / "runs")]) == 0
    printed, page = capsys.readouterr().out, Page(tmp_path / "runs" / "report.html")
    assert {row["unit"] for row in rows_of(tmp_path / "runs" / "report.csv")} == {unit}
    assert "target ms" not in printed
    assert len([line for line in printed.splitlines() if f"  {unit}  " in line]) == 7
    (target_column, predicted_column) = (page.tables[0][0].index(name) for name in ("target", "predicted"))
    assert [row[target_column].partition(" ")[2] for row in page.tables[0][1:]] == ["", unit, unit, unit, unit]
    assert [row[predicted_column].partition(" ")[2] for row in page.tables[0][1:]] == ["", unit, unit, unit, unit]
    assert f"Latency, {unit}" in page.words
    assert "Latency, ms" not in page.words


def test_one_form_for_all():
    """What no table knows has the keys of what one does."""

    class Table:
        unit, calibration, conditions = "MiB", None, {"a": 1}

        def profile(self, sample):
            return 2

        predicted_ms = profile

    known = latency_record(Table(), {}, target=3.0)
    assert (known["target_ms"], known["table_ms"], unit_of(known)) == (3.0, 2.0, "MiB")
    assert list(record_without_table("MiB", None)) == list(known)
    assert unit_of({}) == "ms"


def test_a_record_that_was_written_without_a_unit():
    """By ``derive`` until it had one: what was counted stood in the conditions alone."""
    assert unit_of({"conditions": dict(MacsEstimator().conditions), "table_ms": 1.2}) == MacsEstimator().unit
    assert unit_of({"conditions": {"device": "toy"}, "table_ms": 1.2}) == "ms"
