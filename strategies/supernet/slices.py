"""A training step of the slices that a path runs: what is beyond them stays as it is, and costs nothing where that can be.

The gradient is 0 beyond a slice, but an optimizer moves what has a gradient of 0: by weight decay, and by the momentum of earlier
steps. A candidate that was not sampled has no gradient at all, and stays.

=============  ===========================================================================================================
narrow         in the place of the weight a parameter of the slice alone, which shares its memory; so are gradient, momentum
               and the work of a step as large as those of the sampled network
kept           the whole weight steps, and what is beyond its slice is put back: super-kernels that are not of
               :data:`~.values.IN_ONE_SLICE`, and all under an optimizer that is not of :data:`BY_ELEMENT`
=============  ===========================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .gate import Gate
from .values import IN_ONE_SLICE, Slices

__all__ = ["BY_ELEMENT", "SlicesOfPath"]

BY_ELEMENT = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)
"""Optimizers that step each element of a weight by itself, with a state of the weight's shape that they change in place."""


class _Narrow(NamedTuple):
    operation: nn.Module
    name: str
    whole: nn.Parameter
    part: nn.Parameter
    used: Slices


class SlicesOfPath:
    """The weights of super-kernels that a path uses.

    Parameters
    ----------
    operations
        Super-kernels; none for a step that moves whole weights.
    path
        Gate -> index of the choice with which they run.
    optimizer
        Of all weights; what it knows of a weight counts where it has the weight's shape, such as momentum.
    """

    def __init__(self, operations: Sequence[Any], path: Mapping[Gate, int], optimizer: torch.optim.Optimizer):
        self._path = path
        # A fused step wants weights without gaps in memory.
        narrows = type(optimizer) in BY_ELEMENT and not any(group.get("fused") for group in optimizer.param_groups)
        self._narrow: list[_Narrow] = []
        self._kept = []
        for operation in operations:
            if narrows and isinstance(operation, IN_ONE_SLICE):
                self._narrow += _narrowed(operation, path)
            else:
                self._kept.append(operation)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, a forward and backward pass are of the slices alone."""
        for operation, name, _, part, _ in self._narrow:
            operation._parameters[name] = part
        try:
            yield
        finally:
            for operation, name, whole, _, _ in self._narrow:
                operation._parameters[name] = whole

    @contextmanager
    def stepping(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Inside, a step of the optimizer moves the slices alone, and their state; once, then their gradients are gone."""
        moving = [narrow for narrow in self._narrow if narrow.part.grad is not None]
        with self.running(), _in_optimizer(optimizer, moving), self._beyond_kept(optimizer):
            yield
        self._narrow = []

    @contextmanager
    def _beyond_kept(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        kept = []
        for operation in self._kept:
            if all(gate.fixed for gate in operation.gates.values()):
                continue  # nothing uses the rest any more
            for weight, inside in _used(operation, self._path):
                state = {key: value.clone() for key, value in _by_element(optimizer, weight).items()}
                kept.append((weight, inside, weight.detach().clone(), state))
        yield
        with torch.no_grad():
            for weight, inside, before, state in kept:
                weight.copy_(torch.where(inside, weight, before))
                for key, value in _by_element(optimizer, weight).items():
                    value.copy_(torch.where(inside, value, state.get(key, 0.0)))


def _by_element(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> dict[str, Tensor]:
    """What an optimizer knows of each element of a weight, such as momentum."""
    state = optimizer.state.get(weight, {})
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and value.shape == weight.shape}


# -- narrow ------------------------------------------------------------------------------------------------------------


def _narrowed(operation: Any, path: Mapping[Gate, int]) -> Iterator[_Narrow]:
    for name, used in operation.slices(**operation.sampling_policy.arguments(operation, path)).items():
        whole = operation._parameters.get(name)
        if whole is not None and (part := whole.detach()[used]).shape != whole.shape:
            yield _Narrow(operation, name, whole, nn.Parameter(part, whole.requires_grad), used)


@contextmanager
def _in_optimizer(optimizer: torch.optim.Optimizer, moving: Sequence[_Narrow]) -> Iterator[None]:
    """Inside, an optimizer has the parts in the place of the weights, and of their state what belongs to the parts."""
    if not moving:
        yield
        return
    by_element = {narrow.whole: _by_element(optimizer, narrow.whole) for narrow in moving}
    for _, _, whole, part, used in moving:
        parts = {key: value[used] for key, value in by_element[whole].items()}
        optimizer.state[part] = {**optimizer.state.get(whole, {}), **parts}
    _replace(optimizer, {narrow.whole: narrow.part for narrow in moving})
    try:
        yield
    finally:
        _replace(optimizer, {narrow.part: narrow.whole for narrow in moving})
        for _, _, whole, part, used in moving:
            first = _by_element(optimizer, part).keys() - by_element[whole].keys()
            state = optimizer.state.pop(part)
            for key in first:  # of a weight that has not moved before
                by_element[whole][key] = torch.zeros_like(whole)
                by_element[whole][key][used] = state[key]
            if state:
                optimizer.state[whole] = {**state, **by_element[whole]}


def _replace(optimizer: torch.optim.Optimizer, instead: Mapping[nn.Parameter, nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group["params"] = [instead.get(p, p) for p in group["params"]]


# -- kept --------------------------------------------------------------------------------------------------------------


def _used(operation: Any, path: Mapping[Gate, int]) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """The weights that have a gradient of which only a part is used, and which part."""
    names = {name: w for name, w in operation.named_parameters() if w.grad is not None}
    if not names:
        return
    used = operation.freeze_weight(**operation.sampling_policy.arguments(operation, path))
    sliced = {name: w for name, w in names.items() if used.get(name) is not None and used[name].numel() < w.numel()}
    if sliced:
        ones = torch.autograd.grad(sum(used[name].sum() for name in sliced), list(sliced.values()))
        yield from zip(sliced.values(), (gradient != 0 for gradient in ones), strict=True)
