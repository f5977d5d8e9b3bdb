"""The network of a sample, at the cost of copying what it is made of.

NNI's own ``freeze`` copies what stands around a choice with all candidates in it, once for each level of modules above: of a space of 648
choices seven times all candidates, to keep one in seven once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from nni.mutable import Mutable
from nni.nas.nn.pytorch import LayerChoice, MutableModule, Repeat
from torch import nn

__all__ = ["freeze", "freeze_children"]


def freeze(space: Any, sample: Mapping[str, Any]) -> nn.Module:
    """What ``space.freeze(sample)`` gives: the same modules, copied where NNI copies them and shared where it shares them.

    A choice that stands in several places of a module is frozen in all of them; NNI's own leaves it open in all but the first.

    Parameters
    ----------
    space
        A model space or a supernet. Whatever in it has a ``freeze`` of its own is asked for that.
    sample
        Label -> choice.

    Raises
    ------
    SampleValidationError
        A choice is missing, or none of its label.
    """
    return _of_mutable(space, dict(sample))


def freeze_children(module: nn.Module, sample: Mapping[str, Any]) -> nn.Module:
    """A copy of a module with all choices in it made, whatever its own ``freeze``; the module itself where there is none.

    Raises
    ------
    SampleValidationError
        A choice is missing, or none of its label.
    """
    return _with_frozen_children(module, dict(sample))[0]


def _of_mutable(mutable: Any, sample: dict[str, Any]) -> Any:
    own = None if "freeze" in vars(mutable) else type(mutable).freeze
    if own is LayerChoice.freeze:
        mutable.validate(sample)
        return _frozen(mutable[mutable.choice.freeze(sample)], sample)[0]
    if own is Repeat.freeze:
        mutable.validate(sample)
        depth = mutable.depth_choice
        if isinstance(depth, Mutable):
            depth = depth.freeze(sample)
        return nn.Sequential(*(_frozen(block, sample)[0] for block in list(mutable.blocks)[:depth]))
    if own is MutableModule.freeze and not mutable.mutables:
        return _with_frozen_children(mutable, sample)[0]
    return mutable.freeze(sample)


def _frozen(module: nn.Module, sample: dict[str, Any]) -> tuple[Any, bool]:
    """The module with these choices, and whether that is to take its place."""
    return (_of_mutable(module, sample), True) if isinstance(module, Mutable) else _with_frozen_children(module, sample)


def _with_frozen_children(module: nn.Module, sample: dict[str, Any]) -> tuple[nn.Module, bool]:
    replaced: dict[str, Any] = {}
    copies: dict[int, Any] = {}
    for name, child in module.named_children():
        frozen, changed = _frozen(child, sample)
        if changed:
            replaced[name] = copies[id(child)] = frozen
    if not replaced:
        return module, False
    copied = copy.deepcopy(module, copies)  # to which a frozen child is the copy of that child
    for name, frozen in replaced.items():
        setattr(copied, name, frozen)
    return copied, True
