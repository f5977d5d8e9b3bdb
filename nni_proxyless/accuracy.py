"""The share of right answers, of a batch and of a network over many. Needs no NNI, so the final training does without it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .modes import evaluating

__all__ = ["accuracy", "as_channels_last", "evaluate_accuracy"]


def as_channels_last(images: Tensor) -> Tensor:
    """Channels-last memory: halves the step of these nets on CPUs with AVX-512, and is native on recent GPUs."""
    return images.contiguous(memory_format=torch.channels_last)


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of right answers, a scalar tensor."""
    return (logits.argmax(dim=1) == targets).float().mean()


@torch.no_grad()
def evaluate_accuracy(network: nn.Module, batches: Any) -> float:
    """Share of right answers in evaluation mode, over a loader of (images, targets)."""
    device = next(network.parameters()).device
    right = total = 0
    with evaluating(network):
        for images, targets in batches:
            logits = network(as_channels_last(images.to(device)))
            right += int((logits.argmax(dim=1) == targets.to(device)).sum())
            total += len(targets)
    return right / total
