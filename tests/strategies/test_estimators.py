"""The formulas of :mod:`nni_proxyless.strategies.estimators` against what a search really does with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.estimators import (
    gate_gradient,
    keep_pair_mass,
    logit_gradient,
    pair_gradient,
    path_log_probs,
)
from torch import Tensor, nn

from .searches import CLASSES, FEATURES, Noisy, Task, candidates, quiet_trainer


class One(ModelSpace):
    def __init__(self):
        super().__init__()
        self.one = LayerChoice(candidates(), label="one")
        self.last = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.one(x)))


@pytest.mark.parametrize("update", ["full", "two-path"])
def test_a_search_moves_logits_by_equation_4(update):
    """The gradient of a real step is sum_j dL/dg_j p_j (delta_ij - p_i), over all candidates or, with q, over the pair."""
    torch.manual_seed(0)
    strategy = ProxylessNAS(update=update, arc_update_every=1)
    space: Any = strategy.mutate_model(One()).double()
    data = {name: DataLoader(Noisy(24, 1, torch.float64, noise=0.0), batch_size=8) for name in ("train_dataloaders", "val_dataloaders")}  # fmt: skip
    evaluator = strategy.mutate_evaluator(Lightning(Task(), quiet_trainer(max_epochs=1, precision="64-true"), **data))
    module: Any = evaluator.module
    (gate,) = module.gates
    gate.alpha.data.copy_(torch.tensor([0.3, -0.9, 0.8]))
    backward, compared = module.backward_of_loss, []

    def watched(batch: Any, batch_idx: int, cost_probs: Any) -> bool:
        x, target = batch
        outputs = [candidate(x).detach() for candidate in space.one]
        y = outputs[gate.active].requires_grad_()
        (grad_y,) = torch.autograd.grad(nn.functional.cross_entropy(space.last(torch.relu(y)), target), y)
        gates = torch.stack([gate_gradient(grad_y, output.detach()) for output in outputs])
        probed, expected = list(gate.probed), torch.zeros_like(gate.alpha)
        expected[probed] = logit_gradient(gates[probed], torch.softmax(gate.alpha.detach()[probed], dim=0))
        done = backward(batch, batch_idx, cost_probs)
        compared.append(len(probed))
        torch.testing.assert_close(gate.alpha.grad, expected, rtol=1e-9, atol=1e-14)
        assert gate.alpha.grad.abs().max() > 1e-4
        return bool(done)

    module.backward_of_loss = watched
    evaluator.evaluate(space)
    assert compared == [3 if update == "full" else 2] * 3


def test_a_pair_that_moves_leaves_all_others_their_probabilities():
    alpha, pair = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64), [2, 0]
    moved = alpha.clone()
    moved[pair] = keep_pair_mass(alpha[pair], alpha[pair] + torch.tensor([0.7, -0.2], dtype=torch.float64))
    before, after = torch.softmax(alpha, 0), torch.softmax(moved, 0)
    torch.testing.assert_close(after[[1, 3]], before[[1, 3]], rtol=1e-14, atol=0)
    assert after[2] > before[2]


def test_a_cost_of_the_pair_has_the_value_of_p_and_the_gradient_of_q():
    alpha = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    costs, pair = torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64), (2, 0)
    q = torch.softmax(alpha[list(pair)], 0)
    expected = pair_gradient(torch.softmax(alpha, 0), q, pair) @ costs
    assert expected.item() == pytest.approx((torch.softmax(alpha, 0) @ costs).item(), abs=1e-14)
    (grad,) = torch.autograd.grad(expected, alpha)
    slope = (q[0] * q[1] * (costs[2] - costs[0])).item()
    assert grad.tolist() == pytest.approx([-slope, 0.0, slope], abs=1e-14)


def test_the_probability_of_a_network_is_the_product_over_its_choices():
    generator = torch.Generator().manual_seed(0)
    alphas = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (3, 2, 3, 5)]
    paths = [[0, 2], [1, 1], [2, 0], [4, 3]]
    p = [torch.softmax(alpha, 0) for alpha in alphas]
    by_hand = [sum(float(p[i][paths[i][m]].log()) for i in range(4)) for m in range(2)]
    assert path_log_probs(alphas, paths).tolist() == pytest.approx(by_hand, abs=1e-12)
