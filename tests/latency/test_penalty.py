"""The latency term of the loss: its forms, its automatic weight, and that its gradient arrives in NNI's own strategies."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from nni.mutable import Categorical, MutableExpression
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableLinear, Repeat
from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from nni.nas.profiler import ExpressionProfiler
from nni.nas.profiler.pytorch.flops import NumParamsProfiler
from nni.nas.strategy import DARTS, GumbelDARTS, Proxyless
from torch import Tensor, nn

from nni_proxyless.latency import LatencyPenalty
from nni_proxyless.latency.objectives.multiplier import FLOOR, multiplier

from ..strategies.searches import OF_EXPERIMENTS, Noisy, Task, quiet_trainer
from .spaces import CLASSES, FEATURES, Three, candidates, per_weight

pytestmark = OF_EXPERIMENTS


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# -- a cost of plain numbers, for exact equations in float64 -------------------------------------------------------------

COSTS = {"x": [1.0, 2.0, 4.0], "y": [0.0, 3.0, 5.0]}


class Cost(ExpressionProfiler):
    """0.5 + F_x + F_y; with ``nested``, F_y counts only where x takes its last candidate."""

    def __init__(self, *, nested: bool = False):
        x, y = (Categorical([0, 1, 2], label=label) for label in COSTS)
        y_cost = MutableExpression.switch_case(y, dict(enumerate(COSTS["y"])))
        if nested:
            y_cost = MutableExpression.switch_case(x, {0: 0.0, 1: 0.0, 2: y_cost})
        self.expression = 0.5 + MutableExpression.switch_case(x, dict(enumerate(COSTS["x"]))) + y_cost


def logits(seed: int, n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dtype=torch.float64, generator=generator).requires_grad_()


def distribution(alphas: dict[str, Tensor]) -> dict[str, dict[int, Tensor]]:
    return {label: dict(enumerate(torch.softmax(alpha, 0).unbind())) for label, alpha in alphas.items()}


def expected(alphas: dict[str, Tensor], *, nested: bool = False) -> Tensor:
    """E in closed form, without NNI's expressions."""
    p = {label: torch.softmax(alpha, 0) for label, alpha in alphas.items()}
    x, y = ((p[label] * torch.tensor(COSTS[label])).sum() for label in COSTS)
    return 0.5 + x + (p["x"][2] * y if nested else y)


def task_loss(alphas: dict[str, Tensor], seed: int = 0) -> Tensor:
    """Anything smooth that depends on all logits."""
    value = torch.zeros((), dtype=torch.float64)
    for i, alpha in enumerate(alphas.values()):
        value = value + (torch.softmax(alpha, 0) * logits(100 + 10 * seed + i).detach()).sum() ** 2
    return 1.0 + value


def grads(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return [
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(
            leaves, torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True), strict=True
        )
    ]


# -- the forms -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def alphas() -> dict[str, Tensor]:
    return {"x": logits(0), "y": logits(1)}


@pytest.mark.parametrize(
    ("nonlinear", "times", "added", "slope"),
    [
        ("linear", 1.0, 0.0, 1), ("linear", 0.5, 0.25, 1), ("linear", 2.0, -0.125, 1),
        ("positive", 0.5, 0.25, 1), ("positive", 2.0, 0.0, 0), ("absolute", 0.5, 0.25, 1), ("absolute", 2.0, 0.125, -1),
    ],
)  # fmt: skip
def test_add_linear(alphas, nonlinear, times, added, slope):
    """Property 16: L at E = T, L + weight at E = 2T; its gradient is that of L + weight E/T, of neither sign above or below."""
    target = expected(alphas).item() * times
    loss, details = LatencyPenalty(Cost(), target, 0.25, nonlinear=nonlinear)(task_loss(alphas), distribution(alphas))
    assert loss.item() == pytest.approx(task_loss(alphas).item() + added, abs=1e-14)
    assert float(details["normalized_penalty"]) == pytest.approx(added / 0.25, abs=1e-14)
    leaves = list(alphas.values())
    by_hand = task_loss(alphas) + slope * 0.25 * expected(alphas) / target
    for ours, other in zip(grads(loss, leaves), grads(by_hand, leaves), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("target", [None, 3.0])
def test_add_is_the_paper_s_equation_7(alphas, target):
    """L + lambda2 E with lambda2 per millisecond: dL/dalpha_i = dL_task/dalpha_i + lambda2 p_i (F_i - sum_j p_j F_j)."""
    loss, details = LatencyPenalty(Cost(), target, 0.03, form="add")(task_loss(alphas), distribution(alphas))
    assert loss.item() == pytest.approx((task_loss(alphas) + 0.03 * expected(alphas)).item(), abs=1e-14)
    assert float(details["normalized_penalty"]) == float(details["penalty"]) == pytest.approx(expected(alphas).item())
    leaves = list(alphas.values())
    for label, ours, task in zip(alphas, grads(loss, leaves), grads(task_loss(alphas), leaves), strict=True):
        p, costs = torch.softmax(alphas[label].detach(), 0), torch.tensor(COSTS[label], dtype=torch.float64)
        torch.testing.assert_close(ours, task + 0.03 * p * (costs - (p * costs).sum()), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("loss_scale", [1.0, 0.2])
def test_mul_log(alphas, weight, loss_scale):
    """Property 16: a L (ln E / ln T)^b, so a L at E = T; gradient a [r^b dL + L b r^(b-1) dE / (E ln T)], r = ln E / ln T."""
    for target in (2.0, expected(alphas).item()):
        penalty = LatencyPenalty(Cost(), target, weight, form="mul#log", loss_scale=loss_scale)
        loss, details = penalty(task_loss(alphas), distribution(alphas))
        e, value = expected(alphas).item(), task_loss(alphas).item()
        ratio = math.log(e) / math.log(target)
        assert loss.item() == pytest.approx(loss_scale * value * ratio**weight, rel=1e-14)
        assert float(details["normalized_penalty"]) == pytest.approx(ratio, rel=1e-14)
        leaves = list(alphas.values())
        for ours, task, cost in zip(
            grads(loss, leaves), grads(task_loss(alphas), leaves), grads(expected(alphas), leaves), strict=True
        ):
            by_cost = value * weight * ratio ** (weight - 1) / (e * math.log(target)) * cost
            torch.testing.assert_close(ours, loss_scale * (ratio**weight * task + by_cost), rtol=1e-12, atol=1e-15)
    assert loss.item() == pytest.approx(loss_scale * value, rel=1e-14)  # the second target was E itself


def test_mul_log_refuses_what_turns_the_sign_of_the_logarithm():
    """Property 16: E <= 1 in the step; T <= 1 is refused at once."""
    penalty = LatencyPenalty(Cost(), 2.0, form="mul#log")
    sample = {label: dict.fromkeys(range(3), torch.tensor(0.0)) for label in COSTS}  # E = 0.5
    message = (
        "expected latency is 0.5; allowed with form 'mul#log': greater than 1, the logarithm changes its sign there"
    )
    with pytest.raises(ValueError, match=message):
        penalty(torch.tensor(1.0), sample)


LINEAR, LOG = "add#linear", "mul#log"
NONLINEAR = "allowed: 'linear', 'positive', 'absolute'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profiler": 3}, "profiler is a int; allowed: an ExpressionProfiler of NNI"),
        ({"target_ms": 0}, "target_ms is 0; allowed: greater than 0"),
        ({"target_ms": math.inf}, "target_ms is inf; allowed: greater than 0"),
        ({"target_ms": math.nan, "form": "add"}, "target_ms is nan; allowed: greater than 0"),
        ({"target_ms": None}, "target_ms is None; allowed: greater than 0"),
        ({"target_ms": "3"}, "target_ms is 3; allowed: greater than 0"),
        ({"target_ms": 1, "form": LOG}, "target_ms is 1; allowed: greater than 1 ('mul#log' takes its logarithm)"),
        ({"weight": -0.5}, "weight is -0.5; allowed: 0 or more, or 'auto'"),
        ({"weight": math.nan}, "weight is nan; allowed: 0 or more, or 'auto'"),
        ({"weight": "big"}, "weight is big; allowed: 0 or more, or 'auto'"),
        ({"form": "mul"}, "form is 'mul'; allowed: 'add#linear', 'add', 'mul#log', 'threshold'"),
        ({"nonlinear": "log"}, f"nonlinear is 'log'; {NONLINEAR}"),
        ({"nonlinear": "positive", "form": "add"}, "nonlinear is 'positive' with form 'add'; allowed: 'linear'"),
        ({"nonlinear": "absolute", "form": LOG}, "nonlinear is 'absolute' with form 'mul#log'; allowed: 'linear'"),
        ({"nonlinear": "absolute", "weight": "auto"}, "nonlinear is 'absolute' with weight 'auto'; allowed: 'linear', 'positive'"),
        ({"weight": "auto", "form": "add"}, "weight is 'auto' with form 'add'; allowed: 'auto' with 'add#linear' only"),
        ({"weight": "auto", "form": LOG}, "weight is 'auto' with form 'mul#log'; allowed: 'auto' with 'add#linear' only"),
        ({"weight": "auto", "target_ms": None}, "target_ms is None; allowed: greater than 0"),
        ({"loss_scale": 0.0, "form": LOG}, "loss_scale is 0.0; allowed: greater than 0"),
        ({"loss_scale": 0.2}, "loss_scale is 0.2 with form 'add#linear'; allowed: 1, only 'mul#log' scales the loss"),
        ({"tolerance": 0}, "tolerance is 0; allowed: greater than 0"),
        ({"target_ms": -1, "weight": -1, "tolerance": -1}, "target_ms is -1; allowed: greater than 0; weight is -1; allowed: "
         "0 or more, or 'auto'; tolerance is -1; allowed: greater than 0"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match="allowed: ") as caught:
        LatencyPenalty(**{"profiler": Cost(), "target_ms": 4.0, **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "arguments", [{}, {"form": "add"}, {"form": LOG}, {"weight": "auto"}, {"nonlinear": "positive"}]
)
def test_the_details_are_values(alphas, arguments):
    """NNI's four keys, whatever the form, and the multiplier where there is one; what is logged holds no graph."""
    penalty = LatencyPenalty(Cost(), 2.0, **arguments)
    loss, details = penalty(task_loss(alphas), distribution(alphas))
    keys = {"loss_original", "penalty", "normalized_penalty", "loss_final"}
    assert set(details) == keys | ({"multiplier"} if "weight" in arguments else set())
    assert loss.requires_grad
    assert not any(isinstance(value, Tensor) and value.requires_grad for value in details.values())
    assert float(details["loss_original"]) == task_loss(alphas).item()
    assert float(details["penalty"]) == pytest.approx(expected(alphas).item(), rel=1e-15)
    assert float(details["loss_final"]) == loss.item()


# -- the multiplier ------------------------------------------------------------------------------------------------------


def lambda_of(task: Sequence[Tensor], cost: Sequence[Tensor], gap: float, at_most: bool = False) -> float:
    return float(multiplier(task, cost, torch.tensor(gap, dtype=torch.float64), 0.05, at_most))


def pair(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """g_L and g_E of two choices."""
    return [logits(seed).detach(), logits(seed + 1, 4).detach()], [
        logits(seed + 2).detach(),
        logits(seed + 3, 4).detach(),
    ]


@pytest.mark.parametrize("gap", [-3.0, -0.05, -0.02, 0.0, 0.01, 0.05, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_the_multiplier_gives_the_change_that_is_wanted(seed, gap):
    """<g_E, g_L + lambda g_E> = clip(gap / tolerance, -1, 1) |g_L| |g_E|; at gap 0 nothing of g_L along g_E is left."""
    task, cost = pair(10 * seed)
    g_l, g_e = torch.cat(task), torch.cat(cost)
    change = torch.dot(g_e, g_l + lambda_of(task, cost, gap) * g_e)
    wanted = min(max(gap / 0.05, -1), 1) * g_l.norm() * g_e.norm()
    torch.testing.assert_close(change, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("times", [0.5, 0.98, 1.0, 1.03, 2.0])
def test_a_plain_gradient_step_changes_the_expected_cost_as_derived(alphas, times):
    """First order: E/T changes by -lr clip(gap / tolerance) |g_L| |g_E|; at E = T only by O(lr^2)."""
    target = expected(alphas).item() / times
    penalty = LatencyPenalty(Cost(), target, "auto")
    loss, _ = penalty(task_loss(alphas), distribution(alphas))
    leaves = list(alphas.values())
    g_l, g_e = (torch.cat(grads(value, leaves)).norm() for value in (task_loss(alphas), expected(alphas) / target))
    loss.backward()

    def change(lr: float) -> float:
        moved = {label: alpha.detach() - lr * alpha.grad for label, alpha in alphas.items()}
        return (expected(moved) / target).item() - times

    slope = float(-min(max((times - 1) / 0.05, -1), 1) * g_l * g_e)
    for lr in (1e-2, 1e-3, 1e-4):  # the rest is quadratic: its factor, of the second derivative, is far below 100
        assert abs(change(lr) - lr * slope) < 100 * lr**2 * float(g_l) ** 2
    assert abs(change(1e-4)) > 1e-7 or times == 1.0


def test_an_upper_limit_has_no_negative_multiplier():
    """KKT: lambda >= 0; where the equality's lambda is positive it is that one, elsewhere 0 and the task is alone."""
    seen = set()
    for seed, gap in itertools.product(range(8), (-1.0, -0.02, 0.0, 0.02, 1.0)):
        task, cost = pair(10 * seed)
        equality, limit = lambda_of(task, cost, gap), lambda_of(task, cost, gap, at_most=True)
        assert limit == max(equality, 0.0)
        seen.add((gap, limit > 0))
    # Clearly below the limit it never acts, clearly above always, at the limit where the task would go beyond it.
    assert {(-1.0, False), (0.0, False), (0.0, True), (1.0, True)} <= seen
    assert (-1.0, True) not in seen
    assert (1.0, False) not in seen


@pytest.mark.parametrize("scale", [1e-3, 65536.0])
@pytest.mark.parametrize("at_most", [False, True])
def test_the_multiplier_is_homogeneous(scale, at_most):
    """lambda(c g_L) = c lambda(g_L), and lambda(g_L, c g_E) = lambda(g_L, g_E) / c: no unit has to be known."""
    task, cost = pair(5)
    for gap in (-0.03, 0.0, 0.03, 1.0):
        plain = lambda_of(task, cost, gap, at_most)
        assert lambda_of([scale * g for g in task], cost, gap, at_most) == pytest.approx(scale * plain, rel=1e-12)
        assert lambda_of(task, [scale * g for g in cost], gap, at_most) == pytest.approx(plain / scale, rel=1e-12)


def test_gradients_that_are_zero():
    """A cost that no logit can change: 0. A task without a gradient: a small pull to the target, none beyond a limit."""
    task, cost = pair(0)
    nothing = [torch.zeros_like(g) for g in task]
    norm = float(torch.cat(cost).norm())
    assert lambda_of(task, nothing, 1.0) == 0.0
    assert lambda_of(nothing, nothing, -1.0) == 0.0
    assert lambda_of(nothing, cost, 1.0) == pytest.approx(FLOOR / norm, rel=1e-12)
    assert lambda_of(nothing, cost, -0.025) == pytest.approx(-0.5 * FLOOR / norm, rel=1e-12)
    assert lambda_of(nothing, cost, 0.0) == 0.0
    assert lambda_of(nothing, cost, -1.0, at_most=True) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_gradients_of_low_precision(dtype):
    """Squares of gradients near 1e-6 underflow in half precision: sums are taken in float32."""
    task, cost = [torch.full((4,), -4e-6, dtype=dtype)], [torch.full((4,), 2e-6, dtype=dtype)]
    value = multiplier(task, cost, torch.tensor(0.0), 0.05, False)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(2.0, rel=0.05)  # what the gradients themselves are rounded by


# -- how it comes into the gradients -------------------------------------------------------------------------------------


def hooks_on(leaf: Tensor) -> int:
    return len(leaf._backward_hooks or ()) + len(leaf._post_accumulate_grad_hooks or ())


def check_backward(
    alphas: dict[str, Tensor],
    loss_of: Callable[[], Tensor],
    *,
    nested: bool = False,
    nonlinear: str = "linear",
    target: float = 3.0,
    penalty: LatencyPenalty | None = None,
    held: float = 0.0,
    scale: float = 1.0,
) -> float:
    """After backward every leaf holds exactly g_L + lambda g_E, and what it held before; returns lambda."""
    leaves = list({id(alpha): alpha for alpha in alphas.values()}.values())
    penalty = penalty or LatencyPenalty(Cost(nested=nested), target, "auto", nonlinear=nonlinear)
    ratio = expected(alphas, nested=nested) / target
    task, cost = grads(loss_of(), leaves), grads(ratio, leaves)
    value = multiplier(task, cost, ratio.detach() - 1, 0.05, nonlinear == "positive")
    for leaf in leaves:
        leaf.grad = torch.full_like(leaf, held) if held else None
    assert math.isnan(penalty.last_multiplier)
    loss, details = penalty(loss_of(), distribution(alphas))
    assert loss.item() == loss_of().item()
    assert details["multiplier"] == 0.0, "that of the step before, of which there is none"
    (scale * loss).backward()
    for leaf, g_l, g_e in zip(leaves, task, cost, strict=True):
        torch.testing.assert_close((leaf.grad - held) / scale, g_l + value * g_e, rtol=1e-12, atol=1e-14)
        assert hooks_on(leaf) == 0
    assert penalty.last_multiplier == pytest.approx(float(value), rel=1e-12, abs=1e-15)
    return penalty.last_multiplier


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("target", [1.5, 30.0])
@pytest.mark.parametrize("nonlinear", ["linear", "positive"])
def test_backward_leaves_the_task_s_gradient_and_the_multiple_of_the_cost_s(alphas, nested, target, nonlinear):
    """Two labels, side by side and one within the other; below the target an upper limit leaves g_L alone."""
    value = check_backward(alphas, lambda: task_loss(alphas), nested=nested, nonlinear=nonlinear, target=target)
    assert (value == 0) == (nonlinear == "positive" and target == 30.0)
    assert value != 0 or nonlinear == "positive"


def test_backward_of_logits_that_two_labels_share():
    alpha = logits(3)
    alphas = {"x": alpha, "y": alpha}
    assert check_backward(alphas, lambda: task_loss(alphas)) != 0


def test_backward_of_logits_without_a_gradient_from_the_task(alphas):
    """Of one choice, and of all, whether or not the loss has a gradient: then only the pull to the target is left."""
    assert check_backward(alphas, lambda: task_loss({"x": alphas["x"]})) != 0
    other = logits(9)
    assert 0 < check_backward(alphas, lambda: task_loss({"z": other}), target=1.0) < 10 * FLOOR
    assert check_backward(alphas, lambda: torch.tensor(2.0, dtype=torch.float64), target=1.0) > 0


def test_logits_that_cost_nothing_keep_the_task_s_gradient(alphas):
    more = {**alphas, "z": logits(7)}
    loss, _ = LatencyPenalty(Cost(), 3.0, "auto")(task_loss(more), distribution(alphas))
    loss.backward()
    torch.testing.assert_close(more["z"].grad, grads(task_loss(more), [more["z"]])[0], rtol=0, atol=0)


def test_logits_that_are_frozen_take_no_part(alphas):
    """They have no gradient to hold back, so the other choices bring E to the target alone."""
    alphas["y"].requires_grad_(False)
    loss, _ = LatencyPenalty(Cost(), 3.0, "auto")(task_loss(alphas), distribution(alphas))
    loss.backward()
    assert alphas["y"].grad is None
    (g_e,) = grads(expected(alphas) / 3.0, [alphas["x"]])
    (g_l,) = grads(task_loss(alphas), [alphas["x"]])
    gap = expected(alphas).detach() / 3.0 - 1
    value = multiplier([g_l], [g_e], gap, 0.05, False)
    torch.testing.assert_close(alphas["x"].grad, g_l + value * g_e, rtol=1e-12, atol=1e-15)


def test_it_is_added_once(alphas):
    """A second backward pass through the same graph, as with ``retain_graph``, adds g_L and nothing else."""
    loss, _ = LatencyPenalty(Cost(), 3.0, "auto")(task_loss(alphas), distribution(alphas))
    loss.backward(retain_graph=True)
    once = {label: alpha.grad.clone() for label, alpha in alphas.items()}
    loss.backward()
    for (label, alpha), task in zip(alphas.items(), grads(task_loss(alphas), list(alphas.values())), strict=True):
        torch.testing.assert_close(alpha.grad, once[label] + task, rtol=1e-12, atol=1e-15)


def test_nothing_is_left_of_a_step_that_was_not_finished(alphas):
    """A forward pass without its backward pass: another loss's backward is untouched, the next step is exact."""
    penalty = LatencyPenalty(Cost(), 3.0, "auto")
    leaves = list(alphas.values())
    for _ in range(3):
        penalty(task_loss(alphas, 1), distribution(alphas))
    assert [hooks_on(leaf) for leaf in leaves] == [2, 2]  # of the last one
    weight_step = task_loss(alphas, 2)
    plain = grads(weight_step, leaves)
    weight_step.backward()
    for leaf, grad in zip(leaves, plain, strict=True):
        torch.testing.assert_close(leaf.grad, grad, rtol=0, atol=0)
    check_backward(alphas, lambda: task_loss(alphas), penalty=penalty)


@pytest.mark.parametrize("with_task", [True, False])
def test_a_scaled_loss_has_a_scaled_gradient(alphas, with_task):
    """As under a gradient scaler, which divides by its factor afterwards: same step, same multiplier, same floor. What .grad
    already held is kept, and lambda does not depend on it."""

    def loss_of() -> Tensor:
        return task_loss(alphas) if with_task else torch.tensor(1.0, dtype=torch.float64)

    value = check_backward(alphas, loss_of)
    assert check_backward(alphas, loss_of, scale=65536.0) == pytest.approx(value, rel=1e-12)
    assert check_backward(alphas, loss_of, held=7.0) == value


def test_autocast_leaves_the_sums_exact(alphas):
    """Lightning calls backward within autocast; on a CPU that is in the same thread."""
    value = check_backward(alphas, lambda: task_loss(alphas))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert check_backward(alphas, lambda: task_loss(alphas)) == pytest.approx(value, rel=1e-12)


def test_without_a_graph_the_loss_is_returned_as_it_is(alphas):
    """In no-grad mode, with plain numbers outside training, with a cost that is the same everywhere."""
    penalty = LatencyPenalty(Cost(), 3.0, "auto")
    loss = task_loss(alphas)
    with torch.no_grad():
        total, details = penalty(loss, distribution(alphas))
    assert total is loss
    assert float(details["penalty"]) == pytest.approx(expected(alphas).item(), rel=1e-15)
    plain = {label: {j: p.item() for j, p in dist.items()} for label, dist in distribution(alphas).items()}
    fixed = loss.detach()
    assert penalty(fixed, plain)[0] is fixed
    constant = Cost()
    constant.expression = 4.0
    assert LatencyPenalty(constant, 3.0, "auto")(loss, distribution(alphas))[0] is loss
    assert not any(hooks_on(alpha) for alpha in alphas.values())


def test_a_copy_has_no_step_to_wait_for(alphas):
    """Copied between forward and backward: the original's step is as ever, the copy works on its own."""
    penalty = LatencyPenalty(Cost(), 3.0, "auto")
    value = check_backward(alphas, lambda: task_loss(alphas))
    loss, _ = penalty(task_loss(alphas), distribution(alphas))
    copied, alone = copy.deepcopy((penalty, alphas))
    loss.backward()
    assert penalty.last_multiplier == value
    assert math.isnan(copied.last_multiplier)
    assert copied._backward_pass is None
    assert not any(hooks_on(alpha) for alpha in alone.values())
    copied(task_loss(alone), distribution(alone))[0].backward()
    assert copied.last_multiplier == value


# -- does it do what it is for? ------------------------------------------------------------------------------------------


def follow(target: float, *, lr: float, steps: int, task_scale: float = 1.0, nonlinear: str = "linear") -> list[float]:
    """E/T over a search in small: dear candidates are better, each step sees that through noise of its own size."""
    generator = torch.Generator().manual_seed(0)
    alphas = {label: (1e-3 * torch.randn(3, generator=generator)).requires_grad_() for label in COSTS}
    benefit = {"x": torch.tensor([0.0, 0.7, 1.0]), "y": torch.tensor([0.0, 0.4, 1.0])}
    penalty = LatencyPenalty(Cost(), target, "auto", nonlinear=nonlinear)
    optimizer = torch.optim.Adam(list(alphas.values()), lr=lr, betas=(0.0, 0.999))
    ratios = []
    for _ in range(steps):
        probs = {label: torch.softmax(alpha, 0) for label, alpha in alphas.items()}
        loss = torch.zeros(())
        for label, p in probs.items():
            loss = loss - task_scale * ((benefit[label] + torch.randn(3, generator=generator)) * p).sum()
        total, details = penalty(loss, {label: dict(enumerate(p.unbind())) for label, p in probs.items()})
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        ratios.append(float(details["penalty"]) / target)
    return ratios


@pytest.mark.parametrize("target", [4.0, 7.0])
@pytest.mark.parametrize(
    ("lr", "steps", "task_scale"),
    [(0.1, 120, 1e-3), (0.1, 120, 1e3), (0.01, 250, 1.0)],
)
def test_the_expected_cost_goes_to_the_target(target, lr, steps, task_scale):
    """From the same logits (E = 5.5 of 1.5 to 9.5) to a target on either side, without one number that was set for any of them.

    With a learning rate of 0.1 one step of the noise alone moves E by some per cent: there the mean is held to 2 %.
    """
    ratios = follow(target, lr=lr, steps=steps, task_scale=task_scale)
    last = torch.tensor(ratios[-50:])
    assert abs(ratios[0] - 1) > 0.08
    assert abs(last.mean().item() - 1) < 0.02
    if lr == 0.01:
        assert (last - 1).abs().max().item() < 0.02


def test_an_upper_limit_holds_and_does_not_push_up():
    """A limit above what the task wants leaves it alone; one below it is met, from below."""
    free = follow(1000.0, lr=0.1, steps=100, nonlinear="positive")[-1] * 1000
    assert free > 8.0  # of at most 9.5: dear is better
    limited = torch.tensor(follow(5.0, lr=0.1, steps=120, nonlinear="positive")[-50:]).mean().item()
    assert 0.9 < limited < 1.01


# -- NNI's own strategies ------------------------------------------------------------------------------------------------


class Unnamed(ModelSpace):
    """Candidates without names: choices are numbers; one of them holds a choice."""

    def __init__(self):
        super().__init__()
        inner = LayerChoice([nn.Linear(FEATURES, FEATURES), nn.Tanh()], label="inner")
        self.one = LayerChoice([nn.Identity(), nn.Sequential(nn.Linear(FEATURES, FEATURES), inner)], label="outer")
        self.two = LayerChoice(candidates(), label="two")
        self.last = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.two(torch.tanh(self.one(x)))))


class Deep(ModelSpace):
    """How often a block repeats is a choice."""

    def __init__(self):
        super().__init__()
        self.body = Repeat(lambda i: nn.Linear(FEATURES, FEATURES), (1, 3), label="depth")
        self.last = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


class Wide(Deep):
    """As well as how wide a layer is."""

    def __init__(self):
        super().__init__()
        self.width = self.add_mutable(Categorical([4, 8, 16], label="width"))
        self.up, self.down = MutableLinear(FEATURES, self.width), MutableLinear(self.width, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.down(self.up(x)))


class CostOnly(Task):
    """No gradient from the task: what reaches the logits is the cost's."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return 0 * self.model(batch[0]).sum()


def evaluator(task: LightningModule, *, epochs: int = 1, n: int = 1) -> Lightning:
    data = [DataLoader(Noisy(32 * n, seed, noise=0.0), batch_size=32) for seed in (0, 1)]
    return Lightning(task, quiet_trainer(max_epochs=epochs), train_dataloaders=data[0], val_dataloaders=data[1])


def search(strategy: Any, space: ModelSpace, task: LightningModule, **kwargs: int) -> Any:
    """The supernet trained by NNI's evaluator; returns the search's Lightning module."""
    space = strategy.mutate_model(space)
    mutated = strategy.mutate_evaluator(evaluator(task, **kwargs))
    mutated.evaluate(space)
    return mutated.module


def expected_over_all(profiler: ExpressionProfiler, values: dict[str, list], probs: dict[str, Tensor]) -> Tensor:
    """E as the sum over every network of its probability times its cost."""
    total = torch.zeros(())
    for chosen in itertools.product(*(range(len(v)) for v in values.values())):
        sample = {label: values[label][j] for label, j in zip(values, chosen, strict=True)}
        probability = math.prod(
            (probs[label][j] for label, j in zip(values, chosen, strict=True)), start=torch.ones(())
        )
        total = total + probability * float(profiler.profile(sample))
    return total


NNI_STRATEGIES = [DARTS, GumbelDARTS, Proxyless]
SLOW = {"arc_learning_rate": 1e-9}  # so small that the logits are what they were when their gradient was taken


@pytest.mark.parametrize("strategy_class", NNI_STRATEGIES)
def test_the_penalty_reaches_the_logits_of_nni_s_strategies(strategy_class):
    """Property 15: dE/dalpha_i = p_i (F_i - sum_j p_j F_j), non-zero, p the plain softmax; on the logits in training."""
    space, weight, target = Three(), 0.5, 400.0
    profiler = per_weight(space)
    strategy = strategy_class(penalty=LatencyPenalty(profiler, target, weight), **SLOW)
    module = search(strategy, space, CostOnly())
    (optimizer,) = (o for o in module.trainer.optimizers if getattr(o, "is_arch_optimizer", False))
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for label, alpha in strategy._arch_parameters.items():
        assert id(alpha) in trained
        costs, p = torch.tensor(list(profiler.candidate_ms[label].values())), torch.softmax(alpha.detach(), 0)
        torch.testing.assert_close(alpha.grad, weight / target * p * (costs - (p * costs).sum()), rtol=1e-4, atol=1e-6)
        assert alpha.grad.abs().min() > 1e-3


@pytest.mark.parametrize("strategy_class", NNI_STRATEGIES)
def test_nni_s_own_penalty_does_not(strategy_class):
    """The negative of the test above: what reaches the logits is exactly what the task alone gives, here 0."""
    space = Three()
    strategy = strategy_class(penalty=ExpectationProfilerPenalty(per_weight(space), 400.0, 0.5), **SLOW)
    search(strategy, space, CostOnly())
    assert all(torch.equal(alpha.grad, torch.zeros(3)) for alpha in strategy._arch_parameters.values())


@pytest.mark.parametrize(
    ("space_class", "profiler_of", "strategy_class"),
    [
        (Unnamed, per_weight, DARTS),
        (Deep, lambda space: NumParamsProfiler(space, torch.randn(1, FEATURES)), DARTS),
        (Wide, lambda space: NumParamsProfiler(space, torch.randn(1, FEATURES)), DARTS),
        (Wide, lambda space: NumParamsProfiler(space, torch.randn(1, FEATURES)), GumbelDARTS),
        (Unnamed, per_weight, Proxyless),
    ],
)
def test_every_kind_of_choice(space_class, profiler_of, strategy_class):
    """Nested choices, depth and width, with NNI's profilers through ``model_space``: the gradient of E over all networks."""
    space = space_class()
    profiler = profiler_of(space)
    values = {label: list(spec.values) for label, spec in space.simplify().items()}
    strategy = strategy_class(penalty=LatencyPenalty(profiler, 100.0, model_space=space), **SLOW)
    search(strategy, space, CostOnly())
    alphas = strategy._arch_parameters
    probs = {label: torch.softmax(alpha, 0) for label, alpha in alphas.items()}
    wanted = grads(expected_over_all(profiler, values, probs) / 100.0, list(alphas.values()))
    for alpha, grad in zip(alphas.values(), wanted, strict=True):
        torch.testing.assert_close(alpha.grad, grad, rtol=1e-4, atol=1e-6)
        assert alpha.grad.abs().max() > 1e-3


def test_the_depth_of_nni_s_proxyless():
    """Its Repeat hands over live probabilities of the depth, a sum of gates; they are taken as they are."""
    space = Deep()
    profiler = NumParamsProfiler(space, torch.randn(1, FEATURES))
    module = search(Proxyless(penalty=LatencyPenalty(profiler, 100.0, model_space=space), **SLOW), space, CostOnly())
    alphas = [layer._arch_alpha for layer in (space.body.blocks[1], space.body.blocks[2])]
    cost = FEATURES * FEATURES + FEATURES
    for alpha in alphas:
        p = torch.softmax(alpha.detach(), 0)
        torch.testing.assert_close(alpha.grad[1], cost / 100.0 * p[0] * p[1], rtol=1e-4, atol=1e-6)
    assert len(list(module.arch_parameters())) == 2


@pytest.mark.parametrize(("strategy_class", "share"), [(DARTS, 0.3), (GumbelDARTS, 0.3), (Proxyless, 0.7)])
def test_the_automatic_weight_in_nni_s_strategies(strategy_class, share):
    """A short search from the same logits: E, of all candidates together, is brought to the target."""
    space = Three()
    profiler = per_weight(space)
    target = share * profiler.profile({"one": "wide", "two": "wide"})
    penalty = LatencyPenalty(profiler, target, "auto")
    strategy = strategy_class(penalty=penalty, arc_learning_rate=0.05)
    search(strategy, space, Task(), epochs=3, n=15)
    probs = {
        label: dict(zip(candidates(), torch.softmax(alpha, 0).tolist(), strict=True))
        for label, alpha in strategy._arch_parameters.items()
    }
    assert penalty.profile(probs) == pytest.approx(target, rel=0.05)
    assert math.isfinite(penalty.last_multiplier)


# -- where live probabilities come from ----------------------------------------------------------------------------------


def test_plain_numbers_without_a_supernet_are_refused():
    """The label is named, and what to do; nothing is refused where no gradient is wanted."""
    deep, space = Deep(), Three()
    loss = torch.ones((), requires_grad=True)
    depth = {"depth": {1: 0.5, 2: 0.25, 3: 0.25}}
    profiler = NumParamsProfiler(deep, torch.randn(1, FEATURES))
    with pytest.raises(TypeError) as caught:
        LatencyPenalty(profiler, 400.0)(loss, depth)
    assert str(caught.value) == (
        "choice 'depth': its probabilities are plain numbers, so its latency has no gradient, and NumParamsProfiler does not "
        "keep its model space; pass model_space=, the model space that the strategy searches"
    )
    with pytest.raises(
        TypeError, match=r"choice 'depth': .* and no layer of Deep has 3 logits for it; pass model_space="
    ):
        LatencyPenalty(profiler, 400.0, model_space=deep)(loss, depth)
    uniform = {label: dict.fromkeys(candidates(), 1 / 3) for label in ("one", "two")}
    with pytest.raises(
        TypeError, match=r"choice 'one': .* and no layer of Three has 3 logits for it; pass model_space="
    ):
        LatencyPenalty(per_weight(space), 400.0)(loss, uniform)
    for weight in (1.0, "auto"):
        assert math.isfinite(LatencyPenalty(profiler, 400.0, weight)(loss.detach(), depth)[0])
        with torch.no_grad():
            assert math.isfinite(LatencyPenalty(profiler, 400.0, weight)(loss, depth)[0])


def test_the_supernet_of_another_search_is_refused():
    """Its logits are not those in training, so their gradient would go nowhere."""
    old, new = Three(), Three()
    search(DARTS(), old, Task())
    with pytest.raises(
        ValueError, match=r"choice 'one': its probabilities are .*, but those of the layer in Three are"
    ):
        search(DARTS(penalty=LatencyPenalty(per_weight(new), 400.0, model_space=old)), new, Task())


def test_live_probabilities_are_mixed_with_those_of_the_supernet():
    """One label live, the other as plain numbers: each has its exact gradient."""
    space = Three()
    profiler = per_weight(space)
    strategy = DARTS()
    strategy.mutate_model(space)
    alpha = logits(0)
    probs = space.two.export_probs({})
    live = dict(zip(candidates(), torch.softmax(alpha, 0).unbind(), strict=True))
    loss, _ = LatencyPenalty(profiler, 1.0)(torch.ones((), requires_grad=True), {"one": live, **probs})
    loss.backward()
    for label, leaf in (("one", alpha), ("two", strategy._arch_parameters["two"])):
        costs = torch.tensor(list(profiler.candidate_ms[label].values()), dtype=leaf.dtype)
        p = torch.softmax(leaf.detach(), 0)
        torch.testing.assert_close(leaf.grad, p * (costs - (p * costs).sum()), rtol=1e-4, atol=1e-4)


def test_the_supernet_is_no_part_of_the_penalty():
    """Its weights are not registered twice; a copy of the penalty goes on to look at the supernet in training."""
    space = Three()
    penalty = LatencyPenalty(per_weight(space), 400.0)
    assert list(penalty.modules()) == [penalty]
    assert not penalty.state_dict()
    assert copy.deepcopy(penalty).model_space is space
    assert copy.deepcopy(penalty).profiler.model_space is space
    together, copied = copy.deepcopy([space, penalty])
    assert copied.model_space is copied.profiler.model_space is together is not space
    assert copy.deepcopy([penalty, space])[1] is not space
