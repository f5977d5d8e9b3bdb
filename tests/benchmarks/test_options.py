"""The options that benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from experiments.benchmarks.common.options import read_options


def read(*words: str, **settings: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int)
    return read_options(parser, words, short="one seed", **settings)


def test_options_of_the_benchmark_stand_beside_the_shared_ones(monkeypatch):
    monkeypatch.setenv("RESULTS_OF_TODAY", "/results")
    options = read("--seeds", "3", "--output", "$RESULTS_OF_TODAY/a.json")
    assert vars(options) == {"seeds": 3, "short": False, "output": Path("/results/a.json"), "picture": None}


def test_the_short_form_runs_one_process_where_two_run_otherwise():
    assert read(processes="cells").processes == 2
    assert read("--short", processes="cells").processes == 1
    assert read("--short", "--processes", "4", processes="cells").processes == 4


def test_no_processes_are_none_too_few(capsys):
    with pytest.raises(SystemExit):
        read("--processes", "0", processes="cells")
    assert "argument --processes: 0; allowed: 1 or more" in capsys.readouterr().err


def test_a_folder_is_an_option_where_the_benchmark_has_one(capsys):
    assert read(folder="gate").folder == Path("gate")
    with pytest.raises(SystemExit):
        read("--folder", "gate")
    assert "unrecognized arguments: --folder gate" in capsys.readouterr().err
