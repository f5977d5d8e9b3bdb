"""What is found out about one module is known of all that are alike, and of no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_proxyless.core.nni_compat import expression_expectation
from nni_proxyless.latency import LatencyProfiler, MacsEstimator
from nni_proxyless.latency.estimators.macs import count_macs
from nni_proxyless.latency.likeness import likeness
from nni_proxyless.latency.operation import trace_operations


class Scaled(nn.Module):
    """With settings that no constructor of torch has."""

    def __init__(self, settings: Any = 1):
        super().__init__()
        self.settings = settings
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def hooked() -> nn.Module:
    module = Scaled()
    module.conv.register_forward_hook(lambda module, args, output: output)
    return module


def test_modules_of_the_same_settings_are_alike_whatever_their_weights():
    assert likeness(Scaled()) == likeness(Scaled()) is not None
    assert hash(likeness(Scaled((1, [2.0, "a"])))) == hash(likeness(Scaled((1, [2.0, "a"]))))


@pytest.mark.parametrize(
    "other",
    [
        Scaled(2), Scaled(True), Scaled(1.0), Scaled([1]), Scaled().double(), Scaled().eval(),
        nn.Sequential(Scaled()), type("Other", (Scaled,), {})(),
    ],
    ids=lambda module: repr(getattr(module, "settings", module))[:20],
)  # fmt: skip
def test_what_differs_is_not_alike(other):
    assert likeness(other) != likeness(Scaled())


def test_other_shapes_are_not_alike():
    one, other = Scaled(), Scaled()
    other.conv.weight = nn.Parameter(torch.zeros(2, 2, 3, 3))
    assert likeness(one) != likeness(other)


@pytest.mark.parametrize("module", [Scaled(lambda: 1), Scaled([nn.Identity()]), Scaled(torch.zeros(1)), hooked()])
def test_what_cannot_be_compared_is_like_nothing(module):
    assert likeness(module) is None


class Counted(nn.Conv2d):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.calls += 1
        return super().forward(x)


class Chain(ModelSpace):
    """Blocks of two widths, each with a choice of two candidates, one of which nothing is known of if ``named``."""

    def __init__(self, widths: tuple[int, ...], named: bool = False):
        super().__init__()
        self.blocks = nn.Sequential()
        before = 3
        for i, width in enumerate(widths):
            candidates: dict[str, nn.Module] = {f"k{k}": Counted(width, width, k, padding=k // 2) for k in (1, 3)}
            if named:
                for candidate in candidates.values():
                    candidate.name = lambda i=i: f"{i}"
            self.blocks.append(nn.Conv2d(before, width, 1))
            self.blocks.append(LayerChoice(candidates, label=f"block{i}"))
            before = width

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def runs_of(space: ModelSpace) -> int:
    Counted.calls = 0
    operations = trace_operations(space, (3, 8, 8))
    assert len({id(op.module) for op in operations}) == len(operations)
    return Counted.calls


def test_candidates_that_are_alike_run_once():
    widths = (4, 4, 6, 4, 6)
    assert (
        runs_of(Chain(widths)) == len(widths) + 2 * 2
    )  # all choices in the space's own run, then two kinds of each width
    assert runs_of(Chain(widths, named=True)) == len(widths) + 2 * len(widths)


def test_costs_are_those_of_each_candidate_counted_by_itself():
    space = Chain((4, 4, 6, 4))
    profiler = LatencyProfiler(space, MacsEstimator(), (3, 8, 8))
    for k in ("k1", "k3"):
        sample = {f"block{i}": k for i in range(4)}
        assert profiler.profile(sample) * 1e6 == pytest.approx(count_macs(space.freeze(sample), (3, 8, 8)), rel=1e-12)
        for i in range(4):
            candidate: Any = space.blocks[2 * i + 1]
            own = count_macs(candidate[k], (candidate[k].in_channels, 8, 8))
            assert profiler.candidate_ms[f"block{i}"][k] * 1e6 == pytest.approx(own, rel=1e-12)


def test_an_architecture_that_is_none_of_the_space_has_no_cost():
    profiler = LatencyProfiler(Chain((4, 4)), MacsEstimator(), (3, 8, 8))
    with pytest.raises(KeyError, match="block1 is not in the architecture"):
        profiler.profile({"block0": "k1"})
    with pytest.raises(ValueError, match="choice 'block1' is 'k5'; allowed: 'k1', 'k3'"):
        profiler.profile({"block0": "k1", "block1": "k5"})


def test_cost_and_expected_cost_are_those_of_nni_s_expression():
    """To rounding: NNI adds up in another order."""
    profiler = LatencyProfiler(Chain((4, 6, 4)), MacsEstimator(), (3, 8, 8))
    sample = {"block0": "k3", "block1": "k1", "block2": "k3"}
    assert profiler.profile(sample) == pytest.approx(profiler.expression.evaluate(sample), rel=1e-14)
    alphas = {label: torch.randn(2, dtype=torch.float64, requires_grad=True) for label in sample}
    found = []
    for expected in (profiler.expectation, lambda probs: expression_expectation(profiler.expression, probs)):
        probs = {
            label: dict(zip(("k1", "k3"), torch.softmax(a, 0).unbind(), strict=True)) for label, a in alphas.items()
        }
        value = expected(probs)
        found.append((value, *torch.autograd.grad(value, list(alphas.values()))))
        numbers = {label: {c: p.item() for c, p in of.items()} for label, of in probs.items()}
        assert profiler.expectation({**numbers, "block1": probs["block1"]}).item() == pytest.approx(
            value.item(), rel=1e-14
        )
        assert profiler.expectation(numbers) == pytest.approx(value.item(), rel=1e-14)
    torch.testing.assert_close(found[0], found[1], rtol=1e-14, atol=0)
