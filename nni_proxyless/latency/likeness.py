"""Modules that compute the same but for their weights: what is found out about one of them is known of all.

A space of hundreds of choices has thousands of candidates, and a few hundred kinds of them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import nn

__all__ = ["likeness"]

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


def likeness(module: nn.Module) -> Hashable | None:
    """Equal for modules of the same classes, settings and shapes of weights, whatever the weights are.

    None where that is not known: a part has hooks, or an attribute that is neither a number, a text, a type nor a device, nor several of
    these.
    """
    found: list[Hashable] = []
    for name, part in module.named_modules(remove_duplicate=False):
        own = {key: _plain(value) for key, value in vars(part).items() if key not in _OF_EVERY_MODULE}
        if _has_hooks(part) or any(value is _UNKNOWN for value in own.values()):
            return None
        tensors = (*part._parameters.items(), *part._buffers.items())
        shapes = tuple((key, None if t is None else (tuple(t.shape), t.dtype, t.device)) for key, t in tensors)
        found.append((name, type(part), part.training, tuple(own.items()), shapes))
    return tuple(found)


class _Unknown:
    pass


_UNKNOWN = _Unknown()


def _plain(value: Any) -> Any:
    """As something that can be compared and hashed; types in it, since 1 is True."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if type(value) in (list, tuple):
        items = tuple(_plain(item) for item in value)
        return _UNKNOWN if _UNKNOWN in items else (type(value), items)
    return _UNKNOWN


def _has_hooks(module: nn.Module) -> bool:
    return any(value for key, value in vars(module).items() if "_hooks" in key)
