"""What a network is worth on a loader of images: its loss, and the figure of merit of its task. Needs no NNI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.module_modes import evaluating
from ..tasks import Classification, Task
from ..tasks.alone import alone

__all__ = ["as_channels_last", "evaluate", "evaluate_accuracy", "evaluate_merit", "in_type_of", "updated"]


def as_channels_last(images: Tensor) -> Tensor:
    """Channels-last memory: halves the step of these networks on CPUs with AVX-512, and is native on recent GPUs."""
    return images.contiguous(memory_format=torch.channels_last)


def in_type_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """What brings images to float64 for a network that computes in it (``trainer.precision: 64-true``), else leaves them as they are."""
    types = {p.dtype for p in network.parameters() if p.is_floating_point()}
    return Tensor.double if types == {torch.float64} else lambda images: images


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
    """Share of right answers in evaluation mode, over a loader of (images, classes)."""
    return evaluate_merit(network, batches, Classification())


def evaluate_merit(network: nn.Module, batches: Any, task: Task) -> float:
    """The figure of merit in evaluation mode, over a loader of (images, targets)."""
    return float(updated(alone(task.metric()), network, batches).compute())


def evaluate(network: nn.Module, batches: Any, task: Task) -> tuple[float, float]:
    """Mean loss and figure of merit in evaluation mode, over a loader of (images, targets)."""
    loss, total, metric = 0.0, 0, alone(task.metric())
    for outputs, targets in _answers(network, batches):
        loss += float(task.summed_loss(outputs.float(), targets))
        total += len(targets)
        metric.to(outputs.device).update(outputs, targets)
    return loss / total, float(metric.compute())


def updated(metric: Any, network: nn.Module, batches: Any) -> Any:
    """The metric, after it has seen the answers of a network in evaluation mode over a loader of (images, targets)."""
    for outputs, targets in _answers(network, batches):
        metric.to(outputs.device).update(outputs, targets)
    return metric


@torch.no_grad()
def _answers(network: nn.Module, batches: Any) -> Iterator[tuple[Tensor, Tensor]]:
    device = next(network.parameters()).device
    typed = in_type_of(network)
    with evaluating(network):
        for images, targets in joined(batches):
            yield network(as_channels_last(typed(images.to(device)))), targets.to(device)
