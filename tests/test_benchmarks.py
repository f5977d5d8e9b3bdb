"""The benchmarks run as their users type them; what they count is checked, what they time is not."""

from __future__ import annotations

import json
import math
import sys

import pytest

from .conftest import ROOT

SCRIPT = "experiments/benchmarks/step_cost.py"
# Candidates run per layer and training batch, of 2: a batch has 1 weight step, and in every fifth 1 two-path step.
RUN = {
    "floor again": 1, "weight step": 1, "two-path step": 2, "full step": 2, "REINFORCE update": 10,
    "whole batch": 1 + 2 / 5, "whole batch, from its pieces": 1 + 2 / 5, "NNI Proxyless batch": 4, "NNI GumbelDARTS batch": 4,
}  # fmt: skip
BARS = [
    "floor again, furthest from 1", "weight step, time", "weight step, saved activations", "two-path step, time",
    "two-path step, saved activations", "whole batch, one update in 5, time",
]  # fmt: skip


def test_step_cost_counts_and_records_everything(command, tmp_path):
    """On two layers of two candidates; whether a path ran that was not foreseen, the script itself checks."""
    file, report = tmp_path / "result.json", tmp_path / "RESULTS.md"
    words = ["--candidates", "2", "--layers", "2", "--pixels", "16", "--batch", "4", "--rounds", "1", "--output"]
    done = command(sys.executable, SCRIPT, *words, file, "--report", report, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")

    result = json.loads(file.read_text(encoding="utf-8"))
    assert result["settings"].items() >= {"candidates": [2], "layers": 2, "rounds": 1, "seed": 0, "threads": 1}.items()
    assert set(result["machine"]) == {"cpu", "cores", "system"}
    assert {"Python", "torch", "nni", "nni-proxyless"} <= set(result["versions"])
    assert str(tmp_path) not in file.read_text(encoding="utf-8"), "no paths of this machine"

    entries = {(e["memory_format"], e["name"]): e for e in result["entries"]}
    assert {name: entries["channels-last", name]["executed_per_layer"] for name in RUN} == RUN
    assert {name: entries["contiguous", name]["executed_per_layer"] for name in RUN} == RUN
    assert len(entries) == 2 * len(RUN) + 1
    assert entries["channels-last", "floor, contiguous"]["executed_per_layer"] == 1
    assert all(e["ratio"] > 0 and math.isfinite(e["ratio"]) and e["seconds"] > 0 for e in entries.values())
    for memory in ("channels-last", "contiguous"):
        saved = {name: entries[memory, name]["activation_ratio"] for name in RUN}
        for name in ("floor again", "weight step", "whole batch"):
            assert saved[name] == pytest.approx(1, rel=1e-3), name
        # Weights stand still: convolutions need not keep their inputs, and nothing before the first choice is kept.
        assert 0 < saved["two-path step"] < 1
        assert 0 < saved["full step"] < 1
        assert saved["REINFORCE update"] < 0.01, "forward passes without a graph"
        assert saved["NNI GumbelDARTS batch"] > 1.2, "both candidates are kept"

    assert [bar["bar"] for bar in result["bars"]] == BARS
    text = report.read_text(encoding="utf-8")
    assert text.endswith(done.stdout)
    assert all(f"| {name} |" in text for name in [*RUN, *BARS])
