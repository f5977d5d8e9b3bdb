"""Accuracy of a batch, of a network over a loader, and its log-loss. Needs no NNI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..core.module_modes import evaluating

__all__ = ["accuracy", "as_channels_last", "evaluate", "evaluate_accuracy", "in_type_of"]


def as_channels_last(images: Tensor) -> Tensor:
    """Channels-last memory: halves the step of these networks on CPUs with AVX-512, and is native on recent GPUs."""
    return images.contiguous(memory_format=torch.channels_last)


def in_type_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """What brings images to float64 for a network that computes in it (``trainer.precision: 64-true``), else leaves them as they are."""
    types = {p.dtype for p in network.parameters() if p.is_floating_point()}
    return Tensor.double if types == {torch.float64} else lambda images: images


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of right answers, a scalar tensor."""
    return (logits.argmax(dim=1) == targets).float().mean()


LEAST = 2**16  # numbers in a batch of images that is evaluated, such as 64 images of 32x32; smaller batches are joined


def joined(batches: Iterable[tuple[Tensor, Tensor]], least: int = LEAST) -> Iterator[tuple[Tensor, Tensor]]:
    """The same images in the same order, in batches of at least so many numbers, except for the last.

    Each of a network's operations takes a while to call, for a batch of small images as long as to compute.
    """
    waiting: list[tuple[Tensor, Tensor]] = []
    for images, targets in batches:
        waiting.append((images, targets))
        if sum(part.numel() for part, _ in waiting) >= least:
            yield torch.cat([part for part, _ in waiting]), torch.cat([part for _, part in waiting])
            waiting = []
    if waiting:
        yield torch.cat([part for part, _ in waiting]), torch.cat([part for _, part in waiting])


def evaluate_accuracy(network: nn.Module, batches: Any) -> float:
    """Share of right answers in evaluation mode, over a loader of (images, targets)."""
    right, total = 0, 0
    for logits, targets in _answers(network, batches):
        right += int((logits.argmax(dim=1) == targets).sum())
        total += len(targets)
    return right / total


def evaluate(network: nn.Module, batches: Any) -> tuple[float, float]:
    """Mean cross entropy, in nats, and share of right answers in evaluation mode, over a loader of (images, targets)."""
    loss, right, total = 0.0, 0, 0
    for logits, targets in _answers(network, batches):
        loss += float(cross_entropy(logits.float(), targets, reduction="sum"))
        right += int((logits.argmax(dim=1) == targets).sum())
        total += len(targets)
    return loss / total, right / total


@torch.no_grad()
def _answers(network: nn.Module, batches: Any) -> Iterator[tuple[Tensor, Tensor]]:
    device = next(network.parameters()).device
    typed = in_type_of(network)
    with evaluating(network):
        for images, targets in joined(batches):
            yield network(as_channels_last(typed(images.to(device)))), targets.to(device)
