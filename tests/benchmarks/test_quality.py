"""The grid that compares networks: its arithmetic, its networks, and that NNI takes its experiment. ``make bench`` runs it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
import yaml

from experiments.benchmarks.quality import cell as cell_of_grid
from experiments.benchmarks.quality import run as quality
from experiments.benchmarks.quality.cell import (
    CIFAR10,
    GRIDS,
    INPUT_SHAPE,
    any_net,
    expected_best,
    profiler_of,
    random_within,
    space_of,
)
from nni_proxyless.derive import build_network, count_macs
from nni_proxyless.latency import LatencyProfiler, LookupTable, MacsEstimator
from nni_proxyless.latency.estimators.device import Measurement
from nni_proxyless.latency.objectives.budget import fastest
from nni_proxyless.latency.operation import trace_operations

GRID = GRIDS["short"]


def a_cell(method: str, seed: int, accuracy: float) -> dict:
    return {"method": method, "width": 0.5, "seed": seed, "test_accuracy": accuracy}


def test_methods_are_compared_seed_by_seed():
    """Differences 2, 3, 4 points: mean 3, standard error 1 / sqrt 3, t = 3 sqrt 3 with 2 degrees of freedom."""
    differences, base = (0.02, 0.03, 0.04), (0.80, 0.90, 0.70)
    cells = [a_cell("random", seed, b) for seed, b in enumerate(base)]
    cells += [a_cell("two-path", seed, b + d) for seed, (b, d) in enumerate(zip(base, differences, strict=True))]
    cells += [a_cell("mobilenetv2", seed, 0.5) for seed in (2, 1, 0)]
    against_random, against_mobilenet = quality.compared(cells)
    assert (against_random["method"], against_random["baseline"], against_random["pairs"]) == ("two-path", "random", 3)
    assert against_random["difference"] == pytest.approx(0.03)
    assert against_random["standard_error"] == pytest.approx(0.01 / math.sqrt(3))
    t = 3 * math.sqrt(3)
    assert against_random["p"] == pytest.approx(1 - t / math.sqrt(2 + t**2))  # two-sided, of Student's t with 2 degrees
    assert against_mobilenet["difference"] == pytest.approx(0.33)


def test_what_the_best_of_some_random_nets_is_worth():
    """Chosen by the held-out images, judged by the test images: of three networks, pairs leave the second twice and the first once."""
    trained = [
        {"held_out_accuracy": held_out, "test_accuracy": test}
        for held_out, test in ((0.8, 0.9), (0.9, 0.6), (0.7, 0.5))
    ]
    assert expected_best(trained, 1) == pytest.approx((0.9 + 0.6 + 0.5) / 3)
    assert expected_best(trained, 2) == pytest.approx((0.6 + 0.9 + 0.6) / 3)
    assert expected_best(trained, 3) == pytest.approx(0.6)


def test_nets_of_the_grid_are_within_their_target(tmp_path):
    """With multiply-adds for milliseconds; of the random networks each takes 95 to 100 %, and they differ by seed."""
    base = any_net(GRID)
    space = space_of(base)
    estimator = MacsEstimator()
    LookupTable({op.key: Measurement(estimator.estimate(op) + 1e-9, 0.0, 1) for op in trace_operations(space, INPUT_SHAPE)}).write(
        tmp_path / "table.yaml"
    )  # fmt: skip
    assert base.choices == fastest(LatencyProfiler(space, estimator, INPUT_SHAPE))[0]
    assert base.macs == count_macs(build_network(base), INPUT_SHAPE)

    nets = [random_within(GRID, tmp_path / "table.yaml", 2.0, 3, seed) for seed in (0, 1)]
    profiler = profiler_of(base, tmp_path / "table.yaml")
    for net in itertools.chain(*nets):
        assert 1.9 <= profiler.profile(net.choices) <= 2.0
        assert net.macs == pytest.approx(1e6 * profiler.profile(net.choices), rel=0.05)
    assert [n.choices for n in nets[0]] != [n.choices for n in nets[1]]


def test_a_grid_that_is_not_done_says_what_lacks(tmp_path):
    done = tmp_path / "cells" / "dsnas-0.5-0" / "cell.json"
    done.parent.mkdir(parents=True)
    done.write_text(json.dumps(a_cell("dsnas", 0, 0.9)))
    with pytest.raises(SystemExit, match=r"3 of 4 cells are not done: two-path-0.5-0, random-0.5-0, mobilenetv2-0.5-0"):
        quality.collect(GRID, tmp_path)


def test_a_grid_of_color_images_asks_for_them():
    grid = dataclasses.replace(GRID, **CIFAR10, images=200, n_more_test=300)
    net = any_net(grid)
    assert net.input_shape == (3, 32, 32)
    assert net.space["arguments"]["in_channels"] == 3
    assert net.data == {
        "name": "experiments.benchmarks.common.cifar10:part_of_cifar10", "arguments": {"n_train": 200, "n_more_test": 300},
    }  # fmt: skip
    assert build_network(net).conv_stem.in_channels == 3


@pytest.mark.parametrize("select", ["probabilities", "supernet"])
def test_what_a_search_leaves_is_taken_where_its_supernet_has_selected(tmp_path, monkeypatch, select):
    grid, said = dataclasses.replace(GRID, select=select), []
    left = tmp_path / "search" / "architecture.json"

    def command(words):
        said.append(words[0])
        if words[0] == "search":
            any_net(grid).write(left)

    monkeypatch.setattr(cell_of_grid, "run", command)
    cell_of_grid.search(grid, "two-path", 1.0, 0, tmp_path / "table.yaml", tmp_path)
    assert yaml.safe_load((tmp_path / "search.yml").read_text())["search"] == {"select": select, "judged": 4}
    assert said == ["search", *(["derive"] * (select == "probabilities"))]
    assert (tmp_path / "net" / "architecture.json").exists() == (select == "supernet")
