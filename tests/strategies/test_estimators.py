"""The formulas of :mod:`nni_proxyless.strategies.estimators`; what searches do with them is in test_updates, test_proxyless, test_dsnas."""

from __future__ import annotations

import pytest
import torch
from nni_proxyless.strategies.estimators import keep_pair_mass, logit_gradient, pair_gradient, path_log_probs


def test_equation_4_is_the_chain_rule_through_the_softmax():
    """With dL/dg in the place of dL/dp, autograd gives sum_j dL/dg_j p_j (delta_ij - p_i)."""
    alpha = torch.tensor([0.3, -0.9, 0.8], dtype=torch.float64, requires_grad=True)
    gates = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    torch.softmax(alpha, 0).backward(gates)
    p = torch.softmax(alpha.detach(), 0)
    by_hand = [sum(float(gates[j] * p[j] * (float(i == j) - p[i])) for j in range(3)) for i in range(3)]
    assert alpha.grad.tolist() == pytest.approx(by_hand, abs=1e-15)
    assert logit_gradient(gates, p).tolist() == pytest.approx(by_hand, abs=1e-15)


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
    expected = pair_gradient(torch.softmax(alpha, 0), q, torch.tensor(pair)) @ costs
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
