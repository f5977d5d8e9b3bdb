"""The benchmarks run as their users type them; what they count is checked, what they time is not."""

from __future__ import annotations

import json
import math
import runpy
import sys

import pytest

from .conftest import ROOT

SCRIPT = "experiments/benchmarks/step_cost.py"
# Candidates run per layer and training batch, of 2: a batch has 1 weight step, and in every fifth 1 two-path step.
RUN = {
    "floor again": 1, "weight step": 1, "two-path step": 2, "full step": 2, "REINFORCE update": 10,
    "whole batch": 1 + 2 / 5, "whole batch, from its pieces": 1 + 2 / 5, "DSNAS batch": 1,
    "DSNAS batch, gradient reward": 1, "NNI Proxyless batch": 4, "NNI GumbelDARTS batch": 4,
}  # fmt: skip
BARS = [
    "floor again, furthest from 1", "weight step, time", "weight step, saved activations", "two-path step, time",
    "two-path step, saved activations", "whole batch, one update in 5, time",
    "DSNAS batch, time", "DSNAS batch, saved activations", "DSNAS batch, gradient reward, time",
    "DSNAS batch, gradient reward, saved activations",
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
        # The gradient as reward keeps outputs of blocks. Here all go into a convolution, which keeps them anyhow; no copies,
        # since the first backward pass has shown that nothing changes them in place.
        for name in ("floor again", "weight step", "whole batch", "DSNAS batch", "DSNAS batch, gradient reward"):
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


def test_bars_compare_what_their_names_say():
    """From made-up ratios: by size where there are several, with NNI and between the methods at N=7 alone."""
    script = runpy.run_path(str(ROOT / SCRIPT))
    by_name = dict.fromkeys(RUN, 1.0) | {
        "DSNAS batch": 1.25, "weight step": 1.5, "two-path step": 2.0, "whole batch": 2.5, "NNI Proxyless batch": 5.0,
        "NNI GumbelDARTS batch": 10.0, "floor, contiguous": 3.0,
    }  # fmt: skip

    def measured(memory: str, n: int) -> list[dict]:
        # Twelve candidates cost twice as much, contiguous memory half as much again.
        factor = (2 if n == 12 else 1) * (1.5 if memory == "contiguous" else 1)
        return [
            {"memory_format": memory, "candidates": n, "name": name, "ratio": ratio * factor, "activation_ratio": 1}
            for name, ratio in by_name.items()
        ]

    entries = [*measured("channels-last", 2), *measured("channels-last", 7), *measured("contiguous", 7)]
    bars = {bar["bar"]: bar for bar in script["bars"]([*entries, *measured("channels-last", 12)])}
    assert [name for name in bars if name in BARS] == BARS
    assert {name: (bar["value"], bar["at_least"], bar["at_most"]) for name, bar in bars.items() if "N=" in name} == {
        "weight step, N=12 by N=2": (2, 0.95, 1.05),
        "two-path step, N=12 by N=2": (2, 0.95, 1.05),
        "DSNAS batch, N=12 by N=2": (2, 0.95, 1.05),
        "NNI Proxyless by ours, N=7, same format": (5 / 2.5, 4, None),
        "NNI Proxyless by ours, N=7, each as its users run it": (5 * 1.5 * 3 / 2.5, 4, None),
        "NNI Proxyless by DSNAS, N=7, same format": (5 / 1.25, 4, None),
        "NNI Proxyless by DSNAS, N=7, each as its users run it": (5 * 1.5 * 3 / 1.25, 4, None),
        "NNI GumbelDARTS by DSNAS, N=7, same format": (10 / 1.25, 10, None),
        "NNI GumbelDARTS by DSNAS, N=7, each as its users run it": (10 * 1.5 * 3 / 1.25, 10, None),
        "ProxylessNAS with a two-path step on every batch by DSNAS, N=7": ((1.5 + 2) / 1.25, 1.5, None),
    }
    assert (bars["DSNAS batch, time"]["value"], bars["DSNAS batch, time"]["met"]) == (2.5, False), "the worst size"
    assert bars["NNI Proxyless by DSNAS, N=7, same format"]["met"]
    assert not bars["NNI GumbelDARTS by DSNAS, N=7, same format"]["met"]
