"""The grid that compares networks: its arithmetic, its networks, and all of its methods in their smallest form. ``make bench`` runs it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from scipy import stats

from experiments.benchmarks.quality import cell as cell_of_grid
from experiments.benchmarks.quality import run as quality
from experiments.benchmarks.quality.cell import BATCH, any_net, hand_made_path, profiler_of, random_within, space_of
from experiments.benchmarks.quality.compare import (
    compared,
    detectable,
    expected_best,
    goals,
    power,
    random_networks_by_compute,
)
from experiments.benchmarks.quality.grids import CIFAR10, GRIDS, INPUT_SHAPE, MOBILENETV2, TIMM
from experiments.benchmarks.quality.hand_made import hand_made, timm_design, widened
from experiments.benchmarks.quality.report import markdown
from nni_proxyless.core.errors import UserError
from nni_proxyless.derive import build_network, count_macs
from nni_proxyless.latency import LatencyProfiler, LookupTable, MacsEstimator
from nni_proxyless.latency.estimators.device import Measurement
from nni_proxyless.latency.objectives.budget import fastest
from nni_proxyless.latency.operation import trace_operations
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.search.mobilenetv2_baseline import reference_networks

GRAY = dataclasses.replace(GRIDS["core"], images=1000, seeds=(0,))
SHORT = GRIDS["short"]


# -- arithmetic ----------------------------------------------------------------------------------------------------------------


def a_cell(method: str, seed: int, *accuracies: float, seconds: float | None = 60.0, held_out: float = 0.5) -> dict:
    networks = [{"test_accuracy": one, "held_out_accuracy": held_out} for one in accuracies]
    return {"method": method, "width": 0.5, "seed": seed, "networks": networks, "seconds": seconds}


def test_methods_are_compared_seed_by_seed():
    """Differences 2, 3, 4 points: mean 3, standard error 1 / sqrt 3, t = 3 sqrt 3 with 2 degrees of freedom."""
    differences, base = (0.02, 0.03, 0.04), (0.80, 0.90, 0.70)
    cells = [a_cell("random", seed, b) for seed, b in enumerate(base)]
    cells += [a_cell("two-path", seed, b + d) for seed, (b, d) in enumerate(zip(base, differences, strict=True))]
    cells += [a_cell("mobilenetv2", seed, 0.5) for seed in (2, 1, 0)]
    against_random, against_mobilenet = compared(cells)
    assert (against_random["method"], against_random["baseline"], against_random["pairs"]) == ("two-path", "random", 3)
    assert against_random["difference"] == pytest.approx(0.03)
    assert against_random["standard_error"] == pytest.approx(0.01 / math.sqrt(3))
    t = 3 * math.sqrt(3)
    assert against_random["p"] == pytest.approx(1 - t / math.sqrt(2 + t**2))  # two-sided, of Student's t with 2 degrees
    assert against_mobilenet["difference"] == pytest.approx(0.33)


def test_of_several_hand_made_networks_the_best_on_held_out_images_counts():
    """Test images would have chosen the wide one."""
    cells = [a_cell("dsnas", seed, 0.9) for seed in (0, 1)]
    cells += [a_cell("mobilenetv2-narrow", seed, 0.7, held_out=0.9 - seed) for seed in (0, 1)]
    cells += [a_cell("mobilenetv2", seed, 0.6, held_out=0.8) for seed in (0, 1)]
    cells += [a_cell("mobilenetv2-wide", seed, 0.95, held_out=0.1) for seed in (0, 1)]
    found = {c["baseline"]: c for c in compared(cells)}
    assert list(found) == ["best-mobilenetv2", *MOBILENETV2]
    assert found["best-mobilenetv2"]["difference"] == pytest.approx((0.2 + 0.3) / 2)
    assert found["mobilenetv2-wide"]["p"] is None  # no deviation, no test


def test_what_the_best_of_some_random_nets_is_worth():
    """Chosen by the held-out images, judged by the test images: of three networks, pairs leave the second twice and the first once."""
    trained = [
        {"held_out_accuracy": held_out, "test_accuracy": test}
        for held_out, test in ((0.8, 0.9), (0.9, 0.6), (0.7, 0.5))
    ]
    assert expected_best(trained, 1) == pytest.approx((0.9 + 0.6 + 0.5) / 3)
    assert expected_best(trained, 2) == pytest.approx((0.6 + 0.9 + 0.6) / 3)
    assert expected_best(trained, 3) == pytest.approx(0.6)
    assert expected_best(trained, 2.25) == pytest.approx(0.75 * 0.7 + 0.25 * 0.6)


def test_a_search_is_held_against_as_many_random_networks_as_its_compute_trains():
    """Two networks in 60 seconds are 30 each; a cell that was gone on with does not say what it took."""
    cells = [a_cell("random", 0, 0.6, 0.8, seconds=60.0), a_cell("random", 1, 0.6, 0.8, seconds=None)]
    cells += [a_cell("two-path", 0, 0.9, seconds=40.0), a_cell("two-path", 1, 0.9, seconds=50.0)]
    cells += [a_cell("dsnas", 0, 0.9, seconds=1000.0), a_cell("dsnas", 1, 0.9, seconds=None)]
    assert random_networks_by_compute(cells) == {"two-path": 1.5, "dsnas": pytest.approx(1000 / 30)}
    two_path, dsnas = compared(cells)
    assert (two_path["n"], dsnas["n"]) == (1.5, 2)  # more than two were not drawn
    assert two_path["difference"] == pytest.approx(0.9 - (0.7 + 0.6) / 2)  # equal on held-out images: the first


def test_the_power_of_a_comparison_is_how_often_it_succeeds():
    draw, tests = np.random.default_rng(0), 4000
    differences = draw.normal(0.4, 0.5, size=(tests, 12))
    found = stats.ttest_1samp(differences, 0, axis=1)
    share = float(((found.pvalue < 0.05) & (found.statistic > 0)).mean())
    expected = power(0.4, 0.5, 12, 0.05)
    assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / tests)  # 6e-7
    assert power(detectable(0.5, 12, 0.01), 0.5, 12, 0.01) == pytest.approx(0.8)


def test_a_goal_is_met_where_the_search_is_better_with_a_small_p():
    def bars(*differences):
        cells = [a_cell("random", seed, 0.5) for seed in range(len(differences))]
        return goals(compared(cells + [a_cell("dsnas", seed, 0.5 + d) for seed, d in enumerate(differences)]))

    (met,), (missed,), (worse,) = bars(0.02, 0.03, 0.04), bars(-0.02, 0.03, 0.04), bars(-0.02, -0.03, -0.04)
    assert [bar["verdict"] for bar in (met, missed, worse)] == ["met", "missed", "missed"]
    assert met["bar"] == "dsnas against random: lower end of the 95 % interval, points"
    low = stats.t.interval(0.95, 2, loc=3, scale=1 / math.sqrt(3))[0]
    assert met["value"] == pytest.approx(low)


# -- networks ------------------------------------------------------------------------------------------------------------------


def macs_table(grid, path: Path) -> Path:
    """Multiply-adds for milliseconds."""
    estimator = MacsEstimator()
    rows = {
        op.key: Measurement(estimator.estimate(op) + 1e-9, 0.0, 1)
        for op in trace_operations(space_of(any_net(grid)), grid.input_shape)
    }
    LookupTable(rows, {"threads": 1, "batch": BATCH}).write(path)
    return path


def test_nets_of_the_grid_are_within_their_target(tmp_path):
    """With multiply-adds for milliseconds; of the random networks each takes 95 to 100 %, and they differ by seed."""
    base = any_net(GRAY)
    table = macs_table(GRAY, tmp_path / "table.yaml")
    assert base.choices == fastest(LatencyProfiler(space_of(base), MacsEstimator(), INPUT_SHAPE))[0]
    assert base.macs == count_macs(build_network(base), INPUT_SHAPE)

    nets = [random_within(GRAY, table, 2.0, 3, seed) for seed in (0, 1)]
    profiler = profiler_of(base, table)
    for net in itertools.chain(*nets):
        assert 1.9 <= profiler.profile(net.choices) <= 2.0
        assert net.macs == pytest.approx(1e6 * profiler.profile(net.choices), rel=0.05)
    assert [n.choices for n in nets[0]] != [n.choices for n in nets[1]]


@pytest.fixture(scope="module")
def made() -> dict[str, Architecture]:
    """Hand-made networks of the short grid, with multiply-adds for milliseconds."""
    (reference,) = reference_networks(any_net(SHORT), [0.5])
    return {
        method: hand_made(SHORT, method, 0.5, lambda net: net.macs / reference.macs) for method in (*MOBILENETV2, *TIMM)
    }


@pytest.mark.parametrize("method", [*MOBILENETV2, *TIMM])
def test_a_hand_made_network_is_at_the_target(made, method, tmp_path):
    """By multiply-adds, as near as multiples of 8 channels come; what is written is the network that is built again."""
    net = made[method]
    assert abs(net.macs / made["mobilenetv2"].macs - 1) <= (0.05 if method in MOBILENETV2 else 0.1)
    net.write(tmp_path / "architecture.json")
    network = build_network(Architecture.read(tmp_path / "architecture.json")).eval()
    assert count_macs(network, net.input_shape) == net.macs
    assert network(torch.zeros(1, *net.input_shape)).shape == (1, 10)


def test_mobilenetv2_is_deeper_where_it_is_narrower(made):
    narrow, even, wide = (made[method].space["arguments"] for method in MOBILENETV2)
    assert sum(narrow["depths"]) > sum(even["depths"]) > sum(wide["depths"])
    assert sum(narrow["widths"]) < sum(even["widths"]) < sum(wide["widths"])
    assert even["depths"] == [3, 4, 4]


def test_a_design_of_timm_is_timms_but_for_its_stem():
    network = build_network(timm_design(any_net(SHORT), "mobilenetv3_small_100", stem_stride=1, multiplier=1.0))
    its_own = timm.create_model("mobilenetv3_small_100", num_classes=10)
    assert network.conv_stem.stride == (1, 1)
    network.conv_stem.stride = its_own.conv_stem.stride
    assert str(network) == str(its_own)


@pytest.mark.parametrize(("above", "taken"), [(1.08, 0.93), (1.02, 1.02), (0.98, 0.98)])
def test_where_channels_leave_a_gap_the_nearest_network_is_taken(above, taken):
    """What networks take jumps from 0.93 of the target."""
    net = any_net(SHORT)

    def share_of(net: Architecture) -> float:
        return 0.8 + 0.26 * net.search["width"] if net.search["width"] < 0.5 else above

    found = widened(lambda multiplier: dataclasses.replace(net, search={"width": multiplier}), share_of)
    assert share_of(found) == pytest.approx(taken, abs=0.001)


def test_a_target_that_no_width_meets_is_an_error():
    net = any_net(SHORT)
    with pytest.raises(
        UserError, match=r"of the target they take 2\.000, 2\.000, .*; allowed: 0\.9 to 1\.1; take another target"
    ):
        widened(lambda multiplier: net, lambda net: 2.0)


# -- cells and the command -----------------------------------------------------------------------------------------------------


def test_a_grid_that_is_not_done_says_what_lacks(tmp_path):
    done = tmp_path / "cells" / "dsnas-0.5-0" / "cell.json"
    done.parent.mkdir(parents=True)
    done.write_text(json.dumps(a_cell("dsnas", 0, 0.9)))
    with pytest.raises(SystemExit, match=r"3 of 4 cells are not done: two-path-0.5-0, random-0.5-0, mobilenetv2-0.5-0"):
        quality.collect(GRAY, tmp_path)


def test_a_part_of_a_grid_has_some_methods_and_seeds():
    part = quality.part_of(GRIDS["core-cifar10"], ["tinynet_e", "dsnas"], [22])
    assert list(part.cells()) == [("dsnas", 0.5, 22), ("tinynet_e", 0.5, 22)]


def test_a_method_that_the_grid_does_not_have_is_refused(capsys):
    with pytest.raises(SystemExit):
        quality.main(["--grid", "core", "--only", "dsnas", "resnet50"])
    assert (
        "argument --only: resnet50; allowed in the grid core: two-path, dsnas, random, mobilenetv2"
        in capsys.readouterr().err
    )


def test_a_grid_of_color_images_asks_for_them():
    grid = dataclasses.replace(GRAY, **CIFAR10, images=200, n_more_test=300)
    net = any_net(grid)
    assert net.input_shape == (3, 32, 32)
    assert net.space["arguments"]["in_channels"] == 3
    assert net.data == {
        "name": "experiments.benchmarks.common.cifar10:part_of_cifar10", "arguments": {"n_train": 200, "n_more_test": 300},
    }  # fmt: skip
    assert build_network(net).conv_stem.in_channels == 3


@pytest.mark.parametrize("select", ["probabilities", "supernet"])
def test_what_a_search_leaves_is_taken_where_its_supernet_has_selected(tmp_path, monkeypatch, select):
    grid, said = dataclasses.replace(GRAY, select=select, n_judged=4), []
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


def test_all_methods_run_in_their_smallest_form(made, tmp_path):
    """With multiply-adds for milliseconds, until all networks are timed; a grid that is done starts no experiment."""
    target = made["mobilenetv2"].macs / 1e6
    macs_table(SHORT, tmp_path / "table.yaml")
    (tmp_path / "targets.json").write_text(json.dumps({"0.5": {"target_ms": target}}))
    for method, net in made.items():
        net.write(hand_made_path(tmp_path, method, 0.5))
    for method in reversed(SHORT.methods):
        assert quality.main(["--short", "--folder", str(tmp_path), "--cell", method, "0.5", "0"]) == 0
    file, drawn = tmp_path / "result.json", tmp_path / "drawn.svg"
    assert quality.main(["--short", "--folder", str(tmp_path), "--output", str(file), "--picture", str(drawn)]) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    assert [cell["method"] for cell in result["cells"]] == list(SHORT.methods)
    networks = [network for cell in result["cells"] for network in cell["networks"]]
    assert len(networks) == len(SHORT.methods) - 1 + SHORT.n_drawn
    assert all(network["measured_ms"] > 0 and 0 <= network["test_accuracy"] <= 1 for network in networks)
    assert set(result["random_networks_by_compute"]) == {"two-path", "dsnas"}
    assert {c["baseline"] for c in result["compared"]} == {
        "random",
        "best-mobilenetv2",
        "best-timm",
        *MOBILENETV2,
        *TIMM,
    }
    assert "best of timm's four" in "\n".join(markdown(result))
    assert "TinyNet-E" in drawn.read_text(encoding="utf-8")
    assert not (tmp_path / "experiment.yml").exists()
