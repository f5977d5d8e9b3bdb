"""EEEA-Net's space of cells: its operations, its published networks, and searches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import Cell
from nni.nas.space import model_context
from nni_proxyless.search_spaces import EeeaNetSpace
from nni_proxyless.search_spaces.eeea_net import PUBLISHED, InvertedResidual
from nni_proxyless.strategies import EarlyExitEvolution
from torch import Tensor, nn
from torch.nn import functional as F

from nni_proxyless.derive import Architecture, build_network, count_macs, count_parameters
from nni_proxyless.latency import LatencyProfiler, MacsEstimator, ParametersEstimator

from ..strategies.test_cells import choose, images, supernet_of
from ..strategies.test_evolution import Judge, searched
from .test_cell_spaces import networks

SMALL: dict[str, Any] = {"width": 4, "num_cells": 3}

# Millions of parameters and of multiply-adds of the published networks as their code makes them, and the outputs of a normal cell and of a reduction.
OFFICIAL = {
    "ea-net": (2.968, 466.6, [5, 6], [2, 4, 5, 6]),
    "eeea-net-a": (1.810, 271.0, [5, 6], [4, 5, 6]),
    "eeea-net-b": (1.911, 301.9, [5, 6], [4, 5, 6]),
    "eeea-net-c": (3.568, 562.7, [3, 5, 6], [5, 6]),
}


def frozen(sample: dict[str, Any], **arguments: Any) -> Any:
    """The network, without its space."""
    torch.manual_seed(0)
    with model_context(sample):
        return EeeaNetSpace(**arguments)


def cells_of(network: Any) -> list[Cell]:
    return [cell for stage in network.stages for cell in stage]


# -- published networks ------------------------------------------------------------------------------------------------


def written_down(sample: dict[str, Any], width: int, n_cells: int, side: int) -> tuple[int, int]:
    """Parameters and multiply-adds of a network, added up from the sizes of its kernels."""
    total = [0, 0]

    def add(weights: int, norms: int, pixels: int) -> None:
        total[0] += weights + 2 * norms
        total[1] += weights * pixels

    def operation(name: str, c: int, before: int, pixels: int) -> None:
        kind, kernel = name.rsplit("_", 1)
        depthwise = int(kernel[0]) ** 2 * c if kernel[0].isdigit() else 0
        if kind == "inv_res":
            add(c * c, c, before)
            add(depthwise + c * c, 2 * c, pixels)
        elif kind == "sep_conv":
            add(2 * depthwise + 2 * c * c, 2 * c, pixels)
        elif kind == "dil_conv" or (kind == "skip" and before != pixels):
            add(depthwise + c * c, c, pixels)

    add(27 * 3 * width, 3 * width, side * side)
    given, c = [3 * width, 3 * width], width
    for i in range(n_cells):
        cell = "reduce" if i in (n_cells // 3, 2 * n_cells // 3) else "normal"
        before = side * side
        if cell == "reduce":
            c, side = 2 * c, side // 2
        pixels = side * side
        add(sum(given) * c, 2 * c, before)
        taken = {sample[f"{cell}/input_{node}_{k}"][0] for node in range(2, 7) for k in (0, 1)}
        for node in range(2, 7):
            for k in (0, 1):
                outside = sample[f"{cell}/input_{node}_{k}"][0] < 2
                operation(sample[f"{cell}/op_{node}_{k}"], c, before if outside else pixels, pixels)
        given = [given[1], c * (5 - len(taken - {0, 1}))]
    return total[0] + 10 * given[1] + 10, total[1] + 10 * given[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_costs_what_it_costs_in_its_code(name):
    """20 cells, 36 channels. There each cell also has, and does not run, a depthwise convolution of 3x3 and a norm of what it gives."""
    parameters, macs, normal, reduce = OFFICIAL[name]
    network = frozen(PUBLISHED[name], width=36, num_cells=20)
    cells = cells_of(network)
    outputs = [reduce if i in (6, 13) else normal for i in range(20)]
    assert [cell.output_node_indices for cell in cells] == outputs
    n_parameters, n_macs = count_parameters(network), count_macs(network, (3, 32, 32))
    assert (n_parameters, n_macs) == written_down(PUBLISHED[name], 36, 20, 32)
    widths = [36] * 6 + [72] * 7 + [144] * 7
    unused = sum((9 + 2) * width * len(nodes) for width, nodes in zip(widths, outputs, strict=True))
    assert round((n_parameters + unused) / 1e6, 3) == parameters
    assert round(n_macs / 1e6, 1) == macs


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_learns(name):
    """Of images of any number of channels and classes; every weight has a gradient."""
    space = EeeaNetSpace(**SMALL, num_labels=7, in_channels=1)
    assert space.contains(PUBLISHED[name])
    network = space.freeze(PUBLISHED[name])
    logits = network(torch.randn(4, 1, 16, 16))
    assert logits.shape == (4, 7)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    assert all(bool(p.grad.any()) for p in network.parameters() if p.ndim == 4)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)


def test_a_published_network_is_made_from_its_architecture():
    """As ``train`` and ``export`` make it, of the file."""
    architecture = Architecture(
        space={"name": "eeea-net", "arguments": SMALL}, choices=PUBLISHED["eeea-net-c"], input_shape=(3, 32, 32), network=None
    )  # fmt: skip
    expected = frozen(PUBLISHED["eeea-net-c"], **SMALL)
    network = build_network(architecture, expected.state_dict())
    assert torch.equal(network.eval()(torch.ones(1, 3, 8, 8)), expected.eval()(torch.ones(1, 3, 8, 8)))


# -- operations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_inverted_residual_computes_what_it_says(kernel, stride):
    torch.manual_seed(0)
    block = InvertedResidual(6, kernel, stride).double()
    first, depthwise, last = (module for module in block.modules() if isinstance(module, nn.Conv2d))

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()

    x = torch.randn(3, 6, 8, 8, dtype=torch.float64)
    y = norm(torch.einsum("oc,nchw->nohw", first.weight[:, :, 0, 0], x.relu())).relu()
    windows = F.unfold(y, kernel, padding=kernel // 2, stride=stride).unflatten(1, (6, kernel**2))
    y = torch.einsum("ck,nckp->ncp", depthwise.weight.flatten(1), windows).unflatten(2, (8 // stride, 8 // stride))
    y = norm(torch.einsum("oc,nchw->nohw", last.weight[:, :, 0, 0], norm(y)))
    torch.testing.assert_close(block(x), x + y if stride == 1 else y, rtol=0, atol=1e-10)


def test_the_space_is_nine_operations_in_cells_of_five_nodes():
    space = EeeaNetSpace(**SMALL)
    values = {str(label): mutable for label, mutable in space.simplify().items()}
    assert len(values) == 40
    assert all(len(one.values) == 9 for label, one in values.items() if "/op_" in label)
    assert [len(values[f"normal/input_{i}_0"].values) for i in range(2, 7)] == [2, 3, 4, 5, 6]


# -- cost and search ---------------------------------------------------------------------------------------------------


def test_the_cost_of_a_network_is_that_of_its_operations():
    space, shape = EeeaNetSpace(**SMALL), (3, 9, 9)
    profilers = [LatencyProfiler(space, one, shape) for one in (MacsEstimator(), ParametersEstimator())]
    for sample in networks(space, 3):
        network = space.freeze(sample)
        counted = [count_macs(network, shape), count_parameters(network)]
        assert [one.profile(sample) * 1e6 for one in profilers] == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize("width", [4, [4, 8]])
def test_a_network_has_the_supernet_s_weights(width):
    """Published cells in the supernet of ProxylessNAS: what the gates let through is the network that it freezes to."""
    torch.manual_seed(0)
    update = "two-path" if isinstance(width, int) else "reinforce"
    supernet, gates = supernet_of(EeeaNetSpace(width=width, num_cells=3), update=update)
    cells = {label: tuple(c) if isinstance(c, list) else c for label, c in PUBLISHED["ea-net"].items()}
    sample = choose(gates, 0, **cells)
    assert {label: sample[label] for label in cells} == PUBLISHED["ea-net"]
    network = supernet.freeze(sample).eval()
    expected = supernet(images())
    torch.testing.assert_close(network(images()), expected, rtol=0, atol=1e-6)
    assert expected.std() > 1e-3
    assert [sum(type(m) is InvertedResidual for m in cell.modules()) for cell in cells_of(network)] == [3, 3, 3]


def test_a_bound_on_the_parameters_of_the_final_network_holds_for_what_is_trained():
    """As the paper bounds them: of more and wider cells than those of the networks that are judged."""
    final = {"width": 12, "num_cells": 6}
    parameters = LatencyProfiler(EeeaNetSpace(**final), ParametersEstimator(), (3, 32, 32))
    bound = parameters.profile(PUBLISHED["eeea-net-b"])
    judge = Judge(lambda sample: sum(choice == "sep_conv_5x5" for choice in sample.values()))
    strategy = EarlyExitEvolution(limits={"parameters": (parameters, bound)}, population_size=6, n_generations=3)
    searched(strategy, EeeaNetSpace(**SMALL), judge)
    assert strategy.sampling.n_over > 0
    assert len(judge.judged) == 18
    for sample in judge.judged[:3] + judge.judged[-3:]:
        counted = count_parameters(frozen(sample, **final))
        assert counted / 1e6 <= bound * (1 + 1e-9)
        assert counted == pytest.approx(parameters.profile(sample) * 1e6)
