"""DSNAS lets the supernet select for the choices that are open at the end of its search stage."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.report.runs import find
from nni_proxyless.search.run import run_search

from ..runs import MACS, TINY, choices_of, history, same_weights, search

DSNAS = (
    *MACS, "strategy={name: dsnas, warmup_epochs: 1, search_epochs: 2, arc_learning_rate: 0.05, fix_gap: 0.06}", "training.epochs=5",
    "search={select: supernet, judged: 6}",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return search(tmp_path_factory.mktemp("dsnas"), *DSNAS)


def test_the_supernet_selects_before_the_other_candidates_leave(run):
    architecture = Architecture.read(run / "architecture.json")
    record, target = architecture.search["selection"], architecture.latency["target_ms"]
    assert (record["by"], record["epoch"], record["method"]) == ("supernet", 3, "mixture")
    with (run / "judged.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert record["judged"] == len(rows) <= 7
    (selected,) = (row for row in rows if row["selected"] == "1")
    assert {label: selected[label] for label in architecture.choices} == architecture.choices
    assert architecture.latency["table_ms"] == float(selected["table_ms"])
    assert all(float(row["table_ms"]) <= target for row in rows)
    fixed_before = history(run)[2]["fixed"]
    assert 0 < fixed_before < len(architecture.choices)
    alike = [label for label in architecture.choices if len({row[label] for row in rows}) == 1]
    assert len(alike) >= fixed_before
    (of_run,) = find([str(run)])
    assert of_run.seconds == sum(epoch["seconds"] for epoch in history(run)), "its epoch has the seconds"


def test_killed_after_it_a_search_ends_alike(run, tmp_path):
    """The record comes through the checkpoint, and the supernet is not asked again: its other candidates are gone."""
    (tmp_path / "search.yml").write_text(TINY)
    overrides = [("test", *pair) for pair in _settings()]
    config = read_config(SearchConfig, tmp_path / "search.yml", overrides)

    def stop(metrics: dict) -> None:
        if len(history(tmp_path / "out")) == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_search(config, tmp_path / "out", report=stop)
    (tmp_path / "out" / "judged.csv").unlink()
    assert run_search(config, tmp_path / "out") is not None
    assert not (tmp_path / "out" / "judged.csv").exists()
    assert choices_of(tmp_path / "out") == choices_of(run)
    assert same_weights(tmp_path / "out", run)
    ours, theirs = (Architecture.read(f / "architecture.json").search["selection"] for f in (tmp_path / "out", run))
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def _settings() -> list[tuple[str, object]]:
    from nni_proxyless.config.strict_yaml import parse_value

    return [(word.partition("=")[0], parse_value(word.partition("=")[2])) for word in DSNAS]
