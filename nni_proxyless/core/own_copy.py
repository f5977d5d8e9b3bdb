"""A copy of a module that shares what it is made of."""

from __future__ import annotations

from torch import nn

__all__ = ["own_copy"]


def own_copy(module: nn.Module) -> nn.Module:
    """A module of the same parameters, buffers and children, whose registers and hooks are its own."""
    copied = type(module).__new__(type(module))
    copied.__dict__ = {
        name: value.copy() if isinstance(value, (dict, set)) else value for name, value in vars(module).items()
    }
    return copied
