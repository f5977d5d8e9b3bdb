"""Refuse spaces that a strategy cannot search, by name, and restore the space.

NNI makes a supernet in place, module by module. What is refused halfway would be left neither space nor supernet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nni.mutable import Mutable
from nni.nas.nn.pytorch import Cell, MutableModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from nni_proxyless.latency.operation import choice_of_shapes

__all__ = ["SpaceError", "SpaceSnapshot", "refuse_cell", "refuse_other_shapes", "refuse_values", "unchanged_if_refused"]


class SpaceError(TypeError, MisconfigurationException):
    """A space that a strategy cannot search; the message names what is in the way, and what is allowed."""


class SpaceSnapshot:
    """The children of every module of a space, as they are now, so that what replaces them can be taken out again."""

    def __init__(self, space: nn.Module):
        self._children = [(module, dict(module._modules), vars(module).get("freeze")) for module in space.modules()]

    def restore(self) -> None:
        """Put them back."""
        for module, children, freeze in self._children:
            module._modules.clear()
            module._modules.update(children)
            if freeze is None:
                vars(module).pop("freeze", None)


@contextmanager
def unchanged_if_refused(space: nn.Module) -> Iterator[None]:
    """Restore a space if an error is raised."""
    original = SpaceSnapshot(space)
    try:
        yield
    except BaseException:
        original.restore()
        raise


def refuse_cell(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> bool:
    """A mutation hook that refuses NNI's ``Cell`` where what it runs depends on inputs that are not chosen yet."""
    if isinstance(module, Cell):
        if module.op_candidates_factory is not None:
            raise SpaceError(
                f"module {name!r} is a Cell that makes its operations for each chosen input, as the DARTS and ENAS spaces of "
                "NNI's hub do; allowed: a Cell of modules, LayerChoice, InputChoice, Repeat"
            )
        if module.merge_op != "all":
            raise SpaceError(f"module {name!r} is a Cell with merge_op {module.merge_op!r}; allowed: merge_op 'all'")
    return False


def refuse_other_shapes(space: nn.Module) -> None:
    """Refuse a space with a choice that changes shapes: what its candidates give cannot be compared, nor added up."""
    label = choice_of_shapes(space)
    if label is not None:
        raise SpaceError(
            f"choice {label!r} gives another shape with each candidate, and candidates cannot be compared then; allowed: "
            "ProxylessNAS with update 'reinforce', DSNAS, nni-random"
        )


def refuse_values(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> bool:
    """The last mutation hook: refuses every module with a choice that no hook has taken, as those of values."""
    if isinstance(module, MutableModule) and module.mutables:
        labels = {str(label): None for mutable in module.mutables for label in _labels(mutable)}
        which = ", ".join(map(repr, labels)) or "without a label"
        raise SpaceError(
            f"module {name!r} is a {type(module).__name__} that depends on the choice {which}, a value inside it; allowed: LayerChoice, "
            f"InputChoice and Repeat. Make a candidate of each value: LayerChoice({{...: {type(module).__name__.removeprefix('Mutable')}(...), "
            f"...}}, label={next(iter(labels), '...')!r})"
        )
    return True


def _labels(mutable: Any) -> list[str]:
    return list(mutable.simplify()) if isinstance(mutable, Mutable) else []
