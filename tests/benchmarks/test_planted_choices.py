"""A planted width, depth and cell: that what is planted is best, one search of each, and the command in its smallest form."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from experiments.benchmarks.planted_choices import run
from experiments.benchmarks.planted_choices.plants import (
    DEPTHS,
    NODES,
    PLANTS,
    WAVES,
    WIDTHS,
    node_made,
)
from nni_proxyless.latency import LatencyProfiler, MacsEstimator

SEEDS = range(run.SEEDS)
STILL = run.Settings(warmup=0, epochs=1, arc_learning_rate=1e-9, learning_rate=0.01)


@pytest.mark.parametrize("which", ["width", "depth"])
def test_with_its_price_the_planted_network_is_best_by_far(which):
    """By 0.02 of a loss of 1, for the penalty and for REINFORCE's reward, of all networks and for every seed."""
    for seed in SEEDS:
        plant = PLANTS[which](seed)
        profiler = LatencyProfiler(plant.space, MacsEstimator(), tuple(plant.training[0].shape[1:]))
        largest, mutables = profiler.bounds()[1], plant.space.simplify()
        by_loss, by_reward = {}, {}
        for made in itertools.product(*(mutables[label].values for label in plant.best)):
            sample = dict(zip(plant.best, made, strict=True))
            share, least = profiler.profile(sample) / largest, plant.least_loss(sample)
            by_loss[made], by_reward[made] = least + plant.price * share, -(1 - least) * share**run.EXPONENT
        for scores in (by_loss, by_reward):
            first, second = sorted(scores, key=lambda made: scores[made])[:2]
            assert first == tuple(plant.best.values())
            assert scores[second] - scores[first] > 0.02


def test_in_a_cell_every_other_network_misses_a_third():
    """Of each node the least loss of all its waves and inputs, the other node being right."""
    for seed in SEEDS:
        plant = PLANTS["cell"](seed)
        for node in NODES:
            for wave, state in itertools.product(WAVES, range(node)):
                made = node_made(node, wave, state)
                least = plant.least_loss({**plant.best, **made})
                assert least < 1e-6 if made.items() <= plant.best.items() else least > 1 / 3, (seed, made, least)


def test_least_loss_of_a_width_is_that_of_the_nearest_matrix_of_its_rank():
    plant = PLANTS["width"](1)
    x, y = plant.held_out
    torch.testing.assert_close(x.T @ x / len(x), torch.eye(x.shape[1]), rtol=0, atol=1e-5)
    for i, of_branch in enumerate(torch.linalg.lstsq(x, y).solution.chunk(2, dim=1)):
        squares = torch.linalg.svdvals(of_branch).square()
        for width in WIDTHS:
            alone = {**plant.best, f"width{i}": width}
            assert plant.least_loss(alone) == pytest.approx(float(squares[width:].sum()) / y.shape[1], abs=1e-5)


def test_least_loss_of_a_depth_is_what_its_pixels_do_not_explain():
    plant = PLANTS["depth"](2)
    x, y = plant.held_out
    for i, depth in itertools.product(range(2), DEPTHS):
        seen = torch.stack([x.roll(distance, 2).flatten() for distance in range(-depth, depth + 1)], dim=1)
        target = y[:, i].flatten()[:, None]
        rest = target - seen @ torch.linalg.lstsq(seen, target).solution
        least = plant.least_loss({**plant.best, f"depth{i}": depth})
        assert float(rest.square().mean()) / 2 == pytest.approx(least, abs=0.02), "up to the noise of a sample"


@pytest.mark.parametrize(("which", "update"), [("width", "dsnas-loss"), ("depth", "full"), ("cell", "two-path")])
def test_a_search_finds_the_whole_plant(which, update):
    """By the settings of the record; by chance once in 16, 25 and 96 times."""
    found = run.search(which, update, seed=0)
    assert found["choices_found"] == found["choices"], found
    assert found["loss"] < 0.1


@pytest.mark.parametrize(("which", "update"), [("width", "dsnas-loss"), ("depth", "full"), ("cell", "two-path")])
def test_the_check_above_can_fail(which, update):
    """Logits that all but stand still leave the network that they began with."""
    found = run.search(which, update, seed=1, settings=STILL)
    assert found["choices_found"] < found["choices"], found


def test_the_command_records_what_it_has_missed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "SETTINGS", {"depth": {"full": STILL}})
    file = tmp_path / "result.json"
    assert run.main(["--plants", "depth", "--short", "--output", str(file)]) == 1
    result, said = json.loads(file.read_text(encoding="utf-8")), capsys.readouterr()
    (found,) = result["searches"]
    assert found["best"] == {"depth0": 5, "depth1": 5}
    assert found["found"] == {"depth0": 1, "depth1": 3}
    assert (found["choices_found"], found["choices"]) == (0, 2)
    assert "| depth | full | 8 | 0 of 1 | 0 of 2 |" in said.out
    assert "| depth | full | 0 | depth0 5, depth1 5 | depth0 1, depth1 3 |" in said.out
    assert "missed: planted depth, full: share of seeds in which all of it is found: 0, bar ≥ 1" in said.err
