"""The gate of a choice, and the gradient that it would have received had it been a number.

The symbols are those of :mod:`..estimators`. The forward pass runs the active candidate k and nothing else. A strategy
learns from dL/dg_j, the gradient that each gate *would* have received: :func:`.gate_gradient.route_gate_gradients` puts
exactly that into the backward pass, for the candidates that the strategy *probes*. What the gate stands for is the
strategy's business: ProxylessNAS hands in probabilities (then the chain rule through the softmax is its equation 4,
:func:`..estimators.logit_gradient`), DSNAS log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nni_proxyless.core.divergence import DivergedError
from nni_proxyless.latency.choices import as_nni_has_it

__all__ = ["Gate", "alike", "logits_of", "probs_of", "sample_paths"]


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

    active: int | None
    probed: tuple[int, ...]
    variables: Tensor | None
    shift: bool
    ran: bool

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
        self._set(active=None, probed=(), variables=None, shift=True, ran=False)

    def open(
        self, active: int, probed: Sequence[int] = (), variables: Tensor | None = None, *, shift: bool = True
    ) -> None:
        """Let candidate ``active`` run; with ``variables`` (one per probed candidate), route gate gradients into them.

        With ``shift``, a layer that has a skip among its candidates takes them against the skip.
        """
        self._set(active=active, probed=tuple(probed), variables=variables, shift=shift, ran=False)

    def take(self) -> int:
        """Index of the candidate that runs now, asked by the layer that runs it."""
        self._set(ran=True)
        return self.current

    def _set(self, **state: Any) -> None:
        vars(self).update(state)  # a module is slow at setting attributes, and a step sets a dozen at every gate

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
        # Logits are copied; the generator is shared, so that the copy draws from the same sequence.
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
        """Index of the fixed choice, else of the largest logit; the first among equals, so exports are deterministic."""
        return int(torch.argmax(self.alpha.detach())) if self.choice is None else self.choice

    def sample_path(self, size_bias: float = 0.0, probs: Tensor | None = None) -> int:
        """Draw the active candidate and open the gate for it alone.

        It is j with a probability proportional to p_j s_j^size_bias, with 0 therefore p_j. s_j is its number of
        weights; one without any counts as the smallest that has some. ``probs``: p, if it is known already.
        """
        if size_bias and any(self.sizes) and not self.fixed:
            sizes = torch.tensor(self.sizes, dtype=torch.float64)
            sizes = sizes.clamp_min(sizes[sizes > 0].min())
            probs = torch.softmax(self.alpha.detach().cpu() + size_bias * sizes.log(), dim=0)
        else:
            probs = (self.probs() if probs is None else probs).detach().cpu()
        try:
            active = int(torch.multinomial(probs, 1, generator=self.generator))
        except RuntimeError as error:  # looked at afterwards: a look at every draw would be felt
            if torch.isfinite(probs).all():
                raise
            raise DivergedError(f"the probabilities of choice {self.label!r} are no numbers") from error
        self.open(active)
        return active


# -- all gates at once: a dozen small operations per choice and step add up, and on a GPU each draw would wait for it ------


def alike(gates: Iterable[Gate]) -> list[list[Gate]]:
    """The gates by their number of choices, whose logits are rows of one matrix."""
    by_size: dict[int, list[Gate]] = {}
    for gate in gates:
        by_size.setdefault(len(gate.choices), []).append(gate)
    return list(by_size.values())


def logits_of(gates: Sequence[Gate]) -> Tensor:
    """alpha of gates that are :func:`alike`, shape (n_gates, N), with its graph."""
    return torch.stack([gate.alpha for gate in gates])


def probs_of(gates: Sequence[Gate]) -> dict[Gate, Tensor]:
    """:meth:`Gate.probs` of each, on the CPU and without a graph; in the same order, in which their generator draws."""
    found = {gate: gate.probs().cpu() for gate in gates if gate.fixed}
    with torch.no_grad():
        for same in alike(gate for gate in gates if not gate.fixed):
            found.update(zip(same, torch.softmax(logits_of(same), dim=1).cpu(), strict=True))
    return {gate: found[gate] for gate in gates}


def sample_paths(gates: Sequence[Gate], size_bias: float = 0.0) -> dict[Gate, int]:
    """:meth:`Gate.sample_path` of each, one after the other."""
    probs = {} if size_bias else probs_of(gates)
    return {gate: gate.sample_path(size_bias, probs.get(gate)) for gate in gates}
