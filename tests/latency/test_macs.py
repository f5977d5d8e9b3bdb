"""Multiply-adds in place of milliseconds, against hand counts and the published figures of the DSNAS space."""

from __future__ import annotations

import pytest
import torch
from nni.nas.hub.pytorch import ShuffleNetSpace
from nni.nas.oneshot.pytorch.supermodule._expression_utils import expression_expectation
from torch import nn

from nni_proxyless.latency import LatencyProfiler, MacsEstimator, Operation, count_macs


def millions(module: nn.Module, *shape: int) -> float:
    return MacsEstimator().estimate(Operation("an operation", module, shape))


# -- hand counts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "macs"),
    [
        (nn.Conv2d(6, 4, 3, padding=1, bias=False), 4 * 8 * 10 * 6 * 9),
        (nn.Conv2d(6, 4, 3, padding=1), 4 * 8 * 10 * 6 * 9),
        (nn.Conv2d(6, 4, 3, stride=2, padding=1), 4 * 4 * 5 * 6 * 9),
        (nn.Conv2d(6, 6, 5, padding=2, groups=6), 6 * 8 * 10 * 25),
        (nn.Conv2d(6, 4, (1, 3), padding=(0, 1), groups=2), 4 * 8 * 10 * 3 * 3),
    ],
)
def test_a_convolution(module, macs):
    """Output elements times kernel elements times input channels of a group; the bias counts nothing."""
    assert millions(module, 6, 8, 10) == macs / 1e6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(), (5,)])
def test_a_linear_layer(bias, rows):
    """Input features times output features, for every row of the sample; the bias counts nothing."""
    assert millions(nn.Linear(8, 3, bias=bias), *rows, 8) == 8 * 3 * (5 if rows else 1) / 1e6


@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Sequential(nn.Flatten(), nn.LayerNorm(256)), nn.Identity()]
)  # fmt: skip
def test_without_convolutions_and_linear_layers_there_is_nothing_to_count(module):
    """An operation of another kind counts 0, whether or not it has weights."""
    assert millions(module, 4, 8, 8) == 0


def test_a_module_is_the_sum_of_its_layers():
    """A convolution, what follows it, and a linear layer on the flattened result."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    assert count_macs(module, (3, 8, 8)) == 4 * 36 * 27 + 4 * 36 * 10


# -- how it counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"device": "meta"}])
def test_type_and_device_of_the_weights_do_not_matter(kind):
    """The same count wherever the weights are and whatever their type."""
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)).to(**kind)
    assert count_macs(module, (3, 8, 8)) == 4 * 36 * 27


def test_counting_works_where_no_gradient_is_kept():
    """In inference mode torch hides composite operations, and the count is the same."""
    with torch.inference_mode():
        assert count_macs(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)), (3, 8, 8)) == 3888 + 288


@pytest.mark.parametrize("channels", [3, 5])
def test_each_part_keeps_its_own_mode(channels):
    """A frozen batch norm in a network that trains is still frozen after counting, also where the network does not run."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)).train()
    module[1].eval()
    if channels == 3:
        count_macs(module, (3, 8, 8))
    else:
        with pytest.raises(RuntimeError, match="channels"):
            count_macs(module, (channels, 8, 8))
    assert [m.training for m in module.modules()] == [True, True, False, True]
    assert torch.equal(module[2].running_mean, torch.zeros(4))
    assert module[2].num_batches_tracked == 0


# -- the space of DSNAS and Single Path One-Shot -----------------------------------------------------------------------

LABELS = [f"layer_{i}" for i in range(1, 21)]
CANDIDATES = ["k3", "k5", "k7", "xcep"]  # in the order in which the authors number them
STEM, LAST_CONV, CLASSIFIER = 27 * 16 * 112**2 / 1e6, 640 * 1024 * 7**2 / 1e6, 1024 * 1000 / 1e6
DSNAS = [0, 0, 3, 0, 3, 2, 0, 0, 3, 3, 2, 3, 3, 3, 2, 0, 0, 3, 3, 0]
SPOS = [0, 1, 2, 2, 1, 1, 2, 1, 3, 3, 0, 3, 0, 3, 0, 0, 2, 2, 2, 1]

# DSNAS counts the classifier's multiplications and its additions, 2 * 1024 - 1 per class, and everywhere else one per
# multiply-add. Here a multiply-add is one throughout, so every published total is 1023 * 1000 higher.
CLASSIFIER_ADDITIONS = 1023 * 1000 / 1e6

THREE_DECIMALS = 0.0005 + 1e-9


@pytest.fixture(scope="module")
def profiler() -> LatencyProfiler:
    return LatencyProfiler(ShuffleNetSpace(num_labels=1000), MacsEstimator(), (3, 224, 224))


@pytest.mark.parametrize(
    ("choose", "published"),
    [
        (lambda macs: macs["k3"], 257.287), (lambda macs: macs["k5"], 275.099), (lambda macs: macs["k7"], 301.818),
        (lambda macs: macs["xcep"], 320.270), (lambda macs: min(macs.values()), 231.804), (lambda macs: max(macs.values()), 360.054),
    ],
    ids=["3x3", "5x5", "7x7", "xception", "min", "max"],
)  # fmt: skip
def test_sums_of_blocks_are_those_of_the_authors(profiler, choose, published):
    """NNI's 20 blocks are the authors': the sums over all blocks agree to the third decimal.

    Theirs: SNAS-Series/SNAS-Series at 9a43adb, DSNAS/network.py, lines 24 to 43."""
    assert list(profiler.candidate_ms) == LABELS
    assert sum(map(choose, profiler.candidate_ms.values())) == pytest.approx(published, abs=THREE_DECIMALS)


def test_the_uniform_mean_of_the_blocks(profiler):
    """NNI's expectation of the expression, all candidates equally likely, less what all networks share."""
    uniform = {label: dict.fromkeys(CANDIDATES, 1 / 4) for label in LABELS}
    mean = expression_expectation(profiler.expression, uniform) - profiler.fixed_ms
    assert mean == pytest.approx(288.619, abs=THREE_DECIMALS)


def test_stem_and_head_differ_from_the_published_figure_by_the_additions_of_the_classifier(profiler):
    """Stem, last convolution and classifier are 38.555648 M; 39.578648 M with the additions of the classifier."""
    assert profiler.fixed_ms == pytest.approx(STEM + LAST_CONV + CLASSIFIER, abs=1e-9)
    assert profiler.fixed_ms + CLASSIFIER_ADDITIONS == pytest.approx(39.578648, abs=1e-9)


@pytest.mark.parametrize(
    ("choices", "published", "macs"), [(DSNAS, 324.349, 323.3264), (SPOS, 322.857, 321.833664)], ids=["DSNAS", "SPOS"]
)
def test_published_architectures(profiler, choices, published, macs):
    """Property 21: both totals, once as multiply-adds and once by the authors' rule for the classifier."""
    total = profiler.profile({label: CANDIDATES[choice] for label, choice in zip(LABELS, choices, strict=True)})
    assert total == pytest.approx(macs, abs=1e-6)
    assert total + CLASSIFIER_ADDITIONS == pytest.approx(published, abs=THREE_DECIMALS)
