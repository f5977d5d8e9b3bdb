"""Keep what is beyond the slice of a path as it is while an optimizer steps.

The gradient is 0 there, but an optimizer moves what has a gradient of 0: by weight decay, and by the momentum of earlier steps.
A candidate that was not sampled has no gradient at all, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .gate import Gate
from .values import arguments_of

__all__ = ["slices_alone_move"]


@contextmanager
def slices_alone_move(
    operations: Sequence[Any], path: Mapping[Gate, int], optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Inside, an optimizer's step moves of the weights of super-kernels the slices of a path alone, and their state.

    Parameters
    ----------
    operations
        Super-kernels; those whose choices are made for good are left out, since nothing uses the rest of them any more.
    path
        Gate -> index of the choice with which they have run.
    optimizer
        Its state of a weight counts where it has the shape of the weight, such as momentum.
    """
    if not operations:
        yield
        return
    kept = []
    chosen = {gate.label: gate.choices[j] for gate, j in path.items()}
    for operation in operations:
        if all(gate.fixed for gate in operation.gates.values()):
            continue
        for weight, inside in _slices(operation, chosen):
            state = {key: value.clone() for key, value in _state(optimizer, weight).items()}
            kept.append((weight, inside, weight.detach().clone(), state))
    yield
    with torch.no_grad():
        for weight, inside, before, state in kept:
            weight.copy_(torch.where(inside, weight, before))
            for key, value in _state(optimizer, weight).items():
                value.copy_(torch.where(inside, value, state.get(key, 0.0)))


def _slices(operation: Any, chosen: dict[str, Any]) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """The weights that have a gradient of which only a part is used, and which part."""
    names = {name: w for name, w in operation.named_parameters() if w.grad is not None}
    used = operation.freeze_weight(**arguments_of(operation, chosen))
    sliced = {name: w for name, w in names.items() if used.get(name) is not None and used[name].numel() < w.numel()}
    if sliced:
        ones = torch.autograd.grad(sum(used[name].sum() for name in sliced), list(sliced.values()))
        yield from zip(sliced.values(), (gradient != 0 for gradient in ones), strict=True)


def _state(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> dict[str, Tensor]:
    state = optimizer.state.get(weight, {})
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and value.shape == weight.shape}
