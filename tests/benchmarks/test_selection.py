"""The study of ways to select: its judge, and the command in its smallest form."""

from __future__ import annotations

import json
import statistics

import pytest

from experiments.benchmarks.nas_bench_macro.space import sample_of
from experiments.benchmarks.nas_bench_macro.table import Table
from experiments.benchmarks.nas_bench_macro.worth import agreement
from experiments.benchmarks.selection import run as study
from experiments.benchmarks.selection.noisy_judge import NoisyJudge


def test_a_judge_is_as_good_as_it_is_told_to_be():
    table = Table.made_up(width=0.125)
    window = table.window(0.5)
    for r in (0.0, 0.5, 1.0):
        told, again = ([], [])
        for seed in range(10):
            judge = NoisyJudge(table, window, r, seed)
            samples = [sample_of(name) for name in table.names(window.indices)]
            told.append(agreement([-v.log_loss for v in judge(samples)], window.accuracy)["r"])
            again.append(agreement([-v.log_loss for v in judge.again(samples)], window.accuracy)["r"])
            assert judge.seen == 5 * len(samples)
        # The additive error has few degrees of freedom, so that chance makes it agree or not: deviation 0.2 at most.
        assert statistics.mean(told) == pytest.approx(r, abs=5 * 0.2 * (1 - r**2) ** 0.5 / 10**0.5 + 1e-9)
        assert statistics.mean(again) >= statistics.mean(told) - 0.01


def test_the_study_of_ways_to_select(tmp_path):
    file = tmp_path / "result.json"
    assert study.main(["--short", "--output", str(file), "--picture", str(tmp_path / "drawn.svg")]) == 0
    result = json.loads(file.read_text())
    (chance,) = result["chance"].values()
    assert [one["method"] for one in result["cells"]] == ["raw", "ridge", "mixture", "evolution"]
    assert all(chance["mean"] - 5 < one["accuracy"] <= chance["maximum"] for one in result["cells"])
