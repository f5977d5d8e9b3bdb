"""DARTS, ENAS, NASNet, AmoebaNet and PNAS of NNI's hub by name: networks, costs, and a search."""

from __future__ import annotations

import random
from typing import Any

import nni.nas.hub.pytorch as hub
import numpy as np
import pytest
import torch

from nni_proxyless.cli.main import main
from nni_proxyless.config import registry
from nni_proxyless.derive import Architecture, build_network, count_macs, count_parameters, load_weights
from nni_proxyless.latency import LatencyProfiler, MacsEstimator, ParametersEstimator, best_under_budget
from nni_proxyless.latency.objectives.extremes import fastest, slowest

from .test_hub import assert_derives

GROUP = "nni_proxyless.search_spaces"
SHAPE = (2, 9, 9)


def space_of(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return registry.load(GROUP, name)(**{"num_labels": 3, "in_channels": 2, "width": 4, "num_cells": 3, **arguments})


def networks(space: Any, n: int) -> list[dict[str, Any]]:
    """At random, in all depths."""
    draw, samples = np.random.RandomState(0), []
    for i in range(n):
        sample: dict[str, Any] = {}
        for mutable in space.simplify().values():
            mutable.random(sample, draw)
        if "depth" in sample:
            sample["depth"] = space.num_cells.values[i % len(space.num_cells.values)]
        samples.append({str(label): choice for label, choice in sample.items()})
    return samples


@pytest.mark.parametrize(
    ("name", "theirs", "arguments"),
    [
        ("darts", "DARTS", {"num_cells": [4, 5]}),
        ("enas", "ENAS", {"num_cells": [3, 6], "width": [2, 4]}),
        ("nasnet", "NASNet", {}),
        ("amoebanet", "AmoebaNet", {"dataset": "imagenet"}),
        ("pnas", "PNAS", {"dataset": "imagenet", "drop_path_prob": 0.1}),
    ],
)
def test_costs_are_those_of_the_network_that_is_frozen(name, theirs, arguments):
    """Multiply-adds and parameters, counted in the network itself: with its loose ends, at its depth, on sides that are odd. Cheapest and
    dearest network are such networks, and every other one lies between."""
    space = space_of(name, **arguments)
    of_nni = getattr(hub, theirs)(width=2, num_cells=3)
    for what in ("op_candidates", "merge_op", "num_nodes_per_cell"):
        assert getattr(space, what) == getattr(of_nni, what)
    shape = (2, 65, 65) if "dataset" in arguments else SHAPE
    macs, parameters = (LatencyProfiler(space, one, shape) for one in (MacsEstimator(), ParametersEstimator()))
    (least, fewest), (most, largest) = fastest(macs), slowest(macs)
    for sample in [*networks(space, 3), least, most]:
        network = space.freeze({label: list(c) if isinstance(c, tuple) else c for label, c in sample.items()})
        assert macs.profile(sample) * 1e6 == pytest.approx(count_macs(network, shape), rel=1e-9)
        assert parameters.profile(sample) * 1e6 == pytest.approx(count_parameters(network), rel=1e-9)
        assert fewest <= macs.profile(sample) <= largest


def test_expected_costs_are_means_over_networks():
    """Drawn by probabilities that are not all alike, 1,000 networks; 5 standard errors, 6e-7."""
    space = space_of("enas", num_cells=[3, 6])
    macs = LatencyProfiler(space, MacsEstimator(), SHAPE)
    draw, probs = random.Random(0), {}
    for label, costs in macs.candidate_ms.items():
        weights = [draw.random() for _ in costs]
        probs[label] = {choice: w / sum(weights) for choice, w in zip(costs, weights, strict=True)}
    drawn = [
        macs.profile({label: draw.choices(list(ps), list(ps.values()))[0] for label, ps in probs.items()})
        for _ in range(1000)
    ]
    assert abs(np.mean(drawn) - macs.expectation(probs)) < 5 * np.std(drawn) / len(drawn) ** 0.5
    sample = networks(space, 1)[0]
    assert macs.expression.evaluate(sample) == pytest.approx(macs.profile(sample))


def test_a_budget_is_kept_to():
    """What is most probable among the networks within it; sets of inputs are lists, as NNI has them."""
    space = space_of("enas")
    macs = LatencyProfiler(space, MacsEstimator(), SHAPE)
    probs = {label: dict.fromkeys(costs, 1 / len(costs)) for label, costs in macs.candidate_ms.items()}
    (_, least), (dearest, most) = fastest(macs), slowest(macs)
    budget = (least + most) / 2
    assert macs.profile(dearest) > budget
    for label, ps in probs.items():
        ps.update({choice: 0.1 / len(ps) for choice in ps})
        choice = dearest[label]
        ps[tuple(choice) if isinstance(choice, list) else choice] = 0.9
    found = best_under_budget(probs, macs, budget)
    assert macs.profile(found) <= budget
    assert space.contains(found)
    assert isinstance(found["normal/input_2_0"], list)


SEARCH = """
data: {name: synthetic, n_images: 32, num_classes: 3, channels: 2, image_size: 8, batch_size: 4}
latency: {target_ms: 80%, estimator: {name: macs}}
training: {epochs: 2, optimizer: adamw, learning_rate: 0.01}
search: {select: probabilities}
trainer: {accelerator: cpu, threads: 1}
"""


@pytest.mark.parametrize(
    ("name", "cells", "strategy"),
    [
        ("darts", "3", "{name: proxyless, arc_update_every: 1}"),
        ("eeea-net", "3", "{name: dsnas, search_epochs: 1}"),
        ("enas", "[4, 6]", "{name: dsnas, search_epochs: 1}"),
    ],
)
def test_a_search_by_name_leaves_a_network_within_its_target(tmp_path, name, cells, strategy):
    (tmp_path / "search.yml").write_text(SEARCH)
    space = f"space={{name: {name}, width: 8, num_cells: {cells}}}"  # torch 2.14 dies in strided convolutions of few channels
    words = [space, f"strategy={strategy}", f"output={tmp_path / 'out'}"]
    assert main(["search", str(tmp_path / "search.yml"), *words]) == 0
    architecture = Architecture.read(tmp_path / "out" / "architecture.json")
    weights = load_weights(tmp_path / "out" / "weights.safetensors")
    network = build_network(architecture, weights).eval()
    assert network(torch.randn(2, 2, 8, 8)).shape == (2, 3)
    if "dsnas" not in strategy:
        assert_derives(tmp_path / "out", architecture, weights)
    assert architecture.latency["table_ms"] * 1e6 == pytest.approx(count_macs(network, (2, 8, 8)))
    assert architecture.latency["table_ms"] <= architecture.latency["target_ms"]


def test_too_few_cells_are_refused(capsys):
    assert main(["search", "space={name: darts, num_cells: [2, 6]}"]) == 2
    assert "space: num_cells is [2, 6]; allowed: 3 or more, one in each of the three stages" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["nni-darts", "nni-gumbel-darts", "nni-proxyless", "nni-random"])
def test_strategies_of_nni_are_refused_since_they_leave_no_weights(strategy, tmp_path, capsys):
    (tmp_path / "search.yml").write_text(SEARCH)
    words = [
        "space={name: darts, width: 8, num_cells: 3}",
        f"strategy={{name: {strategy}}}",
        f"output={tmp_path / 'out'}",
    ]
    assert main(["search", str(tmp_path / "search.yml"), *words]) == 2
    assert (
        "cannot search Darts: module 'stages.0.blocks.0' is a Cell that makes its operations" in capsys.readouterr().err
    )
