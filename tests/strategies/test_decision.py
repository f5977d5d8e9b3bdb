"""The entropy term that makes a short search decide."""

from __future__ import annotations

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning
from nni_proxyless.strategies import ProxylessNAS
from torch import Tensor

from .searches import Noisy, Plain, Task, quiet_trainer


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
