"""The sampled supernet: gates, and layers that run one candidate out of many.

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
from typing import Any

import torch
from nni.nas.nn.pytorch import LayerChoice
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn

__all__ = ["Gate", "SampledLayer", "batch_norm_statistics_kept", "gradients_off", "route_gate_gradients"]


class _RouteGateGradients(torch.autograd.Function):
    """Identity on ``y`` whose backward fills the gradient of the gates; see :func:`route_gate_gradients`."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, y: Tensor, outputs: Sequence[Callable | None], shift: int, *inputs: Any
    ) -> Tensor:
        ctx.outputs, ctx.shift = outputs, shift
        # Saved through autograd, not in a closure: what changes them in place between here and backward is then an error.
        ctx.tensor_at = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.inputs = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(gates, y, *(inputs[i] for i in ctx.tensor_at))
        return y.clone()  # not a view: what follows may work in place, on a copy of its own

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple:
        gates, y, *tensors = ctx.saved_tensors
        inputs = list(ctx.inputs)
        for i, tensor in zip(ctx.tensor_at, tensors, strict=True):
            inputs[i] = tensor
        shift = inputs[ctx.shift] if ctx.shift >= 0 else None

        grad_gates = torch.zeros_like(gates)
        versions = _versions(tensors)
        with torch.no_grad():
            for j, run in enumerate(ctx.outputs):
                o_j = y if run is None else run(*inputs)
                if shift is not None:
                    o_j = o_j - shift
                grad_gates[j] = (grad_y * o_j).sum()
        if _versions(tensors) != versions:
            raise RuntimeError(
                "a probed candidate changes its input in place, which falsifies what the others are measured on"
            )
        return grad_gates, grad_y, None, None, *(None for _ in inputs)


def _versions(values: Sequence[Any]) -> list[int]:
    """How often each tensor has been changed in place."""
    return [value._version for value in values if isinstance(value, Tensor)]


def route_gate_gradients(
    gates: Tensor, y: Tensor, outputs: Sequence[Callable | None], inputs: Sequence[Any], *, shift: int = -1
) -> Tensor:
    """Return ``y`` and, in backward, give gate j the gradient ``sum(dL/dy * o_j(x))``.

    A probed candidate runs inside the backward pass, without a graph, one at a time: its output has no part in the
    forward pass, so nothing of it is kept.

    Parameters
    ----------
    gates
        Shape (n_probed,), floating, requires a gradient. Its *values* are not used: the gate is one-hot already.
    y
        Output of the active candidate.
    outputs
        One entry per probed candidate: a callable on ``inputs``, or None for the active one, whose output is ``y``.
    inputs
        Positional arguments of the candidates.
    shift
        Index into ``inputs`` of a tensor that is subtracted from every o_j. A common term in all dL/dg_j has no effect
        behind a softmax (each row of its Jacobian sums to 0), so a layer with a skip candidate may measure everything
        against the skip: its own gate gradient is then exactly 0 (FACTS 1.7.3) and float32 loses no digits to the
        part that all candidates share. -1: no shift.
    """
    return _RouteGateGradients.apply(gates, y, tuple(outputs), shift, *inputs)


class Gate(nn.Module):
    """The one-hot gate of one label: its logits, and which candidates take part in the current step.

    Layers that share a label share the gate, and so always take the same candidate.

    Parameters
    ----------
    label
        The label in the model space.
    choices
        Its N values, in the order of the logits.
    alpha
        Initial logits, shape (N,).
    generator
        Where :meth:`sample_path` draws from; shared by all gates of a search.
    """

    def __init__(self, label: str, choices: Sequence[Any], alpha: Tensor, generator: torch.Generator):
        super().__init__()
        if alpha.shape != (len(choices),):
            raise ValueError(
                f"gate {label!r}: {len(choices)} choices need alpha of shape ({len(choices)},), not {tuple(alpha.shape)}"
            )
        self.label = label
        self.choices = list(choices)
        self.alpha = nn.Parameter(alpha)
        self.generator = generator
        self.reset()

    def reset(self) -> None:
        """Forget the sampled path: the supernet then runs its most probable one."""
        self.active: int | None = None
        self.probed: tuple[int, ...] = ()
        self.variables: Tensor | None = None

    def open(self, active: int, probed: Sequence[int] = (), variables: Tensor | None = None) -> None:
        """Let candidate ``active`` run; with ``variables`` (one per probed candidate), route gate gradients into them."""
        self.active, self.probed, self.variables = active, tuple(probed), variables

    def __deepcopy__(self, memo: dict) -> Gate:
        # Logits are copied, the generator stays the search's own: torch cannot copy one before 2.5.
        copied = Gate(self.label, self.choices, self.alpha.detach().clone(), self.generator)
        memo[id(self)] = copied
        return copied

    def probs(self) -> Tensor:
        """softmax(alpha), shape (N,), with its graph."""
        return torch.softmax(self.alpha, dim=0)

    def most_probable(self) -> int:
        """Index of the largest logit; the first one among equals, so that an export is deterministic."""
        return int(torch.argmax(self.alpha.detach()))

    def sample_path(self) -> int:
        """Draw the active candidate from p and open the gate for it alone."""
        probs = self.probs().detach().cpu()
        self.open(int(torch.multinomial(probs, 1, generator=self.generator)))
        assert self.active is not None
        return self.active


class SampledLayer(LayerChoice, BaseSuperNetModule):
    """A :class:`~nni.nas.nn.pytorch.LayerChoice` of the supernet that runs only its active candidate.

    Candidates keep their names, so the supernet's ``state_dict`` names every weight as the model space does; the gate
    is deliberately not a submodule: its alpha must never reach the optimizer of the weights.
    """

    def __init__(self, candidates: dict[str, nn.Module] | list[nn.Module], gate: Gate, label: str):
        super().__init__(candidates, label=label)
        # Where a skip is among the candidates, all gate gradients are taken against it (see route_gate_gradients).
        self._has_skip = any(type(candidate) is nn.Identity for candidate in self)
        object.__setattr__(self, "gate", gate)

    gate: Gate

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        gate = self.gate
        active = gate.most_probable() if gate.active is None else gate.active
        versions = _versions(args)
        y = self._candidate(active)(*args, **kwargs)
        if gate.variables is None or not torch.is_grad_enabled():
            return y
        if _versions(args) != versions:
            raise TypeError(
                f"choice {self.label!r}: candidate {self.names[active]!r} changes its input in place, which falsifies what "
                "the others are measured on; use inplace=False in its first layer"
            )
        if kwargs or not isinstance(y, Tensor):
            raise TypeError(
                f"choice {self.label!r}: an architecture step needs candidates that take positional arguments and return "
                f"one tensor; got {'keyword arguments ' + str(sorted(kwargs)) if kwargs else 'output of type ' + type(y).__name__}"
            )
        outputs = [None if j == active else self._candidate(j) for j in gate.probed]
        return route_gate_gradients(gate.variables, y, outputs, args, shift=0 if self._has_skip else -1)

    def _candidate(self, index: int) -> nn.Module:
        return self[self.names[index]]

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        if self.label not in memo:
            self.gate.sample_path()
        assert self.gate.active is not None
        return {self.label: self.names[self.gate.active]}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        return {self.label: self.names[self.gate.most_probable()]}

    def export_probs(self, memo: dict[str, Any]) -> dict[str, dict[Any, float]]:
        return {self.label: dict(zip(self.names, self.gate.probs().tolist(), strict=True))}

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> SampledLayer | None:
        """NNI's mutation hook: replaces a plain ``LayerChoice``, leaves everything else to the next hook."""
        if type(module) is not LayerChoice:
            return None
        choice: Any = module
        return cls(choice.candidates, memo[choice.label], choice.label)


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


@contextmanager
def batch_norm_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norm normalises by the batch as in training, but its running statistics stay as they are.

    ``momentum = 0`` would do for the averages, yet still count the batch, which falsifies a cumulative average.
    """
    tracking = [
        m
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats and m.training
    ]
    for m in tracking:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True
