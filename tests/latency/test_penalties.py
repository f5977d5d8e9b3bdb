"""Several costs in one loss: gradients add up, details stay apart, and what cannot work is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from nni.mutable import Categorical, MutableExpression
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from nni.nas.profiler import ExpressionProfiler
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from torch import Tensor

from nni_proxyless.latency import LatencyPenalty, LatencyProfiler, MacsEstimator
from nni_proxyless.latency.estimators.counts import ActivationsEstimator, ParametersEstimator
from nni_proxyless.latency.objectives.penalty_sum import Penalties

from .spaces import Small


class Cost(ExpressionProfiler):
    """Of two choices, in a unit of its own."""

    def __init__(self, unit: str, x: list[float], y: list[float]):
        self.unit = unit
        self.expression = 0.5 + sum(
            MutableExpression.switch_case(Categorical([0, 1, 2], label=label), dict(enumerate(costs)))
            for label, costs in (("x", x), ("y", y))
        )


def times() -> Cost:
    return Cost("ms", [1.0, 2.0, 4.0], [0.0, 3.0, 5.0])


def memory() -> Cost:
    return Cost("MiB", [5.0, 2.0, 1.0], [1.0, 4.0, 0.5])


def logits(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {label: torch.randn(3, dtype=torch.float64, generator=generator).requires_grad_() for label in ("x", "y")}


def distribution(alphas: dict[str, Tensor]) -> dict[str, dict[int, Tensor]]:
    return {label: dict(enumerate(torch.softmax(alpha, 0).unbind())) for label, alpha in alphas.items()}


def task(alphas: dict[str, Tensor]) -> Tensor:
    return 1.0 + sum(((torch.softmax(alpha, 0) * torch.arange(3)) ** 2).sum() for alpha in alphas.values())


def gradients(loss: Tensor, alphas: dict[str, Tensor]) -> list[Tensor]:
    for alpha in alphas.values():
        alpha.grad = None
    loss.backward()
    return [alpha.grad.clone() for alpha in alphas.values()]


def test_the_gradient_of_the_sum_is_the_sum_of_the_gradients():
    """g(L + P1 + P2) = g(L + P1) + g(L + P2) - g(L), in float64; the value likewise; in both orders."""
    alphas = logits()
    parts = {
        "a": LatencyPenalty(times(), 2.0, 0.3),
        "b": LatencyPenalty(memory(), 3.0, 0.7, nonlinear="absolute"),
        "c": LatencyPenalty(memory(), None, 0.01, form="add"),
    }
    plain = gradients(task(alphas), alphas)
    expected = [g.clone() for g in plain]
    value = task(alphas).item()
    for penalty in parts.values():
        loss, _ = penalty(task(alphas), distribution(alphas))
        value += loss.item() - task(alphas).item()
        for sum_, own, without in zip(expected, gradients(loss, alphas), plain, strict=True):
            sum_ += own - without
    for order in (parts, dict(reversed(parts.items()))):
        loss, _ = Penalties(order)(task(alphas), distribution(alphas))
        assert loss.item() == pytest.approx(value, abs=1e-13)
        for ours, other in zip(gradients(loss, alphas), expected, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-14)


def test_details_stay_apart():
    """Each under its own name; the plain names are those of the first, of the whole, and of the automatic one."""
    alphas = logits()
    both = Penalties([LatencyPenalty(times(), 2.0, "auto"), LatencyPenalty(memory(), 3.0, 0.5)])
    assert isinstance(both, ExpectationProfilerPenalty)
    loss, details = both(task(alphas), distribution(alphas))
    kinds = {"loss_original", "penalty", "normalized_penalty", "loss_final"}
    assert set(details) == {*(f"{n}/{k}" for n in ("ms", "MiB") for k in kinds), *kinds, "multiplier", "ms/multiplier"}
    assert not any(isinstance(v, Tensor) and v.requires_grad for v in details.values())
    p = {label: torch.softmax(alpha.detach(), 0) for label, alpha in alphas.items()}
    ms = 0.5 + (p["x"] * torch.tensor([1.0, 2, 4])).sum() + (p["y"] * torch.tensor([0.0, 3, 5])).sum()
    assert float(details["ms/penalty"]) == float(details["penalty"]) == pytest.approx(float(ms), rel=1e-12)
    assert float(details["MiB/penalty"]) != float(details["ms/penalty"])
    assert float(details["loss_original"]) == task(alphas).item()
    assert float(details["loss_final"]) == loss.item()
    assert both.profiler.unit == "ms"
    assert both["MiB"].target_ms == 3.0
    with pytest.raises(KeyError, match="no penalty 'MB'; there are: ms, MiB"):
        both["MB"]


@pytest.mark.parametrize("first", [True, False])
def test_an_automatic_weight_holds_its_target_against_the_others(first):
    """Its multiplier counts the other's pull as the task's, wherever it stands: E goes to the target and stays."""
    automatic, other = LatencyPenalty(times(), 3.0, "auto"), LatencyPenalty(memory(), 1.0, 0.5)
    both = Penalties({"a": automatic, "b": other} if first else {"b": other, "a": automatic})
    alphas = logits()
    optimizer = torch.optim.SGD(alphas.values(), lr=0.15)
    for _ in range(200):
        optimizer.zero_grad()
        loss, details = both(task(alphas), distribution(alphas))
        loss.backward()
        optimizer.step()
    assert float(details["a/penalty"]) == pytest.approx(3.0, rel=0.01)
    assert float(details["b/penalty"]) < 5.0
    assert both.last_multiplier == automatic.last_multiplier != 0


def test_what_cannot_work_is_refused():
    one = LatencyPenalty(times(), 2.0)
    with pytest.raises(ValueError, match="penalties is empty; allowed: one LatencyPenalty or more"):
        Penalties({})
    with pytest.raises(
        ValueError, match="weight is 'auto' for a, b; allowed: for one, since each multiplier is computed as if"
    ):
        Penalties({"a": LatencyPenalty(times(), 2.0, "auto"), "b": LatencyPenalty(memory(), 2.0, "auto")})
    with pytest.raises(ValueError, match="2 are in ms; allowed: one of a unit, or a dict with a name for each"):
        Penalties([one, LatencyPenalty(times(), 3.0)])
    with pytest.raises(ValueError, match="the same LatencyPenalty stands there twice") as caught:
        Penalties({"a/b": one, "c": one, "d": 3})
    assert "penalties: 'a/b' is no name; allowed: text without '.' and '/'" in str(caught.value)
    assert "penalties: d is a int; allowed: LatencyPenalty" in str(caught.value)


# -- in strategies ---------------------------------------------------------------------------------------------------------


def of_space(space: ModelSpace) -> Penalties:
    estimators = (MacsEstimator(), ParametersEstimator(), ActivationsEstimator())
    profilers = (LatencyProfiler(space, estimator, (8,)) for estimator in estimators)
    return Penalties(
        {type(e).__name__: LatencyPenalty(p, 1e-4, 0.1) for e, p in zip(estimators, profilers, strict=True)}
    )


def test_a_copy_looks_at_its_own_supernet():
    """Together with its space a copy looks at the copied one; alone, at the one in training, without copying that."""
    space = Small()
    both = of_space(space)
    alone = copy.deepcopy(both)
    assert alone is not both
    assert list(alone.penalties) == list(both.penalties)
    assert all(penalty.model_space is space for penalty in alone.penalties.values())
    assert alone.profiler.model_space is space
    copied, together = copy.deepcopy((space, both))
    assert all(penalty.model_space is copied is not space for penalty in together.penalties.values())
    assert together.profiler is together["MacsEstimator"].profiler
    assert both.state_dict() == {}
    both.to(torch.float64).load_state_dict({})


def test_reinforce_says_that_it_takes_one_cost():
    """One reward cannot be made of three targets without somebody saying how."""
    said = (
        "penalty holds 3 costs, of which update='reinforce' makes no one reward; allowed: LatencyReward with a function"
    )
    with pytest.raises(ValueError, match=said):
        ProxylessNAS(update="reinforce", penalty=of_space(Small()))
    ProxylessNAS(penalty=of_space(Small()))
    DSNAS(search_epochs=1, penalty=of_space(Small()))


def test_the_sampled_path_is_passed_on():
    """``'threshold'`` in one of them needs it."""
    space = Small()
    profiler = LatencyProfiler(space, ParametersEstimator(), (8,))
    budget = LatencyPenalty(profiler, 1e-4, 1.0, form="threshold")
    both = Penalties({"a": LatencyPenalty(LatencyProfiler(space, MacsEstimator(), (8,)), 1e-4, 0.0), "b": budget})
    uniform = {label: dict.fromkeys(costs, 1 / 3) for label, costs in profiler.candidate_ms.items()}
    with pytest.raises(TypeError, match="form 'threshold' needs the sampled path"):
        both(torch.tensor(1.0), uniform)
    path = {"block0": "narrow", "block1": "narrow"}
    loss, _ = both(torch.tensor(1.0, dtype=torch.float64), uniform, path=path)
    assert float(loss) == pytest.approx(1 + 27e-6 + 2 * 72e-6 / 3)
