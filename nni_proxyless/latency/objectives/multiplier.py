"""The multiplier that holds the expected latency at its target, from the gradients of one step.

Symbols:

==========  ===========================================================================================
L           loss of the task
E           expected latency
T           target, in the unit of E
gap         E/T - 1, relative distance from the target
g_L         gradient of L on the logits of all choices together, one vector
g_E         gradient of E/T on the same logits
lambda      multiplier of the constraint E = T: the step goes down g_L + lambda g_E
==========  ===========================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FLOOR", "BackwardPass", "leaves_of", "multiplier"]

# |g_L| counts as at least this much, so that a task without a gradient still lets E reach T. A gradient of a batch is about
# ten times as long. Much less would not do: the optimizer of NNI's DARTS decays its logits, by a gradient of 1e-3 alpha.
FLOOR = 1e-3


def multiplier(
    task_grads: Sequence[Tensor],
    cost_grads: Sequence[Tensor],
    gap: Tensor,
    tolerance: float,
    at_most: bool,
    floor: float | Tensor = FLOOR,
) -> Tensor:
    """lambda with which the step down g_L + lambda g_E brings E to T, from the gradients of this step alone.

    A plain gradient step of length eta changes E/T, to first order, by

        d(E/T) = -eta <g_E, g_L + lambda g_E> = -eta (<g_L, g_E> + lambda |g_E|^2).

    The change that is wanted is as large as the task's own gradient could make it when E is far from T, shrinks with
    the distance, and is 0 at the target: d(E/T) = -eta clip(gap / tolerance, -1, 1) |g_L| |g_E|. Hence

        lambda = -<g_L, g_E> / |g_E|^2 + clip(gap / tolerance, -1, 1) |g_L| / |g_E|.

    At the target only the first term is left: the Lagrange multiplier of E = T, with which g_L + lambda g_E is the task's
    gradient without its part along g_E. lambda is homogeneous of degree 1 in g_L and in ``floor`` together, so a loss that
    is scaled, as for half precision, has its lambda scaled alike.

    Parameters
    ----------
    task_grads
        g_L, one tensor per tensor of logits, of any shape.
    cost_grads
        g_E, in the same order and of the same shapes.
    gap
        E/T - 1, a scalar.
    tolerance
        The gap from which on the pull towards the target has its full strength.
    at_most
        T is an upper limit only: lambda is never negative (the Karush-Kuhn-Tucker condition of E <= T).
    floor
        What |g_L| counts as in the second term, at least.

    Returns
    -------
    Tensor
        A scalar, at least float32, without a graph. 0 where g_E is 0.
    """
    task, cost = _flat(task_grads), _flat(cost_grads)
    task_norm = torch.linalg.vector_norm(task).clamp_min(floor)
    cost_norm = torch.linalg.vector_norm(cost)
    pull = (gap.detach().to(cost) / tolerance).clamp(-1, 1)
    # Divided by the norm twice, not by its square, which would underflow first.
    value = (pull * task_norm - (task * (cost / cost_norm)).sum()) / cost_norm
    if at_most:
        value = value.clamp_min(0)
    return torch.where(cost_norm > 0, value, torch.zeros_like(value))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries as one vector, at least in float32."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    return torch.cat([t.detach().reshape(-1).to(tensors[0].device, dtype) for t in tensors])


def leaves_of(value: Tensor) -> list[Tensor]:
    """The tensors that a backward pass from ``value`` would accumulate a gradient in, each once, in a fixed order."""
    found, seen, todo = [], set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if not node.next_functions and hasattr(node, "variable"):  # an AccumulateGrad
            found.append(node.variable)
        todo.extend(function for function, _ in reversed(node.next_functions))
    return found


class BackwardPass:
    """One backward pass of ``loss``: waits for g_L of every leaf, then adds lambda g_E to all of them and lets go.

    Parameters
    ----------
    loss
        Scalar whose graph reaches every leaf. A backward pass that does not begin here, as that of a weight step between
        this forward pass and its backward pass, changes nothing.
    leaves, cost_grads
        The logits and g_E on them.
    solve
        g_L and the factor that the caller has scaled the loss by, as for half precision -> lambda, scaled alike.
    """

    def __init__(
        self,
        loss: Tensor,
        leaves: Sequence[Tensor],
        cost_grads: Sequence[Tensor],
        solve: Callable[[Sequence[Tensor], Tensor], Tensor],
    ):
        self.leaves, self.cost_grads, self.solve = leaves, cost_grads, solve
        self.scale: Tensor | None = None
        self.task_grads: dict[int, Tensor] = {}
        self.missing = set(range(len(leaves)))
        self.handles: list[Any] = [loss.register_hook(self._begin)]
        for i, leaf in enumerate(leaves):
            # g_L is taken on its way in: what leaf.grad held before this pass is no part of it.
            self.handles.append(leaf.register_hook(functools.partial(self._take, i)))
            self.handles.append(leaf.register_post_accumulate_grad_hook(functools.partial(self._accumulated, i)))

    def _begin(self, grad: Tensor) -> None:
        self.scale = grad.detach()

    def _take(self, i: int, grad: Tensor) -> None:
        if self.scale is not None:
            self.task_grads[i] = grad.detach()

    def _accumulated(self, i: int, _leaf: Tensor) -> None:
        if self.scale is None:
            return
        self.missing.discard(i)
        if self.missing:
            return
        self.remove()
        with torch.no_grad():
            value = self.solve([self.task_grads[j] for j in range(len(self.leaves))], self.scale)
            for leaf, cost_grad in zip(self.leaves, self.cost_grads, strict=True):
                assert leaf.grad is not None
                leaf.grad.add_(value.to(cost_grad) * cost_grad)

    def remove(self) -> None:
        """Take the hooks off the leaves again."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
