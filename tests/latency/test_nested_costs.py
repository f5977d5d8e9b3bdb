"""Costs that hang on several choices: of a network, expected, and its gradient, against all networks."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch

from nni_proxyless.latency.nested_costs import NestedCosts

CHOICES: dict[str, tuple[Any, ...]] = {"size": ("24", "32"), "stride": ("1", "2"), "width": (8, 16, 24), "block": ("a", "b", "skip")}  # fmt: skip
COSTS = {
    (("size", ("24",)), ("stride", ("2",)), ("block", ("a",))): 2.0,
    (("size", ("32",)), ("width", (8, 24))): 3.5,
    (("stride", ("1",)), ("width", (16,)), ("size", ("24", "32")), ("block", ("b",))): 0.25,
}
LABELS = list(CHOICES)


def networks() -> list[dict[str, Any]]:
    return [dict(zip(LABELS, one, strict=True)) for one in itertools.product(*CHOICES.values())]


def paid(sample: dict[str, Any]) -> list[float]:
    """As it is meant, written out."""
    return [ms if all(sample[label] in some for label, some in term) else 0.0 for term, ms in COSTS.items()]


def random_probs(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {label: torch.rand(len(some), generator=draw, dtype=dtype).softmax(0) for label, some in CHOICES.items()}


def test_a_network_pays_the_terms_that_hold():
    costs = NestedCosts(COSTS, CHOICES)
    for sample in networks():
        assert sum(costs.of(sample)) == sum(paid(sample))


def test_the_expectation_is_the_mean_over_all_networks_for_tensors_and_numbers():
    costs = NestedCosts(COSTS, CHOICES)
    probs = random_probs(0)
    mean = torch.zeros(len(COSTS), dtype=torch.float64)
    for sample in networks():
        p = torch.stack([probs[label][CHOICES[label].index(sample[label])] for label in LABELS]).prod()
        mean += p * torch.tensor(paid(sample), dtype=torch.float64)
    tensors = {label: dict(zip(some, probs[label].unbind(), strict=True)) for label, some in CHOICES.items()}
    torch.testing.assert_close(costs.expected(tensors), mean, rtol=1e-14, atol=0)
    numbers = {label: {c: float(p) for c, p in some.items()} for label, some in tensors.items()}
    assert costs.expected(numbers) == pytest.approx(mean.numpy(), rel=1e-14)
    mixed = {**tensors, "size": numbers["size"]}
    torch.testing.assert_close(costs.expected(mixed), mean, rtol=1e-14, atol=0)


def test_the_gradient_is_exact_where_probabilities_are_zero_too():
    costs = NestedCosts(COSTS, CHOICES)

    def expected(*of: torch.Tensor) -> torch.Tensor:
        probs = {label: dict(zip(CHOICES[label], p.unbind(), strict=True)) for label, p in zip(LABELS, of, strict=True)}
        return costs.expected(probs)

    given = [p.requires_grad_() for p in random_probs(1).values()]
    assert torch.autograd.gradcheck(expected, given)
    decided = [torch.eye(len(some), dtype=torch.float64)[0].requires_grad_() for some in CHOICES.values()]
    assert torch.autograd.gradcheck(expected, decided)


def test_what_is_no_network_is_refused_with_what_is_allowed():
    costs, sample = NestedCosts(COSTS, CHOICES), random.Random(0).choice(networks())
    with pytest.raises(ValueError, match=r"choice 'width' is '8'; allowed: 8, 16, 24"):
        list(costs.of({**sample, "width": "8"}))
    with pytest.raises(KeyError, match="stride is not in"):
        list(costs.of({label: c for label, c in sample.items() if label != "stride"}))
