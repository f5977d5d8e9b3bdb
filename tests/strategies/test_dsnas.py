"""The equations of DSNAS, its stages and its child, on real fits of Lightning in float64.

:class:`Noting` is the search's own module: it notes the gradient of the logits at every step, and lets a test say which path
is sampled, so that an expectation over all paths is exact.
"""

from __future__ import annotations

import copy
import functools
import gc
import math
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
import torch
from nni.mutable import MutableExpression
from nni.nas.evaluator.pytorch import Classification, DataLoader, Lightning, LightningModule
from nni.nas.experiment import NasExperiment
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from nni.nas.profiler import ExpressionProfiler
from nni_proxyless.strategies import DSNAS
from nni_proxyless.strategies.dsnas import DSNASModule
from nni_proxyless.strategies.estimators import is_decided, loss_reward_term
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from nni_proxyless.latency import LatencyPenalty

from .searches import OF_EXPERIMENTS, QUIET, quiet_trainer
from .spaces import CLASSES, WIDTH, TwoChoices, linear

BATCH = 8
STILL = 1e-12  # a learning rate that leaves everything where it is, but for rounding
REWARDS = ("loss", "gradient")

pytestmark = OF_EXPERIMENTS


# -- spaces ------------------------------------------------------------------------------------------------------------


class TwoLayers(TwoChoices):
    """With three candidates in each."""

    def __init__(self):
        super().__init__(3)


class Chain(ModelSpace):
    """Two choices, each before a layer that keeps its input for backward, as convolutions do."""

    def __init__(self, n: int):
        super().__init__()
        self.first, self.second = (
            LayerChoice([nn.Sequential(linear(), nn.Tanh()) for _ in range(n)], label=f"choice{i}") for i in range(2)
        )
        self.between, self.last = linear(), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.between(self.first(x))))


class OneLayer(ModelSpace):
    """y itself."""

    def __init__(self):
        super().__init__()
        self.choice = LayerChoice([linear() for _ in range(4)], label="choice")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(x)


class Everything(ModelSpace):
    """Every kind of choice, one inside another."""

    def __init__(self):
        super().__init__()
        inner = LayerChoice([linear(), linear()], label="inner")
        self.outer = LayerChoice({"nested": nn.Sequential(inner, nn.Tanh()), "plain": linear()}, label="outer")
        self.repeat = Repeat(linear, (1, 3), label="depth")
        self.inputs = InputChoice(3, 2, label="inputs")
        self.norm, self.last = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = self.outer(x)
        return self.last(self.norm(self.inputs([x, a, torch.tanh(self.repeat(a))])))


class Million(ExpressionProfiler):
    """Cost of :class:`TwoLayers` by a table in the code."""

    first = (100.0, 130.0, 170.0)
    second = {"a": 120.0, "b": 60.0, "skip": 0.0}  # noqa: RUF012  (a constant)
    fixed = 10.0

    def __init__(self, space: ModelSpace):
        mutables = space.simplify()
        self.expression = (
            MutableExpression.switch_case(mutables["first"], dict(enumerate(self.first)))
            + MutableExpression.switch_case(mutables["second"], self.second)
            + self.fixed
        )


# -- fitting -----------------------------------------------------------------------------------------------------------


class Task(LightningModule):
    def __init__(self, loss: Callable[[Tensor], Tensor] | None = None, optimizer: Callable[..., Any] | None = None):
        super().__init__()
        self.loss = loss
        self.optimizer = optimizer or (lambda p: torch.optim.SGD(p, lr=STILL))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        out = self.model(x)
        return self.loss(out) if self.loss else functional.cross_entropy(out, y)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.model.parameters())


@dataclass
class Step:
    """One step with logits that move."""

    epoch: int
    path: dict[str, int]
    batch: Any
    before: dict[str, Tensor]
    loss: float
    baseline: float
    grad: dict[str, Tensor | None] = field(default_factory=dict)
    weight_grad: dict[str, Tensor] = field(default_factory=dict)


class Noting(DSNASModule):
    """The search's own module, watched. ``script`` holds the path of each batch in turn; empty, paths are sampled."""

    def prepare(self, script: list[dict[str, int]]) -> None:
        self.script, self.steps, self.epochs = list(script), [], []
        self.on_batch: Callable[[Any, int], None] = lambda module, batch_idx: None
        for gate in self.gates:
            sample = gate.sample_path

            def sampled(*how: Any, gate=gate, sample=sample) -> int:
                return self.script[0][gate.label] if self.script else sample(*how)

            gate.sample_path = sampled

    def search_step(self, batch: Any, batch_idx: int) -> Any:
        result = super().search_step(batch, batch_idx)
        if batch_idx == 0:
            self.epochs.append(
                {
                    "alpha": {g.label: g.alpha.detach().clone() for g in self.gates},
                    "fixed": [g.label for g in self.fixed],
                    "learning": self.learning,
                }
            )
        if self.script:
            self.script.pop(0)
        self.on_batch(self, batch_idx)
        return result

    def objective(self, loss: Tensor) -> Tensor:
        if self.learning:
            self.steps.append(
                Step(
                    self.trainer.current_epoch,
                    {g.label: g.current for g in self.gates},
                    None,
                    {g.label: g.alpha.detach().clone() for g in self.gates},
                    float(loss.detach()),
                    float(loss.detach()) if self.baseline.value is None else self.baseline.value,
                )
            )
        return super().objective(loss)

    def _step_logits(self, scale: float) -> None:
        step = self.steps[-1]
        step.grad = {g.label: None if g.alpha.grad is None else g.alpha.grad.clone() for g in self.gates}
        step.weight_grad = {n: p.grad.clone() for n, p in self.training_module.named_parameters() if p.grad is not None}
        super()._step_logits(scale)


class Watched(DSNAS):
    script: list[dict[str, int]] = []  # noqa: RUF012  (a constant)

    def configure_oneshot_module(self, training_module: LightningModule) -> DSNASModule:
        module = super().configure_oneshot_module(training_module)
        module.__class__ = Noting
        module.prepare(self.script)
        return module


def images(n: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, WIDTH, generator=generator, dtype=torch.float64)
    return TensorDataset(x, x[:, :CLASSES].argmax(dim=1))


def prepare(
    space: ModelSpace, strategy: Any, task: Task | None = None, *, epochs: int = 3, data: Any = None, **trainer: Any
) -> tuple[Any, Callable[[], None]]:
    """The module of a search, and what runs it."""
    space = strategy.mutate_model(space).double()
    trainer = {"max_epochs": epochs, "precision": "64-true", **trainer}
    loader = DataLoader(images(BATCH) if data is None else data, batch_size=BATCH)
    evaluator = strategy.mutate_evaluator(
        Lightning(
            task or Task(),
            quiet_trainer(**trainer),
            train_dataloaders=loader, val_dataloaders=loader if strategy.needs_held_out_data else None,
        )
    )  # fmt: skip
    return evaluator.module, lambda: evaluator.evaluate(space)


def search(space: ModelSpace, strategy: DSNAS, task: Task | None = None, **options: Any) -> Any:
    module, run = prepare(space, strategy, task, **options)
    run()
    return module


class Spread(Watched):
    """With logits far from uniform, which stand still, as weights do; no choice is fixed."""

    def __init__(self, **options: Any):
        super().__init__(
            **{"arc_learning_rate": STILL, "fix_gap": 1.0, "search_epochs": max(1, len(self.script)), **options}
        )

    def configure_oneshot_module(self, training_module: LightningModule) -> DSNASModule:
        module = super().configure_oneshot_module(training_module)
        generator = torch.Generator().manual_seed(5)
        for gate in module.gates:
            gate.alpha.data = torch.randn(len(gate.choices), generator=generator, dtype=torch.float64)
        return module


class EveryPath(Spread):
    """Of :class:`TwoLayers`, in turn, all on one batch."""

    script = [{"first": i, "second": j} for i, j in product(range(3), range(3))]  # noqa: RUF012  (a constant)


def one_hot(k: int, n: int) -> Tensor:
    return functional.one_hot(torch.tensor(k), n).double()


def rewards_of_gradient(space: Any, path: dict[str, int], x: Tensor, y: Tensor) -> dict[str, float]:
    """dL/d(constant 1) of each choice of :class:`TwoLayers`, from a forward pass written out here."""
    ones = {label: torch.ones((), dtype=torch.float64, requires_grad=True) for label in path}
    first = space.first[path["first"]](space.norm(x)) * ones["first"]
    second = space.second[space.second.names[path["second"]]](torch.tanh(first)) * ones["second"]
    loss = functional.cross_entropy(space.last(second), y)
    grads = torch.autograd.grad(loss, list(ones.values()))
    return {label: float(grad) for label, grad in zip(ones, grads, strict=True)}


# -- the estimator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", REWARDS)
def test_one_sample(reward):
    """Property 19: alpha.grad = r (e_k - p), r = dL/d(constant 1) or L - b; no 1/p_k is in it. Property 2: it sums to 0."""
    strategy = Spread(search_epochs=12, reward=reward)
    torch.manual_seed(0)
    space = TwoLayers()
    plain = copy.deepcopy(space).double()
    module = search(space, strategy, epochs=13)
    x, y = images(BATCH).tensors
    assert len({tuple(step.path.values()) for step in module.steps}) > 3
    for step in module.steps:
        expected = rewards_of_gradient(plain, step.path, x, y)
        for gate in module.gates:
            p = torch.softmax(step.before[gate.label], 0)
            r = expected[gate.label] if reward == "gradient" else step.loss - step.baseline
            torch.testing.assert_close(
                step.grad[gate.label], r * (one_hot(step.path[gate.label], len(p)) - p), rtol=1e-9, atol=1e-15
            )
            assert abs(float(step.grad[gate.label].sum())) < 1e-12
    assert max(float(step.grad["first"].abs().max()) for step in module.steps) > 1e-4


@pytest.mark.parametrize("reward", REWARDS)
def test_weights_learn_as_those_of_the_plain_network(reward):
    """Property 19: the constant 1 changes nothing for the weights; to the bit. What is not on the path has no gradient."""
    torch.manual_seed(0)
    space = TwoLayers()
    plain = copy.deepcopy(space).double()
    strategy = Watched(arc_learning_rate=STILL, fix_gap=1.0, search_epochs=1, reward=reward)
    strategy.script = [{"first": 1, "second": 0}]
    (step,) = search(space, strategy, epochs=2).steps
    x, y = images(BATCH).tensors
    loss = functional.cross_entropy(plain.last(plain.second["a"](torch.tanh(plain.first[1](plain.norm(x))))), y)
    loss.backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    found = {name.removeprefix("_model."): grad for name, grad in step.weight_grad.items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], grad) for name, grad in expected.items())


def test_expectation_of_the_loss_reward_is_the_gradient_of_the_expected_loss():
    """Two layers, all nine paths: E over Z of (L(Z) - b)(e_k - p) = gradient of sum over Z of p(Z) L(Z), for any b."""
    torch.manual_seed(0)
    module = search(TwoLayers(), EveryPath(), epochs=10)
    alphas = {label: alpha.clone().requires_grad_() for label, alpha in module.steps[0].before.items()}
    p = {label: torch.softmax(alpha, 0) for label, alpha in alphas.items()}
    # The baseline differs from step to step, so its part is taken out: sum over Z of p(Z) b (e_k - p) is 0 for one b.
    total = sum(math.prod(p[n][k] for n, k in s.path.items()) * s.loss for s in module.steps)
    expected = dict(zip(alphas, torch.autograd.grad(total, list(alphas.values())), strict=True))
    for label in p:
        found = torch.zeros(3, dtype=torch.float64)
        for step in module.steps:
            weight = math.prod(float(p[n][k].detach()) for n, k in step.path.items())
            direction = one_hot(step.path[label], 3) - p[label].detach()
            torch.testing.assert_close(step.grad[label], (step.loss - step.baseline) * direction, rtol=1e-9, atol=1e-14)
            found += weight * (step.grad[label] + step.baseline * direction)
        torch.testing.assert_close(found, expected[label], rtol=1e-9, atol=1e-13)
        assert expected[label].abs().max() > 1e-4


@pytest.mark.parametrize(("reward", "power", "factor"), [("gradient", 1, 1), ("gradient", 2, 2), ("gradient", 3, 3), ("loss", 1, 1), ("loss", 3, 1)])  # fmt: skip
def test_a_loss_of_degree_m_has_m_times_the_gradient(reward, power, factor):
    """Properties 4 and 5: enumerated, E = m sum over k of p_k L_k (e_k - p) for L = sum y^m; the loss reward has 1 always."""
    torch.manual_seed(0)

    class Enumerated(Spread):
        script = [{"choice": k} for k in range(4)]  # noqa: RUF012  (a constant)

    module = search(OneLayer(), Enumerated(reward=reward), Task(lambda y: (y**power).sum()), epochs=5)
    p = torch.softmax(module.steps[0].before["choice"], 0)
    found = sum(
        p[s.path["choice"]] * (s.grad["choice"] + (reward == "loss") * s.baseline * (one_hot(s.path["choice"], 4) - p))
        for s in module.steps
    )
    expected = sum(p[s.path["choice"]] * s.loss * (one_hot(s.path["choice"], 4) - p) for s in module.steps)
    torch.testing.assert_close(found, factor * expected, rtol=1e-9, atol=1e-12)


def test_the_term_has_no_value_and_the_baseline_is_of_the_steps_before():
    """loss_reward_term is 0; b begins with the first loss and moves by its weight after each use."""
    alpha = torch.randn(3, requires_grad=True)
    term = loss_reward_term(torch.tensor(2.5), 0.5, torch.log_softmax(alpha, 0)[1])
    assert term.item() == 0
    (grad,) = torch.autograd.grad(term, alpha)
    torch.testing.assert_close(grad, 2.0 * (one_hot(1, 3).float() - torch.softmax(alpha, 0).detach()))

    module = search(TwoLayers(), Watched(search_epochs=6, fix_gap=1.0, baseline_weight=0.25), epochs=7)
    b = module.steps[0].loss
    for step in module.steps:
        assert step.baseline == pytest.approx(b, rel=1e-12)
        b += 0.25 * (step.loss - b)


def test_a_layer_that_does_not_run_learns_nothing():
    """A choice inside a candidate that is not sampled keeps its logits, with either reward."""
    for reward in REWARDS:
        strategy = Watched(arc_learning_rate=0.1, search_epochs=2, fix_gap=1.0, reward=reward)
        strategy.script = [{"outer": 1, "inner": 0, "depth": 1, "inputs": 2}] * 2
        first, second = search(Everything(), strategy, epochs=3).steps
        assert first.grad["inner"] is None
        assert torch.equal(first.before["inner"], second.before["inner"])
        assert first.grad["depth"] is not None
        assert first.grad["inputs"] is not None


@pytest.mark.parametrize("reward", REWARDS)
def test_accumulated_batches_are_one_step_on_their_mean(reward):
    """Four batches on one path: the logits get the mean of four gradients, and move once."""
    strategy = Watched(arc_learning_rate=0.1, search_epochs=1, fix_gap=1.0, reward=reward, accumulate_grad_batches=4)
    module = search(TwoLayers(), strategy, epochs=2, data=images(4 * BATCH))
    assert len({tuple(s.path.values()) for s in module.steps}) == 1
    assert all(torch.equal(s.before["first"], module.steps[0].before["first"]) for s in module.steps)
    if reward == "loss":
        k, alpha = module.steps[0].path["first"], module.steps[0].before["first"]
        mean = sum(s.loss - s.baseline for s in module.steps) / 4
        torch.testing.assert_close(
            module.steps[-1].grad["first"], mean * (one_hot(k, 3) - torch.softmax(alpha, 0)), rtol=1e-9, atol=1e-14
        )


def test_clipping_is_of_the_weights_alone():
    """The gradient of the weights is shortened, that of the logits is what it was."""

    def grads(clip: float | None) -> Any:
        torch.manual_seed(0)
        strategy = Watched(
            arc_learning_rate=STILL, search_epochs=1, fix_gap=1.0, reward="gradient", gradient_clip_val=clip
        )
        strategy.script = [{"first": 1, "second": 0}]
        return search(TwoLayers(), strategy, epochs=2).steps[0]

    plain, clipped = grads(None), grads(1e-3)
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in clipped.weight_grad.values()]))
    assert norm == pytest.approx(1e-3, rel=1e-2)
    assert all(torch.equal(plain.grad[label], clipped.grad[label]) for label in plain.grad)


# -- what runs, what is kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", REWARDS)
def test_one_candidate_runs_and_nothing_else_moves(reward):
    """Property 12: one candidate per layer and step. Property 10: with momentum and decay, all others stay to the bit."""
    space = TwoLayers()
    optimizer = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
    strategy = Watched(search_epochs=20, fix_gap=1.0, reward=reward)
    module, run = prepare(space, strategy, Task(optimizer=optimizer), epochs=21)
    runs: Counter[str] = Counter()
    for layer in (space.first, space.second):
        for name in layer.names:
            layer[name].register_forward_hook(lambda m, a, o, key=f"{layer.label}.{name}": runs.update([key]))
    state: dict[str, Tensor] = {}
    seen = set()

    def check(module: Any, batch_idx: int) -> None:
        if not module.learning:
            return
        path = module.steps[-1].path
        on_path = {f"first.{path['first']}", f"second.{space.second.names[path['second']]}"}
        assert dict(runs) == dict.fromkeys(on_path, 1)
        runs.clear()
        now = {name: p.detach().clone() for name, p in space.named_parameters()}
        for name, value in now.items() if state else ():
            off_path = name.split(".")[0] in ("first", "second") and ".".join(name.split(".")[:2]) not in on_path
            assert torch.equal(value, state[name]) == off_path, name
        state.update(now)
        seen.add(tuple(sorted(on_path)))

    module.on_batch = check
    run()
    assert len(seen) > 4


@pytest.mark.parametrize("reward", REWARDS)
def test_activations_are_those_of_a_plain_step_whatever_n_is(reward):
    """Property 13: from the second step on (the first tries whether something works in place), nothing more is kept."""
    kept: dict[int, int] = {}
    for n in (2, 12):
        module, run = prepare(Chain(n), Watched(search_epochs=3, fix_gap=1.0, reward=reward), epochs=4)
        sizes = []
        step = module.weight_step

        def counted(batch: Any, batch_idx: int, step=step, sizes=sizes) -> Any:
            held: dict[int, Tensor] = {}

            def pack(tensor: Tensor) -> Tensor:
                if tensor.ndim > 1 and len(tensor) == BATCH:
                    held[tensor.untyped_storage().data_ptr()] = tensor.detach()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                result = step(batch, batch_idx)
            sizes.append(len(held))
            return result

        module.weight_step = counted
        run()
        plain = sizes[-1]  # of the child
        kept[n] = sizes[1]
        assert sizes[1] == sizes[2] == plain
    assert kept[2] == kept[12]


# -- the penalty -----------------------------------------------------------------------------------------------------------


def test_the_threshold_form_is_the_papers():
    """Property 20: nothing below the budget; from it on, weight F_k p_k (e_k - p) on top, whatever r is."""

    def grads(target: float, weight: float) -> list[Step]:
        torch.manual_seed(0)
        space = TwoLayers()
        strategy = Spread(reward="gradient", penalty=LatencyPenalty(Million(space), target, weight, form="threshold"))
        strategy.script = [{"first": 2, "second": 0}]
        return search(space, strategy, epochs=2).steps

    total = 170.0 + 120.0 + 10.0
    (free,), (below,), (at,) = grads(total, 0.0), grads(total + 1e-6, 1e-2), grads(total, 1e-2)
    for label, k, cost in (("first", 2, 170.0), ("second", 0, 120.0)):
        assert torch.equal(below.grad[label], free.grad[label])
        p = torch.softmax(at.before[label], 0)
        expected = 1e-2 * cost * p[k] * (one_hot(k, 3) - p)
        torch.testing.assert_close(at.grad[label] - free.grad[label], expected, rtol=1e-9, atol=1e-14)
        assert abs(float(at.grad[label].sum())) < 1e-12


@pytest.mark.parametrize("form", ["add#linear", "add"])
def test_the_expected_cost_is_the_full_one(form):
    """With this project's own forms the logits get weight p_i (F_i - sum p_j F_j), on top of the task's gradient."""

    def grad(weight: float) -> Step:
        torch.manual_seed(0)
        space = TwoLayers()
        strategy = Spread(penalty=LatencyPenalty(Million(space), 100.0, weight, form=form))
        return search(space, strategy, epochs=2).steps[0]

    with_cost, without = grad(0.5), grad(0.0)
    p, f = torch.softmax(with_cost.before["first"], 0), torch.tensor(Million.first, dtype=torch.float64)
    expected = 0.5 * p * (f - (p * f).sum()) / (100.0 if form == "add#linear" else 1)
    torch.testing.assert_close(with_cost.grad["first"] - without.grad["first"], expected, rtol=1e-9, atol=1e-13)


def test_automatic_lambda_brings_the_expected_cost_to_the_target():
    """With weight='auto' the expected cost goes to the target and stays there, through fixing and to the end of the search."""
    torch.manual_seed(0)
    space = TwoLayers()
    penalty = LatencyPenalty(Million(space), 200.0, "auto")
    strategy = Watched(arc_learning_rate=0.02, fix_gap=1.0, search_epochs=40, penalty=penalty)
    module = search(space, strategy, Task(optimizer=sgd), epochs=41, data=images(4 * BATCH))
    step = module.steps[-1]
    p = {label: torch.softmax(alpha, 0) for label, alpha in step.before.items()}
    expected = 10 + float(
        (p["first"] * torch.tensor(Million.first)).sum() + (p["second"] * torch.tensor([120.0, 60.0, 0.0])).sum()
    )
    assert expected == pytest.approx(200, rel=0.01)


def test_size_bias_is_of_the_pretraining():
    """So large that small candidates have no chance there; the search draws from p, on which its estimator rests."""
    strategy = Watched(warmup_epochs=1, search_epochs=1, size_bias=1e4, fix_gap=1.0)
    module, run = prepare(Everything(), strategy, epochs=3, data=images(20 * BATCH))
    seen: dict[bool, set[tuple[int, ...]]] = {False: set(), True: set()}

    def note(module: Any, batch_idx: int) -> None:
        if module.child_since is None:
            path = {gate.label: index for gate, index in module._path.items()}
            seen[module.learning].add((path["outer"], path["depth"]))

    module.on_batch = note
    run()
    assert seen[False] == {(0, 2)}  # two linear layers, not one; three blocks
    assert {outer for outer, _ in seen[True]} == {0, 1}
    assert {depth for _, depth in seen[True]} == {0, 1, 2}


# -- stages ----------------------------------------------------------------------------------------------------------------


def test_pretraining_leaves_the_logits_alone():
    """Property 23: for warmup_epochs epochs logits stay to the bit while weights move; then they move."""
    space = TwoLayers()
    strategy = Watched(warmup_epochs=2, search_epochs=3, arc_learning_rate=0.1, fix_gap=1.0)
    module, run = prepare(space, strategy, Task(optimizer=sgd), epochs=6)
    weights = []
    module.on_batch = lambda m, i: weights.append(space.last.weight.detach().clone())
    run()
    start = module.epochs[0]["alpha"]
    assert {s.epoch for s in module.steps} == {2, 3, 4}
    for label, alpha in start.items():
        assert torch.equal(module.epochs[1]["alpha"][label], alpha)
        assert torch.equal(module.steps[0].before[label], alpha)
        assert not torch.equal(module.steps[2].before[label], alpha)
    assert not torch.equal(weights[0], weights[1])


def test_is_decided_by_the_two_best():
    """eq. 8: top1 - top2 >= h."""
    assert is_decided(torch.tensor([0.2, 0.55, 0.25]), 0.3)
    assert not is_decided(torch.tensor([0.2, 0.545, 0.255]), 0.3)
    assert is_decided(torch.tensor([0.5, 0.5 - 2**-3, 2**-3]), 2**-3)  # equal is enough


def test_choices_are_fixed_one_after_the_other():
    """Property 22: fixed iff top1 - top2 >= h at the start of an epoch; then always sampled, its row to the bit what it was."""
    strategy = Watched(search_epochs=30, arc_learning_rate=0.1, fix_gap=0.4)
    module, run = prepare(TwoLayers(), strategy, Task(optimizer=sgd), epochs=40, data=images(4 * BATCH))
    starts: list[dict[str, Tensor]] = []

    def before_epoch() -> None:
        starts.append({g.label: g.alpha.detach().clone() for g in module.gates})

    begin = module._begin_epoch
    module._begin_epoch = lambda: (before_epoch(), begin())
    run()
    before: list[str] = []
    for start, epoch in zip(starts, module.epochs, strict=True):
        if not epoch["learning"]:
            break
        should = [
            label for label, alpha in start.items()
            if label in before or (lambda t: t[0] - t[1] >= 0.4)(torch.softmax(alpha, 0).topk(2).values)
        ]  # fmt: skip
        assert epoch["fixed"] == should
        before = should
    last = starts[-1]
    assert module.child_since is not None
    assert len(before) >= 1
    for label in before:
        since = next(i for i, e in enumerate(module.epochs) if label in e["fixed"])
        row = starts[since][label]
        assert all(torch.equal(s[label], row) for s in starts[since:])
        assert torch.equal(last[label], row)
        paths = [s.path[label] for s in module.steps if s.epoch >= since]
        assert set(paths) <= {int(row.argmax())}
        assert all(s.grad[label] is None for s in module.steps if s.epoch >= since)


def test_a_fixed_choice_has_all_probability():
    """What is exported, and what the expected cost is taken over, is one-hot then; the logits stay what they were."""
    module = search(TwoLayers(), Watched(search_epochs=1), epochs=2)
    for gate in module.gates:
        assert gate.fixed
        assert sorted(gate.probs().tolist()) == [0, 0, 1]
        assert not gate.probs().requires_grad
        assert module.export_probs()[gate.label][gate.choices[gate.most_probable()]] == 1
        assert torch.softmax(gate.alpha, 0).max() < 0.9


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def test_the_child_is_all_that_is_left():
    """Unused candidates and their optimizer state leave memory; what is left trains on, on the same schedule."""
    space = Everything()
    module, run = prepare(
        space, Watched(search_epochs=4, arc_learning_rate=0.05, fix_gap=1.0), Task(optimizer=adam), epochs=8
    )
    everything = {name: weakref.ref(p) for name, p in space.named_parameters()}
    rates = []
    module.on_batch = lambda m, i: rates.append(
        (m.trainer.optimizers[0].param_groups[0]["lr"], space.last.weight.detach().clone())
    )
    run()
    gc.collect()
    assert module.child_since == 4
    path = module.export()
    left = {name for name, ref in everything.items() if ref() is not None}
    expected = {"norm.weight", "norm.bias", "last.weight", "last.bias"}
    expected |= {f"repeat.blocks.{i}.{w}" for i in range(path["depth"]) for w in ("weight", "bias")}
    outer = f"outer.nested.0.{path['inner']}" if path["outer"] == "nested" else "outer.plain"
    expected |= {f"{outer}.weight", f"{outer}.bias"}
    assert left == expected
    assert {name.removeprefix("_model.") for name, _ in module.training_module.named_parameters()} == expected
    weights = module.trainer.optimizers[0]
    assert {id(p) for group in weights.param_groups for p in group["params"]} == {id(p) for p in space.parameters()}
    assert {id(p) for p in weights.state} <= {id(p) for p in space.parameters()}
    assert not torch.equal(rates[4][1], rates[7][1])


def test_statistics_of_the_child_are_its_own():
    """Batch norm begins anew: after the child's first epoch its statistics are the plain mean over that epoch's batches."""
    space = TwoLayers()
    data = images(4 * BATCH)
    module, run = prepare(space, Watched(search_epochs=2, fix_gap=1.0), epochs=4, data=data)
    noted = {}

    def note(m: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            noted[m.trainer.current_epoch] = (
                space.norm.running_mean.clone(),
                space.norm.running_var.clone(),
                space.norm.momentum,
            )

    module.on_batch = note
    run()
    batches = data.tensors[0].view(4, BATCH, WIDTH)
    torch.testing.assert_close(noted[2][0], batches.mean(dim=(0, 1)), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(noted[2][1], batches.var(dim=1).mean(dim=0), rtol=1e-6, atol=1e-9)
    assert (noted[1][0] - noted[2][0]).abs().max() > 1e-3
    assert (noted[2][2], noted[3][2]) == (None, 0.1)


@pytest.mark.parametrize("space_class", [TwoLayers, Everything])
def test_the_child_is_the_argmax_and_computes_what_the_supernet_did(space_class):
    """Property 24: argmax everywhere, the same at every call; frozen it has the supernet's output, as it had in its last step."""
    space = space_class()
    module = search(
        space, Watched(search_epochs=3, arc_learning_rate=0.05, fix_gap=1.0), Task(optimizer=adam), epochs=5
    )
    sample = module.export()
    assert all(module.export() == sample for _ in range(5))
    for gate in module.gates:
        assert sample[gate.label] == gate.value(int(gate.alpha.argmax()))
    x = images(BATCH, 3).tensors[0]
    frozen = copy.deepcopy(space).freeze(sample).eval()
    assert torch.equal(frozen(x), space.eval()(x))


def test_nnis_experiment_gives_the_trained_network(home):
    """NasExperiment with NNI's own Classification: the most probable choices as a dict, the trained child as an instance."""

    x, y = images(8 * BATCH).tensors
    train = TensorDataset(x.float(), y)
    evaluator = Classification(
        train_dataloaders=DataLoader(train, batch_size=BATCH, shuffle=True), val_dataloaders=DataLoader(train, batch_size=BATCH),
        num_classes=CLASSES, learning_rate=0.05, max_epochs=12, **QUIET,
    )  # fmt: skip
    experiment = NasExperiment(TwoLayers(), evaluator, DSNAS(warmup_epochs=1, search_epochs=3, arc_learning_rate=0.05))
    assert experiment.run()
    experiment.stop()
    (sample,) = experiment.export_top_models(formatter="dict")
    (network,) = experiment.export_top_models(formatter="instance")
    assert set(sample) == {"first", "second"}
    accuracy = (network.eval()(x.float()).argmax(1) == y).float().mean()
    assert accuracy > 0.7  # untrained: about 0.33


# -- the scale hazard --------------------------------------------------------------------------------------------------------


class Scaled(ModelSpace):
    """y -> (+ x) -> conv -> batch norm -> linear."""

    def __init__(self, eps: float, residual: bool):
        super().__init__()
        self.residual = residual
        self.choice = LayerChoice([nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2)], label="choice")
        self.conv, self.norm = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, eps=eps)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.choice(x)
        return self.last(torch.relu(self.norm(self.conv(y + x if self.residual else y))).mean((2, 3)))


def reward_at(eps: float, residual: bool) -> float:
    torch.manual_seed(0)
    x = 10 * torch.randn(BATCH, 4, 5, 5, dtype=torch.float64)  # a variance that eps is small beside
    strategy = Watched(arc_learning_rate=STILL, fix_gap=1.0, search_epochs=1, reward="gradient")
    strategy.script = [{"choice": 0}]
    (step,) = search(
        Scaled(eps, residual), strategy, epochs=2, data=TensorDataset(x, torch.arange(BATCH) % CLASSES)
    ).steps
    return abs(float(step.grad["choice"][1] / torch.softmax(step.before["choice"], 0)[1]))


def test_a_scale_that_is_divided_out_has_no_reward():
    """Property 25: without a residual |r| is proportional to eps (1e3 from 1e-5 to 1e-2), with one it does not care."""
    without = {eps: reward_at(eps, residual=False) for eps in (1e-5, 1e-3, 1e-2)}
    with_one = {eps: reward_at(eps, residual=True) for eps in (1e-5, 1e-2)}
    assert without[1e-2] / without[1e-5] == pytest.approx(1e3, rel=0.25)
    assert without[1e-3] / without[1e-5] == pytest.approx(1e2, rel=0.25)
    assert without[1e-5] < 1e-4
    assert with_one[1e-5] > 100 * without[1e-5]
    assert with_one[1e-2] == pytest.approx(with_one[1e-5], rel=0.1)


# -- arguments ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"reward": "loss reward"}, "reward is 'loss reward'; allowed: 'loss', 'gradient'"),
        ({"paths": "own"}, "paths is 'own'; allowed: 'per-process', 'shared'"),
        ({"search_epochs": 0}, "search_epochs is 0; allowed: 1 or more, or none"),
        ({"fix_gap": 0.0}, "fix_gap is 0.0; allowed: greater than 0, up to 1"),
        ({"baseline_weight": 1.5}, "baseline_weight is 1.5; allowed: greater than 0, up to 1"),
        ({"arc_learning_rate": -1, "fix_gap": 2}, "arc_learning_rate is -1; allowed: greater than 0; fix_gap is 2; allowed"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        DSNAS(**arguments)


@pytest.mark.parametrize(
    ("arguments", "epochs", "said"),
    [
        ({"search_epochs": 4}, 4, "warmup_epochs is 0 and search_epochs 4, of 4 epochs; allowed: at least one epoch of search and, after it, one in"),
        ({"warmup_epochs": 3}, 4, "warmup_epochs is 3 and search_epochs half of the rest, of 4 epochs"),
    ],
)  # fmt: skip
def test_stages_that_do_not_fit_the_epochs_are_refused(arguments, epochs, said):
    with pytest.raises(MisconfigurationException, match=said):
        search(TwoLayers(), DSNAS(**arguments), epochs=epochs)


def test_half_of_the_epochs_after_pretraining_is_search():
    """search_epochs=None: of 2 + 6 epochs, 3 search and 3 train the child."""
    module = search(TwoLayers(), Watched(warmup_epochs=2, fix_gap=1.0), epochs=8)
    assert {s.epoch for s in module.steps} == {2, 3, 4}
    assert module.child_since == 5


# -- mixed precision -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", REWARDS)
def test_a_loss_scale_that_changes_between_the_two_optimizers_changes_nothing(reward):
    """Under 16-mixed the step of the weights may double the scale that the gradient of the logits still carries."""

    def logits(growth_interval: int) -> list[dict[str, Tensor]]:
        torch.manual_seed(0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=growth_interval)
        strategy = Watched(search_epochs=8, arc_learning_rate=0.1, fix_gap=1.0, reward=reward)
        space = strategy.mutate_model(TwoLayers())
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        evaluator = strategy.mutate_evaluator(
            Lightning(
                Task(optimizer=sgd),
                quiet_trainer(max_epochs=9, plugins=[plugin]),
                train_dataloaders=DataLoader(TensorDataset(images(BATCH).tensors[0].float(), images(BATCH).tensors[1]), batch_size=BATCH),
            )
        )  # fmt: skip
        evaluator.evaluate(space)
        module: Any = evaluator.module
        assert (scaler.get_scale() > 2) == (growth_interval < 100)
        return [step.before for step in module.steps]

    growing, still = logits(3), logits(10**6)
    assert len(growing) == 8
    for ours, expected in zip(growing, still, strict=True):
        for label, alpha in expected.items():
            torch.testing.assert_close(ours[label], alpha, rtol=0, atol=2e-3)
    assert not torch.equal(still[0]["first"], still[-1]["first"])
