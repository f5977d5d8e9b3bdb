"""Choices of values inside a module, such as a width: the module holds weights for all values, and runs the slice of the chosen ones.

=========================  ==============================================================================
super-kernels of NNI       layers with weights, such as ``MutableConv2d(3, nni.choice("width", [8, 16]), 3)``
:class:`SampledArguments`  modules without weights, such as ``MutableDropout``
=========================  ==============================================================================

A super-kernel has the weights of the largest layer; a smaller one has the first channels of these, and the middle of a kernel
(FBNetV2, arXiv:2004.05565, and AutoFormer, arXiv:2107.00651, share weights like that). NNI asks a policy which arguments to run
with: here the gates of their labels answer (:class:`GatedArguments`). What is beyond the slice has no part in the step.

There is no gate gradient by which values could be compared: what a wider layer gives beyond the active width is sliced away by
the next layer, so dL/dg is 0 there. A strategy that learns from gate gradients refuses such choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from nni.nas.nn.pytorch import MutableBatchNorm1d, MutableBatchNorm2d, MutableBatchNorm3d, ParametrizedModule
from torch import Tensor, nn
from torch.nn import functional

from nni_proxyless.core.nni_compat import (
    MixedConv2d,
    MixedLayerNorm,
    MixedLinear,
    MixedMultiHeadAttention,
    MixedOperation,
    MixedOperationSamplingPolicy,
)
from nni_proxyless.latency.operation import floating_type

from .gate import Gate
from .layers import SampledModule

__all__ = [
    "IN_ONE_SLICE",
    "SUPER_KERNELS",
    "GatedArguments",
    "SampledArguments",
    "Slices",
    "chooses_values",
    "mutate_values",
]

Slices = tuple[slice, ...]
"""The used part of a weight: a slice for each of its first dimensions."""


class GatedArguments(MixedOperationSamplingPolicy):
    """The arguments with which a super-kernel runs, by the gates of their labels: what NNI calls a sampling policy."""

    def __init__(self, operation: Any, memo: dict[str, Any], mutate_kwargs: dict[str, Any]):
        operation.gates = {label: memo[label] for label in operation.simplify()}
        self._labels = {name: list(mutable.simplify()) for name, mutable in operation.mutable_arguments.items()}
        self._known: dict[str, dict[tuple[int, ...], Any]] = {name: {} for name in self._labels}
        for label, gate in operation.gates.items():
            gate.add_layer(set(), [_size(operation, {label: value}) for value in gate.choices])

    def resample(self, operation: Any, memo: dict[str, Any]) -> dict[str, Any]:
        return SampledModule.resample(operation, memo)

    def export(self, operation: Any, memo: dict[str, Any]) -> dict[str, Any]:
        return SampledModule.export(operation, memo)

    def export_probs(self, operation: Any, memo: dict[str, Any]) -> dict[str, dict[Any, float]]:
        return SampledModule.export_probs(operation, memo)

    def forward_argument(self, operation: Any, name: str) -> Any:
        if name not in self._labels:
            return operation.init_arguments[name]
        return self._argument(operation, name, tuple(operation.gates[label].take() for label in self._labels[name]))

    def arguments(self, operation: Any, path: Mapping[Gate, int]) -> dict[str, Any]:
        """All arguments on a path, gate -> index of its choice."""
        chosen = {
            name: self._argument(operation, name, tuple(path[operation.gates[label]] for label in labels))
            for name, labels in self._labels.items()
        }
        return {**operation.init_arguments, **chosen}

    def _argument(self, operation: Any, name: str, active: tuple[int, ...]) -> Any:
        known = self._known[name]
        if active not in known:  # an expression of several choices takes as long as a small layer
            gates = {label: operation.gates[label] for label in self._labels[name]}
            known[active] = operation.mutable_arguments[name].evaluate(_chosen(gates, active))
        return known[active]


def _chosen(gates: Mapping[str, Gate], active: tuple[int, ...]) -> dict[str, Any]:
    return {label: gate.choices[j] for (label, gate), j in zip(gates.items(), active, strict=True)}


@torch.no_grad()
def _size(operation: Any, chosen: dict[str, Any]) -> int:
    """Number of weights in the slice of these choices, the first of all others."""
    first = {label: gate.choices[0] for label, gate in operation.gates.items()}
    values = {name: mutable.freeze({**first, **chosen}) for name, mutable in operation.mutable_arguments.items()}
    weights = operation.freeze_weight(**{**operation.init_arguments, **values})
    parameters = {name for name, _ in operation.named_parameters()}
    return sum(w.numel() for name, w in weights.items() if w is not None and name in parameters)


# -- super-kernels that NNI lacks, or that fail there -----------------------------------------------------------------------


def _part(tensor: Tensor | None, *index: slice) -> Any:
    """A slice; the tensor itself where that is all of it, which saves a copy in backward."""
    if tensor is None or all(not of.start and of.stop >= n for of, n in zip(index, tensor.shape, strict=False)):
        return tensor
    return tensor[index]


def _parts(operation: Any, slices: Mapping[str, Slices]) -> dict[str, Tensor | None]:
    return {name: _part(getattr(operation, name), *index) for name, index in slices.items()}


class SampledLinear(MixedLinear):
    """NNI's, in one slice."""

    def slices(self, in_features: int, out_features: int, **kwargs: Any) -> dict[str, Slices]:
        out = slice(out_features)
        return {"weight": (out, slice(in_features)), "bias": (out,)}

    def freeze_weight(self, *args: Any, **kwargs: Any) -> dict[str, Tensor | None]:
        return _parts(self, self.slices(*args, **kwargs))


class SampledConv2d(MixedConv2d):
    """NNI's, in one slice; kernels may be tuples, such as (1, 7) and (7, 1)."""

    def super_init_argument(self, name: str, mutable_expr: Any) -> Any:
        values = list(mutable_expr.grid())
        if name in ("kernel_size", "padding") and any(isinstance(value, tuple) for value in values):
            return tuple(max(sides) for sides in zip(*map(self._to_tuple, values), strict=True))
        return super().super_init_argument(name, mutable_expr)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding_mode != "zeros" and "padding" in self.mutable_arguments:
            raise TypeError(f"padding is a choice, with padding_mode {self.padding_mode!r}; allowed: 'zeros'")

    def slices(
        self, in_channels: int, out_channels: int, kernel_size: Any, groups: int, **kwargs: Any
    ) -> dict[str, Slices]:
        sides = zip(self.weight.shape[2:], self._to_tuple(kernel_size), strict=True)
        middle = [slice((whole - side) // 2, (whole - side) // 2 + side) for whole, side in sides]
        out = slice(out_channels)
        return {"weight": (out, slice(in_channels // groups), *middle), "bias": (out,)}

    def _freeze_weight_impl(self, *args: Any, **kwargs: Any) -> dict[str, Tensor | None]:
        return _parts(self, self.slices(*args, **kwargs))


class SampledBatchNorm(MixedOperation):
    """Batch norm of the first features; statistics are counted as torch counts them, momentum None included.

    ``eps`` and ``momentum`` are those that the module has when it runs, unless they are choices.
    """

    argument_list: ClassVar[list[str]] = ["num_features", "eps", "momentum"]

    def super_init_argument(self, name: str, value_choice: Any) -> Any:
        return max(value_choice.grid())

    def slices(self, num_features: int, **kwargs: Any) -> dict[str, Slices]:
        first = (slice(num_features),)
        return {"weight": first, "bias": first, "running_mean": first, "running_var": first}

    def freeze_weight(self, *args: Any, **kwargs: Any) -> dict[str, Tensor | None]:
        return {**_parts(self, self.slices(*args, **kwargs)), "num_batches_tracked": self.num_batches_tracked}

    def forward_with_args(self, num_features: int, eps: float, momentum: float | None, inputs: Tensor) -> Tensor:
        weight, bias, mean, var, tracked = self.freeze_weight(num_features).values()
        eps, momentum = self._now("eps", eps), self._now("momentum", momentum)
        if self.training and not self.track_running_stats:
            mean = var = None
        if self.training and mean is not None and tracked is not None:
            tracked.add_(1)
            momentum = 1.0 / float(tracked) if momentum is None else momentum
        of_batch = self.training or mean is None
        return functional.batch_norm(inputs, mean, var, weight, bias, of_batch, momentum or 0.0, eps)

    def _now(self, name: str, sampled: Any) -> Any:
        return sampled if name in self.mutable_arguments else getattr(self, name)


class SampledBatchNorm1d(SampledBatchNorm, nn.BatchNorm1d):
    bound_type = MutableBatchNorm1d


class SampledBatchNorm2d(SampledBatchNorm, nn.BatchNorm2d):
    bound_type = MutableBatchNorm2d


class SampledBatchNorm3d(SampledBatchNorm, nn.BatchNorm3d):
    bound_type = MutableBatchNorm3d


class SampledLayerNorm(MixedLayerNorm):
    """NNI's, with indices as torch wants them."""

    def slices(self, normalized_shape: Any, **kwargs: Any) -> dict[str, Slices]:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        first = tuple(slice(n) for n in shape)
        return {"weight": first, "bias": first}

    def _freeze_weight_impl(self, normalized_shape: Any, **kwargs: Any) -> dict[str, Any]:
        slices = self.slices(normalized_shape)
        return {**_parts(self, slices), "normalized_shape": tuple(n.stop for n in slices["weight"])}


class SampledMultiheadAttention(MixedMultiHeadAttention):
    """NNI's; query, key and value may be of one size in some networks of a space and of several in others."""

    def _freeze_weight_impl(self, embed_dim: Any, kdim: Any, vdim: Any, **kwargs: Any) -> dict[str, Any]:
        found = super()._freeze_weight_impl(embed_dim, kdim, vdim, **kwargs)
        if found["qkv_same_embed_dim"] and self.in_proj_weight is None:  # torch then has the three in one
            parts = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            found["in_proj_weight"] = torch.cat([cast(Tensor, part)[:embed_dim, :embed_dim] for part in parts])
        return found


IN_ONE_SLICE: tuple[type[Any], ...] = (
    SampledConv2d, SampledLinear, SampledBatchNorm1d, SampledBatchNorm2d, SampledBatchNorm3d, SampledLayerNorm,
)  # fmt: skip
"""Those that use one slice of each weight, which ``slices`` tells; they also run when they hold nothing but the slice."""

SUPER_KERNELS: tuple[type[Any], ...] = (*IN_ONE_SLICE, SampledMultiheadAttention)
"""One for each type of layer, which is its ``bound_type``."""


# -- modules without weights -------------------------------------------------------------------------------------------


class SampledArguments(SampledModule):
    """A module without weights that is made anew for each value of its arguments."""

    def __init__(self, module: Any, gates: Mapping[str, Gate]):
        super().__init__()
        for mutable in module.mutables:
            self.add_mutable(mutable)
        object.__setattr__(self, "module", module)  # no submodule: it does not run
        self._set_gates(gates)
        self._known: dict[tuple[int, ...], nn.Module] = {}
        for gate in gates.values():
            gate.add_layer(set())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        active = tuple(gate.take() for gate in self.gates.values())
        if active not in self._known:
            self._known[active] = self.freeze(_chosen(self.gates, active))
        return self._known[active].train(self.training)(*args, **kwargs)

    def freeze(self, sample: dict[str, Any]) -> nn.Module:
        return self.module.freeze(sample).train(self.training)


# -- the hook ----------------------------------------------------------------------------------------------------------


def chooses_values(module: nn.Module) -> bool:
    """Whether the gates of a module of the supernet choose values inside it, not candidates that could be compared."""
    return isinstance(module, (MixedOperation, SampledArguments))


def mutate_values(
    module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
) -> nn.Module | None:
    """NNI's mutation hook: replaces a module with open arguments, where there is a super-kernel or it has no weights.

    Raises
    ------
    TypeError
        An argument is a choice that may be none; the message names module and argument.
    """
    if not isinstance(module, ParametrizedModule) or not module.mutables:
        return None
    kernel = next((kernel for kernel in SUPER_KERNELS if type(module) is kernel.bound_type), None)
    if kernel is None:
        has_weights = any(True for _ in (*module.parameters(), *module.buffers()))
        gates = {label: memo[label] for mutable in module.mutables for label in mutable.simplify()}
        return None if has_weights else SampledArguments(module, gates)
    try:
        made: Any = kernel.mutate(module, name, memo, mutate_kwargs)
    except (TypeError, NotImplementedError) as error:  # of an argument that may be no choice
        raise TypeError(f"module {name!r}: {error}") from error
    for attribute in {"eps", "momentum"} & vars(module).keys() - made.mutable_arguments.keys():
        setattr(made, attribute, getattr(module, attribute))  # which a space may set when its layers are made
        made.init_arguments[attribute] = getattr(module, attribute)
    return made.to(*floating_type(module)).train(module.training)
