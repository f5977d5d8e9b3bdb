"""The entropy of choices, and the turns in which they decide."""

import nni.nas.strategy  # noqa: F401  (first: else NNI's circular imports leave it with broken strategies)
import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.decisions import cost_spread, entropy, share_of_weight, turns
from nni_proxyless.strategies.gate import Gate
from torch import Tensor

from nni_proxyless.latency import LatencyPenalty, LatencyProfiler
from nni_proxyless.latency.penalties import Penalties

from .searches import Noisy, Plain, Task, quiet_trainer
from .test_dsnas import STILL, WIDTH, Million, TwoLayers, Watched, search
from .test_limits import Hidden, Wide, random_gates


def test_entropy_is_weighted_and_in_nats():
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([1.0, 0.0])
    assert float(entropy([p, q], [2.0, 1.0])) == pytest.approx(2 * 1.5 * torch.tensor(2.0).log().item())
    assert float(entropy([p.expand(3)], [0.0])) == 0


def test_the_spread_is_of_what_candidates_cost():
    """Constants of a sum; a choice of inputs costs nothing, a depth as much as its blocks."""
    space = TwoLayers()
    gates = random_gates(space, 0)
    expected = {"first": 70.0, "second": 120.0}
    penalty = LatencyPenalty(Million(space), 200.0)
    assert {g.label: s for g, s in cost_spread(penalty, gates).items()} == pytest.approx(expected)
    wide = Wide()
    penalty = LatencyPenalty(LatencyProfiler(wide, Hidden(), (WIDTH,)), 50.0)
    gates = random_gates(wide, 0)
    spread = {g.label: s for g, s in cost_spread(penalty, gates).items()}
    assert spread == pytest.approx({"block0": 13, "block1": 13, "last": 34, "depth": 5, "inputs": 0})
    assert cost_spread(Penalties([penalty]), gates) == cost_spread(penalty, gates)


def test_the_spread_of_a_nested_choice_is_that_of_the_expected_cost():
    """dE/dp against E itself, with all probability on the one and on the other candidate, all else uniform."""
    space = Wide()
    penalty = LatencyPenalty(LatencyProfiler(space, Hidden(), (WIDTH,)), 50.0)
    gates = random_gates(space, 1)
    uniform = {g.label: dict.fromkeys(g.choices, 1 / len(g.choices)) for g in gates}
    for gate, spread in cost_spread(penalty, gates).items():
        costs = [
            float(penalty.profile({**uniform, gate.label: {c: float(c == chosen) for c in gate.choices}}))
            for chosen in gate.choices
        ]
        assert max(costs) - min(costs) == pytest.approx(spread, abs=1e-4)


def gates_of(n: int) -> list[Gate]:
    source = torch.Generator()
    return [Gate(str(i), ["a", "b"], torch.zeros(2), source) for i in range(n)]


def test_what_is_furthest_apart_comes_first():
    a, b, c, d = gates_of(4)
    found = turns({a: 1.0, b: 7.0, c: 2.0, d: 1.0})
    assert found == pytest.approx({b: (1 + 2 / 4) / 3, c: (1 + 4 / 4) / 3, a: 1.0, d: 1.0})
    assert turns({a: 3.0, b: 3.0}) == {a: 1.0, b: 1.0}  # costs say nothing about them
    assert turns({a: 0.0}) == {a: 1.0}


def test_a_weight_rises_evenly_to_its_turn():
    assert [share_of_weight(epoch, 4, 9) for epoch in range(4, 9)] == [0, 0.25, 0.5, 0.75, 1]
    assert [share_of_weight(epoch, 4, 9, 0.5) for epoch in range(4, 9)] == [0, 0.5, 1, 1, 1]
    assert share_of_weight(4, 4, 5) == 0


def test_with_costs_the_dearest_choice_has_its_whole_weight_first():
    """DSNAS, epoch by epoch: what the entropy adds to the gradient of each choice is its share of dH/dalpha."""

    def steps(weight: float) -> list:
        torch.manual_seed(0)
        space = TwoLayers()
        penalty = LatencyPenalty(Million(space), 200.0, 0.3)
        module = search(
            space,
            Watched(arc_learning_rate=STILL, fix_gap=1.0, search_epochs=5, entropy_weight=weight, penalty=penalty),
            epochs=6,
        )
        return module.steps

    turn = {"second": 2 / 3, "first": 1.0}  # 120 and 70 apart
    for with_it, without in zip(steps(0.8), steps(0.0), strict=True):
        for label, alpha in with_it.before.items():
            p = torch.softmax(alpha, 0)
            of_entropy = -p * (p.log() - (p * p.log()).sum())
            expected = 0.8 * min(1.0, with_it.epoch / 4 / turn[label]) * of_entropy
            torch.testing.assert_close(with_it.grad[label] - without.grad[label], expected, rtol=1e-6, atol=1e-12)


# -- in the gradient of ProxylessNAS ----------------------------------------------------------------------------------------


class NoTask(Task):
    """The logits get no gradient from the task, so that only the entropy's is left."""

    def architecture_loss(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return 0 * self.model(batch[0]).sum()


def gradients(update: str, weight: float) -> list[tuple[int, Tensor, Tensor]]:
    """(epoch, alpha, dL/dalpha) of one choice, from three epochs of which the first is warm-up."""
    torch.manual_seed(0)
    strategy = ProxylessNAS(
        update=update, arc_update_every=2, arc_learning_rate=0.1, warmup_epochs=1, entropy_weight=weight
    )
    space = strategy.mutate_model(Plain()).double()
    evaluator = strategy.mutate_evaluator(
        Lightning(
            NoTask(), quiet_trainer(max_epochs=4, precision="64-true"),
            train_dataloaders=DataLoader(Noisy(128, 1, torch.float64), batch_size=32),
            val_dataloaders=DataLoader(Noisy(128, 2, torch.float64), batch_size=32),
        )
    )  # fmt: skip
    module, seen = evaluator.module, []
    (gate,) = (gate for gate in module.gates if gate.label == "one")
    with torch.no_grad():
        gate.alpha.copy_(torch.tensor([0.7, -0.4, 0.1]))
    step = module.architecture_step

    def noted(batch, batch_idx):
        before = gate.alpha.detach().clone()
        step(batch, batch_idx)
        seen.append((module.trainer.current_epoch, before, gate.alpha.grad.clone()))

    module.architecture_step = noted
    evaluator.evaluate(space)
    return seen


def test_full_adds_the_gradient_of_the_entropy():
    """dH/dalpha_i = -p_i (log p_i + H), times the weight, which rises from 0 to entropy_weight from epoch to epoch."""
    seen = gradients("full", 1.5)
    assert [epoch for epoch, _, _ in seen] == [1, 1, 2, 2, 3, 3]
    for epoch, alpha, gradient in seen:
        p = torch.softmax(alpha, 0)
        entropy = -(p * p.log()).sum()
        expected = 1.5 * (epoch - 1) / 2 * -p * (p.log() + entropy)
        torch.testing.assert_close(gradient, expected.to(gradient), rtol=1e-9, atol=1e-12)


def test_two_path_adds_that_of_the_pair_and_no_more():
    """The candidate that was not drawn has gradient 0, the other two opposite ones."""
    for epoch, _, gradient in gradients("two-path", 1.0):
        assert gradient.sum() == pytest.approx(0, abs=1e-12)
        assert int((gradient == 0).sum()) == (3 if epoch == 1 else 1)


def test_without_a_weight_there_is_none():
    assert all(bool((gradient == 0).all()) for _, _, gradient in gradients("full", 0.0))


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="entropy_weight is -1; allowed: 0 or more"):
        ProxylessNAS(entropy_weight=-1)
