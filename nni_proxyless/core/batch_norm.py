"""Statistics of batch norm estimated afresh, of those norms whose statistics training moves, and of no other.

In a supernet the running statistics are those of a mixture of networks, so a derived network needs its own. A norm that its owner
keeps in evaluation mode has statistics that were given and with which everything else was trained: they stay. The modes say
which is which; nothing here changes a mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from .joined_batches import batches_apart, can_join, groups_of

__all__ = ["batch_norm_statistics_kept", "estimate_statistics", "moving_norms", "statistics_moved_already"]


def moving_norms(modules: Iterable[nn.Module]) -> list[Any]:
    """The norms among these modules that update running statistics in a forward pass: tracking, and in training mode.

    Batch norms of all kinds, and instance norms with running statistics.
    """
    return [
        m
        for m in modules
        if isinstance(m, _NormBase)
        and m.training
        and m.track_running_stats
        and m._buffers.get("running_mean") is not None
    ]


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[Tensor], device: torch.device) -> None:
    """Re-estimate the statistics of :func:`moving_norms`: the plain mean over these batches replaces the moving average.

    Parameters
    ----------
    network
        In the modes in which it was trained, which stay.
    batches
        What the network is called with.
    """
    norms = moving_norms(network.modules())
    if not norms:
        return
    momenta = [(norm, norm.momentum) for norm in norms]
    handles = []
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            if isinstance(norm, _InstanceNorm):  # which knows no mean over all batches
                handles.append(norm.register_forward_pre_hook(_counting()))
        moved = (images.to(device) for images in batches)
        if not can_join(network, norms):
            for images in moved:
                network(images)
            return
        for group in groups_of(moved):
            with batches_apart(network, norms, [len(images) for images in group]):
                network(torch.cat(group))
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in momenta:
            norm.momentum = momentum


@contextmanager
def batch_norm_statistics_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Batch and instance norm normalize as in training, but their running statistics stay as they are.

    ``momentum = 0`` would do for the averages, yet still count the batch, which falsifies a cumulative average.

    Parameters
    ----------
    modules
        As ``module.modules()`` gives them; other modules are ignored.
    """
    moving = moving_norms(modules)
    of_instances = [(m, m.momentum) for m in moving if isinstance(m, _InstanceNorm)]  # 0 stops them; they count nothing
    tracking = [m for m in moving if not isinstance(m, _InstanceNorm)]
    # Bypass nn.Module.__setattr__: its checks are measurable at every step of a search, whose candidates all have batch norms.
    for m in tracking:
        object.__setattr__(m, "track_running_stats", False)
    for m, _ in of_instances:
        m.momentum = 0.0
    try:
        yield
    finally:
        for m, momentum in of_instances:
            m.momentum = momentum
        for m in tracking:
            object.__setattr__(m, "track_running_stats", True)


@contextmanager
def statistics_moved_already(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A forward pass that is computed a second time moves no running statistics.

    Autograd is given the same tensors as in the first pass, which torch's checkpoints compare; where
    :func:`batch_norm_statistics_kept` is in force there are fewer.

    Parameters
    ----------
    modules
        As ``module.modules()`` gives them; other modules are ignored.
    """
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in moving_norms(modules)]
    for norm, _, _ in before:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, n_batches in before:
            norm.momentum, norm.num_batches_tracked = momentum, n_batches


def _counting() -> Callable[[Any, Any], None]:
    n = 0

    def count(norm: Any, args: Any) -> None:
        nonlocal n
        n += 1
        norm.momentum = 1 / n

    return count
