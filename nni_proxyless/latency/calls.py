"""Record the calls of modules in a forward pass: inputs and outputs, to repeat a call with similar inputs.

A module may be given any number of tensors, by position or by name, in tuples, lists and dicts inside one another, beside numbers,
texts and None. Of a tensor of floating point its shape and type are kept, of one of integers or truth values what is in it as well:
indices and lengths mean something.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Call", "CallTree", "Flat", "Shape", "TensorSpec", "example_of", "map_structure", "plain_products", "record", "shape_text", "sizes_of", "specs", "tensors_in", "text_of"]  # fmt: skip

Shape = tuple[int, ...]
"""Of one sample, without the batch: (channels, height, width), or (features,)."""

PLAIN = (type(None), bool, int, float, complex, str, torch.Size, torch.dtype)
"""What may stand beside tensors: it is given again as it is, and is part of the key."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a call, for one sample.

    Attributes
    ----------
    shape
        All of it, a batch of 1 included.
    dtype
        As it was seen.
    value
        Of a tensor of another type than floating point.
    batch_dims
        The dimensions that grow with the batch; None where nobody has looked. Then the first one does if it is 1.
    """

    shape: Shape
    dtype: torch.dtype
    value: Tensor | None = field(default=None, repr=False, compare=False)
    batch_dims: tuple[int, ...] | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        kept = tensor.dtype.is_floating_point or tensor.dtype.is_complex
        return cls(tuple(tensor.shape), tensor.dtype, None if kept else tensor.detach().clone())

    @property
    def text(self) -> str:
        """``HxWxC`` of one sample; ``5*8`` is five rows of 8; the type, if it is not one of floating point."""
        first, *rest = self.shape or (1,)
        text = shape_text(tuple(rest)) if self.shape else "scalar"
        text = text if first == 1 else f"{first}*{text}"
        return text if self.value is None else f"{text}:{str(self.dtype).removeprefix('torch.')}"

    def sizes(self, batch: int) -> Shape:
        """The shape with that many samples.

        Raises
        ------
        ValueError
            It is not known which dimension grows.
        """
        if batch == 1:
            return self.shape
        dims = self.batch_dims
        if dims is None:
            if self.shape[:1] != (1,):
                raise ValueError(
                    f"of a tensor of {'x'.join(map(str, self.shape)) or 'no'} dimensions it is not known how it grows with "
                    f"the batch, since the space does not run on two samples; allowed: batch 1, not {batch}"
                )
            dims = (0,)
        return tuple(n * batch if i in dims else n for i, n in enumerate(self.shape))

    def example(self, batch: int = 1, make: Callable[[Shape, torch.dtype], Tensor] | None = None) -> Tensor:
        """A tensor like this one: what ``make`` gives for shape and type, zeros by default, or the value that was seen."""
        sizes = self.sizes(batch)
        if self.value is not None:
            repeats = [n // m if m else 1 for n, m in zip(sizes, self.shape, strict=True)]
            return self.value.repeat(repeats) if any(n != 1 for n in repeats) else self.value.clone()
        return torch.zeros(sizes, dtype=self.dtype) if make is None else make(sizes, self.dtype)


@dataclass(eq=False)
class Call:
    """What a module was given, and what it gave.

    Attributes
    ----------
    args, kwargs
        As in ``module(*args, **kwargs)``, with a :class:`TensorSpec` for every tensor.
    output
        The same of what came back.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None

    @property
    def input_text(self) -> str:
        """All of it as a text, for keys; None says nothing, and one input stands alone."""
        args = list(self.args)
        while len(args) > 1 and args[-1] is None:
            args.pop()
        named = [f"{name}={text_of(value)}" for name, value in sorted(self.kwargs.items()) if value is not None]
        return ",".join([*map(text_of, args), *named])

    @property
    def output_text(self) -> str:
        return text_of(self.output)

    def plain_shapes(self, batch: int = 1) -> tuple[Shape, Shape] | None:
        """Of one sample, in and out, if the call is of the usual kind: one batch of floats in, one out."""
        inputs = [value for value in (*self.args, *self.kwargs.values()) if value is not None]
        both = [*inputs, self.output]
        if len(both) != 2 or not self.args or inputs[0] is not self.args[0]:
            return None
        if not all(isinstance(t, TensorSpec) and t.value is None and t.shape[:1] == (batch,) for t in both):
            return None
        return both[0].shape[1:], both[1].shape[1:]

    @property
    def tensors(self) -> list[TensorSpec]:
        """That are given, in order."""
        return tensors_in((self.args, self.kwargs))

    def unknown(self) -> str | None:
        """The type of a thing among the inputs that cannot be given again; None if there is none."""
        for leaf in _leaves((self.args, self.kwargs)):
            if not isinstance(leaf, (*PLAIN, TensorSpec)):
                return type(leaf).__name__
        return None

    def example(
        self, batch: int = 1, make: Callable[[Shape, torch.dtype], Tensor] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named inputs like these, see :meth:`TensorSpec.example`."""
        return example_of((self.args, self.kwargs), batch, make)

    def with_batch_dims(self, twice: Call) -> Call:
        """The same call, knowing from one with two samples which dimensions grow."""
        others = iter(twice.tensors)

        def learn(spec: TensorSpec) -> TensorSpec:
            other = next(others, None)
            if other is None or len(other.shape) != len(spec.shape):
                raise ValueError("the two calls differ in more than the batch")
            dims = tuple(i for i, (a, b) in enumerate(zip(spec.shape, other.shape, strict=True)) if a != b)
            if any(other.shape[i] != 2 * spec.shape[i] for i in dims):
                raise ValueError("the two calls differ in more than the batch")
            return dataclasses.replace(spec, batch_dims=dims)

        args, kwargs = map_structure((self.args, self.kwargs), TensorSpec, learn)
        return Call(args, kwargs, self.output)


@dataclass(eq=False)
class CallTree(Call):
    """A call, and the calls that were made while it lasted.

    Attributes
    ----------
    module
        What was called.
    children
        In the order in which they began.
    products
        What it computed by itself, outside of the modules that it called: function, args, kwargs, output, as they were seen.
    """

    module: nn.Module = field(default_factory=nn.Identity)
    children: list[CallTree] = field(default_factory=list)
    products: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)

    def walk(self) -> Iterator[CallTree]:
        """This call and all below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.walk()


def shape_text(shape: Shape) -> str:
    """``HxWxC`` for (C, H, W), as the published tables write it; other ranks in their own order."""
    return "x".join(map(str, (*shape[1:], shape[0]) if len(shape) == 3 else shape))


def text_of(value: Any) -> str:
    """A structure of tensors as a text, the same for the same shapes."""
    if isinstance(value, TensorSpec):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}={text_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        text = ",".join(map(text_of, value))
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    return repr(value) if isinstance(value, PLAIN) else type(value).__name__


def sizes_of(value: Any, batch: int = 1) -> str:
    """The shapes of all tensors of a structure, in full, beside all else that is in it."""
    known = map_structure(value, TensorSpec, lambda spec: tuple(spec.sizes(batch)))
    return repr(map_structure(known, Tensor, lambda tensor: tuple(tensor.shape)))


def tensors_in(value: Any) -> list[Any]:
    """All tensors of a structure, or all that stand for tensors in one of calls."""
    return [leaf for leaf in _leaves(value) if isinstance(leaf, (Tensor, TensorSpec))]


def example_of(value: Any, batch: int = 1, make: Callable[[Shape, torch.dtype], Tensor] | None = None) -> Any:
    """A structure with tensors where the given one has what stands for them."""
    return map_structure(value, TensorSpec, lambda spec: spec.example(batch, make))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def map_structure(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """The same structure with all things of a kind replaced."""
    if isinstance(value, kind):
        return function(value)
    if type(value) in (dict, collections.OrderedDict):
        return type(value)((key, map_structure(item, kind, function)) for key, item in value.items())
    if isinstance(value, torch.Size) or not isinstance(value, (list, tuple)):
        return value
    items = [map_structure(item, kind, function) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def specs(value: Any) -> Any:
    """A structure with what stands for its tensors."""
    return map_structure(value, Tensor, TensorSpec.of)


class Flat(nn.Module):
    """A module as a function of tensors to tensors, however it is called."""

    def __init__(self, module: nn.Module, call: Call):
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        given = iter(tensors)
        args, kwargs = map_structure((self.call.args, self.call.kwargs), TensorSpec, lambda spec: next(given))
        outputs = tensors_in(self.module(*args, **kwargs))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def record(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    products_of: Callable[[nn.Module], bool] = lambda module: False,
    counted: Callable[[Any], bool] = lambda function: False,
    given: dict[tuple[nn.Module, int], Any] | None = None,
) -> CallTree:
    """Call a module without gradients and note every call inside.

    Parameters
    ----------
    products_of
        Of which modules to keep what they compute by themselves.
    counted
        Which of torch's functions to keep then.
    given
        Module and number of its call, from 0 -> what this call is to give in the place of what it does give.
    """
    given = given or {}
    stack: list[CallTree] = []
    roots: list[CallTree] = []
    seen: collections.Counter[nn.Module] = collections.Counter()
    numbers: dict[int, int] = {}

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        call = CallTree(specs(args), specs(kwargs), module=module)
        numbers[id(call)] = seen[module]
        seen[module] += 1
        (stack[-1].children if stack else roots).append(call)
        stack.append(call)

    def end(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        while stack[-1].module is not module:  # what ended by an exception that somebody has caught
            stack.pop()
        call = stack.pop()
        number = numbers[id(call)]
        if (module, number) in given:
            output = example_of(given[module, number])
        call.output = specs(output)
        return output

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            if stack and products_of(stack[-1].module) and counted(func):
                stack[-1].products.append((func, args, kwargs or {}, output))
            return output

    handles: list[Any] = []
    for m in module.modules():
        handles.append(m.register_forward_pre_hook(begin, with_kwargs=True, prepend=True))
        handles.append(m.register_forward_hook(end, with_kwargs=True))
    try:
        with torch.no_grad(), plain_products(), Products():
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return roots[0]


@contextmanager
def plain_products() -> Iterator[None]:
    """Every product of matrices is one of torch's functions for that, none hides in a larger one.

    Attention has functions of its own that do all at once, which torch's counter does not know.
    """
    with ExitStack() as restored:
        attention = getattr(torch.backends, "mha", None)
        if attention is not None:
            restored.callback(attention.set_fastpath_enabled, attention.get_fastpath_enabled())
            attention.set_fastpath_enabled(False)
        kernels = torch.backends.cuda  # of the CPU as well
        for name in ("flash", "mem_efficient", "cudnn"):
            enable = getattr(kernels, f"enable_{name}_sdp", None)
            if enable is not None:
                restored.callback(enable, getattr(kernels, f"{name}_sdp_enabled")())
                enable(False)
        yield
