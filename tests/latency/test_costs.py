"""Costs that are no time: hand counts, and the maximum over a network in the place of the sum."""

from __future__ import annotations

import itertools

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.oneshot.pytorch.profiler import RangeProfilerFilter
from nni_proxyless.search_spaces import MobileNetV2Space
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn

from nni_proxyless.config import registry
from nni_proxyless.latency import LatencyEstimator, LatencyPenalty, LatencyProfiler, MacsEstimator, Operation
from nni_proxyless.latency.estimators.counts import ActivationsEstimator, ParametersEstimator


def parameters(module: nn.Module, *shape: int) -> float:
    return ParametersEstimator().estimate(Operation("an operation", module, shape)) * 1e6


def activations(module: nn.Module, *shape: int) -> float:
    """Numbers that are held at the worst moment."""
    return ActivationsEstimator().estimate(Operation("an operation", module, shape)) * 2**20 / 4


# -- hand counts -----------------------------------------------------------------------------------------------------------


def test_parameters():
    """Weights and biases of every kind, statistics not; what is there twice counts once."""
    assert parameters(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), 3, 8, 8) == pytest.approx(
        4 * 28 + 8
    )
    shared = nn.Linear(8, 8)
    assert parameters(nn.Sequential(shared, shared), 8) == pytest.approx(72)
    assert parameters(nn.AvgPool2d(2), 3, 8, 8) == 0


def test_activations_of_layers():
    """Input and output of the layer that needs most; what runtimes fold into it needs nothing more."""
    assert activations(nn.Conv2d(3, 4, 3, stride=2, padding=1), 3, 8, 8) == 3 * 64 + 4 * 16
    folded = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(), nn.Dropout(), nn.Conv2d(4, 1, 1))
    assert activations(folded, 3, 8, 8) == 7 * 64
    assert activations(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 100)), 4, 8, 8) == 4 * 64 + 4
    assert activations(nn.ReLU(), 8) == 0


class Kept(nn.Module):
    """Its input is read again in the middle, and no more at the end."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.one(x)) + x)


def test_activations_of_residuals():
    """The input of a block counts as long as it is needed: beside the depthwise convolution, and only with a residual."""
    wide, narrow = 24 * 64, 8 * 64
    assert activations(InvertedResidual(8, 8, exp_ratio=3), 8, 8, 8) == narrow + wide + wide
    assert activations(InvertedResidual(8, 8, exp_ratio=3, noskip=True), 8, 8, 8) == wide + wide
    assert activations(Kept(), 8) == 8 + 100
    assert activations(nn.Sequential(*Kept().children())[:2], 8) == 8 + 16
    kept = Kept()
    kept.three = nn.Linear(8, 8)
    assert activations(kept, 8) == 8 + 16 + 8


@pytest.mark.parametrize("kind", [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"device": "meta"}])
def test_type_and_device_of_the_weights_do_not_matter(kind):
    assert activations(InvertedResidual(8, 8, exp_ratio=3).to(**kind), 8, 8, 8) == 64 * (8 + 24 + 24)


# -- the maximum over a network --------------------------------------------------------------------------------------------


class Small(ModelSpace):
    """Two blocks that choose, a layer that is always there, and a choice inside a choice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (
            LayerChoice({"wide": self.wide(n), "narrow": nn.Linear(8, 8), "skip": nn.Identity()}, label=f"block{i}")
            for i, n in enumerate((32, 64))
        )
        inner = LayerChoice({"wide": nn.Linear(8, 48), "narrow": nn.Linear(8, 2)}, label="inner")
        self.outer = LayerChoice(
            {"deep": nn.Sequential(nn.Linear(8, 8), inner), "flat": nn.Linear(8, 4)}, label="outer"
        )
        self.last = nn.Linear(8, 10)

    @staticmethod
    def wide(n: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, n), nn.Linear(n, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        self.outer(x)
        return self.last(x)


class Floats(LatencyEstimator):
    """Numbers at the worst moment, so that sums and maxima are exact."""

    combine = "max"
    unit = "numbers"

    @property
    def conditions(self):
        return {}

    def estimate(self, operation: Operation) -> float:
        return activations(operation.module, *operation.input_shape)


HELD = {
    "block0": {"wide": 40.0, "narrow": 16.0, "skip": 0.0},
    "block1": {"wide": 72.0, "narrow": 16.0, "skip": 0.0},
    "outer": {"deep": 16.0, "flat": 12.0},
    "inner": {"wide": 56.0, "narrow": 10.0},
}
FIXED = 18.0


def by_hand(sample: dict) -> float:
    inner = HELD["inner"][sample["inner"]] if sample["outer"] == "deep" else 0.0
    return max(FIXED, inner, *(HELD[label][sample[label]] for label in ("block0", "block1", "outer")))


NETWORKS = [dict(zip(HELD, choices, strict=True)) for choices in itertools.product(*HELD.values())]


@pytest.fixture(scope="module")
def profiler() -> LatencyProfiler:
    return LatencyProfiler(Small(), Floats(), (8,))


def test_a_network_costs_what_its_worst_operation_costs(profiler):
    """All 36 networks, nested choices and the part that all share included; and NNI's filter takes it as it is."""
    assert len(NETWORKS) == 36
    assert [profiler.profile(sample) for sample in NETWORKS] == [by_hand(sample) for sample in NETWORKS]
    assert len({by_hand(sample) for sample in NETWORKS}) == 4
    fits = RangeProfilerFilter(profiler, max=40.0)
    assert [fits(sample) for sample in NETWORKS] == [by_hand(sample) <= 40 for sample in NETWORKS]
    assert (profiler.combine, profiler.fixed_ms, profiler.unit) == ("max", FIXED, "numbers")
    assert profiler.candidate_ms["block1"] == HELD["block1"]
    assert set(profiler.nested_ms.values()) == set(HELD["inner"].values())
    assert profiler.bounds() == (FIXED, 72.0)


def distribution(alphas: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    return {
        label: dict(zip(HELD[label], torch.softmax(alpha, 0).unbind(), strict=True)) for label, alpha in alphas.items()
    }


def logits(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        label: torch.randn(len(costs), dtype=torch.float64, generator=generator).requires_grad_()
        for label, costs in HELD.items()
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_expectation_is_the_worst_label_s_and_below_that_of_the_maximum(profiler, seed):
    """Against the mean over all 36 networks (Jensen), and against the equation."""
    probs = {label: {c: p.detach() for c, p in ps.items()} for label, ps in distribution(logits(seed)).items()}
    weights = [torch.stack([probs[label][sample[label]] for label in HELD]).prod() for sample in NETWORKS]
    mean = sum(w * by_hand(sample) for w, sample in zip(weights, NETWORKS, strict=True))
    of_label = {label: sum(p * HELD[label][choice] for choice, p in probs[label].items()) for label in HELD}
    of_label["inner"] = probs["outer"]["deep"] * of_label["inner"]
    found = float(profiler.expectation(probs))
    assert found == pytest.approx(max(FIXED, *map(float, of_label.values())), rel=1e-12)
    assert found < float(mean)


def test_the_expectation_of_decided_choices_is_the_network_s(profiler):
    """Plain numbers and tensors alike."""
    for sample in NETWORKS:
        decided = {label: {c: float(c == sample[label]) for c in costs} for label, costs in HELD.items()}
        assert profiler.expectation(decided) == by_hand(sample)
        tensors = {label: {c: torch.tensor(p) for c, p in ps.items()} for label, ps in decided.items()}
        assert float(profiler.expectation(tensors)) == by_hand(sample)


def test_the_gradient_goes_to_the_worst_label(profiler):
    """Exact in float64; 0 at the others, and 0 where the part that all networks share costs most."""
    alphas = logits(0)
    assert torch.autograd.gradcheck(
        lambda *values: profiler.expectation(distribution(dict(zip(alphas, values, strict=True)))),
        tuple(alphas.values()),
    )
    penalty = LatencyPenalty(profiler, 20.0, 1.0)
    task = sum(alpha.sum() * 0.0 for alpha in alphas.values())
    loss, details = penalty(task, distribution(alphas))
    loss.backward()
    assert float(details["penalty"]) == float(profiler.expectation(distribution(alphas)).detach())
    assert {label for label, alpha in alphas.items() if alpha.grad.abs().max() > 1e-3} == {"block1"}

    alphas["block0"].data[2] = alphas["block1"].data[2] = 50.0
    alphas["outer"].data[1] = 50.0
    assert float(penalty.profile(distribution(alphas)).detach()) == FIXED
    grads = torch.autograd.grad(penalty.profile(distribution(alphas)), list(alphas.values()), allow_unused=True)
    assert all(grad is None or grad.abs().max() == 0 for grad in grads)


def test_a_constrained_search_lowers_the_peak(profiler):
    """``weight='auto'`` brings the expectation to its target by gradients alone."""
    alphas = logits(1)
    penalty = LatencyPenalty(profiler, 24.0, "auto")
    optimizer = torch.optim.SGD(alphas.values(), lr=0.5)
    for _ in range(150):
        optimizer.zero_grad()
        loss, details = penalty(sum(0.1 * (alpha**2).sum() for alpha in alphas.values()), distribution(alphas))
        loss.backward()
        optimizer.step()
    assert float(details["penalty"]) == pytest.approx(24.0, rel=0.05)


def test_the_paper_s_space_needs_no_enumeration():
    """21 choices, 2.2e17 networks: the expectation between the bounds, the upper of which the widest network meets."""
    narrow = {"stem_width": 8, "first_width": 8, "widths": [8] * 6, "feature_mix": 8, "num_classes": 10}
    profiler = LatencyProfiler(MobileNetV2Space(aligned_init=False, **narrow), ActivationsEstimator(), (3, 32, 32))
    uniform = {label: dict.fromkeys(costs, 1 / len(costs)) for label, costs in profiler.candidate_ms.items()}
    assert len(uniform) == 21
    low, high = profiler.bounds()
    assert low < profiler.expectation(uniform) < high
    widest = dict.fromkeys(uniform, "k3e6")
    assert profiler.profile(widest) == high
    assert LatencyPenalty(profiler, high).profile(uniform) == profiler.expectation(uniform)


def test_another_way_to_combine_is_refused():
    estimator = Floats()
    estimator.combine = "mean"
    with pytest.raises(ValueError, match=r"Floats.combine is 'mean'; allowed: 'sum', 'max'"):
        LatencyProfiler(Small(), estimator, (8,))


def test_a_sum_is_what_it_was():
    """The expectation of a sum is NNI's own, and the bounds are sums."""
    profiler = LatencyProfiler(Small(), MacsEstimator(), (8,))
    uniform = {label: dict.fromkeys(costs, 1 / len(costs)) for label, costs in HELD.items()}
    assert profiler.combine == "sum"
    mean = sum(profiler.profile(sample) for sample in NETWORKS) / len(NETWORKS)
    assert profiler.expectation(uniform) == pytest.approx(mean, rel=1e-12)
    assert profiler.bounds()[0] < mean < profiler.bounds()[1]


@pytest.mark.parametrize(
    ("name", "kind", "unit"),
    [
        ("macs", MacsEstimator, "million multiply-adds"),
        ("parameters", ParametersEstimator, "million parameters"),
        ("activations", ActivationsEstimator, "MiB"),
    ],
)
def test_they_are_registered_and_say_their_unit(name, kind, unit):
    estimator = registry.load("nni_proxyless.estimators", name)()
    assert type(estimator) is kind
    assert estimator.conditions["unit"] == estimator.unit == unit
