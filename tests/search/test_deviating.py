"""A search whose network takes another time than its table says: said at its end, by ``derive`` and in the report.

The machine is as fast as a test wants (:mod:`.made_up_machine`).
"""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
from pathlib import Path

import pytest

from nni_proxyless.cli.main import main
from nni_proxyless.latency import Calibration, LookupTable
from nni_proxyless.latency.estimators.device import Measurement

from ..report_page import Page
from ..runs import search
from .made_up_machine import machine_in, settings

EXPLAINED = "networks of the table, timed beside this one, take"


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Path:
    """The program, and the file of its speed."""
    return machine_in(tmp_path_factory.mktemp("machine"))


@pytest.fixture(autouse=True)
def as_it_was(machine):
    (machine / "speed").write_text("1")


@pytest.fixture(scope="module")
def right(machine, tmp_path_factory) -> tuple[Path, str]:
    """A search on a machine that stays as it is, and its log."""
    (machine / "speed").write_text("1")
    folder = tmp_path_factory.mktemp("right")
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("nni_proxyless").addHandler(handler)
    try:
        run = search(folder, text=settings(machine))
    finally:
        logging.getLogger("nni_proxyless").removeHandler(handler)
    return run, "\n".join(records)


@pytest.fixture
def run(right, tmp_path) -> Path:
    """The same search, to be changed."""
    shutil.copytree(right[0], tmp_path / "run")
    return tmp_path / "run"


def derived(run: Path, capsys, budget: float | None = None) -> str:
    """What ``derive`` prints of the network under a budget, that of the search where none is given, timed again."""
    target = json.loads((run / "architecture.json").read_text())["latency"]["target_ms"]
    capsys.readouterr()
    assert main(["derive", str(run), "--budget-ms", repr(budget or target), "--output", str(run / "net")]) == 0
    return capsys.readouterr().out


def scale(path: Path, factor: float, *, references: bool) -> None:
    """All numbers of a table, as a machine of another speed, or a mistake, would have made them."""
    table = LookupTable.read(path)

    def scaled(m: Measurement) -> Measurement:
        return Measurement(factor * m.median_ms, factor * m.p95_ms, m.count, m.predicted)

    assert table.constant is not None
    kept = [] if not references else table.references
    table.replace(
        rows={key: scaled(row) for key, row in table.rows.items()}, constant=scaled(table.constant), references=kept
    ).write(path)


def lines_of(text: str, begin: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(begin)]


def test_a_right_table_is_nothing_to_speak_of(right, run, machine, capsys):
    latency = json.loads((run / "architecture.json").read_text())["latency"]
    assert latency["measured_ms"] == pytest.approx(latency["table_ms"], rel=0.02)
    assert latency["table_again_ms"] == pytest.approx(latency["table_ms"], rel=0.02)
    assert latency["measured_scatter"] == 0
    assert "the derived network, measured" not in right[1]
    assert not lines_of(derived(run, capsys), "measured:")
    assert main(["report", str(run)]) == 0
    assert "*" not in capsys.readouterr().out
    assert "what the table says" not in Page(run / "report.html").words


def test_a_search_by_a_table_that_is_wrong_ends_with_it(right, machine, tmp_path, capsys):
    """All its rows are half as long again as they should be; the networks that it was fitted to are as they were."""
    shutil.copy(right[0].parent / "table.yaml", tmp_path)
    scale(tmp_path / "table.yaml", 1.5, references=True)
    run = search(tmp_path, text=settings(machine))
    latency = json.loads((run / "architecture.json").read_text())["latency"]
    measured, apart = latency["measured_ms"], f"{100 * (1 - latency['measured_ms'] / latency['table_ms']):.0f} % below"
    assert 0.6 < measured / latency["table_ms"] < 0.7
    printed = capsys.readouterr()
    (line,) = lines_of(printed.out, "measured:")
    assert f"{apart} what the table says" in line
    assert f"the table is wrong here: {EXPLAINED} 1.00 times as long as then" in line
    assert f"nni-proxyless latency check {run / 'latencies.yaml'} --dry-run" in line
    assert f"the derived network, measured: {line.removeprefix('measured:').strip()}" in printed.err, (
        "the log of a trial has it"
    )
    assert main(["search", "--resume", str(run)]) == 0
    assert line in capsys.readouterr().out

    assert main(["report", str(run)]) == 0
    printed = capsys.readouterr().out
    (row,) = [text for text in printed.splitlines() if text.startswith("out ") and "SUCCEEDED" in text]
    assert f"{measured:.3f}*" in row.split()
    (below,) = lines_of(printed, "* ")
    assert below.startswith("* out, measured: ")
    assert below.endswith(line.removeprefix("measured:").strip())
    page = Page(run / "report.html")
    assert f"{measured:.3f} ms*" in page.tables[0][1]
    assert f"{below}." in page.words
    assert f"{measured:.3f} ms, {apart} the table" in page.words
    assert f"{measured:.3f} ms measured ({apart} the table)" in page.words
    with (run / "report.csv").open() as file:
        (figures,) = csv.DictReader(file)
    assert float(figures["measured_scatter"]) == 0
    assert float(figures["table_again_ms"]) > 0
    assert f"{apart} the table" in (run / "network.svg").read_text()


def test_a_machine_that_is_slower_now_is_told_apart(run, machine, capsys):
    (machine / "speed").write_text("1.5")
    (line,) = lines_of(derived(run, capsys), "measured:")
    assert re.search("(4[89]|5[0-3]) % above what the table says", line)
    assert re.search(
        f"the machine is slower now than when the table was made: {EXPLAINED} 1.5[0-9] times as long as then", line
    )
    assert "wrong" not in line


def test_without_networks_of_the_table_both_causes_are_named(run, machine, capsys):
    scale(run / "latencies.yaml", 1.0, references=False)
    (machine / "speed").write_text("0.5")
    (line,) = lines_of(derived(run, capsys), "measured:")
    assert re.search("(4[89]|5[01]) % below what the table says", line)
    assert "the machine is faster now than when the table was made, or the table is wrong here; " in line


def test_a_calibration_to_the_speed_of_today_is_part_of_the_table(run, machine, capsys):
    """Its networks were timed before it, when the machine was faster."""
    table, calibration = run / "latencies.yaml", Calibration(0.0, 1.5, 30, 0.01, 0.02, "2026-11-29")
    LookupTable.read(table).replace(calibration=calibration).write(table)
    target = 1.5 * json.loads((run / "architecture.json").read_text())["latency"]["target_ms"]
    (machine / "speed").write_text("1.5")
    assert not lines_of(derived(run, capsys, target), "measured:")
    (machine / "speed").write_text("3")
    (line,) = lines_of(derived(run, capsys, target), "measured:")
    assert re.search(r"(2\.0 times|9\d % above) what the calibrated table says", line)
    assert re.search(f"the machine is slower now than when the table was made: {EXPLAINED} (1.9|2.0)[0-9] times", line)
