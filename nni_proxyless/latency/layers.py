"""The layers inside an operation, with the sizes of what goes in and comes out: what costs are computed from."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .operation import Operation, is_free

__all__ = ["LayerCall", "layer_calls"]


@dataclass(frozen=True)
class LayerCall:
    """One call of one layer, on one sample.

    Attributes
    ----------
    layer
        A module without children that take part, or with weights of its own.
    n_inputs, n_outputs
        Elements of the tensors it is given and gives.
    input_kept
        The operation's own input is not this layer's input, but is still needed after it: a residual.
    """

    layer: nn.Module = field(repr=False, compare=False)
    n_inputs: int
    n_outputs: int
    input_kept: bool = False

    @property
    def n_weights(self) -> int:
        """Numbers that the layer reads beside its input: parameters and statistics."""
        own = itertools.chain(self.layer.parameters(recurse=False), self.layer.buffers(recurse=False))
        return sum(tensor.numel() for tensor in own if tensor.is_floating_point())

    @property
    def macs(self) -> int:
        """Multiply-adds of a convolution or a linear layer, 0 for others; a bias counts nothing."""
        layer = self.layer
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            return self.n_inputs * layer.out_channels // layer.groups * math.prod(layer.kernel_size)
        if isinstance(layer, nn.modules.conv._ConvNd):
            return self.n_outputs * layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        return self.n_outputs * layer.in_features if isinstance(layer, nn.Linear) else 0


def layer_calls(operation: Operation) -> list[LayerCall]:
    """Run an operation once, on zeros, and note what its layers are given and give, in the order of the calls.

    The run is made in evaluation mode, where and in the type the weights are; modes, weights and statistics are left as
    they were. Skips are left out.

    Raises
    ------
    ValueError
        The module does not run on the operation's input shape; the message names the key.
    """
    module = operation.module
    tensors = itertools.chain(module.parameters(), module.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    x = torch.zeros(1, *operation.input_shape, device=like.device, dtype=like.dtype)
    found: list[tuple[nn.Module, int, int, bool]] = []
    begun = last_read = 0  # calls that had begun when the operation's input was last read

    class Reads(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal last_read
            kwargs = kwargs or {}
            if any(value is x for value in _flat((args, kwargs))):
                last_read = begun
            return func(*args, **kwargs)

    def begin(layer: nn.Module, args: Any) -> None:
        nonlocal begun
        begun += 1

    def end(layer: nn.Module, args: Any, output: Any) -> None:
        found.append((layer, _count(args), _count(output), any(value is x for value in _flat(args))))

    layers = [m for m in module.modules() if _is_layer(m)]
    modes = [(m, m.training) for m in module.modules()]
    handles = [h for m in layers for h in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))]
    try:
        module.eval()
        with torch.no_grad(), Reads():
            module(x)
    except Exception as error:
        raise ValueError(f"operation '{operation.key}' on input {operation.input_shape}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
        for m, mode in modes:
            m.training = mode
    return [
        LayerCall(layer, n_inputs, n_outputs, input_kept=not is_its_input and i < last_read)
        for i, (layer, n_inputs, n_outputs, is_its_input) in enumerate(found)
    ]


def _is_layer(module: nn.Module) -> bool:
    # timm's BatchNormAct2d normalises by itself and holds the activation as a child, in place.
    own = next(module.parameters(recurse=False), None) is not None
    return not is_free(module) and (own or not any(module.children()))


def _flat(value: Any) -> list[Any]:
    """What tuples, lists and dicts hold, inside one another."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, (list, tuple)) else [value]


def _count(value: Any) -> int:
    """Elements of all tensors, of one sample: the batch is 1."""
    return sum(item.numel() for item in _flat(value) if isinstance(item, Tensor))
