"""The gradient that a gate would have received."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy as shallow_copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..estimators import gate_gradient

__all__ = ["route_gate_gradients", "tensors_in", "versions"]


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of a nested value, in a fixed order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    return []


def _with_tensors(value: Any, tensors: Iterator[Tensor | None]) -> Any:
    """The same nested value with its tensors replaced, in the order of :func:`tensors_in`."""
    if isinstance(value, Tensor) or value is _Placeholder:
        return next(tensors)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_with_tensors(item, tensors) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_with_tensors(item, tensors) for item in value)
    if isinstance(value, dict):
        same = shallow_copy(value)  # of the same type, whatever its constructor takes
        for key, item in value.items():
            same[key] = _with_tensors(item, tensors)
        return same
    return value


class _Placeholder:
    """Stands where a tensor was, so that a structure can be kept without its tensors."""


def _without_tensors(value: Any) -> Any:
    return _with_tensors(value, iter([_Placeholder] * len(tensors_in(value))))  # type: ignore[list-item]  # in place of tensors


def versions(value: Any) -> list[int]:
    """How often each tensor of a nested value has been changed in place."""
    return [tensor._version for tensor in tensors_in(value)]


@dataclass
class _Probe:
    """What one call of :func:`route_gate_gradients` needs in backward, apart from tensors."""

    outputs: Sequence[Callable | None]
    arguments: Any  # (args, kwargs), with holes where tensors were
    n_outputs: int
    shift: bool
    copy: bool
    report: Callable[[bool], None] | None
    autocast: tuple[str, torch.dtype, bool]
    returned: list[tuple[Tensor, int]] = field(default_factory=list)

    @property
    def alone(self) -> bool:
        """Whether the output of the active candidate is all that is needed."""
        return not self.shift and all(run is None for run in self.outputs)

    def report_changes(self) -> None:
        """Report whether something has changed what was returned, and forget it."""
        if self.report and self.copy:
            self.report(any(t._version != version for t, version in self.returned))
        self.returned = []


class _RouteGateGradients(torch.autograd.Function):
    """Identity on ``y`` whose backward fills the gradient of the gates; see :func:`route_gate_gradients`."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, probe: _Probe, *tensors: Tensor) -> Any:
        ctx.probe = probe
        # Saved through autograd, not in a closure: what changes them in place between here and backward is then an error.
        ctx.save_for_backward(gates, *tensors)
        y = tensors[: probe.n_outputs]
        if not probe.copy:
            return y if len(y) > 1 else y[0]
        returned = tuple(tensor.clone() for tensor in y)
        # A detached tensor shares the version counter but holds no graph: no cycle if backward never comes.
        probe.returned = [(tensor.detach(), tensor._version) for tensor in returned]
        return returned if len(returned) > 1 else returned[0]

    @staticmethod
    def backward(ctx: Any, *grad_y: Tensor) -> tuple:
        probe: _Probe = ctx.probe
        gates, *tensors = ctx.saved_tensors
        y, inputs = tensors[: probe.n_outputs], tensors[probe.n_outputs :]
        if probe.alone:  # nothing runs, so nothing has to be set up, which every choice of every step would feel
            with torch.no_grad():
                r = torch.stack([gate_gradient(grad, o) for grad, o in zip(grad_y, y, strict=True)]).sum()
            probe.report_changes()
            return r.to(gates).expand(gates.shape), None, *grad_y
        args, kwargs = _with_tensors(probe.arguments, iter(inputs))
        shifts = inputs[: len(grad_y)] if probe.shift else [None] * len(grad_y)
        device, dtype, enabled = probe.autocast

        grad_gates = torch.zeros_like(gates)
        before = versions(inputs)
        # Backward may run in a thread of its own, which does not inherit autocast.
        with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False):
            for j, run in enumerate(probe.outputs):
                o_j = y if run is None else tensors_in(run(*args, **kwargs))
                if len(o_j) != len(grad_y):
                    raise RuntimeError(
                        f"candidates return {len(o_j)} tensors and {len(grad_y)} tensors; they must agree"
                    )
                grad_gates[j] = sum(gate_gradient(*of_one) for of_one in zip(grad_y, o_j, shifts, strict=True))
        if versions(inputs) != before:
            raise RuntimeError(
                "a probed candidate changes its input in place, which falsifies what the others are measured on"
            )
        probe.report_changes()
        return grad_gates, None, *grad_y, *(None for _ in inputs)


def route_gate_gradients(
    gates: Tensor,
    y: Any,
    outputs: Sequence[Callable | None],
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    *,
    shift: bool = False,
    copy: bool = True,
    report: Callable[[bool], None] | None = None,
) -> Any:
    """Return ``y`` and, in backward, give gate j the gradient ``sum(dL/dy * o_j(x))``.

    A probed candidate runs inside the backward pass, without a graph, one at a time: its output has no part in the
    forward pass, so nothing of it is kept. It runs under the autocast that forward had; the sum is taken in float32.

    Parameters
    ----------
    gates
        Shape (n_probed,), floating, requires a gradient. Its *values* are not used: the gate is one-hot already.
    y
        Output of the active candidate: a tensor, or tensors in lists, tuples and dicts.
    outputs
        One entry per probed candidate: a callable on the arguments, or None for the active one, whose output is ``y``.
    args, kwargs
        Arguments of the candidates; tensors in them may be nested as in ``y``.
    shift
        Whether the first argument, which a skip returns as it is, is subtracted from every o_j. A common term in all
        dL/dg_j has no effect behind a softmax (each row of its Jacobian sums to 0), so a layer with a skip candidate
        may measure everything against the skip: its own gate gradient is then exactly 0 and float32
        loses no digits to the part that all candidates share.
    copy
        Return a copy of ``y``, which what follows may change in place. Without it torch refuses such a change with an
        error, and the activation is not kept twice.
    report
        Called in backward with whether something has changed the copy in place.
    """
    y_tensors = tensors_in(y)
    probe = _Probe(
        tuple(outputs), ((), {}), len(y_tensors), shift, copy, report, _autocast_now(y_tensors[0].device.type)
    )
    inputs: list[Tensor] = []
    if not probe.alone:  # a gradient of the active candidate alone needs its output and nothing more
        arguments = (tuple(args), kwargs or {})
        inputs, probe.arguments = tensors_in(arguments), _without_tensors(arguments)
    routed = _RouteGateGradients.apply(gates, probe, *y_tensors, *inputs)
    return _with_tensors(y, iter(routed if len(y_tensors) > 1 else (routed,)))


def _autocast_now(device: str) -> tuple[str, torch.dtype, bool]:
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
