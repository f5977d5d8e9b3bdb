"""The benchmark for a GPU, on a CPU: it ends, writes what it has found, and says what it has not run."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from experiments.benchmarks.gpu import report, run


class Steps(ModelSpace):
    """Eight networks, whose milliseconds are told apart on any machine."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Sequential(nn.Linear(8, 1024), nn.ReLU(), nn.Linear(1024, 8))
        self.first = copy.deepcopy(layers)
        self.steps = nn.Sequential(
            *(LayerChoice({"wide": copy.deepcopy(layers), "skip": nn.Identity()}, label=label) for label in "abc")
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self.first(x))


def test_cases_are_built_and_checked_and_those_that_fail_say_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "SPACES", {"small": ([f"{__name__}:Steps"], "8"), "imagenet": (["no-such-space"], "8")})
    file = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--short", "--spaces", "small", "imagenet", "--runtimes", "onnxruntime", "--output"]
    assert run.main([*words, str(file)]) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    (entry,), (failed,) = result["entries"], result["not_run"]
    assert (entry["conditions"]["torch_device"], entry["measured"]["method"]) == ("cpu", "fit")
    assert len(entry["networks"]) == 3
    assert "'no-such-space' is unknown" in failed["why"]
    assert "Not run: imagenet, batch 1, onnxruntime: " in capsys.readouterr().out
    other = {
        **entry,
        "runtime": "torch",
        "networks": [{**n, "measured_ms": -n["measured_ms"]} for n in entry["networks"]],
    }
    (alike,) = run.ranks([entry, other, {**entry, "batch": 32}])
    assert (alike["spearman"], alike["networks"]) == (-1.0, 3)
    result |= {"ranks": [alike], "bars": report.bars([entry])}
    assert "| small | 1 | onnxruntime and torch | 3 | -1.000 |" in report.markdown(result)


def test_nothing_runs_when_the_minutes_are_over(tmp_path, capsys):
    assert run.main(["--device", "cpu", "--minutes", "0", "--output", str(tmp_path / "gpu.json")]) == 0
    said = capsys.readouterr().out
    assert said.count(": the minutes were over.") == 2 * 2 * 3
    assert "Not run: imagenet, batch 32, torch-compile: the minutes were over." in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit):
        run.main([])
    assert "torch finds no CUDA device here; --short --device cpu tries the script" in capsys.readouterr().err
