"""Operations: what a network is timed as, and the keys by which a table knows them.

An :class:`Operation` is a module together with the shape it is fed. Its key is readable and stable: the same from run to
run, equal for equal work, different for different work. Spaces whose modules have a customary name register it with
:func:`describe`; MobileNetV2-style blocks carry the keys of the published ProxylessNAS tables, for example
``expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:3-stride:2-idskip:0``.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from nni.mutable import Mutable
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, MutableModule, Repeat
from torch import nn

__all__ = [
    "Conditions",
    "Operation",
    "Shape",
    "describe",
    "is_free",
    "operations_of",
    "other_names",
    "trace_operations",
]

Shape = tuple[int, ...]
"""Of one sample, without the batch: (channels, height, width), or (features,)."""

Conditions = tuple[tuple[str, tuple[object, ...]], ...]
"""When something is part of a network: for each of these labels, one of these choices. Empty: always."""

Calls = dict[nn.Module, list[tuple[Shape, Shape]]]
"""Module -> input and output shape of each of its calls in one forward pass."""


@functools.singledispatch
def describe(module: nn.Module, input_shape: Shape, output_shape: Shape) -> str:
    """The key of a module. Register a function for a type to give it a name of its own.

    The default is its class, the shapes, and eight digits of a hash over its printed structure.
    """
    structure = hashlib.sha256(repr(module).encode()).hexdigest()[:8]
    return f"{type(module).__name__}-input:{shape_text(input_shape)}-output:{shape_text(output_shape)}-{structure}"


@functools.singledispatch
def other_names(module: nn.Module, input_shape: Shape, output_shape: Shape) -> tuple[tuple[str, ...], ...]:
    """By what else published tables know a module: each entry is the keys of the rows that it is the sum of."""
    return ()


def shape_text(shape: Shape) -> str:
    """``HxWxC`` for (C, H, W), as the published tables write it; other ranks in their own order."""
    return "x".join(map(str, (*shape[1:], shape[0]) if len(shape) == 3 else shape))


@dataclass(frozen=True)
class Operation:
    """A module with its input shape.

    Attributes
    ----------
    key
        Readable and stable; the row of a lookup table.
    module
        What is run. Its weights do not matter.
    input_shape
        Of one sample.
    conditions
        When the operation is part of a network: (label, choices) pairs from the outermost choice to the innermost, a
        label once only. A candidate has one choice there; a block of a ``Repeat`` all depths that reach it.
    """

    key: str
    module: nn.Module = field(repr=False, compare=False)
    input_shape: Shape
    conditions: Conditions = ()
    other_names: tuple[tuple[str, ...], ...] = ()

    def runs_in(self, sample: Mapping[str, object]) -> bool:
        """Whether the network of this architecture (label -> choice) runs the operation."""
        return all(sample[label] in choices for label, choices in self.conditions)


def is_free(module: nn.Module) -> bool:
    """True for a module that does nothing and therefore takes no time: the skip."""
    return isinstance(module, nn.Identity)


def trace_operations(space: ModelSpace, input_shape: Shape) -> list[Operation]:
    """All operations of a model space: what every network runs, and every candidate of every choice.

    The space runs once on zeros, in evaluation mode; hooks note the shapes. A candidate is one operation, unless it holds
    choices itself: then it is taken apart like the space. A ``Repeat`` is taken apart into its blocks. An
    ``InputChoice`` counts nothing: all that it may choose from is computed, and adding tensors up is cheap. The part that is always there is cut into the largest modules
    that hold no choice and are more than a sequence of others; a space may group them by an attribute
    ``fixed_operations``, a dict name -> names of submodules that run one after the other. The name becomes the head of
    the key. What runs several times counts several times.

    Parameters
    ----------
    space
        Not changed; the run is made on a copy.
    input_shape
        Of one sample, (channels, height, width).

    Raises
    ------
    ValueError
        The space does not run on that shape, or it holds another kind of choice, whose cost would be missed.
    """
    return operations_of(copy.deepcopy(space).eval(), input_shape)


def operations_of(space: ModelSpace, input_shape: Shape) -> list[Operation]:
    """The same, without a copy: the operations hold the space's own modules. It runs in the mode it is in."""
    for module in space.modules():
        if isinstance(module, Repeat):
            module._dry_run_depth = module.max_depth  # else the deeper blocks have no shapes
    groups: dict[str, tuple[str, ...]] = getattr(space, "fixed_operations", {})
    grouped = {name for names in groups.values() for name in names}
    modules = dict(space.named_modules())

    calls = _record_calls(space, (torch.zeros(1, *input_shape),), f"{type(space).__name__} on input {input_shape}")
    operations = []
    for head, names in groups.items():
        first, last = calls[modules[names[0]]][0], calls[modules[names[-1]]][0]
        module = nn.Sequential(*(modules[name] for name in names))  # the same modules, called one by one in the space
        key = f"{head}-input:{shape_text(first[0])}-output:{shape_text(last[1])}"
        operations.append(
            Operation(key, module, first[0], other_names=_parts(head, first[0], last[1], calls, modules, names))
        )
    operations += _walk("", space, calls, grouped, ())
    return operations


def _parts(
    head: str,
    input_shape: Shape,
    output_shape: Shape,
    calls: Calls,
    modules: dict[str, nn.Module],
    names: tuple[str, ...],
) -> tuple[tuple[str, ...], ...]:
    """Once-for-all times pooling on its own, and its classifier behind it; ProxylessNAS the two as one."""
    if head != "Logits" or len(names) < 2:
        return ()
    pooled = calls[modules[names[0]]][0][1][0]
    pool = f"AvgPool2D-input:{shape_text(input_shape)}-output:1x1x{pooled}"
    return ((pool, f"{head}-input:1x1x{pooled}-output:{shape_text(output_shape)}"),)


def _walk(name: str, module: nn.Module, calls: Calls, grouped: set[str], conditions: Conditions) -> Iterator[Operation]:
    if name in grouped:
        return
    if isinstance(module, LayerChoice):
        for input_shape, _ in calls.get(module, ()):  # none: never called, it is in no network
            for choice in module.names:
                inside = _and(conditions, module.label, (choice,))
                if inside is None:
                    continue
                candidate = module[choice]
                what = f"candidate {choice!r} of choice {module.label!r}"
                inner = _record_calls(candidate, (torch.zeros(1, *input_shape),), what)
                yield from _walk(f"{name}.{choice}", candidate, inner, grouped, inside)
    elif isinstance(module, Repeat):
        for i, block in enumerate(module.blocks):
            inside = _reached(conditions, module, i)
            if inside is not None:
                yield from _walk(f"{name}.blocks.{i}", block, calls, grouped, inside)
    elif isinstance(module, InputChoice):
        return
    elif isinstance(module, MutableModule) and module.mutables:
        raise ValueError(
            f"{name or type(module).__name__}: a {type(module).__name__} with choices of its own has no latency here; "
            "allowed: LayerChoice, Repeat, InputChoice"
        )
    elif not name or _holds_choice(module) or (not conditions and type(module) is nn.Sequential):
        for child_name, child in module.named_children():
            yield from _walk(f"{name}.{child_name}" if name else child_name, child, calls, grouped, conditions)
    elif not is_free(module):
        for call in calls.get(module, ()):
            yield Operation(describe(module, *call), module, call[0], conditions, other_names(module, *call))


def _and(conditions: Conditions, label: str, choices: tuple[object, ...]) -> Conditions | None:
    """Both at once; None if that cannot be: a label may stand at several places, and has one choice everywhere."""
    found = dict(conditions)
    found[label] = tuple(choice for choice in found.get(label, choices) if choice in choices)
    return tuple(found.items()) if found[label] else None


def _reached(conditions: Conditions, repeat: Repeat, i: int) -> Conditions | None:
    """When block i of a ``Repeat`` runs."""
    depth = repeat.depth_choice
    if not isinstance(depth, Mutable):
        return conditions if i < int(depth) else None
    ((label, categorical), *others) = depth.simplify().items()
    if others:
        raise ValueError(f"a Repeat whose depth depends on several choices ({depth}) has no latency here; allowed: one")
    deep_enough = tuple(value for value in categorical.values if i < depth.freeze({label: value}))
    if len(deep_enough) == len(categorical.values):
        return conditions
    return _and(conditions, label, deep_enough) if deep_enough else None


def _holds_choice(module: nn.Module) -> bool:
    # NNI's own layers (MutableConv2d and the like) are MutableModules as well; without a choice they are plain layers.
    return any(isinstance(m, MutableModule) and m.mutables for m in module.modules())


@torch.no_grad()
def _record_calls(module: nn.Module, inputs: tuple, what: str) -> Calls:
    calls: Calls = {}

    def note(module: nn.Module, args: tuple, output: object) -> None:
        if args and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
            calls.setdefault(module, []).append((tuple(args[0].shape[1:]), tuple(output.shape[1:])))

    handles = [m.register_forward_hook(note) for m in module.modules()]
    try:
        module(*inputs)
    except Exception as error:
        raise ValueError(f"{what}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return calls
