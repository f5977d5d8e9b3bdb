"""The equations of the full update and of REINFORCE, and what an active skip does, on real fits of Lightning in float64.

A test can say which path is sampled in each architecture step, so that an expectation over all paths is exact. Sampling
itself is tested where it is law.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Regression
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.estimators import reinforce_loss
from nni_proxyless.strategies.supernet.gate import Gate
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nni_proxyless.latency import LatencyPenalty, LatencyReward

from ..latency.spaces import per_weight
from . import kinds
from .searches import QUIET
from .spaces import CLASSES, WIDTH, OneChoice, TwoChoices, gate_gradients
from .watched import BATCH, STILL, Noting, Step, Task, Watched, batches, fit, prepare


class SideBySide(ModelSpace):
    """y = o_k(x) + o'_m(x): what reaches either choice is affine in y, and so are both choices in each other."""

    def __init__(self):
        super().__init__()
        self.left = LayerChoice([nn.Linear(WIDTH, WIDTH) for _ in range(3)], label="left")
        self.right = LayerChoice([nn.Linear(WIDTH, WIDTH), nn.Tanh()], label="right")

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


@pytest.fixture
def scripted(monkeypatch):
    """From now on each architecture step takes the paths that the test names, in turn; weight steps sample as usual."""
    original_step, original_draw = Noting.architecture_step, Gate.sample_path
    queue: list[dict[str, int]] = []

    def architecture_step(self, batch, batch_idx) -> None:
        queue[:] = [path for path in self.script.pop(0) for _ in self.gates]
        original_step(self, batch, batch_idx)
        queue.clear()

    def sample_path(self, *how: Any) -> int:
        if not queue:
            return original_draw(self, *how)
        active = queue.pop(0)[self.label]
        self.open(active)
        return active

    monkeypatch.setattr(Noting, "architecture_step", architecture_step)
    monkeypatch.setattr(Gate, "sample_path", sample_path)


def equation_4(alpha: Tensor, gates: Tensor) -> Tensor:
    """dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i)."""
    p = torch.softmax(alpha, 0)
    return p * (gates - (p * gates).sum())


def test_the_full_gradient_is_equation_4():
    """dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i) for every block and step, with the skip active as well; property 2:
    its sum over i is 0; property 12: each of the N candidates runs once; property 11: nothing but logits changes."""
    module = fit(Watched(update="full", arc_update_every=1), n=12, task=Task(0.0))
    module.train()
    assert len(module.steps) == 12
    for step in module.steps:
        for label, given in gate_gradients(module.model, step.path, *step.batch).items():
            grad = step.grad[label]
            torch.testing.assert_close(grad, equation_4(step.before[label], given), rtol=1e-8, atol=1e-14)
            assert abs(grad.sum()) < 1e-14
            assert not torch.equal(step.before[label], step.after[label])
        assert set(step.runs.values()) == {1}
        assert all(torch.equal(value, step.state[1][name]) for name, value in step.state[0].items())
    assert {step.path["second"] for step in module.steps} == {0, 1, 2}


def test_expectation_of_the_full_gradient_over_all_paths_is_the_darts_gradient(scripted):
    """Property 3: L quadratic in y, y = o_k(x) + o'_m(x): sum over all k, m of p_k p'_m grad(k, m) equals the gradient of L
    at the mixture y = sum_j p_j o_j + sum_j p'_j o'_j."""
    paths = [{"left": k, "right": m} for k, m in product(range(3), range(2))]
    module = fit(
        Watched(update="full", arc_update_every=1, arc_learning_rate=STILL), SideBySide, n=len(paths),
        task=Task(0.0, loss=lambda y: (y**2).sum()), held_out=batches(1, seed=1), script=[[path] for path in paths],
    )  # fmt: skip
    assert [step.path for step in module.steps] == paths
    alphas = {label: alpha.requires_grad_() for label, alpha in module.steps[0].before.items()}
    p = {label: torch.softmax(alpha, 0) for label, alpha in alphas.items()}
    x = module.steps[0].batch[0]
    y = sum(p["left"][j] * o(x) for j, o in enumerate(module.model.left))
    y = y + sum(p["right"][j] * o(x) for j, o in enumerate(module.model.right))
    of_mixture = torch.autograd.grad((y**2).sum(), list(alphas.values()))
    for label, expected in zip(alphas, of_mixture, strict=True):
        weights = [p["left"][path["left"]] * p["right"][path["right"]] for path in paths]
        mean = sum(w * step.grad[label] for w, step in zip(weights, module.steps, strict=True))
        torch.testing.assert_close(mean.detach(), expected, rtol=1e-9, atol=1e-13)
        assert expected.abs().min() > 1e-3


def test_expectations_of_full_and_reinforce_are_the_gradient_of_a_linear_loss(scripted):
    """Property 4: L linear in y: sum_k p_k grad(k) equals sum_k p_k L_k (e_k - p), for ``full`` from the steps of a search,
    and for REINFORCE without baseline from :func:`reinforce_loss` with the reward -L of every path."""
    slope = torch.randn(BATCH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    paths = [{"left": k, "right": m} for k, m in product(range(3), range(2))]
    module = fit(
        Watched(update="full", arc_update_every=1, arc_learning_rate=STILL), SideBySide, n=len(paths),
        task=Task(0.0, loss=lambda y: (slope * y).sum()), held_out=batches(1, seed=1), script=[[path] for path in paths],
    )  # fmt: skip
    logits = module.steps[0].before
    p = {label: torch.softmax(alpha, 0) for label, alpha in logits.items()}
    x = module.steps[0].batch[0]
    weight = torch.stack([p["left"][path["left"]] * p["right"][path["right"]] for path in paths])
    loss = torch.stack(
        [(slope * (module.model.left[q["left"]](x) + module.model.right[q["right"]](x))).sum() for q in paths]
    )
    for label in ("left", "right"):
        taken = torch.tensor([path[label] for path in paths])
        e = nn.functional.one_hot(taken, len(p[label])).double()
        expected = ((weight * loss)[:, None] * (e - p[label])).sum(dim=0).detach()
        full = sum(w * step.grad[label] for w, step in zip(weight, module.steps, strict=True))
        torch.testing.assert_close(full, expected, rtol=1e-9, atol=1e-13)

        alpha = logits[label].clone().requires_grad_()
        by_reward = torch.zeros_like(alpha)
        for m, w in enumerate(weight):
            log_prob = torch.log_softmax(alpha, 0)[taken[m]].reshape(1)
            reward = -loss[m].reshape(1)
            by_reward += w * torch.autograd.grad(reinforce_loss(log_prob, reward, 0.0), alpha)[0]
        torch.testing.assert_close(by_reward.detach(), expected, rtol=1e-9, atol=1e-13)


def active_law(p: list[float]) -> list[float]:
    """P(active = a) = sum_{b != a} p_a p_b [1/(1-p_a) + 1/(1-p_b)] p_a/(p_a+p_b) (docs/methods/proxyless.md)."""
    n = range(len(p))
    return [sum(p[a] * p[b] * (1 / (1 - p[a]) + 1 / (1 - p[b])) * p[a] / (p[a] + p[b]) for b in n if b != a) for a in n]


class JustAChoice(ModelSpace):
    def __init__(self):
        super().__init__()
        self.choice = LayerChoice([nn.Linear(WIDTH, CLASSES) for _ in range(4)], label="choice")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(x)


@pytest.mark.parametrize("update", ["two-path", "full", "reinforce"])
def test_active_candidates_follow_their_law(update):
    """Property 9: in 400 networks the active candidate follows p (full, REINFORCE) or that formula (two-path);
    chi-square, false alarms 1e-6 if the seed were not fixed, and the same draws reject the other law. It gives the third
    candidate 0.81."""
    p = [0.1, 0.12, 0.7, 0.08]
    counts = [0] * 4

    class Accurate(Task):
        def training_step(self, batch, batch_idx: int) -> Tensor:
            self.count()
            return super().training_step(batch, batch_idx)

        def architecture_accuracy(self, batch, batch_idx: int) -> float:
            self.count()
            return 0.5

        def count(self) -> None:
            gate = self.model.choice.gate
            # A weight step follows p, whatever the update.
            if gate.probing or not torch.is_grad_enabled():
                counts[gate.current] += 1

    strategy = ProxylessNAS(
        update=update, arc_update_every=1, arc_update_steps=40 if update != "reinforce" else 4, arc_learning_rate=STILL,
        reinforce_samples=10,
    )  # fmt: skip
    fit(strategy, JustAChoice, task=Accurate(0.0), n=10, alphas={"choice": [math.log(q) for q in p]})
    assert sum(counts) == 400
    laws = {"p": p, "pair": active_law(p)}
    right = "pair" if update == "two-path" else "p"
    pvalues = {name: stats.chisquare(counts, [400 * q for q in law]).pvalue for name, law in laws.items()}
    assert pvalues.pop(right) > 1e-6
    assert max(pvalues.values()) < 1e-3


class Naive(ModelSpace):
    """A mixture of all candidates, as DARTS has it."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        self.candidates = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(n))
        self.choice = LayerChoice([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)], label="choice")
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        p = torch.softmax(torch.ones(self.n, dtype=x.dtype, requires_grad=True), 0)
        return self.last(sum(p[j] * o(self.choice(x)) for j, o in enumerate(self.candidates)))


@pytest.mark.parametrize("update", ["two-path", "full"])
def test_activations_kept_by_an_architecture_step_do_not_grow_with_the_candidates(update):
    """Property 13: different activations that backward keeps, for N = 2 and N = 12; a naive mixture keeps ever more."""
    kept = {}
    for make in (OneChoice, Naive):
        for n in (2, 12):
            module = fit(Watched(update=update, arc_update_every=1), lambda make=make, n=n: make(n), n=3)
            kept[make, n] = [step.kept for step in module.steps][1:]  # the first step copies
    assert kept[OneChoice, 12] == kept[OneChoice, 2]
    assert kept[OneChoice, 2][0] > 0
    assert min(kept[Naive, 12]) > 2 * max(kept[Naive, 2])


# -- the skip ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", ["two-path", "full"])
@pytest.mark.parametrize("moves", [True, False])
def test_an_active_skip_stops_its_block_or_does_not(update, moves):
    """Property 14. With ``update_active_skip=False`` the block's logits are bitwise what they were when the skip is active,
    the cost's gradient discarded with the task's, and its neighbour learns on. With True they follow eq. 4 plus the cost."""
    space = TwoChoices()
    penalty = LatencyPenalty(per_weight(space, WIDTH), target_ms=50.0, weight=0.5)
    strategy = Watched(
        update=update, update_active_skip=moves, penalty=penalty, arc_update_every=1, arc_learning_rate=0.01, within_target=False,
    )  # fmt: skip
    module = fit(strategy, lambda: space, n=20, task=Task(0.0), alphas={"second": [0.0, 0.1, 0.2]})
    with_skip = [step for step in module.steps if step.path["second"] == 2]
    assert 2 < len(with_skip) < 18
    for step in module.steps:
        stays = not moves and step.path["second"] == 2
        assert torch.equal(step.before["second"], step.after["second"]) == stays
        assert (step.grad["second"] is None) == stays
        assert not torch.equal(step.before["first"], step.after["first"])


def test_with_an_active_skip_the_full_gradient_holds_the_cost():
    """dL/dalpha = eq. 4 + weight/T * p_i (F_i - sum_j p_j F_j) in every step, those with the skip active included."""
    space, weight, target = TwoChoices(), 0.5, 50.0
    profiler = per_weight(space, WIDTH)
    costs = torch.tensor(list(profiler.candidate_ms["second"].values()), dtype=torch.float64)
    assert costs[2] == 0 < costs[0], "a skip costs nothing"
    penalty = LatencyPenalty(profiler, target_ms=target, weight=weight)
    strategy = Watched(update="full", penalty=penalty, arc_update_every=1, within_target=False)
    module = fit(strategy, lambda: space, n=12, task=Task(0.0))
    module.train()
    assert any(step.path["second"] == 2 for step in module.steps)
    for step in module.steps:
        expected = equation_4(step.before["second"], gate_gradients(module.model, step.path, *step.batch)["second"])
        expected = expected + weight / target * equation_4(step.before["second"], costs)
        torch.testing.assert_close(step.grad["second"], expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("probed", [(), (0, 2), (0, 1, 2)])
def test_an_active_skip_returns_its_input_bitwise(probed):
    """Property 14: with Zero active the block is x itself, whether or not gradients are routed through it."""
    torch.manual_seed(0)
    strategy = ProxylessNAS()
    space = prepare(strategy, TwoChoices())
    gate, x = strategy._gates["second"], torch.randn(5, WIDTH, dtype=torch.float64)
    gate.open(2, probed, torch.zeros(len(probed), dtype=torch.float64, requires_grad=True) if probed else None)
    assert torch.equal(space.second(x), x)


# -- REINFORCE ---------------------------------------------------------------------------------------------------------


class WithForward(Task):
    """As NNI's own modules are."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Rewarded(Task):
    """Says itself how good a network is, and notes when it is asked."""

    def __init__(self, accuracy: Callable[[int], float], learning_rate: float = 0.05):
        super().__init__(learning_rate)
        self.accuracy, self.asked = accuracy, []

    def architecture_accuracy(self, batch, batch_idx: int) -> float:
        assert not torch.is_grad_enabled()
        self.model(batch[0])
        self.asked.append(self.accuracy(len(self.asked)))
        return self.asked[-1]


def by_hand(step: Step, rewards: list[float], baseline: float) -> dict[str, Tensor]:
    """1/M sum over m of (R_m - b)(p - e_{k_m}), per choice."""
    result = {}
    for label, alpha in step.before.items():
        p = torch.softmax(alpha, 0)
        terms = [
            (reward - baseline) * (p - nn.functional.one_hot(torch.tensor(path[label]), len(p)))
            for path, reward in zip(step.paths, rewards, strict=True)
        ]
        result[label] = torch.stack(terms).mean(dim=0)
    return result


def moving(rewards: list[list[float]], when: str, weight: float) -> list[float]:
    """The baselines of successive updates (official code, docs/methods/proxyless.md): first the mean, then b <- b + weight (mean - b), before or after."""
    used, b = [], None
    for mean in (sum(r) / len(r) for r in rewards):
        if when == "never":
            used.append(0.0)
        elif b is None:
            b = mean
            used.append(mean)
        else:
            used.append(b + weight * (mean - b) if when == "before" else b)
            b = b + weight * (mean - b)
    return used


@pytest.mark.parametrize(("when", "weight"), [("before", 0.99), ("after", 0.1), ("never", 0.99)])
def test_reinforce_is_equation_8(when, weight):
    """Property 17: per choice dJ/dalpha = mean over m of (R_m - b)(p - e_{k_m}), with b a moving mean; all networks of an
    update see one batch, and neither weights nor running statistics change."""
    task = Rewarded(lambda i: 0.1 + 0.37 * (i * 7 % 11) / 11)
    strategy = Watched(
        update="reinforce", baseline=when, baseline_weight=weight, reinforce_samples=6, arc_update_every=1,
        arc_learning_rate=0.05,
    )  # fmt: skip
    module = fit(strategy, task=task, n=8)
    assert len(module.steps) == 8
    rewards = [task.asked[6 * i : 6 * i + 6] for i in range(8)]
    baselines = moving(rewards, when, weight)
    assert (len(set(baselines)) == 1) == (when == "never")
    for step, received, baseline in zip(module.steps, rewards, baselines, strict=True):
        for label, expected in by_hand(step, received, baseline).items():
            torch.testing.assert_close(step.grad[label], expected, rtol=1e-9, atol=1e-15)
            assert abs(step.grad[label].sum()) < 1e-15
            assert not torch.equal(step.before[label], step.after[label])
        assert all(torch.equal(value, step.state[1][name]) for name, value in step.state[0].items())
        assert sum(step.runs.values()) == 2 * 6, "property 12: one candidate per choice and network"
    assert any("running_mean" in name for name in module.steps[0].state[0])
    first, last = module.steps[0].state[0], module.steps[-1].state[0]
    assert all(not torch.equal(first[name], last[name]) for name in first if "norm.running_mean" in name)
    assert len({tuple(path.values()) for step in module.steps for path in step.paths}) > 6


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("accuracy", [0.7, 0.1, 1 / 3, 0.123456789])
def test_equal_rewards_in_the_first_update_say_nothing(when, accuracy):
    """Property 17: all R_m equal, so b = mean R = R_m, and the gradient is exactly zero, whatever the mean
    of equal numbers is rounded to."""
    strategy = Watched(update="reinforce", baseline=when, reinforce_samples=10, arc_update_every=1)
    module = fit(strategy, task=Rewarded(lambda i: accuracy), n=1)
    (step,) = module.steps
    for label, grad in step.grad.items():
        assert torch.count_nonzero(grad) == 0, (label, grad)
        assert torch.equal(step.before[label], step.after[label])


def test_reinforce_sees_the_latency_of_each_network():
    """R = accuracy * (latency / T)^w with a plain function as the latency, asked for each network once; the sample that it is
    given names the choice of every label."""
    asked = []

    def latency_ms(sample: dict) -> float:
        asked.append(dict(sample))
        return 10.0 * (1 + sample["first"]) + {"a": 1.0, "b": 2.0, "skip": 0.5}[sample["second"]]

    task = Rewarded(lambda i: 0.5 + 0.01 * (i % 5))
    reward = LatencyReward(latency_ms, target_ms=20.0, exponent=-0.3)
    strategy = Watched(
        update="reinforce", penalty=reward, baseline="never", reinforce_samples=10, arc_update_every=1,
        arc_learning_rate=STILL,
    )  # fmt: skip
    module = fit(strategy, task=task, n=5)
    names = ["a", "b", "skip"]
    drawn = [{"first": path["first"], "second": names[path["second"]]} for step in module.steps for path in step.paths]
    different = {tuple(sample.items()) for sample in drawn}
    assert len(asked) == len(different) < len(drawn)
    assert {tuple(sample.items()) for sample in asked} == different
    for i, step in enumerate(module.steps):
        rewards = [
            accuracy * (latency_ms(sample) / 20.0) ** -0.3
            for accuracy, sample in zip(task.asked[10 * i : 10 * i + 10], drawn[10 * i : 10 * i + 10], strict=True)
        ]
        for label, expected in by_hand(step, rewards, 0.0).items():
            torch.testing.assert_close(step.grad[label], expected, rtol=1e-9, atol=1e-15)


def test_a_latency_penalty_becomes_a_reward():
    """With ``update='reinforce'`` a LatencyPenalty is read as accuracy * (latency / T)^w, of its own profiler and target."""
    space = TwoChoices()
    profiler = per_weight(space, WIDTH)
    strategy = Watched(
        update="reinforce", penalty=LatencyPenalty(profiler, target_ms=70.0), reward_exponent=-0.2, reinforce_samples=4, within_target=False,
        baseline="never", arc_update_every=1, arc_learning_rate=STILL,
    )  # fmt: skip
    task = Rewarded(lambda i: 0.9)
    module = fit(strategy, lambda: space, task=task, n=2)
    assert isinstance(module.penalty, LatencyReward)
    names = ["a", "b", "skip"]
    for step in module.steps:
        samples = [{"first": path["first"], "second": names[path["second"]]} for path in step.paths]
        rewards = [0.9 * (profiler.profile(sample) / 70.0) ** -0.2 for sample in samples]
        for label, expected in by_hand(step, rewards, 0.0).items():
            torch.testing.assert_close(step.grad[label], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("task", [Task, WithForward])
def test_accuracy_is_the_share_of_right_answers_in_training_mode(task):
    """R_m = share of arg max logits that equal the target, of network m on the batch normalised by itself."""
    strategy = Watched(
        update="reinforce", baseline="never", reinforce_samples=5, arc_update_every=1, arc_learning_rate=STILL
    )
    module = fit(strategy, task=task(0.0), n=3)
    module.train()
    seen = set()
    for step in module.steps:
        x, target = step.batch
        rewards = []
        for path in step.paths:
            for gate in module.gates:
                gate.open(path[gate.label])
            rewards.append((module.model(x).argmax(dim=1) == target).double().mean().item())
        seen |= set(rewards)
        for label, expected in by_hand(step, rewards, 0.0).items():
            torch.testing.assert_close(step.grad[label], expected, rtol=1e-6, atol=1e-9)
    assert len(seen) > 2


class Odd(Task):
    """Its batches are dicts."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return super().training_step((batch["x"], batch["y"]), batch_idx)


def test_a_task_without_an_accuracy_is_told_what_to_do():
    """Numbers as targets (NNI's ``Regression``) and batches that are no pairs: a TypeError that names the way out."""
    message = "give it a method architecture_accuracy"
    x = torch.randn(16, WIDTH)
    numbers = DataLoader(TensorDataset(x, torch.randn(16, CLASSES)), batch_size=BATCH)
    strategy = ProxylessNAS(update="reinforce", arc_update_every=1)
    space = strategy.mutate_model(TwoChoices())
    evaluator = Regression(train_dataloaders=numbers, val_dataloaders=numbers, max_epochs=1, **QUIET)
    with pytest.raises(TypeError, match=f"cannot see an accuracy in RegressionModule: .*{message}"):
        strategy.mutate_evaluator(evaluator).evaluate(space)

    pairs = TensorDataset(x.double(), torch.randint(CLASSES, (16,)))
    dicts = DataLoader(
        pairs, batch_size=BATCH,
        collate_fn=lambda rows: {"x": torch.stack([r[0] for r in rows]), "y": torch.stack([r[1] for r in rows])},
    )  # fmt: skip
    with pytest.raises(TypeError, match=f"cannot see an accuracy in Odd: .*{message}"):
        fit(ProxylessNAS(update="reinforce", arc_update_every=1), task=Odd(), train=dicts, held_out=dicts)


class Sizes(ModelSpace):
    """A small candidate and a large one."""

    def __init__(self):
        super().__init__()
        large = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.choice = LayerChoice({"small": nn.Linear(WIDTH, WIDTH), "large": large}, label="choice")
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.choice(x))


@pytest.mark.parametrize("update", ["two-path", "full", "reinforce"])
def test_size_bias_is_of_the_paths_that_train_weights(update):
    """So large that the small candidate has no chance: it never trains; the architecture tries both, drawn from p."""
    strategy = Watched(update=update, size_bias=1e4, arc_update_every=1, reinforce_samples=1)
    module = fit(strategy, Sizes, n=20)
    of_large, of_last = 4, 2  # weights and biases
    assert [len(note["grads"]) for note in module.weight_optimizer.notes] == [of_large + of_last] * 20
    assert {path["choice"] for step in module.steps for path in step.paths} == {0, 1}


@pytest.mark.parametrize("update", ["two-path", "full"])
def test_a_choice_that_did_not_run_has_no_gradient_and_no_state(update):
    """Such a one is a candidate that was not sampled; what the optimizer knows of it is of the steps in which it ran."""
    module = fit(Watched(update=update, arc_update_every=1), kinds.Nested, n=24)
    gates = {gate.label: gate for gate in module.gates}
    ran = [gates["outer"].choices[step.path["outer"]] == 1 for step in module.steps]
    assert [step.grad["inner"] is not None for step in module.steps] == ran
    assert {True, False} == set(ran)
    assert any(1 in step.probed["outer"] and not is_active for step, is_active in zip(module.steps, ran, strict=True))
    assert int(module.architecture_optimizer.optimizer.state[gates["inner"].alpha]["step"]) == sum(ran)
