"""The report as a page and as CSV, of real searches, and of experiments as NNI notes them."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

import nni_node
import numpy as np
import pytest
import torch
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless.cli.main import main
from nni_proxyless.latency import DeviceEstimator, LatencyProfiler, LookupTable, MacsEstimator
from nni_proxyless.latency.digits import in_words
from nni_proxyless.latency.estimators.device import Measurement
from nni_proxyless.latency.operation import trace_operations
from nni_proxyless.latency.tables.timed_networks import random_samples
from nni_proxyless.report.comparison import Mean, same_budgets
from nni_proxyless.report.nni_database import read_experiment
from nni_proxyless.report.page import _agreement
from nni_proxyless.report.rows import Row, predicted_and_calibrated
from nni_proxyless.report.runs import find

from ..report_page import Page
from ..runs import TINY, history

SPACE = {"preset": "small", "widths": [8, 16], "depths": [2, 2], "strides": [2, 2], "stem_width": 8, "feature_mix": 32}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A search, and nets to compare it with, all trained alike; and a search that goes on."""
    folder = tmp_path_factory.mktemp("report") / "runs"
    folder.mkdir()
    (folder / "search.yml").write_text(TINY.replace("epochs: 3", "epochs: 2").replace("repeats: 15", "repeats: 3"))
    # A table by multiply-adds: three timings of each operation on a busy machine may say anything.
    space, estimator = (
        MobileNetV2Space(**SPACE, num_classes=10, in_channels=1),
        DeviceEstimator(runtime="torch", warmup=1, repeats=3),
    )
    by_key = {op.key: 0.05 + 2 * MacsEstimator().estimate(op) for op in trace_operations(space, (1, 8, 8))}
    rows = {key: Measurement(ms, ms, 1) for key, ms in by_key.items()}
    table = LookupTable(rows, {**estimator.conditions, "resolution": "8x8"})
    table.write(folder / "table.yaml")
    profiler = LatencyProfiler(space, table, (1, 8, 8))
    # A budget that many nets use up.
    target = float(np.median([profiler.profile(sample) for sample in random_samples(space, 99, 0)]))
    before = torch.get_num_threads()
    assert main(["search", str(folder / "search.yml"), f"latency.target_ms={target}", f"output={folder / 'one'}"]) == 0
    assert main(["reference", str(folder / "one"), "--widths", "0.5", "--random", "2"]) == 0
    for net in [folder / "one", *sorted((folder / "one" / "reference").iterdir())]:
        assert main(["train", str(net / "architecture.json"), "weights=scratch", "epochs=1", "threads=1"]) == 0
    torch.set_num_threads(before)
    going = folder / "going <on>"
    going.mkdir()
    shutil.copy(folder / "one" / "search.yml", going)
    whole = (folder / "one" / "history.jsonl").read_text()
    (going / "history.jsonl").write_text(whole.splitlines(keepends=True)[0] + '{"default": 0.')
    (folder / "search.yml").rename(folder.parent / "search.yml")
    return folder


def result(folder: Path) -> float:
    return json.loads((folder / "final" / "result.json").read_text())["accuracy"]


@pytest.fixture(scope="module")
def reported(runs) -> tuple[Page, list[dict[str, str]]]:
    """The page and the CSV, where they are by default."""
    assert main(["report", str(runs)]) == 0
    with (runs / "report.csv").open() as file:
        return Page(runs / "report.html"), list(csv.DictReader(file))


def test_the_page_needs_nothing_but_itself(reported):
    page, _ = reported
    assert len(page.ids) == len(set(page.ids)), "two of one name"
    assert all(href.startswith("#") for href in page.hrefs), page.hrefs
    assert {href[1:] for href in page.hrefs} <= set(page.ids)
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}
    assert set(re.findall(r"url\(#([^)]*)\)", page.source)) <= set(page.ids)
    assert not re.search(r"https?:|//|@import|<script|<link|<iframe|<object|\bsrc\s*=|\bon\w+\s*=", page.source)
    assert not [a for a in page.attributes if a[1] in ("src", "srcset", "action", "data", "poster")]


def test_figures_are_those_of_the_files(runs, reported):
    page, rows = reported
    assert [row["name"] for row in rows] == [
        "going <on>", "one", "one/reference/random-0.0", "one/reference/random-0.1", "one/reference/width-0.5",
    ]  # fmt: skip
    assert [row["kind"] for row in rows] == ["search", "search", "random", "random", "reference"]
    for row in rows[1:]:
        folder = runs / row["name"]
        net = json.loads((folder / "architecture.json").read_text())
        known = {"final_merit": result(folder), "macs": net["macs"], "n_params": net["n_params"],
                 "predicted": net["latency"]["table_ms"], "target": net["latency"]["target_ms"]}  # fmt: skip
        assert {name: float(row[name]) if row[name] else None for name in known} == known
        assert 0 < float(row["measured_ms"]) < 1000
    one, net = rows[1], json.loads((runs / "one" / "architecture.json").read_text())
    assert (one["strategy"], one["seed"], one["metric"]) == ("proxyless", "3", "accuracy")
    assert float(one["search_merit"]) == net["search"]["accuracy"]
    trials = page.tables[0]
    assert [row[0] for row in trials[1:]] == ["going <on>", "one"]
    seconds = sum(epoch["seconds"] for epoch in history(runs / "one"))
    apart = abs(float(one["measured_ms"]) / float(one["predicted"]) - 1)
    scatter = float(one["measured_scatter"])
    mark = "*" if apart > 0.05 + scatter or scatter > 0.1 else ""
    assert trials[2] == [
        "one", "SUCCEEDED", "proxyless", "3", f"{in_words(net['latency']['target_ms'])} ms", f"{in_words(net['latency']['table_ms'])} ms",
        f"{in_words(float(one['measured_ms']))} ms{mark}", f"{100 * net['search']['accuracy']:.2f} %", f"{100 * result(runs / 'one'):.2f} %",
        f"{net['macs'] / 1e3:.1f} k", f"{net['n_params'] / 1e3:.1f} k", f"0 min {round(seconds):02d} s",
    ]  # fmt: skip


def test_a_search_that_goes_on(reported):
    """Its last line is half written, and it has no net."""
    page, rows = reported
    assert page.tables[0][1][:4] == ["going <on>", "UNFINISHED, epoch 1 of 2", "proxyless", "3"]
    assert (rows[0]["state"], rows[0]["measured_ms"]) == ("UNFINISHED", "")
    assert "<on>" not in page.source
    assert "It has no network yet." in page.words


def test_against_random_nets_and_mobilenetv2(runs, reported):
    page, rows = reported
    trained = page.tables[1]
    accuracy = {row["name"]: 100 * result(runs / row["name"]) for row in rows[1:]}
    random = [accuracy[f"one/reference/random-0.{i}"] for i in (0, 1)]
    error = statistics.stdev(random) / math.sqrt(2)
    target = f"{in_words(float(rows[1]['target']))} ms"
    assert trained[1][:5] == [
        target, "proxyless", "1", f"{accuracy['one']:.2f} %", f"{accuracy['one'] - statistics.mean(random):+.2f}"
    ]  # fmt: skip
    assert trained[2][:4] == ["random networks", "2", f"{statistics.mean(random):.2f} % ± {error:.2f}", "–"]
    assert trained[3][0].startswith("MobileNetV2's block in the skeleton of the space, width 0.5")
    assert trained[3][2] == f"{accuracy['one/reference/width-0.5']:.2f} %"
    assert "Trained alike: epochs 1, weights scratch, optimizer sgd, learning_rate 0.05, batch_size 64" in page.words


def test_other_training_is_no_comparison(runs, tmp_path, refused):
    """The page says what to do; the commands that it gives are those of this program."""
    shutil.copytree(runs / "one", tmp_path / "one")
    settings = tmp_path / "one" / "final" / "train.yml"
    settings.write_text(settings.read_text().replace("epochs: 1", "epochs: 2"))
    assert main(["report", str(tmp_path), "--html", str(tmp_path / "pages" / "p.html")]) == 0
    assert {"p.html", "p.csv"} == {path.name for path in (tmp_path / "pages").iterdir()}
    page = Page(tmp_path / "pages" / "p.html")
    assert "No random or reference network has been trained as one of the searched ones" in page.words
    assert f"cd {tmp_path} nni-proxyless reference one --random 5 for network in one/architecture.json " in page.words
    assert len(page.tables) == 1
    said = refused("report", tmp_path, "--html", "page.pdf")
    assert said == "nni-proxyless: --html page.pdf: '.pdf' is not allowed here; allowed: .html, .htm\n"


# -- experiments ---------------------------------------------------------------------------------------------------------


def note_experiment(home: Path, pid: int) -> sqlite3.Connection:
    """NNI's list and an empty database, with the tables that NNI itself makes."""
    folder = home / "nni-experiments" / "abcd1234"
    (folder / "db").mkdir(parents=True)
    noted = {"id": "abcd1234", "startTime": 1000, "status": "RUNNING", "pid": pid, "logDir": str(folder.parent)}
    (home / "nni-experiments" / ".experiment").write_text(json.dumps({"abcd1234": noted}))
    source = (Path(nni_node.__file__).parent / "core" / "sqlDatabase.js").read_text()
    connection = sqlite3.connect(folder / "db" / "nni.sqlite")
    connection.executescript(source.split("createTables = `")[1].split("`")[0])
    params = json.dumps({"experimentName": "a <test>", "trialCommand": "nni-proxyless search search.yml"})
    connection.execute(
        "INSERT INTO ExperimentProfile VALUES (?,?,?,?,?,?,?,?)", (params, "abcd1234", 0, 1000, None, "", 0, 0)
    )
    connection.commit()
    return connection


def note(connection: sqlite3.Connection, trial: str, url: str, *events: str, **parameters: object) -> None:
    """A trial as the manager notes it: ten seconds between its events."""
    number = connection.execute("SELECT count(DISTINCT trialJobId) FROM TrialJobEvent").fetchone()[0]
    data = json.dumps({"parameter_id": number, "parameters": parameters, "parameter_index": 0})
    for i, event in enumerate(events):
        at = int(time.time() * 1000) - 10_000 * (len(events) - i)
        connection.execute(
            "INSERT INTO TrialJobEvent VALUES (?,?,?,?,?,?,?,?)",
            (at, trial, event, data if i == 0 else None, url, number, None, "e"),
        )
    metrics = {"default": 0.25 + number / 100, "expected_ms": 1.5}
    connection.execute(
        "INSERT INTO MetricData VALUES (?,?,?,?,?,?)", (0, trial, "0", "PERIODICAL", 0, json.dumps(json.dumps(metrics)))
    )
    connection.commit()


@pytest.fixture
def experiment(runs, tmp_path, monkeypatch):
    """Trials in all states; NNI still writes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "trial.stderr").write_text("12:00:00 epoch 1\nnni-proxyless: <script>alert('x')</script> & more\n")
    connection = note_experiment(tmp_path, os.getpid())
    note(connection, "GOOD1", str(runs / "one"), "WAITING", "RUNNING", "SUCCEEDED", seed=3)
    note(connection, "BAD22", str(bad), "RUNNING", "FAILED", **{"strategy.name": "dsnas", "latency.target_ms": "50%"})
    note(connection, "GOING", str(runs / "going <on>"), "RUNNING")
    note(connection, "THERE", "far.example:~/nni-experiments/abcd1234/environments/e/trials/THERE", "RUNNING", seed=7)
    note(connection, "STOPD", str(tmp_path / "nothing"), "RUNNING", "USER_TO_CANCEL", "USER_CANCELED")
    yield connection
    connection.close()


def test_a_running_experiment(experiment, runs, tmp_path, capsys):
    experiment.execute("BEGIN IMMEDIATE")  # NNI is about to write
    experiment.execute("DELETE FROM TrialJobEvent")
    assert main(["report"]) == 1
    experiment.rollback()
    said = capsys.readouterr()
    lines = {line.split()[0]: line.split()[1:3] for line in said.out.splitlines()[1:6]}
    assert lines == {"GOOD1": ["SUCCEEDED", lines["GOOD1"][1]], "BAD22": ["FAILED", "50%"], "GOING": ["RUNNING", lines["GOING"][1]],
                     "THERE": ["RUNNING", "-"], "STOPD": ["USER_CANCELED", "-"]}  # fmt: skip
    folder = tmp_path / "nni-experiments" / "abcd1234"
    with (folder / "report.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["BAD22"]["reason"] == "nni-proxyless: <script>alert('x')</script> & more"
    assert (rows["BAD22"]["strategy"], rows["THERE"]["seed"]) == ("dsnas", "7")
    assert float(rows["GOOD1"]["seconds"]) == 10
    assert 10 <= float(rows["GOING"]["seconds"]) < 60
    net = json.loads((runs / "one" / "architecture.json").read_text())
    assert float(rows["GOOD1"]["measured_ms"]) == net["latency"]["measured_ms"], (
        "nothing is timed beside a trial that runs"
    )
    page = Page(folder / "report.html")
    assert page.words.startswith("a <test> · nni-proxyless report a <test> NNI experiment abcd1234, running")
    assert "<script" not in page.source
    assert "nni-proxyless: <script>alert('x')</script> & more" in page.words
    assert "1 of 5 trials succeeded, 2 failed, 2 not at an end." in page.words
    assert set(page.ids) >= {href[1:] for href in page.hrefs}


def test_an_experiment_whose_manager_is_gone(experiment, runs, capsys):
    """Killed while it wrote: a journal is left beside the database; and by its id together with a folder, each net once."""
    database = Path.home() / "nni-experiments" / "abcd1234" / "db" / "nni.sqlite"
    code = (
        "import sqlite3, os, signal, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA cache_size=1');"
        "c.execute('BEGIN IMMEDIATE'); c.execute('DELETE FROM TrialJobEvent');"
        "c.executemany('INSERT INTO MetricData VALUES (0, ?, 0, 0, 0, 0)', [('x' * 999,)] * 99); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(database)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert database.with_name("nni.sqlite-journal").exists()
    listed = Path.home() / "nni-experiments" / ".experiment"
    listed.write_text(listed.read_text().replace(str(os.getpid()), str(2**22 + 1)))
    before = database.read_bytes()
    read = read_experiment("abcd1234")
    assert [trial.id for trial in read.trials] == ["GOOD1", "BAD22", "GOING", "THERE", "STOPD"]
    assert not read.running
    assert read.trials[3].host == "far.example"
    assert read.trials[3].folder == database.parent.parent / "trials" / "THERE"
    assert database.read_bytes() == before, "nothing is written"
    found = find([str(runs), "abcd1234"])
    assert len({f.folder for f in found}) == len(found) == 8
    by_name = {f.name: f for f in found}
    assert by_name["GOING"].state == by_name["THERE"].state == "STOPPED"
    assert by_name["GOING"].reason == "NNI's manager ended while it was running; nnictl resume abcd1234 goes on"


# -- what it is made of --------------------------------------------------------------------------------------------------


def row(target: float, unit: str = "ms") -> Row:
    given = dict.fromkeys(Row.__dataclass_fields__)
    return Row(**{**given, "target": target, "unit": unit})


def test_budgets_are_the_same_within_two_per_cent():
    rows = [row(2.0), row(3.0), row(2.03), row(2.06), row(2.0, "MiB"), row("60%")]
    groups = [(round(target, 6), unit, len(own)) for target, unit, own in same_budgets(rows)]
    assert groups == [(2.0, "MiB", 1), (2.03, "ms", 3), (3.0, "ms", 1)]


def test_a_slower_machine_is_told_apart_from_a_wrong_table():
    said = _agreement([(2.0, 3.0), (3.0, 4.5), (4.0, 6.3)], 1.5)
    assert re.findall(r"(\d+\.\d+)", said) == ["52.5", "57.5", "1.50", "5.0"]  # on average, at most; divided by, left
    assert _agreement([(2.0, 1.9)], 0.95) == "It takes 5.0 % less than predicted."


def test_of_a_calibrated_table_both_figures_are_known():
    latency = {"predicted_ms": 2.0, "table_ms": 3.0}
    assert predicted_and_calibrated(latency | {"calibrated": True}) == (2.0, 3.0)
    assert predicted_and_calibrated({"table_ms": 3.0}) == (3.0, None)


def test_means_and_their_errors():
    assert Mean.of([None]) is None
    assert Mean.of([0.5]) == Mean(0.5, None, 1)
    mean = Mean.of([1.0, 2.0, None, 3.0])
    assert (mean.value, mean.n) == (2.0, 3)
    assert mean.error == pytest.approx(1 / math.sqrt(3))
    assert mean.minus(Mean(1.5, 0.1, 4)).error == pytest.approx(math.hypot(1 / math.sqrt(3), 0.1))
    assert mean.minus(Mean(1.5, None, 1)).error is None


def test_settings_that_are_no_text_are_not_known(tmp_path):
    (tmp_path / "search.yml").write_bytes(b"space:\n  name: caf\xe9\n")
    (tmp_path / "history.jsonl").touch()
    (found,) = find([str(tmp_path)])
    assert found.settings == {}
