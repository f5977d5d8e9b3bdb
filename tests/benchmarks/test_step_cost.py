"""The cost of a step: the command as users type it; what it counts is checked, what it times is not."""

from __future__ import annotations

import ctypes
import json
import math
import sys

import pytest
import torch

from experiments.benchmarks.common import step_measures
from experiments.benchmarks.step_cost import report as step_report
from experiments.benchmarks.step_cost import run as step_cost

from ..conftest import ROOT

MODULE = "experiments.benchmarks.step_cost.run"
# Candidates run per layer and training batch, of 2: a batch has 1 weight step, and in every fifth 1 two-path step.
RUN = {
    "floor again": 1, "weight step": 1, "two-path step": 2, "full step": 2, "REINFORCE update": 10,
    "whole batch": 1 + 2 / 5, "whole batch, from its pieces": 1 + 2 / 5, "DSNAS batch": 1,
    "DSNAS batch, gradient reward": 1, "NNI Proxyless batch": 4, "NNI GumbelDARTS batch": 4, "NNI DARTS batch": 4,
    "NNI RandomOneShot batch": 1, "floor, contiguous": 1,
}  # fmt: skip
ALSO_CONTIGUOUS = {
    "floor again", "two-path step", "DSNAS batch", "NNI Proxyless batch", "NNI GumbelDARTS batch", "NNI DARTS batch", "NNI RandomOneShot batch"
}  # fmt: skip
BARS = [
    "weight step, time", "weight step, saved activations", "two-path step, time",
    "two-path step, saved activations", "whole batch, one update in 5, time",
    "DSNAS batch, time", "DSNAS batch, saved activations", "DSNAS batch, gradient reward, time",
    "DSNAS batch, gradient reward, saved activations",
]  # fmt: skip


def test_step_cost_counts_and_records_everything(command, tmp_path):
    """On two layers of two candidates; whether a path ran that was not foreseen, the script itself checks."""
    file, drawn = tmp_path / "result.json", tmp_path / "cost.svg"
    words = ["--candidates", "2", "--layers", "2", "--pixels", "16", "--batch", "4", "--rounds", "1"]
    done = command(sys.executable, "-m", MODULE, *words, "--output", file, "--picture", drawn, cwd=ROOT)
    result = json.loads(file.read_text(encoding="utf-8"))
    missed = [bar["bar"] for bar in result["bars"] if bar["verdict"] == "missed"]
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [["missed", name] for name in missed]
    assert done.returncode == (1 if missed else 0)

    assert result["settings"].items() >= {"candidates": [2], "layers": 2, "rounds": 1, "seed": 0, "threads": 1}.items()
    assert " ".join(words) in result["command"]
    assert str(tmp_path) not in file.read_text(encoding="utf-8"), "no paths of this machine"

    entries = {(e["memory_format"], e["name"]): e for e in result["entries"]}
    executed = {name: entries["channels-last", name]["executed_per_layer"] for name in RUN}
    assert executed == RUN
    contiguous = {name: e for (memory, name), e in entries.items() if memory == "contiguous"}
    assert {name: e["executed_per_layer"] for name, e in contiguous.items()} == {
        name: RUN[name] for name in (*ALSO_CONTIGUOUS, "whole batch, from its pieces") if name in contiguous
    }
    assert set(contiguous) == ALSO_CONTIGUOUS
    assert all(e["ratio"] > 0 and math.isfinite(e["ratio"]) and e["seconds"] > 0 for e in entries.values())
    saved = {name: entries["channels-last", name]["activation_ratio"] for name in RUN}
    # The gradient as reward keeps outputs of blocks. Here all go into a convolution, which keeps them anyhow; no copies,
    # since the first backward pass has shown that nothing changes them in place.
    for name in ("floor again", "weight step", "whole batch", "DSNAS batch", "DSNAS batch, gradient reward",
                 "NNI RandomOneShot batch"):  # fmt: skip
        assert saved[name] == pytest.approx(1, rel=1e-3), name
    # Weights stand still: convolutions need not keep their inputs, and nothing before the first choice is kept.
    assert 0 < saved["two-path step"] < 1
    assert 0 < saved["full step"] < 1
    assert saved["REINFORCE update"] < 0.01, "forward passes without a graph"
    assert min(saved["NNI GumbelDARTS batch"], saved["NNI DARTS batch"]) > 1.2, "both candidates are kept"

    if step_measures.can_measure_memory(torch.device("cpu")):
        assert [m["name"] for m in result["memory"]] == ["plain step", *step_cost.IN_MEMORY]
        assert all(0 < m["added_bytes"] < 1e9 for m in result["memory"])

    assert [bar["bar"] for bar in result["bars"]] == BARS
    assert done.stdout == "\n".join(step_report.markdown(result)) + "\n", "the record alone says all that was said"
    assert drawn.stat().st_size > 1000


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_peak_memory_sees_what_has_gone_again():
    cpu = torch.device("cpu")
    give_back = ctypes.CDLL(None).malloc_trim
    give_back(0)  # else the peak stays where what was freed before is taken again
    before = step_measures._memory(cpu, reset=True)
    torch.ones(2**24).sum()  # 64 MiB
    peak = step_measures._memory(cpu)
    assert 60 * 2**20 < peak - before < 80 * 2**20
    give_back(0)  # a library in this process may have told malloc to keep so large a piece
    assert step_measures._memory(cpu, reset=True) < peak - 50 * 2**20


def entry(name: str, ratio: float, noise: float = 0.0, memory: str = "channels-last", **sizes: int) -> dict:
    sizes = {"candidates": 7, "layers": 12, "pixels": 64, "batch": 32} | sizes
    return {"name": name, "memory_format": memory, **sizes, "ratio": ratio, "noise": noise, "activation_ratio": 1}


def test_bars_compare_what_their_names_say():
    """From made-up ratios: by size where there are several, with NNI and between the methods at N=7 alone."""
    by_name = {name: 1.0 for name in RUN if "pieces" not in name} | {
        "DSNAS batch": 1.25, "weight step": 1.5, "two-path step": 2.0, "whole batch": 2.5, "NNI Proxyless batch": 5.0,
        "NNI GumbelDARTS batch": 10.0, "floor, contiguous": 3.0,
    }  # fmt: skip

    def measured(memory: str, n: int) -> list[dict]:
        # Twelve candidates cost twice as much, contiguous memory half as much again.
        factor = (2 if n == 12 else 1) * (1.5 if memory == "contiguous" else 1)
        return [entry(name, ratio * factor, memory=memory, candidates=n) for name, ratio in by_name.items()]

    entries = [*measured("channels-last", 2), *measured("channels-last", 7), *measured("contiguous", 7)]
    bars = {bar["bar"]: bar for bar in step_report.bars([*entries, *measured("channels-last", 12)])}
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
    assert (bars["DSNAS batch, time"]["value"], bars["DSNAS batch, time"]["verdict"]) == (2.5, "missed"), "the worst"
    assert bars["NNI Proxyless by DSNAS, N=7, same format"]["verdict"] == "met"
    assert bars["NNI GumbelDARTS by DSNAS, N=7, same format"]["verdict"] == "missed"


def test_noise_is_the_control_and_two_standard_errors():
    control = {"ratio": 0.99, "ratio_quartiles": [0.97, 1.01], "ratios": [1.0] * 4}
    step = {"ratio": 2.0, "ratio_quartiles": [1.9, 2.1], "ratios": [1.0] * 16}
    once = {"ratio": 5.0, "ratio_quartiles": [5.0, 5.0], "ratios": [5.0]}
    error = 1.25 * 0.74
    assert step_measures.noise(control, control) == pytest.approx(2 * error * 0.04 / 2)
    assert step_measures.noise(step, control) == pytest.approx(2 * (0.01 + 2 * error * 0.1 / 4))
    assert step_measures.noise(once, control) == pytest.approx(5 * (0.01 + 2 * error * 0.04 / 0.99))
    value, noise = step_report.quotient([entry("a", 8, 0.24), entry("b", 2, 0.08)], [entry("c", 4)])
    assert (value, noise) == (4, pytest.approx(4 * math.hypot(0.03, 0.04)))


def test_short_form_decides_every_bar_and_the_sweep_goes_over_layers_and_pixels():
    def planned(*words: str) -> list[dict]:
        places = step_cost.plan(step_cost.options_from(words))
        return [entry(name, 1, memory=place.memory, **place.sizes) for place in places for name in place.names]

    of_short, of_long = ([bar["bar"] for bar in step_report.bars(planned(*form))] for form in (["--short"], []))
    assert of_short == of_long
    assert len(of_short) == len(BARS) + 10
    sweep = {(e["layers"], e["pixels"]) for e in planned("--sweep")}
    assert sweep == {(6, 64), (12, 64), (21, 64), (12, 32), (12, 128), (12, 224)}
