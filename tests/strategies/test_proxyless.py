"""ProxylessNAS: sampling, the two-path step, and the weight step, on real fits of Lightning in float64."""

from __future__ import annotations

import copy
from itertools import permutations
from typing import Any

import pytest
import pytorch_lightning
import torch
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.estimators import pair_shift, sample_pair
from scipy import stats

from .spaces import TwoChoices, gate_gradients
from .watched import Noting, Step, Task, Watched, count_runs, fit


def restless() -> Task:
    """Momentum and decay would move a candidate that has a gradient of zeros."""
    return Task(momentum=0.9, weight_decay=0.1)


# -- sampling --------------------------------------------------------------------------------------------------------


def pair_law(p: list[float]) -> dict[tuple[int, int], float]:
    """P(active=a, other=b) = p_a p_b [1/(1-p_a) + 1/(1-p_b)] p_a/(p_a+p_b) (docs/methods/proxyless.md)."""
    return {
        (a, b): p[a] * p[b] * (1 / (1 - p[a]) + 1 / (1 - p[b])) * p[a] / (p[a] + p[b])
        for a, b in permutations(range(len(p)), 2)
    }


def test_a_pair_is_drawn_without_replacement_and_the_active_one_from_the_pair():
    """Property 9: ordered pairs follow that law (chi-square over all 12; false alarms 1e-6 if the seed were not fixed),
    and the same draws tell that law from "the active candidate follows p"."""
    p = torch.tensor([0.255, 0.127, 0.464, 0.154], dtype=torch.float64)
    law = pair_law(p.tolist())
    active_law = [sum(v for (a, _), v in law.items() if a == i) for i in range(4)]
    assert sum(active_law) == pytest.approx(1, abs=1e-12)
    assert active_law == pytest.approx([0.250, 0.085, 0.548, 0.117], abs=2e-3)  # to three digits

    n, generator = 5000, torch.Generator().manual_seed(0)
    drawn = [sample_pair(p, generator) for _ in range(n)]
    observed = [drawn.count(pair) for pair in law]
    assert sum(observed) == n, "every draw is a pair of two different candidates"
    assert stats.chisquare(observed, [n * v for v in law.values()]).pvalue > 1e-6
    active = [sum(a == i for a, _ in drawn) for i in range(4)]
    assert stats.chisquare(active, [n * v for v in p.tolist()]).pvalue < 1e-6


def test_a_candidate_of_probability_zero_can_be_the_second_but_not_the_active_one():
    """Softmax underflows for logits far apart; the draw must neither fail nor activate such a candidate."""
    generator = torch.Generator().manual_seed(0)
    assert {sample_pair(torch.tensor([1.0, 0.0, 0.0]), generator) for _ in range(200)} == {(0, 1), (0, 2)}


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        ([1.0], "a pair needs at least two candidates, not 1"),
        ([0.5, float("nan")], r"probabilities of the candidates are not finite: \[0.5, nan\]"),
    ],
)
def test_no_pair_from_these(probs, message):
    with pytest.raises(ValueError, match=message):
        sample_pair(torch.tensor(probs), torch.Generator())


def test_the_shift_keeps_the_mass_of_a_pair():
    """e^(a'-s) + e^(b'-s) = e^a + e^b, also for logits that exp would overflow on."""
    before, after = torch.tensor([800.0, 799.0], dtype=torch.float64), torch.tensor([801.5, 790.0], dtype=torch.float64)
    shifted = after - pair_shift(before, after)
    assert torch.logsumexp(shifted, 0) == pytest.approx(torch.logsumexp(before, 0).item(), abs=1e-12)
    assert shifted[0] - shifted[1] == pytest.approx(11.5)


# -- the two-path step ------------------------------------------------------------------------------------------------


def test_two_path_gradient_is_its_closed_form():
    """Property 6: dL/dalpha_a = -dL/dalpha_b = q_a q_b (dL/dg_a - dL/dg_b), all other entries exactly 0; where there are two
    candidates, q is p, and that is eq. 4. With the skip active its block learns as well, and in a pair its own gate gradient
    is nothing special (the paper; the official code differs).

    Weights have learning rate 0, so that the closed form can be computed after the search.
    """
    for n in (4, 2):
        strategy = Watched(arc_update_every=1, arc_learning_rate=0.1)
        module = fit(strategy, lambda n=n: TwoChoices(n), n=12, task=Task(0.0), alphas={"second": [0.0, 0.1, 0.2]})
        module.train()
        assert len(module.steps) == 12
        for step in module.steps:
            expected = gate_gradients(module.model, step.path, *step.batch)
            for label, (a, b) in step.probed.items():
                q = torch.softmax(step.before[label][[a, b]], dim=0)
                by_hand = torch.zeros_like(step.before[label])
                by_hand[a] = q[0] * q[1] * (expected[label][a] - expected[label][b])
                by_hand[b] = -by_hand[a]
                torch.testing.assert_close(step.grad[label], by_hand, rtol=1e-8, atol=1e-14)
                assert torch.count_nonzero(step.grad[label]) == 2
                assert abs(step.grad[label].sum()) < 1e-15
        assert {step.path["second"] for step in module.steps} == {0, 1, 2}


def assert_only_pairs_moved(steps: list[Step]) -> None:
    """Property 7, for every step."""
    for step in steps:
        for label, (a, b) in step.probed.items():
            before, after = torch.softmax(step.before[label], 0), torch.softmax(step.after[label], 0)
            moved = after - before
            others = [j for j in range(len(moved)) if j not in (a, b)]
            assert moved[others].abs().max() < 1e-12 if others else True, (step.when, label, moved)
            assert abs(moved[a] + moved[b]) < 1e-12
            assert (moved[a] - moved[b]) * step.grad[label][a] < 0, "against the gradient"


EQUAL = {"first": [0.0] * 5, "second": [0.0] * 3}


def test_candidates_that_were_not_sampled_keep_their_probability_for_50_steps():
    """Properties 7 and 8: unsampled p_j and p_a + p_b unchanged to 1e-12, p_a - p_b moved downhill, in each of 50 steps."""
    strategy = Watched(arc_update_every=1, arc_learning_rate=0.05)
    module = fit(strategy, lambda: TwoChoices(5), n=50, task=restless(), alphas=EQUAL)
    assert len(module.steps) == 50
    assert_only_pairs_moved(module.steps)
    assert {j for step in module.steps for j in step.probed["first"]} == set(range(5))


def test_a_first_moment_would_move_unsampled_candidates():
    """Property 8, negative: with Adam's beta1 = 0.5 the same check fails, so it can fail."""

    class WithMomentum(Noting):
        def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
            optimizer = super().configure_architecture_optimizers()
            optimizer.param_groups[0]["betas"] = (0.5, 0.999)
            return optimizer

    strategy = Watched(arc_update_every=1, arc_learning_rate=0.05)
    strategy.watched_class = WithMomentum
    module = fit(strategy, lambda: TwoChoices(5), n=20, alphas=EQUAL)
    with pytest.raises(AssertionError):
        assert_only_pairs_moved(module.steps)


def test_an_architecture_step_changes_logits_and_nothing_else():
    """Property 11: weights, buffers and running statistics bitwise unchanged; every block's logits moved.

    Property 12: two candidates run per layer, the active one forward and the other inside backward.
    """
    module = fit(Watched(arc_update_every=1), n=10, task=restless())
    for step in module.steps:
        assert all(torch.equal(value, step.state[1][name]) for name, value in step.state[0].items())
        assert all(not torch.equal(step.before[label], step.after[label]) for label in step.probed)
        names = {"first": module.model.first.names, "second": module.model.second.names}
        expected = {f"{label}.{names[label][j]}": 1 for label, pair in step.probed.items() for j in pair}
        assert {key: runs for key, runs in step.runs.items() if runs} == expected
    first, last = (module.steps[i].state[0]["_model.norm.running_mean"] for i in (0, -1))
    assert (last - first).abs().min() > 0, "weight steps do track batch statistics"


# -- the weight step -------------------------------------------------------------------------------------------------


class WeightSteps(pytorch_lightning.Callback):
    """State around every batch of a warm-up, in which there are weight steps only."""

    def __init__(self):
        self.before, self.after, self.runs, self.alphas, self.handles = [], [], [], [], []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        runs, self.handles = count_runs(module.model, ["first", "second"])
        self.runs.append(runs)
        self.before.append(copy.deepcopy(module.model.state_dict()))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for handle in self.handles:
            handle.remove()
        self.after.append(copy.deepcopy(module.model.state_dict()))
        self.alphas.append({gate.label: (gate.alpha.detach().clone(), gate.alpha.grad) for gate in module.gates})


def test_a_weight_step_trains_the_sampled_path_and_nothing_else():
    """Property 10: with momentum 0.9 and weight decay, an unsampled candidate is bitwise unchanged in every step, the
    sampled one and the trunk change; logits and their gradient are untouched. Property 12: one candidate runs per layer."""
    watch = WeightSteps()
    strategy = ProxylessNAS(arc_update_every=1, warmup_epochs=1)
    fit(strategy, n=25, task=restless(), callbacks=[watch], alphas={"first": [0.0] * 4, "second": [0.0] * 3})
    sampled_at = set()
    for before, after, runs, alphas in zip(watch.before, watch.after, watch.runs, watch.alphas, strict=True):
        for label in ("first", "second"):
            assert sum(n for key, n in runs.items() if key.startswith(label)) == 1
        for key, ran in runs.items():
            names = [name for name in before if name.startswith(f"{key}.") and "num_batches" not in name]
            same = [torch.equal(before[name], after[name]) for name in names]
            assert not any(same) if ran else all(same), key
            sampled_at |= {key} if ran else set()
        assert not torch.equal(before["last.weight"], after["last.weight"])
        assert all(grad is None for _, grad in alphas.values())
        assert all(torch.equal(alpha, watch.alphas[0][label][0]) for label, (alpha, _) in alphas.items())
    assert len(sampled_at) == 7, "every candidate was sampled at least once, so momentum had something to move later"


def test_logits_are_in_their_own_optimizer_only_in_the_order_of_labels():
    """An optimizer's state is stored by position, so the order must not depend on a set; weight decay is off."""
    module = fit(ProxylessNAS(arc_update_every=4))
    weights, architecture = module.trainer.optimizers
    alphas = [gate.alpha for gate in module.gates]
    assert [gate.label for gate in module.gates] == ["first", "second"]
    assert [id(p) for p in architecture.param_groups[0]["params"]] == [id(alpha) for alpha in alphas]
    assert (architecture.param_groups[0]["betas"], architecture.param_groups[0]["weight_decay"]) == ((0.0, 0.999), 0)
    held = {id(p) for group in weights.param_groups for p in group["params"]}
    assert held == {id(p) for p in module.model.parameters()}
    assert not held & {id(alpha) for alpha in alphas}
