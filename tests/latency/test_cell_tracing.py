"""Costs that no run of a space shows: of cells whose operations are made for each input, and of depths by several choices."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from nni.nas.nn.pytorch import Cell, ModelSpace
from nni_proxyless.strategies.supernet.layers import choices_of

from nni_proxyless.latency import DeviceEstimator, LatencyProfiler, MacsEstimator
from nni_proxyless.latency.cell_tracing import OpenCell, open_cells
from nni_proxyless.latency.choices import as_nni_has_it
from nni_proxyless.latency.estimators.macs import count_macs
from nni_proxyless.latency.tables.build import method_for, require_method

from ..strategies.kinds import CellByInput, CellOfFactories, DepthOfTwoLabels
from ..strategies.spaces import WIDTH
from ..strategies.value_spaces import ConvNet


def networks(space: ModelSpace) -> list[dict[str, Any]]:
    """All, or 20 of them."""
    labels = {str(label): choices_of(label, mutable) for label, mutable in space.simplify().items()}
    every = itertools.islice(itertools.product(*labels.values()), 21)
    found = [dict(zip(labels, map(as_nni_has_it, choices), strict=True)) for choices in every]
    if len(found) <= 20:
        return found
    chance = random.Random(0)
    return [{label: as_nni_has_it(chance.choice(choices)) for label, choices in labels.items()} for _ in range(20)]


@pytest.mark.parametrize("make", [CellByInput, CellOfFactories, DepthOfTwoLabels])
def test_a_network_costs_what_it_costs_as_a_whole(make):
    """Multiply-adds, and their expectation where each choice is certain; no module of the space is replaced."""
    space = make()
    profiler = LatencyProfiler(space, MacsEstimator(), (WIDTH,))
    costs = set()
    for sample in networks(space):
        expected = count_macs(make().freeze(sample), (WIDTH,)) / 1e6
        costs.add(expected)
        assert profiler.profile(sample) == pytest.approx(expected, rel=1e-9)
        certain = {
            label: {choice: float(as_nni_has_it(choice) == sample[label]) for choice in choices_of(label, mutable)}
            for label, mutable in space.simplify().items()
        }
        assert float(profiler.expectation(certain)) == pytest.approx(expected, rel=1e-9)
    assert len(costs) > 2


def test_cells_are_open_for_a_while():
    """Each stands where it stood before, and the modules of its operations are made once."""
    space = CellOfFactories()
    before = list(space.modules())
    with open_cells(space):
        assert sum(isinstance(module, OpenCell) for module in space.modules()) == 2
        assert not any(type(module) is Cell for module in space.modules())
    assert list(space.modules()) == before


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (CellByInput, "module 'cell' is a Cell that makes its operations for each input: the space does not hold them"),
        (ConvNet, "arguments of module 'conv1' are choices: the space does not hold the layers of its networks"),
    ],
)
def test_what_is_not_in_a_space_cannot_be_timed_there(space, said):
    estimator = DeviceEstimator(runtime="torch")
    assert method_for(estimator, space()) == "fit"
    with pytest.raises(ValueError, match=f"method is 'networks', but {said}; allowed: methods 'fit', 'isolated'"):
        require_method(estimator, space(), "networks", None)
