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

from .own_copy import own_copy

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
    return _of_mutable(space, dict(sample), share=False)


def freeze_children(module: nn.Module, sample: Mapping[str, Any], *, share: bool = False) -> nn.Module:
    """A copy of a module with all choices in it made, whatever its own ``freeze``; the module itself where there is none.

    Parameters
    ----------
    share
        Whether what stands around choices keeps its parameters and buffers, as candidates do. Of the 108 trees of a space of 648 choices, copying
        them takes nine tenths of the time. False: they are copied, as NNI copies them.

    Raises
    ------
    SampleValidationError
        A choice is missing, or none of its label.
    """
    return _with_frozen_children(module, dict(sample), share)[0]


def _of_mutable(mutable: Any, sample: dict[str, Any], share: bool) -> Any:
    own = None if "freeze" in vars(mutable) else type(mutable).freeze
    if own is LayerChoice.freeze:
        mutable.validate(sample)
        return _frozen(mutable[mutable.choice.freeze(sample)], sample, share)[0]
    if own is Repeat.freeze:
        mutable.validate(sample)
        depth = mutable.depth_choice
        if isinstance(depth, Mutable):
            depth = depth.freeze(sample)
        return nn.Sequential(*(_frozen(block, sample, share)[0] for block in list(mutable.blocks)[:depth]))
    if own is MutableModule.freeze and not mutable.mutables:
        return _with_frozen_children(mutable, sample, share)[0]
    return mutable.freeze(sample)


def _frozen(module: nn.Module, sample: dict[str, Any], share: bool) -> tuple[Any, bool]:
    """The module with these choices, and whether that is to take its place."""
    if isinstance(module, Mutable):
        return _of_mutable(module, sample, share), True
    return _with_frozen_children(module, sample, share)


def _with_frozen_children(module: nn.Module, sample: dict[str, Any], share: bool) -> tuple[nn.Module, bool]:
    replaced: dict[str, Any] = {}
    copies: dict[int, Any] = {}
    for name, child in module.named_children():
        frozen, changed = _frozen(child, sample, share)
        if changed:
            replaced[name] = copies[id(child)] = frozen
    if not replaced:
        return module, False
    if share:
        copied = own_copy(module)
        copied._modules = {name: copies.get(id(child), child) for name, child in module._modules.items()}
        return copied, True
    copied = copy.deepcopy(module, copies)  # to which a frozen child is the copy of that child
    for name, frozen in replaced.items():
        setattr(copied, name, frozen)
    return copied, True
