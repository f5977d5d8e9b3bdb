"""Random nets under a budget: all of them, none else, each as likely as the others."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import nn

from nni_proxyless.cli.main import main
from nni_proxyless.core.errors import UserError
from nni_proxyless.latency import LatencyProfiler, MacsEstimator
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.search.random_baseline import draw_within_budget
from nni_proxyless.search.uniform_draws import _ways

from .test_reference import TINY, leave

BUDGET = 0.0775  # million multiply-adds


@pytest.fixture(scope="module")
def space() -> MobileNetV2Space:
    return MobileNetV2Space(**TINY)


@pytest.fixture(scope="module")
def profiler(space) -> LatencyProfiler:
    return LatencyProfiler(space, MacsEstimator(), (1, 8, 8))


def nets_within(space: ModelSpace, profiler: LatencyProfiler, budget: float) -> list[dict[str, str]]:
    """By looking at all."""
    mutables = space.simplify()
    everything = (
        dict(zip(map(str, mutables), values, strict=True))
        for values in itertools.product(*(m.values for m in mutables.values()))
    )
    return [sample for sample in everything if 0.95 * budget <= profiler.profile(sample) <= budget]


def test_all_that_use_the_budget_up_and_no_other(space, profiler):
    there = nets_within(space, profiler, BUDGET)
    assert 5 < len(there) < 100, "a budget that some nets keep to"
    found = draw_within_budget(space, profiler, len(there), BUDGET, seed=0)
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, [dict(sorted(net.items())) for net in there]))
    too_few = f"--random: {len(there)} different networks take 0.073625 to 0.0775 million multiply-adds"
    with pytest.raises(UserError, match=too_few):
        draw_within_budget(space, profiler, len(there) + 1, BUDGET, seed=0)


def test_each_is_as_likely_as_the_others(space, profiler):
    there, n = nets_within(space, profiler, BUDGET), 1500
    drawn = Counter(json.dumps(draw_within_budget(space, profiler, 1, BUDGET, seed)[0]) for seed in range(n))
    p = 1 / len(there)
    assert len(drawn) == len(there)
    assert max(abs(count / n - p) for count in drawn.values()) < 5 * math.sqrt(p * (1 - p) / n)  # 6e-7 a net


def test_networks_are_counted_in_whole_numbers():
    """By looking at all of a few labels; of many, more than any other number of the machine holds, to the last one."""
    costs, most = [[0, 2, 5], [1, 1, 9], [0, 3], [4]], 12
    for label, ways in enumerate(_ways(costs, most)):
        sums = Counter(map(sum, itertools.product(*costs[label:])))
        assert ways.tolist() == [sums[steps] for steps in range(most + 1)]
    (first, *_) = _ways([[0, 1]] * 500, 250)
    assert first.tolist() == [math.comb(500, steps) for steps in range(251)]
    assert not any(_ways([[3], [4]], 6)[0])


class Deep(ModelSpace):
    """Costs of the inner choice depend on the depth: no sum over labels."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Repeat(
            lambda i: LayerChoice({f"k{k}": nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3)}, label=f"kernel{i}"),
            (1, 3), label="depth",
        )  # fmt: skip

    def forward(self, x):
        return self.blocks(x)


def test_costs_that_depend_on_each_other():
    space = Deep()
    profiler = LatencyProfiler(space, MacsEstimator(), (4, 8, 8))
    assert profiler.nested_ms
    three_by_three = 4 * 4 * 9 * 64 / 1e6
    (net,) = draw_within_budget(space, profiler, 1, 3 * three_by_three, seed=0)
    assert net == {"depth": 3, "kernel0": "k3", "kernel1": "k3", "kernel2": "k3"}


def leave_search(folder: Path, target: float | None) -> Path:
    (folder / "search.yml").parent.mkdir(parents=True, exist_ok=True)
    (folder / "search.yml").write_text("latency: {estimator: {name: macs}}\n")
    return leave(folder, latency={"target_ms": target, "unit": "million multiply-adds"})


def test_the_command_writes_nets_that_a_seed_makes_again(tmp_path, capsys, space, profiler):
    leave_search(tmp_path / "run", BUDGET)
    words = ["reference", str(tmp_path / "run"), "--widths", "--random", "3", "--seed", "4"]
    assert main(words) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[:4]] == ["network", "random-4.0", "random-4.1", "random-4.2"]
    written = sorted((tmp_path / "run" / "reference").glob("*/architecture.json"))
    nets = [Architecture.read(path) for path in written]
    assert len({json.dumps(net.choices) for net in nets}) == 3
    for net in nets:
        assert net.search == {"strategy": "random", "weights": "fresh", "seed": 4, "number": net.search["number"]}
        assert 0.95 * BUDGET <= net.latency["table_ms"] == profiler.profile(net.choices) <= BUDGET
        assert net.latency["target_ms"] == BUDGET
        assert net.network == space.timm_definition(net.choices)
        assert net.n_params == sum(p.numel() for p in space.freeze(net.choices).parameters())
    first = [path.read_bytes() for path in written]
    assert main(words) == 0
    assert [path.read_bytes() for path in written] == first


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        (None, ["--random", "1"], "--random: the search in {run} had no latency target; give --budget-ms"),
        (BUDGET, ["--random", "-1"], "--random: -1 is not allowed here; allowed: 0 or more"),
        (BUDGET, ["--widths"], "--random: 0 is not allowed here; allowed: 1 or more, where --widths names none"),
        (BUDGET, ["--random", "1", "--seed", "-3"], "--seed: -3 is not allowed here; allowed: 0 to 4294967295"),
        (BUDGET, ["--random", "1", "--widths", "--budget-ms", "0.001"], "--random: 0 different networks take 0.00095 to 0.001 million multiply-adds, 95 to 100 % of the budget, and 1 are asked for; allowed: fewer, or another --budget-ms; the networks of this space take 0.0"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(target, words, message, tmp_path, refused):
    leave_search(tmp_path / "run", target)
    said = refused("reference", tmp_path / "run", *words)
    assert said.startswith("nni-proxyless: " + message.format(run=tmp_path / "run"))


def test_without_the_milliseconds_of_the_search(tmp_path, refused):
    leave(tmp_path, latency={"target_ms": 2.0, "unit": "ms"})
    said = refused("reference", tmp_path, "--random", "1", "--widths")
    assert f"--random: no latencies.yaml in {tmp_path}" in said
