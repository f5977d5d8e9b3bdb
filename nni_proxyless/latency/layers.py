"""The layers inside an operation, with the sizes of their inputs and outputs; costs are computed from these."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .calls import tensors_in
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
    n_kept
        Elements of those of the operation's own inputs that are not this layer's, but are still needed after it: a residual.
    """

    layer: nn.Module = field(repr=False, compare=False)
    n_inputs: int
    n_outputs: int
    n_kept: int = 0

    @property
    def input_kept(self) -> bool:
        """Whether an input of the operation has to be kept while the layer runs."""
        return self.n_kept > 0

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
    args, kwargs = operation.inputs()
    given = {id(x): x for x in tensors_in((args, kwargs))}
    found: list[tuple[nn.Module, int, int, set[int]]] = []
    begun = 0
    last_read = dict.fromkeys(given, 0)  # calls that had begun when each of the operation's inputs was last read

    class Reads(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            last_read.update(dict.fromkeys(_ids((args, kwargs)) & given.keys(), begun))
            return func(*args, **kwargs)

    def begin(layer: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal begun
        begun += 1

    def end(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        found.append((layer, _count((args, kwargs)), _count(output), _ids((args, kwargs))))

    layers = [m for m in module.modules() if _is_layer(m)]
    modes = [(m, m.training) for m in module.modules()]
    handles: list[Any] = []
    for layer in layers:
        handles.append(layer.register_forward_pre_hook(begin, with_kwargs=True))
        handles.append(layer.register_forward_hook(end, with_kwargs=True))
    try:
        module.eval()
        with torch.no_grad(), Reads():
            module(*args, **kwargs)
    except Exception as error:
        raise ValueError(f"operation '{operation.key}' on input {operation.input_text}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
        for m, mode in modes:
            m.training = mode
    return [
        LayerCall(
            layer,
            n_inputs,
            n_outputs,
            sum(x.numel() for key, x in given.items() if key not in its_own and i < last_read[key]),
        )
        for i, (layer, n_inputs, n_outputs, its_own) in enumerate(found)
    ]


def _is_layer(module: nn.Module) -> bool:
    # timm's BatchNormAct2d normalizes by itself and holds the activation as a child, in place.
    own = next(module.parameters(recurse=False), None) is not None
    return not is_free(module) and (own or not any(module.children()))


def _ids(value: Any) -> set[int]:
    """Of all tensors in it."""
    return {id(tensor) for tensor in tensors_in(value)}


def _count(value: Any) -> int:
    """Elements of all tensors, of one sample: the batch is 1."""
    return sum(tensor.numel() for tensor in tensors_in(value))
