"""Several processes, one search: gradients are averaged over the processes, whether they sample the same path or not.

Lightning's DDP starts the processes and gives each its share of the data. Its own reduction of gradients is left out:
it waits for every parameter of the supernet, or sends zeros for all that were not on the path. Here the gradients of
what was on a path are averaged, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

__all__ = ["average", "average_gradients", "check_strategy", "reduces_by_itself"]


def average(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over all processes; all of one type go in one message.

    Every process must hand in tensors of the same shapes in the same order.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for same in by_dtype.values():
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        for tensor, mean in zip(same, flat.split([t.numel() for t in same]), strict=True):
            tensor.detach().copy_(mean.view(tensor.shape))


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; a process that has none counts as 0.

    A parameter that has no gradient in any process keeps none, so that no optimizer moves it.
    """
    here = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=parameters[0].device)
    torch.distributed.all_reduce(here, op=torch.distributed.ReduceOp.MAX)
    reached = [p for p, somewhere in zip(parameters, here.tolist(), strict=True) if somewhere]
    for p in reached:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    average([p.grad for p in reached if p.grad is not None])


def check_strategy(strategy: Any) -> None:
    """Refuse a Lightning strategy under which weights or gradients are not where they are looked for.

    Raises
    ------
    TypeError
        Anything but one device, or DDP.
    """
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise TypeError(
            f"the Trainer's strategy is a {type(strategy).__name__}; allowed: one device, or DDP (strategy='ddp')"
        )


def reduces_by_itself(strategy: Any) -> bool:
    """Whether a backward pass under this strategy would average gradients on its own."""
    return isinstance(strategy, DDPStrategy)
