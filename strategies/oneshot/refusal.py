"""Refuse spaces that a strategy cannot search, by name, and restore the space.

NNI makes a supernet in place, module by module. What is refused halfway would be left neither space nor supernet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from nni.mutable import Mutable
from nni.nas.hub.pytorch import NDS
from nni.nas.nn.pytorch import Cell, MutableModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from nni_proxyless.core.nni_compat import NasBench101Cell
from nni_proxyless.latency.operation import choice_of_shapes

from ..supernet.values import SUPER_KERNELS

__all__ = [
    "SpaceError", "SpaceSnapshot", "refuse_cell", "refuse_edges", "refuse_loose_ends", "refuse_made_operations",
    "refuse_other_shapes", "refuse_unknown", "unchanged_if_refused", "without_gate_gradient",
]  # fmt: skip


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
    """A mutation hook that refuses NNI's ``Cell`` where its operations depend on more than node and chosen input."""
    if not isinstance(module, Cell) or module.op_candidates_factory is None:
        return False
    if type(module) is not Cell or not isinstance(module.op_candidates_factory, (list, dict)):
        raise SpaceError(
            f"module {name!r} is a {type(module).__name__} that makes its operations in a way of its own; allowed: a Cell with a list "
            "or dict of op_candidates"
        )
    for node in cast(Any, module.ops):
        if len({tuple(repr(op[name]) for name in op.names) for op in node}) > 1:
            raise SpaceError(
                f"module {name!r} is a Cell that makes other operations for another op_index, which the operations of a node share; "
                "allowed: op_candidates that depend on node_index and input_index"
            )
    return False


def refuse_edges(space: nn.Module) -> None:
    """Refuse the cell of NAS-Bench-101, whose choices are no choices one by one."""
    for name, module in space.named_modules():
        if isinstance(module, NasBench101Cell):
            raise SpaceError(
                f"module {name!r} is a NasBench101Cell, which draws its edges under a limit on all of them together, and whose "
                "operations have channels that depend on every edge; allowed: a Cell, as NasBench201 or DARTS have it"
            )


def refuse_made_operations(space: nn.Module) -> None:
    """Refuse a cell that makes its operations for each input, of which NNI's supernets leave no network with their weights."""
    for name, module in space.named_modules():
        if isinstance(module, Cell) and module.op_candidates_factory is not None:
            raise SpaceError(
                f"module {name!r} is a Cell that makes its operations for each input, and NNI's supernet of it cannot be frozen to a "
                "network with its weights; allowed: ProxylessNAS, DSNAS"
            )


def refuse_loose_ends(space: nn.Module) -> None:
    """Refuse a cell whose output has another shape in each network, where it is not known what that means for what follows."""
    if isinstance(space, NDS):
        return
    for name, module in space.named_modules():
        if isinstance(module, Cell) and module.merge_op != "all":
            raise SpaceError(
                f"module {name!r} is a Cell with merge_op {module.merge_op!r}, whose output has another shape in each network; allowed: "
                "merge_op 'all', or a space made by NDS of NNI's hub"
            )


def refuse_other_shapes(space: nn.Module) -> None:
    """Refuse a space with a choice that changes shapes: what its candidates give cannot be compared, nor added up."""
    label = choice_of_shapes(space)
    if label is not None:
        raise SpaceError(
            f"choice {label!r} gives another shape with each candidate, and candidates cannot be compared then; allowed: "
            "ProxylessNAS with update 'reinforce', DSNAS, nni-random"
        )


def without_gate_gradient(module: nn.Module, name: str) -> SpaceError:
    """What is said of a choice of values by a strategy that learns from gate gradients."""
    which, candidate = _described(module, name)
    return SpaceError(
        f"{which}, a value inside it, for which there is no gate gradient: of a wider layer the next one slices the extra channels "
        "away; allowed: ProxylessNAS with update 'reinforce', DSNAS with reward 'loss'; or a candidate of each value, "
        f"{candidate}"
    )


def refuse_unknown(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> bool:
    """The last mutation hook: refuses every module with a choice that no hook has taken."""
    if isinstance(module, MutableModule) and module.mutables:
        which, candidate = _described(module, name)
        raise SpaceError(
            f"{which}, and no mutation hook knows how it runs with it; allowed: LayerChoice, InputChoice, Repeat, arguments of "
            f"{', '.join(kernel.bound_type.__name__ for kernel in SUPER_KERNELS)} and of modules without weights; or a hook of its "
            f"own (docs/how-to/values.md), or a candidate of each value, {candidate}"
        )
    return True


def _described(module: Any, name: str) -> tuple[str, str]:
    """Which module depends on which choices; and how it would be a ``LayerChoice``."""
    labels = list(dict.fromkeys(str(label) for mutable in module.mutables for label in _labels(mutable)))
    choices = f"{'choice' if len(labels) < 2 else 'choices'} {', '.join(map(repr, labels)) or 'without a label'}"
    plain = type(module).__name__.removeprefix("Mutable")
    return (
        f"module {name!r} is a {type(module).__name__} that depends on the {choices}",
        f"LayerChoice({{...: {plain}(...), ...}}, label={next(iter(labels), '...')!r})",
    )


def _labels(mutable: Any) -> list[str]:
    return list(mutable.simplify()) if isinstance(mutable, Mutable) else []
