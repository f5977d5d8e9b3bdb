"""The entropy term that makes a short search decide."""

from __future__ import annotations

import pytest
import torch
from nni_proxyless.strategies import ProxylessNAS
from torch import Tensor

from .spaces import OneChoice
from .watched import Step, Task, Watched, fit


class NoTask(Task):
    """The logits get no gradient from the task, so that only the entropy's is left."""

    def architecture_loss(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return 0 * self.model(batch[0]).sum()


def steps(update: str, weight: float) -> list[Step]:
    """Of four epochs of which the first is warm-up."""
    strategy = Watched(update=update, arc_update_every=2, arc_learning_rate=0.1, warmup_epochs=1, entropy_weight=weight)
    return fit(strategy, lambda: OneChoice(3), task=NoTask(), epochs=4, alphas={"choice": [0.7, -0.4, 0.1]}).steps


def test_full_adds_the_gradient_of_the_entropy():
    """dH/dalpha_i = -p_i (log p_i + H), times the weight, which rises from 0 to entropy_weight from epoch to epoch."""
    seen = steps("full", 1.5)
    assert [step.when[0] for step in seen] == [1, 1, 2, 2, 3, 3]
    for step in seen:
        p = torch.softmax(step.before["choice"], 0)
        entropy = -(p * p.log()).sum()
        expected = 1.5 * (step.when[0] - 1) / 2 * -p * (p.log() + entropy)
        torch.testing.assert_close(step.grad["choice"], expected, rtol=1e-9, atol=1e-12)


def test_two_path_adds_that_of_the_pair_and_no_more():
    """The candidate that was not drawn has gradient 0, the other two opposite ones."""
    for step in steps("two-path", 1.0):
        assert step.grad["choice"].sum() == pytest.approx(0, abs=1e-12)
        assert int((step.grad["choice"] == 0).sum()) == (3 if step.when[0] == 1 else 1)


def test_without_a_weight_there_is_none():
    assert all(bool((step.grad["choice"] == 0).all()) for step in steps("full", 0.0))


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="entropy_weight is -1; allowed: 0 or more"):
        ProxylessNAS(entropy_weight=-1)
