"""The equations of the three updates, of the schedule and of the weight step, on real fits of Lightning in float64.

:class:`Noting` is the search's own module: it notes what was before and after each architecture step, and lets a test say
which path is sampled there, so that an expectation over all paths is exact. Sampling itself is tested where it is law.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import pytest
import pytorch_lightning
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Regression, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.estimators import reinforce_loss
from nni_proxyless.strategies.oneshot.baseline import MovingBaseline
from nni_proxyless.strategies.proxyless import ProxylessModule
from nni_proxyless.strategies.supernet.gate import Gate
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from nni_proxyless.latency import (
    LatencyPenalty,
    LatencyProfiler,
    LatencyReward,
    LookupTable,
    Measurement,
    trace_operations,
)

WIDTH, CLASSES, BATCH = 6, 3, 8
STILL = 1e-12  # a learning rate that leaves everything where it is, but for rounding
QUIET = {
    "enable_progress_bar": False, "enable_checkpointing": False, "logger": False, "enable_model_summary": False,
    "accelerator": "cpu",
}  # fmt: skip


# -- spaces ------------------------------------------------------------------------------------------------------------


class TwoChoices(ModelSpace):
    """One choice of n, and one with a skip; batch norm in the trunk and in candidates."""

    def __init__(self, n: int = 4):
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.first = LayerChoice([nn.Linear(WIDTH, WIDTH) for _ in range(n)], label="first")
        bent = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh()) for _ in range(2)]
        self.second = LayerChoice({"a": bent[0], "b": bent[1], "skip": nn.Identity()}, label="second")
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.tanh(self.first(self.norm(x)))))


class SideBySide(ModelSpace):
    """y = o_k(x) + o'_m(x): what reaches either choice is affine in y, and so are both choices in each other."""

    def __init__(self):
        super().__init__()
        self.left = LayerChoice([nn.Linear(WIDTH, WIDTH) for _ in range(3)], label="left")
        self.right = LayerChoice([nn.Linear(WIDTH, WIDTH), nn.Tanh()], label="right")

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class NoNorm(ModelSpace):
    """Without batch norm n batches of size B and one of size n*B are the same."""

    def __init__(self):
        super().__init__()
        self.choice = LayerChoice([nn.Linear(WIDTH, WIDTH) for _ in range(5)], label="choice")
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.choice(x)))


# -- fitting -----------------------------------------------------------------------------------------------------------


class Sgd(torch.optim.SGD):
    """Notes what it is given at every step."""

    def step(self, closure=None):
        notes = self.__dict__.setdefault("notes", [])
        grads = [[p.grad.clone() for p in group["params"] if p.grad is not None] for group in self.param_groups]
        notes.append(
            {"lr": [group["lr"] for group in self.param_groups], "grads": [g for group in grads for g in group]}
        )
        return super().step(closure)


class Task(LightningModule):
    """Cross entropy; a loss and an optimizer of the test's own if it has them."""

    def __init__(self, learning_rate: float = 0.05, loss: Callable | None = None, schedule: Callable | None = None):
        super().__init__()
        self.learning_rate, self.loss, self.schedule = learning_rate, loss, schedule

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self.model(x)) if self.loss else nn.functional.cross_entropy(self.model(x), y)

    def configure_optimizers(self):
        optimizer = Sgd(self.model.parameters(), lr=self.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)} if self.schedule else optimizer


@dataclass
class Step:
    """One architecture step."""

    when: tuple[int, int]
    batch: tuple[Tensor, Tensor]
    path: dict[str, int] = field(default_factory=dict)
    paths: list[dict[str, int]] = field(default_factory=list)
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    grad: dict[str, Tensor | None] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    state: list[dict[str, Tensor]] = field(default_factory=list)
    kept: int = 0


class Noting(ProxylessModule):
    """The search's own module, watched. ``script`` holds the path of each step in turn; empty, paths are sampled."""

    def architecture_step(self, batch, batch_idx: int) -> None:
        step = Step((self.trainer.current_epoch, batch_idx), batch)
        handles = self._watch(step)
        step.before = self._logits()
        step.state.append(copy.deepcopy(self.training_module.state_dict()))
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.ndim > 1 and len(tensor) == len(batch[0]):  # of this batch, whatever the number of candidates
                kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            super().architecture_step(batch, batch_idx)
        for handle in handles:
            handle.remove()
        step.kept = len(kept)
        step.after = self._logits()
        step.grad = {g.label: None if g.alpha.grad is None else g.alpha.grad.clone() for g in self.gates}
        step.state.append(copy.deepcopy(self.training_module.state_dict()))
        self.__dict__.setdefault("steps", []).append(step)

    def _logits(self) -> dict[str, Tensor]:
        return {gate.label: gate.alpha.detach().clone() for gate in self.gates}

    def _watch(self, step: Step) -> list:
        """Note the paths as the model runs, and how often each candidate does."""

        def on_forward(*_) -> None:
            step.path = {gate.label: gate.current for gate in self.gates}
            step.paths.append(step.path)

        handles = [self.model.register_forward_pre_hook(on_forward)]
        for gate in self.gates:
            layer = getattr(self.model, gate.label, None)
            for name in layer.names if layer is not None else ():
                key = f"{gate.label}.{name}"
                step.runs[key] = 0

                def count(*_, key=key) -> None:
                    step.runs[key] += 1

                handles.append(layer[name].register_forward_hook(count))
        return handles


class Watched(ProxylessNAS):
    def configure_oneshot_module(self, training_module):
        module = super().configure_oneshot_module(training_module)
        module.__class__ = Noting
        return module


def batches(n: int, seed: int = 0, size: int = BATCH) -> DataLoader:
    """n batches of noise, always the same and in the same order."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n * size, WIDTH, dtype=torch.float64, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(CLASSES, (n * size,), generator=generator)), batch_size=size)


def prepare(strategy, space: ModelSpace, alphas: dict[str, list[float]] | None = None) -> ModelSpace:
    """Supernet in float64, with logits of the test's own."""
    space = strategy.mutate_model(space).double()
    for label, gate in strategy._gates.items():
        gate.double()
        gate.alpha.data += torch.randn(len(gate.choices), generator=torch.Generator().manual_seed(len(label)))
        if alphas and label in alphas:
            gate.alpha.data = torch.tensor(alphas[label], dtype=torch.float64)
    return space


def fit(
    strategy,
    make=TwoChoices,
    *,
    task=None,
    n=4,
    epochs=1,
    train=None,
    held_out=None,
    alphas=None,
    script=(),
    callbacks=(),
):
    """Search for real: supernet, evaluator and Lightning's loop as NNI puts them together."""
    torch.manual_seed(0)
    strategy.log_prob_every_n_step = 10_000
    space = prepare(strategy, make(), alphas)
    evaluator = strategy.mutate_evaluator(
        Lightning(
            task or Task(), Trainer(max_epochs=epochs, callbacks=list(callbacks), **QUIET),
            train_dataloaders=batches(n) if train is None else train,
            val_dataloaders=batches(3, seed=1) if held_out is None else held_out,
        )
    )  # fmt: skip
    evaluator.module.double()
    evaluator.module.script = list(script)
    evaluator.evaluate(space)
    return evaluator.module


@pytest.fixture
def scripted(monkeypatch):
    """From now on each architecture step takes the paths that the test names, in turn; weight steps sample as usual."""
    original_step, original_draw = Noting.architecture_step, Gate.sample_path
    queue: list[dict[str, int]] = []

    def architecture_step(self, batch, batch_idx) -> None:
        queue[:] = [path for path in self.script.pop(0) for _ in self.gates]
        original_step(self, batch, batch_idx)
        queue.clear()

    def sample_path(self, size_bias: float = 0.0) -> int:
        if not queue:
            return original_draw(self, size_bias)
        active = queue.pop(0)[self.label]
        self.open(active)
        return active

    monkeypatch.setattr(Noting, "architecture_step", architecture_step)
    monkeypatch.setattr(Gate, "sample_path", sample_path)


def softmax(alphas: Tensor) -> Tensor:
    return torch.softmax(alphas, dim=0)


# -- the full update ---------------------------------------------------------------------------------------------------


def gate_gradients(space: TwoChoices, step: Step) -> dict[str, Tensor]:
    """(dL/dy * o_j).sum() for every candidate of both choices, from a forward pass without any code under test."""
    first, second = list(space.first), list(space.second)
    x, target = step.batch
    normed = nn.functional.batch_norm(x, None, None, space.norm.weight, space.norm.bias, training=True)
    y1 = first[step.path["first"]](normed).detach().requires_grad_()
    y2 = second[step.path["second"]](torch.tanh(y1))
    grad1, grad2 = torch.autograd.grad(nn.functional.cross_entropy(space.last(y2), target), (y1, y2))
    return {
        "first": torch.stack([(grad1 * o(normed)).sum() for o in first]).detach(),
        "second": torch.stack([(grad2 * o(torch.tanh(y1))).sum() for o in second]).detach(),
    }


def equation_4(alpha: Tensor, gates: Tensor) -> Tensor:
    """dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i)."""
    p = softmax(alpha)
    return p * (gates - (p * gates).sum())


def test_the_full_gradient_is_equation_4():
    """dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i) for every block and step, with the skip active as well; property 2:
    its sum over i is 0; property 12: each of the N candidates runs once; property 11: nothing but logits changes."""
    module = fit(Watched(update="full", arc_update_every=1), n=12, task=Task(0.0))
    module.train()
    assert len(module.steps) == 12
    for step in module.steps:
        for label, given in gate_gradients(module.model, step).items():
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
    p = {label: softmax(alpha) for label, alpha in alphas.items()}
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
    p = {label: softmax(alpha) for label, alpha in logits.items()}
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


def test_with_two_candidates_both_updates_are_the_same():
    """Property 6, second half: for N = 2 the pair is the whole, so two-path and full give the same gradient on the same
    batch and path, and the logits differ by a common shift only."""
    found = {}
    for update in ("two-path", "full"):
        strategy = Watched(update=update, arc_update_every=1, arc_learning_rate=STILL)
        module = fit(strategy, lambda: TwoChoices(n=2), n=24, task=Task(0.0), alphas={"second": [1.0, -1.0, -60.0]})
        found[update] = {(s.when[1] % 3, s.path["first"], s.path["second"]): s.grad["first"] for s in module.steps}
    common = found["two-path"].keys() & found["full"].keys()
    assert len(common) >= 6
    assert {k for _, k, _ in common} == {0, 1}
    for key in common:
        torch.testing.assert_close(found["two-path"][key], found["full"][key], rtol=1e-9, atol=1e-15)


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
    """Property 9: in 1000 networks the active candidate follows p (full, REINFORCE) or that formula (two-path);
    chi-square, false alarms 1e-6 if the seed were not fixed, and the same draws reject the other law."""
    p = [0.255, 0.127, 0.464, 0.154]
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
        update=update, arc_update_every=1, arc_update_steps=100 if update != "reinforce" else 10, arc_learning_rate=STILL,
        reinforce_samples=10,
    )  # fmt: skip
    fit(strategy, JustAChoice, task=Accurate(0.0), n=10, alphas={"choice": [math.log(q) for q in p]})
    assert sum(counts) == 1000
    laws = {"p": p, "pair": active_law(p)}
    right = "pair" if update == "two-path" else "p"
    pvalues = {name: stats.chisquare(counts, [1000 * q for q in law]).pvalue for name, law in laws.items()}
    assert pvalues.pop(right) > 1e-6
    assert max(pvalues.values()) < 1e-3


@pytest.mark.parametrize(("update", "expected"), [("two-path", 2), ("full", 5), ("reinforce", 7)])
def test_how_many_candidates_run_in_an_architecture_step(update, expected):
    """Property 12: per choice two in two-path, all N in full, one per network in REINFORCE (M = 7, N = 5)."""
    strategy = Watched(update=update, arc_update_every=1, reinforce_samples=7)
    module = fit(strategy, NoNorm, n=6, task=WithForward())
    assert len(module.steps) == 6
    for step in module.steps:
        assert sum(step.runs.values()) == expected
        if update == "full":
            assert set(step.runs.values()) == {1}


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


class OneOfN(ModelSpace):
    def __init__(self, n: int):
        super().__init__()
        self.choice = LayerChoice([nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(n)], label="choice")
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.choice(x)))


@pytest.mark.parametrize("update", ["two-path", "full"])
def test_activations_kept_by_an_architecture_step_do_not_grow_with_the_candidates(update):
    """Property 13: different activations that backward keeps, for N = 2 and N = 12; a naive mixture keeps ever more."""
    kept = {}
    for make in (OneOfN, Naive):
        for n in (2, 12):
            module = fit(Watched(update=update, arc_update_every=1), lambda make=make, n=n: make(n), n=3)
            kept[make, n] = [step.kept for step in module.steps][1:]  # the first step copies
    assert kept[OneOfN, 12] == kept[OneOfN, 2]
    assert kept[OneOfN, 2][0] > 0
    assert min(kept[Naive, 12]) > 2 * max(kept[Naive, 2])


# -- the skip ----------------------------------------------------------------------------------------------------------


def latency(space: TwoChoices) -> LatencyProfiler:
    """Milliseconds that are different for every candidate."""
    rows = {
        operation.key: Measurement(ms, ms, 1)
        for operation in trace_operations(space, (WIDTH,))
        for ms in [float(sum(p.numel() for p in operation.module.parameters()))]
    }
    profiler = LatencyProfiler(space, LookupTable(rows), (WIDTH,))
    for costs in profiler.candidate_ms.values():
        assert max(costs.values()) > 0
    return profiler


@pytest.mark.parametrize("update", ["two-path", "full"])
@pytest.mark.parametrize("moves", [True, False])
def test_an_active_skip_stops_its_block_or_does_not(update, moves):
    """Property 14. With ``update_active_skip=False`` the block's logits are bitwise what they were when the skip is active,
    the cost's gradient discarded with the task's, and its neighbour learns on. With True they follow eq. 4 plus the cost."""
    space = TwoChoices()
    penalty = LatencyPenalty(latency(space), target_ms=50.0, weight=0.5)
    strategy = Watched(
        update=update,
        update_active_skip=moves,
        penalty=penalty,
        arc_update_every=1,
        arc_learning_rate=0.01,
        within_target=False,
    )
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
    profiler = latency(space)
    costs = torch.tensor(list(profiler.candidate_ms["second"].values()), dtype=torch.float64)
    assert costs[2] == 0 < costs[0], "a skip costs nothing"
    penalty = LatencyPenalty(profiler, target_ms=target, weight=weight)
    strategy = Watched(update="full", penalty=penalty, arc_update_every=1, within_target=False)
    module = fit(strategy, lambda: space, n=12, task=Task(0.0))
    module.train()
    assert any(step.path["second"] == 2 for step in module.steps)
    for step in module.steps:
        expected = equation_4(step.before["second"], gate_gradients(module.model, step)["second"])
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
        p = softmax(alpha)
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


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_moving_baseline(when):
    """Means 0.2, 0.6, 0.4 and weight 0.9: first the mean itself; then b + 0.9 (mean - b), or b before that."""
    baseline = MovingBaseline(0.9, when)
    means = [0.2, 0.6, 0.4]
    expected = {
        "before": [0.2, 0.2 + 0.9 * 0.4, 0.56 + 0.9 * (0.4 - 0.56)], "after": [0.2, 0.2, 0.56], "never": [0, 0, 0],
    }[when]  # fmt: skip
    assert [baseline.next(mean) for mean in means] == pytest.approx(expected, abs=1e-15)


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
    profiler = latency(space)
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


def test_accuracy_is_the_share_of_right_answers_in_training_mode():
    """R_m = share of arg max logits that equal the target, of network m on the batch normalised by itself."""
    strategy = Watched(
        update="reinforce", baseline="never", reinforce_samples=5, arc_update_every=1, arc_learning_rate=STILL
    )
    module = fit(strategy, task=Task(0.0), n=3)
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
    module = fit(strategy, Sizes, n=20, task=WithForward())
    of_large, of_last = 4, 2  # weights and biases
    assert [len(note["grads"]) for note in module.weight_optimizer.notes] == [of_large + of_last] * 20
    assert {path["choice"] for step in module.steps for path in step.paths} == {0, 1}


# -- the schedule ------------------------------------------------------------------------------------------------------


SCHEDULES = [
    {"n": 12, "every": 5},  # floor(12 / 5) per epoch
    {"n": 10, "every": 5, "warmup": 1},
    {"n": 6, "every": 2, "start": 1},
    {"n": 6, "every": 2, "warmup": 1, "start": 1},
    {"n": 6, "every": 3, "steps": 4},
    {"n": 9, "every": 2, "accumulate": 2},  # 5 weight steps, the last one on a single batch
    {"n": 8, "every": 1, "accumulate": 3, "steps": 2, "warmup": 1},
]


@pytest.mark.parametrize("options", SCHEDULES, ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()))
@pytest.mark.parametrize("update", ["two-path", "full", "reinforce"])
def test_schedule(options, update):
    """Property 18: floor(weight steps / arc_update_every) updates per epoch, each of arc_update_steps steps and right after
    its weight step, counted anew in every epoch; none in the first warmup_epochs + arc_start_epoch epochs. A weight step is
    accumulate_grad_batches batches, the last one of an epoch maybe fewer."""
    n, every = options["n"], options["every"]
    accumulate, steps = options.get("accumulate", 1), options.get("steps", 1)
    silent = options.get("warmup", 0) + options.get("start", 0)
    strategy = Watched(
        update=update, arc_update_every=every, arc_update_steps=steps, arc_start_epoch=options.get("start", 0),
        warmup_epochs=options.get("warmup", 0), accumulate_grad_batches=accumulate, reinforce_samples=1,
    )  # fmt: skip
    module = fit(strategy, NoNorm, n=n, epochs=3, task=WithForward())
    stepped = [i for i in range(n) if (i + 1) % accumulate == 0 or i == n - 1]
    in_an_epoch = [i for k, i in enumerate(stepped) if (k + 1) % every == 0]
    assert len(in_an_epoch) == math.ceil(n / accumulate) // every
    expected = [(epoch, i) for epoch in range(silent, 3) for i in in_an_epoch for _ in range(steps)]
    assert [step.when for step in module.steps] == expected
    assert len(module.weight_optimizer.notes) == 3 * math.ceil(n / accumulate)


def test_fewer_weight_steps_than_an_update_needs_are_refused():
    """9 batches are 3 weight steps of 3: an update after every 4th would never come."""
    strategy = ProxylessNAS(arc_update_every=4, accumulate_grad_batches=3)
    with pytest.raises(
        MisconfigurationException, match="arc_update_every is 4, but an epoch has only 9 batches, 3 to a"
    ):
        fit(strategy, NoNorm, n=9)


class Groups(Task):
    """Two groups of weights, the second one at a tenth of the learning rate, and a schedule per batch."""

    def __init__(self, schedule: Callable | None = None):
        super().__init__()
        self.make_schedule = schedule

    def configure_optimizers(self):
        last = list(self.model.last.parameters())
        rest = [p for name, p in self.model.named_parameters() if not name.startswith("last.")]
        optimizer = Sgd([{"params": rest, "lr": 0.08}, {"params": last, "lr": 0.008}], lr=1.0)
        if self.make_schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_schedule(optimizer), "interval": "step"},
        }


def cosine_to_zero(optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)


def ramp(optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """From 0 in a straight line, as many recipes begin."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 4))


def rates_of(schedule: Callable | None, n: int) -> list[list[float]]:
    """What the evaluator's own schedule gives the optimizer at each of n steps."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": parameters[:1], "lr": 0.08}, {"params": parameters[1:], "lr": 0.008}], lr=1.0
    )
    scheduler = schedule(optimizer) if schedule else None
    rates = []
    for _ in range(n):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if scheduler:
            scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", [None, cosine_to_zero, ramp])
def test_warm_up_has_a_schedule_of_its_own(schedule):
    """Property 18: at batch t of the T = 12 of a warm-up the optimizer sees 0.4 * 0.5 (1 + cos(pi t / T)), the second group a
    tenth of it; then the search begins with the evaluator's own learning rate and schedule, at their beginning."""
    strategy = Watched(warmup_epochs=2, warmup_learning_rate=0.4, arc_update_every=2)
    module = fit(strategy, NoNorm, task=Groups(schedule), n=6, epochs=4)
    seen = [note["lr"] for note in module.weight_optimizer.notes]
    factors = [0.4 * 0.5 * (1 + math.cos(math.pi * t / 12)) for t in range(12)]
    assert factors[0] == 0.4 > factors[-1] > 0
    for got, factor in zip(seen[:12], factors, strict=True):
        assert got == pytest.approx([factor, factor / 10], rel=1e-12)
    for got, expected in zip(seen[12:], rates_of(schedule, 12), strict=True):
        assert got == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_without_a_warm_up_rate_the_evaluators_schedule_runs_from_the_start():
    """warmup_learning_rate None: the same rates as without warm-up."""
    module = fit(Watched(warmup_epochs=2, arc_update_every=2), NoNorm, task=Groups(cosine_to_zero), n=6, epochs=3)
    for note, expected in zip(module.weight_optimizer.notes, rates_of(cosine_to_zero, 18), strict=True):
        assert note["lr"] == pytest.approx(expected, rel=1e-12)


class Endless:
    """Data of unknown length."""

    def __iter__(self):
        yield from batches(4)


def test_a_warm_up_rate_needs_to_know_how_long_the_warm_up_is():
    """T is unknown for data without a length: a refusal, or finite weights; never a learning rate that is no number."""
    strategy = Watched(warmup_epochs=1, warmup_learning_rate=0.4, arc_update_every=2)
    try:
        module = fit(strategy, NoNorm, train=Endless(), epochs=2)
    except (MisconfigurationException, ValueError) as error:
        assert "warmup_learning_rate" in str(error)  # noqa: PT017  (both outcomes are right)
        return
    assert all(math.isfinite(rate) for note in module.weight_optimizer.notes for rate in note["lr"])


# -- clipping and accumulation -----------------------------------------------------------------------------------------


def first_gradients(**arguments) -> list[Tensor]:
    """What the optimizer is given at the first weight step."""
    module = fit(Watched(arc_update_every=1, **arguments), NoNorm, task=Task(loss=lambda y: 50 * (y**2).sum()), n=3)
    return module.weight_optimizer.notes[0]["grads"]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def test_clipping_by_norm():
    """g <- g * c / |g| where |g| > c, over all weights together; a norm below c is left alone."""
    free, clipped = flat(first_gradients()), flat(first_gradients(gradient_clip_val=0.5))
    assert free.norm() > 10
    assert clipped.norm().item() == pytest.approx(0.5, rel=1e-5)
    torch.testing.assert_close(clipped, free * 0.5 / free.norm(), rtol=1e-5, atol=0)
    assert torch.equal(flat(first_gradients(gradient_clip_val=1e9)), free)


def test_clipping_by_value():
    """g_i <- min(max(g_i, -c), c), element by element."""
    free = flat(first_gradients())
    clipped = flat(first_gradients(gradient_clip_val=60.0, gradient_clip_algorithm="value"))
    assert free.abs().max() > 60.0 > free.abs().min()
    assert torch.equal(clipped, free.clamp(-60.0, 60.0))


@pytest.mark.parametrize("schedule", [None, cosine_to_zero])
def test_n_batches_are_one_batch_n_times_as_large(schedule):
    """Mean loss over n batches of B = mean loss over one of nB: accumulating 3 batches of 8 gives the weights, the paths and
    the learning rates that batches of 24 give. Batches that are left over at the end of an epoch step as well."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16 * BATCH, WIDTH, dtype=torch.float64, generator=generator)
    data = TensorDataset(x, torch.randint(CLASSES, (len(x),), generator=generator))

    def search(size: int, accumulate: int, n: int):
        part = torch.utils.data.Subset(data, range(n))
        return fit(
            Watched(arc_update_every=1, arc_learning_rate=0.05, accumulate_grad_batches=accumulate), NoNorm,
            task=Groups(schedule), train=DataLoader(part, batch_size=size), epochs=2,
        )  # fmt: skip

    few, many = search(24, 1, 5 * 24), search(8, 3, 5 * 24)
    assert len(few.weight_optimizer.notes) == len(many.weight_optimizer.notes) == 10
    assert [note["lr"] for note in few.weight_optimizer.notes] == [note["lr"] for note in many.weight_optimizer.notes]
    for a, b in zip(few.model.parameters(), many.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    for a, b in zip(few.steps, many.steps, strict=True):
        torch.testing.assert_close(a.after["choice"], b.after["choice"], rtol=1e-10, atol=1e-13)

    # 16 batches of 8: the sixteenth is a step of its own, a third of what it would be alone (as in Lightning).
    left = search(8, 3, 16 * 8)
    assert len(left.weight_optimizer.notes) == 2 * 6


class Paths(pytorch_lightning.Callback):
    """The path of every batch, as the model runs it."""

    def __init__(self):
        self.paths: list[int] = []

    def on_train_start(self, trainer, module) -> None:
        gate = module.gates[0]
        module.model.register_forward_pre_hook(lambda *_: None if gate.probing else self.paths.append(gate.current))


def test_the_path_stays_while_gradients_accumulate():
    """Batches of one weight step share one path and the next step draws anew, also when the epoch ends early."""
    watch = Paths()
    strategy = ProxylessNAS(arc_update_every=2, accumulate_grad_batches=4)
    module = fit(strategy, NoNorm, n=10, epochs=6, callbacks=[watch], task=Task(0.05))
    assert len(watch.paths) == 60
    steps = [watch.paths[10 * e + i : 10 * e + min(i + 4, 10)] for e in range(6) for i in (0, 4, 8)]
    assert all(len(set(step)) == 1 for step in steps)
    assert {len(step) for step in steps} == {4, 2}
    assert len({step[0] for step in steps}) > 2
    assert len(module.weight_optimizer.notes) == 18
    for step, note in zip(steps, module.weight_optimizer.notes, strict=True):
        assert len(note["grads"]) == 4, f"one candidate of {step} and the last layer"


# -- held-out data -----------------------------------------------------------------------------------------------------


class Counted(Dataset):
    """Notes what is loaded."""

    def __init__(self, n: int):
        self.data, self.loaded = batches(n, seed=1).dataset, []

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        self.loaded.append(index)
        return self.data[index]


@pytest.mark.parametrize("update", ["two-path", "full", "reinforce"])
def test_held_out_batches_are_loaded_for_the_steps_that_use_them_and_no_other(update):
    """6 batches an epoch, an update of 2 steps after every 4th, none in the first epoch: 4 batches of the held-out data, in
    their order and beginning again after the third; NNI's own strategies load one for every training batch."""
    held_out = Counted(3)
    strategy = Watched(update=update, arc_update_every=4, arc_update_steps=2, warmup_epochs=1, reinforce_samples=3)
    module = fit(strategy, n=6, epochs=3, held_out=DataLoader(held_out, batch_size=BATCH))
    assert len(module.steps) == 4
    assert held_out.loaded == [*range(3 * BATCH), *range(BATCH)]
    for step, batch in zip(module.steps, [0, 1, 2, 0], strict=True):
        expected = torch.stack([held_out.data[batch * BATCH + i][0] for i in range(BATCH)])
        assert torch.equal(step.batch[0], expected)
