"""The gate of a choice, and the gradient that it would have received had it been a number.

Symbols, for one choice (one label of the model space) with N candidates:

==========  ===========================================================================================
alpha       logits, shape (N,), the only thing an architecture step changes
p           softmax(alpha), shape (N,)
k           the active candidate, drawn by the strategy
o_j(x)      output of candidate j
g           gate, one-hot: g_k = 1, all others 0
y           sum_j g_j o_j(x) = o_k(x), output of the layer
L           loss
==========  ===========================================================================================

The forward pass runs candidate k and nothing else. What a strategy learns from is the gradient that each gate
*would* have received, had it been a number:

    dL/dg_j = sum over all elements of dL/dy * o_j(x)                    (ProxylessNAS, appendix; FACTS 1.1.3)

:func:`route_gate_gradients` puts exactly that into the backward pass, for the candidates that the strategy wants to
*probe*. What the gate stands for is the strategy's business: ProxylessNAS hands in probabilities (then the chain rule
through the softmax is its equation 4), DSNAS log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy as shallow_copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nni_proxyless.core.divergence import DivergedError
from nni_proxyless.latency.choices import as_nni_has_it

__all__ = [
    "Gate",
    "gradients_off",
    "route_gate_gradients",
    "tensors_in",
]


# -- values of any shape: what a candidate takes and returns may be a tensor, or tensors in lists, tuples and dicts ------


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
    if isinstance(value, Tensor) or value is _Hole:
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


class _Hole:
    """Stands where a tensor was, so that a structure can be kept without its tensors."""


def _hollow(value: Any) -> Any:
    return _with_tensors(value, iter([_Hole] * len(tensors_in(value))))  # type: ignore[list-item]  # in place of tensors


def versions(value: Any) -> list[int]:
    """How often each tensor of a nested value has been changed in place."""
    return [tensor._version for tensor in tensors_in(value)]


# -- the gradient of a gate ----------------------------------------------------------------------------------------------


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

    def tell(self) -> None:
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
                r = torch.stack([_inner(grad, o, None) for grad, o in zip(grad_y, y, strict=True)]).sum()
            probe.tell()
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
                grad_gates[j] = sum(_inner(*of_one) for of_one in zip(grad_y, o_j, shifts, strict=True))
        if versions(inputs) != before:
            raise RuntimeError(
                "a probed candidate changes its input in place, which falsifies what the others are measured on"
            )
        probe.tell()
        return grad_gates, None, *grad_y, *(None for _ in inputs)


def _inner(grad: Tensor, output: Tensor, shift: Tensor | None) -> Tensor:
    """sum(grad * (output - shift)), in float32 at least: half precision would overflow, or lose the small ones."""
    if shift is output:
        return grad.new_zeros((), dtype=torch.promote_types(grad.dtype, torch.float32))
    if grad.dtype in (torch.float16, torch.bfloat16) or output.dtype in (torch.float16, torch.bfloat16):
        grad, output, shift = grad.float(), output.float(), None if shift is None else shift.float()
    if shift is not None:
        output = output - shift
    if grad.dtype == output.dtype and grad.stride() == output.stride() and _is_dense(grad):
        # In the order in which they lie in memory: a dot product needs no third tensor of this size.
        n = grad.numel()
        return torch.dot(grad.as_strided((n,), (1,)), output.as_strided((n,), (1,)))
    return (grad * output).sum()


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements lie in memory without gaps and overlaps, in the usual order or channels-last."""
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


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
        may measure everything against the skip: its own gate gradient is then exactly 0 (FACTS 1.7.3) and float32
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
        inputs, probe.arguments = tensors_in(arguments), _hollow(arguments)
    routed = _RouteGateGradients.apply(gates, probe, *y_tensors, *inputs)
    return _with_tensors(y, iter(routed if len(y_tensors) > 1 else (routed,)))


def _autocast_now(device: str) -> tuple[str, torch.dtype, bool]:
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


# -- the gate -------------------------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """The one-hot gate of one label: its logits, and which candidates take part in the current step.

    Layers that share a label share the gate, and so always take the same candidate.

    Parameters
    ----------
    label
        The label in the model space.
    choices
        Its N values, in the order of the logits; an ``InputSet`` stands for a list of chosen inputs.
    alpha
        Initial logits, shape (N,).
    generator
        Where :meth:`sample_path` draws from; shared by all gates of a search.

    Attributes
    ----------
    skips
        Indices of the candidates that do nothing, in every layer of this label; None before there is a layer.
    sizes
        Numbers of weights of the candidates, over all layers of this label.
    choice
        Index of the candidate that is chosen for good: all probability is on it, whatever the logits say. None before.
    ran
        Whether a layer of this label has run since the gate was opened: a layer in a candidate that is not sampled does
        not.
    """

    def __init__(self, label: str, choices: Sequence[Any], alpha: Tensor, generator: torch.Generator):
        super().__init__()
        if alpha.shape != (len(choices),):
            raise ValueError(
                f"gate {label!r}: {len(choices)} choices need alpha of shape ({len(choices)},), not {tuple(alpha.shape)}"
            )
        self.label = str(label)  # NNI has a str subclass, which no checkpoint should hold
        self.choices = list(choices)
        self.alpha = nn.Parameter(alpha)
        self.generator = generator
        self.skips: frozenset[int] | None = None
        self.sizes = [0] * len(choices)
        self.choice: int | None = None
        self.reset()

    def add_layer(self, skips: set[int], sizes: Sequence[int] | None = None) -> None:
        """Note which candidates do nothing in one more layer of this label, and how many weights each has there."""
        self.skips = frozenset(skips) if self.skips is None else self.skips & skips
        if sizes is not None:
            self.sizes = [sum(both) for both in zip(self.sizes, sizes, strict=True)]

    def reset(self) -> None:
        """Forget the sampled path: the supernet then runs its most probable one."""
        self.active: int | None = None
        self.probed: tuple[int, ...] = ()
        self.variables: Tensor | None = None
        self.shift = True
        self.ran = False

    def open(
        self, active: int, probed: Sequence[int] = (), variables: Tensor | None = None, *, shift: bool = True
    ) -> None:
        """Let candidate ``active`` run; with ``variables`` (one per probed candidate), route gate gradients into them.

        With ``shift``, a layer that has a skip among its candidates takes them against the skip.
        """
        self.active, self.probed, self.variables, self.shift = active, tuple(probed), variables, shift
        self.ran = False

    def take(self) -> int:
        """Index of the candidate that runs now, asked by the layer that runs it."""
        self.ran = True
        return self.current

    def fix(self, index: int | None = None) -> None:
        """Make the choice, for good: this candidate, or the most probable one."""
        self.choice = self.most_probable() if index is None else index

    @property
    def fixed(self) -> bool:
        """Whether the choice is made."""
        return self.choice is not None

    @property
    def current(self) -> int:
        """Index of the candidate that runs now: the sampled one, else the most probable."""
        return self.most_probable() if self.active is None else self.active

    @property
    def probing(self) -> bool:
        """Whether a forward pass now has to route gate gradients."""
        return self.variables is not None and torch.is_grad_enabled()

    def value(self, index: int) -> Any:
        """The choice as NNI's samples hold it."""
        return as_nni_has_it(self.choices[index])

    def _apply(self, fn: Any, recurse: bool = True) -> Gate:
        # Half precision has no room for steps of 1e-3 on a logit: whatever becomes of the weights, logits stay float32.
        super()._apply(fn, recurse)
        if self.alpha.dtype in (torch.float16, torch.bfloat16):
            self.alpha.data = self.alpha.data.float()
        return self

    def __deepcopy__(self, memo: dict) -> Gate:
        # Logits are copied, the generator stays the search's own: torch cannot copy one before 2.5.
        copied = Gate(self.label, self.choices, self.alpha.detach().clone(), self.generator)
        copied.skips, copied.sizes, copied.choice = self.skips, self.sizes, self.choice
        memo[id(self)] = copied
        return copied

    def probs(self) -> Tensor:
        """softmax(alpha), shape (N,), with its graph; one-hot and without a graph where the choice is fixed."""
        return torch.softmax(self.alpha, dim=0) if self.choice is None else self.one_hot(self.choice)

    def one_hot(self, index: int) -> Tensor:
        """All probability on one candidate, shape (N,)."""
        alpha = self.alpha.detach()
        return torch.nn.functional.one_hot(torch.tensor(index, device=alpha.device), len(alpha)).to(alpha.dtype)

    def most_probable(self) -> int:
        """Index of the choice if it is made, else of the largest logit; the first one among equals, so that an export is deterministic."""
        return int(torch.argmax(self.alpha.detach())) if self.choice is None else self.choice

    def sample_path(self, size_bias: float = 0.0) -> int:
        """Draw the active candidate and open the gate for it alone.

        It is j with a probability proportional to p_j s_j^size_bias, with 0 therefore p_j. s_j is its number of weights; one
        without any counts as the smallest that has some.
        """
        if size_bias and any(self.sizes) and not self.fixed:
            sizes = torch.tensor(self.sizes, dtype=torch.float64)
            sizes = sizes.clamp_min(sizes[sizes > 0].min())
            probs = torch.softmax(self.alpha.detach().cpu() + size_bias * sizes.log(), dim=0)
        else:
            probs = self.probs().detach().cpu()
        try:
            active = int(torch.multinomial(probs, 1, generator=self.generator))
        except RuntimeError as error:  # looked at afterwards: a look at every draw would be felt
            if torch.isfinite(probs).all():
                raise
            raise DivergedError(f"the probabilities of choice {self.label!r} are no numbers") from error
        self.open(active)
        return active


@contextmanager
def gradients_off(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """No gradient for ``parameters`` inside: neither computed nor the activations for it kept."""
    switched = [p for p in parameters if p.requires_grad]
    for p in switched:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in switched:
            p.requires_grad_(True)
