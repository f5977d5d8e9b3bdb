"""The loss with a teacher, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from nni_proxyless.tasks.distillation import annealed, distilled


@pytest.mark.parametrize(("share", "temperature"), [(0.5, 1.0), (0.3, 4.0), (0.0, 2.0), (1.0, 0.5)])
def test_the_loss_is_the_formula(share, temperature):
    """(1 - share) loss + share T² Σ p log(p / q) / n, with p and q softmaxes of logits over T, in 64 bits."""
    chance = torch.Generator().manual_seed(0)
    outputs, taught = (torch.randn(5, 7, dtype=torch.float64, generator=chance) for _ in range(2))
    loss = torch.tensor(1.7, dtype=torch.float64)
    distance = 0.0
    for ours, theirs in zip(outputs.tolist(), taught.tolist(), strict=True):
        q, p = ([math.exp(z / temperature) for z in logits] for logits in (ours, theirs))
        distance += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    found = distilled(loss, outputs, taught, share, temperature)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx((1 - share) * 1.7 + share * temperature**2 * distance / 5, rel=1e-12)


def test_half_precision_is_compared_in_32_bits():
    outputs, taught = torch.randn(2, 4, 3).bfloat16()
    assert torch.equal(
        distilled(torch.tensor(1.0), outputs, taught, 0.5),
        distilled(torch.tensor(1.0), outputs.float(), taught.float(), 0.5),
    )


def test_the_share_of_the_teacher_falls_linearly_to_0_behind_the_last_epoch():
    assert [annealed(0.5, epoch, 5) for epoch in range(6)] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
