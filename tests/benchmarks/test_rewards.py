"""The benchmark of DSNAS's rewards, run in its short form; what it finds needs its real sizes, its arithmetic does not."""

from __future__ import annotations

import json
import math

import pytest

from experiments.benchmarks.common import record
from experiments.benchmarks.rewards import run as rewards

from ..conftest import ROOT

EPS = [1e-5, 1e-3, 1e-2]
ON_BRANCH = "gradient on the branch, eps 0.001"
WAYS = [*(f"gradient, eps {eps:g}" for eps in EPS), ON_BRANCH, "loss, eps 0.001"]


def test_rewards_benchmark_runs_and_records_everything(tmp_path):
    file = tmp_path / "result.json"
    assert rewards.main(["--quick", "--seeds", "1", "--output", str(file)]) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    assert result["bars"] == [], "tiny sizes measure nothing"

    # Property 25: of the order of eps where scale is divided out again, of no order of eps where something is added.
    sizes = {(row["skip_connection_behind"], row["eps"]): row for row in result["size"]}
    assert list(sizes) == [(added, eps) for added in (False, True) for eps in EPS]
    for (added, eps), row in sizes.items():
        assert row["ratio_to_smallest_eps"] == pytest.approx(1 if added else eps / EPS[0], rel=0.3)
        assert 0 < row["relative_to_terms"] < 1
    assert sizes[True, 1e-5]["mean_abs_reward"] > 100 * sizes[False, 1e-5]["mean_abs_reward"]

    planted = [(row["residual"], row["way"]) for row in result["planted"]]
    assert planted == [(r, way) for r in (False, True) for way in WAYS if r or way != ON_BRANCH]
    for row in result["planted"]:
        assert len(row["found"]) == 1
        assert set(row["found"]) <= set(range(5))
        assert row["share_of_choices"] == row["found"][0] / 4
        assert row["seconds_per_search"] > 0

    assert [measured["eps"] for measured in result["digits"]] == EPS[1:]
    for measured in result["digits"]:
        choices = {c["label"]: c for c in measured["choices"]}
        assert list(choices) == [f"stage{s}.{i}" for s in (1, 2, 3) for i in range(3)]
        for choice in choices.values():
            n = len(choice["candidates"])
            assert len(choice["mean_loss"]) == len(choice["mean_reward"]) == n
            for name in ("reward_with_loss", "loss_between_halves", "reward_between_halves"):
                assert -1.001 <= choice[name] <= 1.001
            assert all(math.isfinite(v) and v > 0 for k, v in choice.items() if k.startswith(("spread", "std")))
            assert 0 < choice["reward_relative_to_terms"] < 1
        # The last block of a stage feeds a convolution with batch norm and nothing else, the one before it also a sum.
        for stage in (1, 2, 3):
            last, before = (choices[f"stage{stage}.{i}"]["reward_relative_to_terms"] for i in (2, 1))
            assert last < 0.3 * before


def test_bars_of_the_record_are_those_of_its_figures():
    recorded = json.loads((ROOT / "experiments/benchmarks/rewards/records/rewards.json").read_text(encoding="utf-8"))
    assert rewards.bars(recorded) == recorded["bars"]
    assert {bar["verdict"] for bar in recorded["bars"]} == {"met"}
    recorded["planted"][3]["share_of_choices"] = 0.9
    assert len(record.missed(rewards.bars(recorded))) == 1
