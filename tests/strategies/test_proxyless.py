"""ProxylessNAS: sampling, the two-path step, the schedule, and whole searches through NNI.

Steps are taken by real fits of Lightning on a small space in float64. :class:`Recording` is the search's own module that
notes its state before and after every architecture step; all it does is call the original and look.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import permutations

import pytest
import pytorch_lightning
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.estimators import pair_shift, sample_pair
from nni_proxyless.strategies.proxyless import ProxylessModule
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import TensorDataset

WIDTH, CLASSES, BATCH = 6, 3, 8
QUIET = {
    "enable_progress_bar": False, "enable_checkpointing": False, "logger": False, "enable_model_summary": False,
    "accelerator": "cpu",
}  # fmt: skip


class TwoChoices(ModelSpace):
    """A choice of n, one with a skip, batch norm in the trunk and in candidates."""

    def __init__(self, n: int = 4):
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.first = LayerChoice([nn.Linear(WIDTH, WIDTH) for _ in range(n)], label="first")
        bent = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh()) for _ in range(2)]
        self.second = LayerChoice({"a": bent[0], "b": bent[1], "skip": nn.Identity()}, label="second")
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.tanh(self.first(self.norm(x)))))


class Task(LightningModule):
    """Cross entropy by SGD with momentum and decay, which would move a candidate that has a gradient of zeros."""

    def __init__(self, learning_rate: float = 0.05):
        super().__init__()
        self.learning_rate = learning_rate
        self.seen: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=0.1)


@dataclass
class Step:
    """One architecture step: when, on which pairs, what was before and after."""

    when: tuple[int, int]
    batch: tuple[Tensor, Tensor]
    pairs: dict[str, tuple[int, int]]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    grad: dict[str, Tensor]
    state_before: dict[str, Tensor]
    state_after: dict[str, Tensor]
    runs: dict[str, int]


class Recording(ProxylessModule):
    """The search's own module, watched."""

    betas = (0.0, 0.999)

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        optimizer = super().configure_architecture_optimizers()
        assert optimizer.param_groups[0]["betas"] == (0.0, 0.999)
        optimizer.param_groups[0]["betas"] = self.betas
        return optimizer

    def alphas(self) -> dict[str, Tensor]:
        return {gate.label: gate.alpha.detach().clone() for gate in self.gates}

    def architecture_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.steps = getattr(self, "steps", [])
        self.pairs: dict[str, tuple[int, int]] = {}
        before, state = self.alphas(), copy.deepcopy(self.training_module.state_dict())
        runs, handles = count_runs(self.model)
        super().architecture_step(batch, batch_idx)
        for handle in handles:
            handle.remove()
        grads = {gate.label: gate.alpha.grad.clone() for gate in self.gates}
        self.steps.append(
            Step((self.trainer.current_epoch, batch_idx), batch, self.pairs, before, self.alphas(), grads, state,
                 copy.deepcopy(self.training_module.state_dict()), runs)
        )  # fmt: skip

    def _open_pair(self, gate, pair):
        self.pairs[gate.label] = pair
        return super()._open_pair(gate, pair)


class WithMomentum(Recording):
    betas = (0.5, 0.999)


class Watched(ProxylessNAS):
    module_class: type[Recording] = Recording

    def configure_oneshot_module(self, training_module):
        module = super().configure_oneshot_module(training_module)
        module.__class__ = self.module_class
        return module


class WatchedWithMomentum(Watched):
    module_class = WithMomentum


def count_runs(model: nn.Module) -> tuple[dict[str, int], list]:
    """How often each candidate has run since; the counter fills as it goes."""
    runs: dict[str, int] = {}
    handles = []
    for label in ("first", "second"):
        for name in getattr(model, label).names:
            key = f"{label}.{name}"
            runs[key] = 0

            def count(*_, key=key):
                runs[key] += 1

            handles.append(getattr(model, label)[name].register_forward_hook(count))
    return runs, handles


def batches(n: int, seed: int = 0, sign: float = 0.0) -> DataLoader:
    """n batches of noise in float64; the first feature carries ``sign`` if there is one, to tell the data apart."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n * BATCH, WIDTH, dtype=torch.float64, generator=generator)
    if sign:
        x[:, 0] = sign * x[:, 0].abs()
    return DataLoader(TensorDataset(x, torch.randint(CLASSES, (n * BATCH,), generator=generator)), batch_size=BATCH)


def fit(strategy, space=None, *, epochs=1, n=4, task=None, callbacks=(), train=None, held_out=None, double=True):
    """Search for real: supernet, evaluator and Lightning's loop as NNI puts them together."""
    torch.manual_seed(0)
    space = strategy.mutate_model(space or TwoChoices())
    evaluator = strategy.mutate_evaluator(
        Lightning(
            task or Task(), Trainer(max_epochs=epochs, callbacks=list(callbacks), **QUIET),
            train_dataloaders=train or batches(n), val_dataloaders=held_out or batches(3, seed=1),
        )
    )  # fmt: skip
    if double:
        space.double()
        evaluator.module.double()
    evaluator.evaluate(space)
    return evaluator.module


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

    n, generator = 20_000, torch.Generator().manual_seed(0)
    drawn = [sample_pair(p, generator) for _ in range(n)]
    observed = [drawn.count(pair) for pair in law]
    assert sum(observed) == n, "every draw is a pair of two different candidates"
    assert stats.chisquare(observed, [n * v for v in law.values()]).pvalue > 1e-6
    active = [sum(a == i for a, _ in drawn) for i in range(4)]
    assert stats.chisquare(active, [n * v for v in p.tolist()]).pvalue < 1e-6


def test_of_two_candidates_the_active_one_follows_p():
    """N=2: the pair is certain, so P(active=0) = p_0, within 5 standard errors (6e-7 if the seed were not fixed)."""
    p, n, generator = torch.tensor([0.3, 0.7]), 5000, torch.Generator().manual_seed(1)
    share = sum(sample_pair(p, generator)[0] == 0 for _ in range(n)) / n
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / n) ** 0.5


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


def gate_gradients(space: TwoChoices, step: Step) -> dict[str, Tensor]:
    """(dL/dy * o_j).sum() for every candidate of both choices, from a forward pass without any code under test."""
    first, second = list(space.first), list(space.second)
    (k, _), (m, _) = step.pairs["first"], step.pairs["second"]
    x, target = step.batch
    normed = nn.functional.batch_norm(x, None, None, space.norm.weight, space.norm.bias, training=True)
    y1 = first[k](normed).detach().requires_grad_()
    y2 = second[m](torch.tanh(y1))
    grad1, grad2 = torch.autograd.grad(nn.functional.cross_entropy(space.last(y2), target), (y1, y2))
    h = torch.tanh(y1)
    return {
        "first": torch.stack([(grad1 * o(normed)).sum() for o in first]).detach(),
        "second": torch.stack([(grad2 * o(h)).sum() for o in second]).detach(),
    }


def test_two_path_gradient_is_its_closed_form():
    """Property 6: dL/dalpha_a = -dL/dalpha_b = q_a q_b (dL/dg_a - dL/dg_b), all other entries exactly 0.

    Weights have learning rate 0, so that the closed form can be computed after the search.
    """
    module = fit(Watched(arc_update_every=1, arc_learning_rate=0.1), n=12, task=Task(learning_rate=0.0))
    module.train()
    assert len(module.steps) == 12
    for step in module.steps:
        expected = gate_gradients(module.model, step)
        for label, (a, b) in step.pairs.items():
            q = torch.softmax(step.before[label][[a, b]], dim=0)
            by_hand = torch.zeros_like(step.before[label])
            by_hand[a] = q[0] * q[1] * (expected[label][a] - expected[label][b])
            by_hand[b] = -by_hand[a]
            torch.testing.assert_close(step.grad[label], by_hand, rtol=1e-8, atol=1e-14)
            assert torch.count_nonzero(step.grad[label]) == 2
            assert abs(step.grad[label].sum()) < 1e-15
    skips = [2 in step.pairs["second"] for step in module.steps]
    assert any(skips), "the skip was in a pair, where its own gate gradient must not be special"
    active_skips = [step for step in module.steps if step.pairs["second"][0] == 2]
    assert active_skips, "with the skip active its block learns as well (the paper's eq. 4; the official code differs)"


def test_two_candidates_get_the_full_gradient():
    """Property 6, N=2: the two-path gradient is eq. 4, p_i (G_i - sum_j p_j G_j)."""
    module = fit(Watched(arc_update_every=1), TwoChoices(n=2), task=Task(learning_rate=0.0))
    module.train()
    for step in module.steps:
        p, given = torch.softmax(step.before["first"], 0), gate_gradients(module.model, step)["first"]
        torch.testing.assert_close(step.grad["first"], p * (given - (p * given).sum()), rtol=1e-8, atol=1e-14)


def assert_only_pairs_moved(steps: list[Step]) -> None:
    """Property 7, for every step."""
    for step in steps:
        for label, (a, b) in step.pairs.items():
            before, after = torch.softmax(step.before[label], 0), torch.softmax(step.after[label], 0)
            moved = after - before
            others = [j for j in range(len(moved)) if j not in (a, b)]
            assert moved[others].abs().max() < 1e-12 if others else True, (step.when, label, moved)
            assert abs(moved[a] + moved[b]) < 1e-12
            assert (moved[a] - moved[b]) * step.grad[label][a] < 0, "against the gradient"


def test_candidates_that_were_not_sampled_keep_their_probability_for_100_steps():
    """Properties 7 and 8: unsampled p_j and p_a + p_b unchanged to 1e-12, p_a - p_b moved downhill, in each of 100 steps."""
    module = fit(Watched(arc_update_every=1, arc_learning_rate=0.05), TwoChoices(n=5), n=100)
    assert len(module.steps) == 100
    assert_only_pairs_moved(module.steps)
    assert {j for step in module.steps for j in step.pairs["first"]} == set(range(5))


def test_a_first_moment_would_move_unsampled_candidates():
    """Property 8, negative: with Adam's beta1 = 0.5 the same check fails, so it can fail."""
    module = fit(WatchedWithMomentum(arc_update_every=1, arc_learning_rate=0.05), TwoChoices(n=5), n=20)
    with pytest.raises(AssertionError):
        assert_only_pairs_moved(module.steps)


def test_an_architecture_step_changes_logits_and_nothing_else():
    """Property 11: weights, buffers and running statistics bitwise unchanged; every block's logits moved.

    Property 12: two candidates run per layer, the active one forward and the other inside backward.
    """
    module = fit(Watched(arc_update_every=1), n=20)
    assert any("running_mean" in name for name in module.steps[0].state_before)
    for step in module.steps:
        assert all(torch.equal(value, step.state_after[name]) for name, value in step.state_before.items())
        assert all(not torch.equal(step.before[label], step.after[label]) for label in step.pairs)
        names = {"first": module.model.first.names, "second": module.model.second.names}
        expected = {f"{label}.{names[label][j]}": 1 for label, pair in step.pairs.items() for j in pair}
        assert {key: runs for key, runs in step.runs.items() if runs} == expected
    moved = (
        module.steps[-1].state_before["_model.norm.running_mean"]
        - module.steps[0].state_before["_model.norm.running_mean"]
    )
    assert moved.abs().min() > 0, "weight steps do track batch statistics"


# -- the weight step -------------------------------------------------------------------------------------------------


class WeightSteps(pytorch_lightning.Callback):
    """State around every batch of a warm-up, in which there are weight steps only."""

    def __init__(self):
        self.before, self.after, self.runs, self.alphas, self.handles = [], [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        runs, self.handles = count_runs(module.model)
        self.runs.append(runs)
        self.before.append(copy.deepcopy(module.model.state_dict()))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        for handle in self.handles:
            handle.remove()
        self.after.append(copy.deepcopy(module.model.state_dict()))
        self.alphas.append({gate.label: (gate.alpha.detach().clone(), gate.alpha.grad) for gate in module.gates})


def test_a_weight_step_trains_the_sampled_path_and_nothing_else():
    """Property 10: with momentum 0.9 and weight decay, an unsampled candidate is bitwise unchanged in every step, the
    sampled one and the trunk change; logits and their gradient are untouched. Property 12: one candidate runs per layer."""
    watch = WeightSteps()
    fit(ProxylessNAS(arc_update_every=1, warmup_epochs=1), n=25, callbacks=[watch])
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
