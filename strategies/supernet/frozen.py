"""Exclude weights from the gradient of an architecture step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

__all__ = ["gradients_off"]


@contextmanager
def gradients_off(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """No gradient for ``parameters`` inside: neither computed nor the activations for it kept."""
    switched = [p for p in parameters if p.requires_grad]
    for p in switched:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in switched:
            p.requires_grad_(True)
