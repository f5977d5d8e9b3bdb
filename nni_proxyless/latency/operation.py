"""Operations: the units in which a network is timed, and their keys in a table.

An :class:`Operation` is a module together with what it is fed. Its key is readable and stable: the same from run to
run, equal for equal work, different for different work. Spaces whose modules have a customary name register it with
:func:`describe`; MobileNetV2-style blocks carry the keys of the published ProxylessNAS tables, for example
``expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:3-stride:2-idskip:0``.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..core.garbage import collection_paused
from .calls import Call, Shape, TensorSpec, map_structure, shape_text, sizes_of
from .products import Products

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

__all__ = [
    "Conditions",
    "Operation",
    "Shape",
    "choice_of_shapes",
    "describe",
    "floating_type",
    "is_free",
    "key_of",
    "operations_of",
    "other_names",
    "shape_text",
    "trace_operations",
    "traced",
]

Conditions = tuple[tuple[str, tuple[object, ...]], ...]
"""When something is part of a network: for each of these labels, one of these choices. Empty: always."""


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


@dataclass(frozen=True)
class Operation:
    """A module with its input.

    Attributes
    ----------
    key
        Readable and stable; the row of a lookup table.
    module
        What is run. Its weights do not matter.
    input_shape
        Of one sample; of the first tensor, if the module is given several things.
    conditions
        When the operation is part of a network: (label, choices) pairs from the outermost choice to the innermost, a
        label once only. A candidate has one choice there; a block of a ``Repeat`` all depths that reach it.
    call
        How the module is called: any number of tensors, integers among them, in lists and dicts or not. None where it is given
        one tensor of ``input_shape``, in the type of its weights. :meth:`inputs` makes inputs of either.
    """

    key: str
    module: nn.Module = field(repr=False, compare=False)
    input_shape: Shape
    conditions: Conditions = ()
    other_names: tuple[tuple[str, ...], ...] = ()
    call: Call | None = field(default=None, repr=False, compare=False)

    def runs_in(self, sample: Mapping[str, object]) -> bool:
        """Whether the network of this architecture (label -> choice) runs the operation."""
        # A set of inputs is a list in a sample, and a tuple here.
        chosen = ((sample[label], choices) for label, choices in self.conditions)
        return all((tuple(one) if isinstance(one, list) else one) in choices for one, choices in chosen)

    @property
    def is_beside(self) -> bool:
        """Whether no module is called for it: it is what a module computes by itself between the modules that it holds."""
        return isinstance(self.module, Products)

    @property
    def in_constant(self) -> bool:
        """Whether a table needs no row for it: what runs beside modules in every network is in the constant of the table.

        Of what hangs on a choice, only if there is nothing to run.
        """
        return isinstance(self.module, Products) and (not self.conditions or not self.module.products)

    @property
    def computes(self) -> bool:
        """Whether there is anything to run: beside modules there may be weights only."""
        return not isinstance(self.module, Products) or len(self.module.products) > 0

    @property
    def input_text(self) -> str:
        """What the module is given, as a text: shapes and types."""
        return shape_text(self.input_shape) if self.call is None else self.call.input_text

    def sizes(self, batch: int) -> str:
        """The shapes of all that the module is given with that many samples, as :func:`.calls.sizes_of` says them.

        Raises
        ------
        ValueError
            They are not known; the message names the key.
        """
        call = self.call or Call((TensorSpec((1, *self.input_shape), torch.float32),))
        try:
            return sizes_of((call.args, call.kwargs), batch)
        except ValueError as error:
            raise ValueError(f"operation '{self.key}': {error}") from error

    def inputs(self, batch: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the module may be called with, ``module(*args, **kwargs)``: zeros where and in the type its weights are.

        Integers and truth values are those that were seen when the space ran on zeros.
        """
        device, dtype = floating_type(self.module)
        call = self.call or Call((TensorSpec((1, *self.input_shape), dtype),))
        args, kwargs = call.example(batch, lambda sizes, dtype: torch.zeros(sizes, dtype=dtype, device=device))
        return _on(device, args), _on(device, kwargs)


def floating_type(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where and in what type the weights of a module are; of one without weights torch's defaults."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    return like.device, like.dtype


def _on(device: torch.device, value: Any) -> Any:
    return map_structure(value, torch.Tensor, lambda tensor: tensor.to(device))


def key_of(module: nn.Module, call: Call) -> str:
    """The key of a module that is called like that."""
    shapes = call.plain_shapes()
    if shapes is not None:
        return describe(module, *shapes)
    structure = hashlib.sha256(repr(module).encode()).hexdigest()[:8]
    return f"{type(module).__name__}-input:{call.input_text}-output:{call.output_text}-{structure}"


def is_free(module: nn.Module) -> bool:
    """True for a module that does nothing and therefore takes no time: the skip."""
    return isinstance(module, nn.Identity)


def choice_of_shapes(space: nn.Module) -> str | None:
    """The first choice whose candidates give different shapes, which they say by ``changes_shape``; None: there is none."""
    from nni.nas.nn.pytorch import LayerChoice  # it takes seconds

    for choice in space.modules():
        if isinstance(choice, LayerChoice) and any(
            getattr(choice[name], "changes_shape", False) for name in choice.names
        ):
            return str(choice.label)
    return None


def trace_operations(space: ModelSpace, input_shape: Shape) -> list[Operation]:
    """All operations of a model space: what every network runs, and every candidate of every choice.

    The space runs once on zeros of the type of its weights, in evaluation mode; hooks note what every module is given. A
    candidate is one operation, unless it holds choices itself: then it is taken apart like the space. A ``Repeat`` is taken
    apart into its blocks. An ``InputChoice`` counts nothing: all that it may choose from is computed, and adding tensors up is
    cheap. The part that is always there is cut into the largest modules that hold no choice and are more than a sequence of
    others; a space may group them by an attribute ``fixed_operations``, a dict name -> names of submodules that run one after the
    other. The name becomes the head of the key. What runs several times counts several times. Products of matrices and
    convolutions that a module which is taken apart computes by itself are one operation per call, :attr:`Operation.is_beside`.
    Where arguments of modules are choices, such as a width, an operation is there for each combination of values that it depends on
    (:mod:`.value_tracing`), on all of which it has conditions.
    Of a ``Cell`` whose operations are made for each input, each is there with each input (:mod:`.cell_tracing`).
    A space whose choices change shapes (:func:`choice_of_shapes`) may say its operations itself, by a method
    ``own_operations(input_shape)``; None: it does not.

    Parameters
    ----------
    space
        Not changed; the run is made on a copy.
    input_shape
        Of one sample, (channels, height, width).

    Raises
    ------
    ValueError
        The space does not run on that shape; or it holds another kind of choice, is called with something that cannot be made
        anew, or has candidates whose outputs differ so that what follows them does: its cost would be missed or wrong.
    """
    with collection_paused():  # of a large space a copy is a million objects, all of which live on
        copied = copy.deepcopy(space).eval()
    return operations_of(copied, input_shape)


def operations_of(space: ModelSpace, input_shape: Shape) -> list[Operation]:
    """The same, without a copy: the operations hold the space's own modules. It runs in the mode it is in."""
    own = getattr(space, "own_operations", None)
    if own is not None and (found := own(input_shape)) is not None:
        return found
    from .cell_tracing import open_cells  # they make operations
    from .value_tracing import is_open, operations_by_value

    with open_cells(space):
        by_value = any(map(is_open, space.modules()))
        return operations_by_value(space, input_shape) if by_value else traced(space, input_shape)


def traced(space: ModelSpace, input_shape: Shape, apart: Collection[nn.Module] = ()) -> list[Operation]:
    """What one run of a space without open arguments shows; of ``apart``, as of what holds choices, the parts."""
    from .tracing import Trace  # it makes operations

    operations = Trace(space, input_shape, apart=apart).operations
    if all(op.call is None or op.call.plain_shapes() is not None for op in operations):
        return operations
    try:
        # How tensors grow with the batch that do not begin with it, or stand beside one that does not grow.
        twice = Trace(space, input_shape, batch=2, apart=apart).operations
        grown = [(one.call, two.call) for one, two in zip(operations, twice, strict=True)]
        calls = [one if one is None or two is None else one.with_batch_dims(two) for one, two in grown]
    except ValueError:
        return operations  # it does not run on two; who asks for more than one is told so
    return [replace(op, call=call) for op, call in zip(operations, calls, strict=True)]
