"""ProxylessNAS as a search: data, precision, arguments, latency in the loss, and the network it leaves, through NNI and Lightning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule
from nni.nas.experiment import NasExperiment
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from nni_proxyless.strategies import ProxylessNAS
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nni_proxyless.latency import LatencyPenalty, LatencyReward

from ..latency.spaces import CLASSES, FEATURES, candidates, per_weight
from .searches import OF_EXPERIMENTS, quiet_trainer

pytestmark = OF_EXPERIMENTS


class Space(ModelSpace):
    def __init__(self):
        super().__init__()
        self.one = LayerChoice(candidates(), label="one")
        self.two = LayerChoice(candidates(), label="two")
        self.last = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.two(torch.relu(self.one(x)))))


class Task(LightningModule):
    """Notes which data it was given: the first feature of training data is positive, of held-out data negative."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[str, bool]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.calls.append(("training_step", bool((batch[0][:, 0] > 0).all())))
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.2, momentum=0.9)


class TaskWithItsOwnArchitectureLoss(Task):
    def architecture_loss(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.calls.append(("architecture_loss", bool((batch[0][:, 0] > 0).all())))
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])


class CostOnly(Task):
    """No gradient from the task: what reaches the logits is the cost's."""

    def architecture_loss(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return 0 * self.model(batch[0]).sum()


def data(n_batches: int, sign: float, seed: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(32 * n_batches, FEATURES, generator=generator)
    y = x[:, 1 : 1 + CLASSES].argmax(dim=1)
    x[:, 0] = sign * (x[:, 0].abs() + 0.1)
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, generator=generator)


def evaluator(task: LightningModule, *, epochs: int = 1, n: int = 4, held_out=None, **trainer) -> Lightning:
    return Lightning(
        task, quiet_trainer(max_epochs=epochs, **trainer),
        train_dataloaders=data(n, 1.0, 0), val_dataloaders=data(3, -1.0, 1) if held_out is None else held_out,
    )  # fmt: skip


def search(strategy: ProxylessNAS, task: LightningModule | None = None, space: ModelSpace | None = None, **kwargs):
    """The supernet trained by NNI's evaluator; returns the search's Lightning module."""
    torch.manual_seed(0)
    space = strategy.mutate_model(space or Space())
    mutated = strategy.mutate_evaluator(evaluator(task or Task(), **kwargs))
    mutated.evaluate(space)
    return mutated.module


# -- data and precision ------------------------------------------------------------------------------------------------


def test_warm_up_leaves_the_logits_alone():
    """With warm-up to the end the logits are the initial ones: N(0, 1e-3), from the strategy's seed alone."""
    probs = [
        search(ProxylessNAS(arc_update_every=1, warmup_epochs=2, seed=s), epochs=2).export_probs() for s in (3, 3, 4)
    ]
    assert probs[0] == probs[1] != probs[2]
    generator = torch.Generator().manual_seed(3)
    one = torch.softmax(torch.randn(3, generator=generator) * 1e-3, 0)
    assert list(probs[0]["one"].values()) == pytest.approx(one.tolist(), abs=1e-7)


@pytest.mark.parametrize("task_class", [Task, TaskWithItsOwnArchitectureLoss])
def test_weights_learn_from_training_data_and_the_architecture_from_held_out_data(task_class):
    """The held-out loader starts again when it is through (3 batches for 8 steps); the module's own loss is used if any."""
    task = task_class()
    search(ProxylessNAS(arc_update_every=1), task, n=8)
    name = "training_step" if task_class is Task else "architecture_loss"
    assert task.calls == [("training_step", True), (name, False)] * 8


@pytest.mark.filterwarnings("ignore:.*bf16.*")
@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true", "16-true"])
@pytest.mark.parametrize("update", ["two-path", "full", "reinforce"])
def test_every_precision_of_the_trainer_works(precision, update):
    """Held-out batches are brought to the trainer's precision as training batches are. Logits are never in half precision:
    at 1 the next bfloat16 is 0.008 away, so that steps of 0.001 would get lost, and Adam's 1e-8 is 0 in float16."""
    strategy = ProxylessNAS(update=update, arc_update_every=1)
    search(strategy, precision=precision)
    assert all(torch.isfinite(gate.alpha).all() for gate in strategy._gates.values())
    assert {gate.alpha.dtype for gate in strategy._gates.values()} <= {torch.float32, torch.float64}


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_all_wrong_arguments_are_named_at_once():
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole text is compared)
        ProxylessNAS(
            update="three-path", arc_learning_rate=0, arc_update_every=0, arc_update_steps=0, arc_start_epoch=-1,
            warmup_epochs=-1, warmup_learning_rate=0.0, size_bias=-1, gradient_clip_val=0.0, gradient_clip_algorithm="l2",
            accumulate_grad_batches=0, log_prob_every_n_step=0, penalty=3, cost_probs="half", reinforce_samples=0,
            reward_exponent=0.1, baseline="always", baseline_weight=0, checkpoint_every=0,
        )  # fmt: skip
    assert str(caught.value) == "; ".join(
        [
            "arc_learning_rate is 0; allowed: greater than 0",
            "warmup_epochs is -1; allowed: 0 or more",
            "warmup_learning_rate is 0.0; allowed: greater than 0, or none",
            "size_bias is -1; allowed: 0 or more, finite",
            "gradient_clip_val is 0.0; allowed: greater than 0, or none",
            "gradient_clip_algorithm is 'l2'; allowed: 'norm', 'value'",
            "accumulate_grad_batches is 0; allowed: 1 or more",
            "log_prob_every_n_step is 0; allowed: 1 or more",
            "checkpoint_every is 0; allowed: 1 or more, or none",
            "update is 'three-path'; allowed: 'two-path', 'full', 'reinforce'",
            "arc_update_every is 0; allowed: 1 or more",
            "arc_update_steps is 0; allowed: 1 or more",
            "arc_start_epoch is -1; allowed: 0 or more",
            "cost_probs is 'half'; allowed: 'pair', 'full'",
            "reinforce_samples is 0; allowed: 1 or more",
            "reward_exponent is 0.1; allowed: up to 0, a slow network earns less",
            "baseline is 'always'; allowed: 'before', 'after', 'never'",
            "baseline_weight is 0; allowed: greater than 0, up to 1",
            "penalty is a int; allowed: LatencyPenalty, NNI's ExpectationProfilerPenalty, a dict",
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup_learning_rate": 0.1}, "warmup_learning_rate has no effect with warmup_epochs 0"),
        ({"baseline_weight": 1.5}, "baseline_weight is 1.5; allowed: greater than 0, up to 1"),
        ({"update": "reinforce", "penalty": 3}, "penalty is a int; allowed with update='reinforce': LatencyReward"),
        (
            {"penalty": LatencyReward(lambda sample: 1.0, 1.0)},
            "penalty is a LatencyReward, which update='two-path' cannot differentiate; allowed: LatencyPenalty",
        ),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProxylessNAS(**arguments)


# -- latency in the loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost_probs", ["pair", "full"])
@pytest.mark.parametrize("kind", [LatencyPenalty, ExpectationProfilerPenalty, dict])
def test_the_penalty_reaches_the_logits(cost_probs, kind):
    """With no gradient from the task, dL/dalpha_i = weight/target * p_i (F_i - sum_j p_j F_j) over all candidates, or the
    same over the pair with q in the place of p. NNI's own strategies leave exactly 0 here: they hand over floats."""
    space, weight, target = Space(), 0.5, 40.0
    profiler = per_weight(space)
    penalty = {
        LatencyPenalty: lambda: LatencyPenalty(profiler, target, weight),
        ExpectationProfilerPenalty: lambda: ExpectationProfilerPenalty(profiler, target, weight),
        dict: lambda: {"profiler": profiler, "baseline": target, "scale": weight},
    }[kind]()
    strategy = ProxylessNAS(
        arc_update_every=1, penalty=penalty, cost_probs=cost_probs, arc_learning_rate=1e-9, within_target=False
    )
    search(strategy, CostOnly(), space, n=1)
    for label, gate in strategy._gates.items():
        costs = torch.tensor(list(profiler.candidate_ms[label].values()))
        q = gate.probs().detach()  # the learning rate is so small that the logits are what they were
        if cost_probs == "pair":
            q = q * (gate.alpha.grad != 0)
            assert torch.count_nonzero(q) == 2
            q = q / q.sum()
        expected = weight / target * q * (costs - (q * costs).sum())
        torch.testing.assert_close(gate.alpha.grad, expected, rtol=1e-4, atol=1e-7)


def test_a_large_latency_weight_finds_the_cheapest_network_and_none_does_not(home):
    """A whole search through NNI's experiment: with weight 100 every choice is the cheapest, with weight 0 none is."""
    found = {}
    for weight in (0.0, 100.0):
        torch.manual_seed(0)
        space = Space()
        penalty = LatencyPenalty(per_weight(space), target_ms=100.0, weight=weight)
        strategy = ProxylessNAS(
            arc_update_every=1, arc_learning_rate=0.05, warmup_epochs=1, penalty=penalty, within_target=False
        )
        experiment = NasExperiment(space, evaluator(Task(), epochs=5, n=20, held_out=data(20, -1.0, 1)), strategy)
        assert experiment.run()
        (found[weight],) = experiment.export_top_models(formatter="dict")
        experiment.stop()
    assert found[100.0] == {"one": "narrow", "two": "narrow"}
    assert "narrow" not in found[0.0].values()


# -- what is left ------------------------------------------------------------------------------------------------------


def report_a_search(seed: int) -> None:
    """What a fresh process prints: the derived net and the bits of its probabilities."""
    module = search(ProxylessNAS(arc_update_every=1, arc_learning_rate=0.05, seed=seed), epochs=3)
    bits = {label: [float(p).hex() for p in probs.values()] for label, probs in module.export_probs().items()}
    print("FOUND", json.dumps([module.export(), bits]))


def test_the_same_seed_in_a_fresh_process_finds_the_same_network(capsys):
    """To the bit, whatever the order of sets (PYTHONHASHSEED)."""
    root = Path(__file__).parents[2]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from tests.strategies.test_proxyless_search import report_a_search as r; r"
    fresh = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{code}(5)"], stdout=subprocess.PIPE, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    report_a_search(5)
    lines = [
        [line for line in said.splitlines() if line.startswith("FOUND")]
        for said in (fresh.stdout, capsys.readouterr().out)
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 1
