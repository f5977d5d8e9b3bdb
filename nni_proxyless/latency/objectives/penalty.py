"""The latency term of the loss.

L is the loss of the task, T the target, E the expected latency: sum over choices of sum_j p_j F_j (ProxylessNAS eq. 5, 6).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import torch
from nni.mutable import MutableExpression
from nni.nas.profiler import ExpressionProfiler
from torch import Tensor, nn

from ...core.nni_compat import ExpectationProfilerPenalty, GumbelSoftmax
from ..profiler import LatencyProfiler
from .multiplier import FLOOR, BackwardPass, leaves_of, multiplier

__all__ = ["LatencyPenalty", "holds_target", "logits_of"]


def holds_target(weight: float | str, nonlinear: str) -> bool:
    """Whether a penalty of these arguments brings E to T from both sides."""
    return weight == "auto" and nonlinear == "linear"


def logits_of(model_space: nn.Module) -> dict[str, tuple[Tensor, nn.Module]]:
    """Label -> (logits, softmax) of the layers that NNI's DARTS, GumbelDARTS and Proxyless have put in a space."""
    found: dict[str, tuple[Tensor, nn.Module]] = {}
    for module in model_space.modules():
        logits: Any = getattr(module, "_arch_alpha", None)
        softmax: Any = getattr(module, "_softmax", None)
        if isinstance(logits, nn.ParameterDict):  # a Repeat, or an operation whose arguments are choices
            found.update({label: (alpha, softmax) for label, alpha in logits.items()})
        elif isinstance(logits, Tensor):
            label: Any = module.label
            found[label] = (logits, softmax)
    return found


class LatencyPenalty(ExpectationProfilerPenalty):
    """The expected latency as a part of the loss, or as a constraint on the search.

    An ``ExpectationProfilerPenalty`` of NNI, for every strategy that takes one. ``form`` is one of

    ================  ==============================================  =====================================================
    ``'add#linear'``  L + weight * nonlinear(E/T - 1)                 the official code's, weight 0.1 there
    ``'add'``         L + weight * E                                  the paper's eq. 7, weight per millisecond
    ``'mul#log'``     loss_scale * L * (ln E / ln T) ** weight        the official default, loss_scale 0.2 and weight 0.3
    ``'threshold'``   L + weight * sum of p_k F_k, if F(Z) >= T       DSNAS, weight 1e-6 per million MACs there
    ================  ==============================================  =====================================================

    ``'threshold'`` looks at the sampled network Z alone, with candidate k in each choice and F(Z) in all: below the target T
    there is no penalty, above it every sampled candidate is made less probable, the more the more it costs
    (SNAS-Series/SNAS-Series at 9a43adb, DSNAS/network.py:23-43).

    ``weight='auto'`` (with ``'add#linear'``) needs no weight at all: lambda is computed in every backward pass from the
    gradients themselves, so that E goes to T and stays there while the task decides everything else; see
    :func:`multiplier`. It has no state, no step size and no starting value. The returned loss then has the value of L
    itself, and its gradient on the logits is g_L + lambda g_E; one backward pass has to follow, on one device. What the
    optimizer adds of its own it cannot see: the weight decay in NNI's DARTS keeps E short of T where the task's gradient is
    less than that, and a step that moves E by more than ``tolerance`` makes E swing around T (a learning rate of 0.1 with
    two choices).

    NNI's own DARTS, GumbelDARTS and Proxyless hand over probabilities as plain numbers, whose gradient on the logits is
    0. Then the live ones, softmax(alpha), are taken from the supernet, the plain softmax also for GumbelDARTS.

    Parameters
    ----------
    profiler
        Any NNI ``ExpressionProfiler``: a :class:`~nni_proxyless.latency.LatencyProfiler`, FLOPs, parameters.
    target_ms
        T, in the profiler's unit. May be None with ``'add'``, which does not use it.
    weight
        ``'add'``, ``'threshold'``: per unit of the profiler. ``'add#linear'``: in units of the loss; 1 means that twice the target costs as much as 1 nat of cross entropy.
    nonlinear
        ``'linear'``: always pulls down, as in the paper; with ``'auto'``: E meets T from both sides. ``'positive'``: only
        above the target; with ``'auto'``: T is an upper limit. ``'absolute'``: towards the target from both sides, not
        with ``'auto'``. Forms other than ``'add#linear'`` know only ``'linear'``.
    loss_scale
        Of ``'mul#log'``.
    tolerance
        Of ``'auto'``: with E more than this share away from T, the pull to it is as strong as the task's gradient.
    model_space
        Where live probabilities are found: the space that the strategy searches. Needed for NNI's own strategies with
        a profiler that does not keep its space, such as NNI's ``FlopsProfiler``.

    Raises
    ------
    ValueError
        An argument outside its range, the message names all of them; ``'mul#log'`` with E <= 1, where the logarithm
        changes its sign; a ``model_space`` that is not the one in training.
    TypeError
        ``'threshold'`` with a strategy that does not say which path it has sampled. Probabilities are plain numbers in a step that has a gradient, and no live ones can be found.
    """

    def __init__(
        self,
        profiler: ExpressionProfiler,
        target_ms: float | None,
        weight: float | Literal["auto"] = 1.0,
        *,
        form: Literal["add#linear", "add", "mul#log", "threshold"] = "add#linear",
        nonlinear: Literal["linear", "positive", "absolute"] = "linear",
        loss_scale: float = 1.0,
        tolerance: float = 0.05,
        model_space: nn.Module | None = None,
    ):
        problems = []
        if not isinstance(profiler, ExpressionProfiler):
            problems.append(f"profiler is a {type(profiler).__name__}; allowed: an ExpressionProfiler of NNI")
        if form not in ("add#linear", "add", "mul#log", "threshold"):
            problems.append(f"form is {form!r}; allowed: 'add#linear', 'add', 'mul#log', 'threshold'")
        if not (form == "add" and target_ms is None):
            least = 1 if form == "mul#log" else 0
            if not _above(target_ms, least):
                why = " ('mul#log' takes its logarithm)" if least else ""
                problems.append(f"target_ms is {target_ms}; allowed: greater than {least}{why}")
        if weight == "auto":
            if form != "add#linear":
                problems.append(f"weight is 'auto' with form {form!r}; allowed: 'auto' with 'add#linear' only")
            if nonlinear == "absolute":
                problems.append("nonlinear is 'absolute' with weight 'auto'; allowed: 'linear', 'positive'")
        elif not (_above(weight, 0) or weight == 0):
            problems.append(f"weight is {weight}; allowed: 0 or more, or 'auto'")
        if nonlinear not in ("linear", "positive", "absolute"):
            problems.append(f"nonlinear is {nonlinear!r}; allowed: 'linear', 'positive', 'absolute'")
        elif nonlinear != "linear" and form in ("add", "mul#log", "threshold"):
            problems.append(f"nonlinear is {nonlinear!r} with form {form!r}; allowed: 'linear'")
        if not _above(loss_scale, 0):
            problems.append(f"loss_scale is {loss_scale}; allowed: greater than 0")
        elif loss_scale != 1 and form in ("add#linear", "add", "threshold"):
            problems.append(
                f"loss_scale is {loss_scale} with form {form!r}; allowed: 1, only 'mul#log' scales the loss"
            )
        if not _above(tolerance, 0):
            problems.append(f"tolerance is {tolerance}; allowed: greater than 0")
        if problems:
            raise ValueError("; ".join(problems))

        # A field of NNI's that has no meaning here is nan.
        baseline = math.nan if target_ms is None else target_ms
        scale = math.nan if weight == "auto" else weight
        super().__init__(
            profiler, baseline, scale, nonlinear=nonlinear, aggregate="mul" if form == "mul#log" else "add"
        )
        self.target_ms, self.weight, self.form, self.nonlinear = target_ms, weight, form, nonlinear
        self.loss_scale, self.tolerance = loss_scale, tolerance
        # Past nn.Module, which would make the supernet a part of the penalty.
        space = getattr(profiler, "model_space", None) if model_space is None else model_space
        object.__setattr__(self, "model_space", space)
        self._multiplier: Tensor | None = None
        self._backward_pass: BackwardPass | None = None

    model_space: nn.Module | None

    @property
    def holds_target(self) -> bool:
        """Whether E is brought to T from both sides, so that the networks that a search is about are near T."""
        return holds_target(self.weight, self.nonlinear)

    @property
    def last_multiplier(self) -> float:
        """lambda of the last backward pass with ``weight='auto'``; nan before the first. Waits for the device."""
        return math.nan if self._multiplier is None else float(self._multiplier)

    def forward(
        self, loss: Tensor, sample: dict[str, Any], path: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Join the loss with the expected latency.

        Parameters
        ----------
        loss
            L, a scalar.
        sample
            Label -> choice -> probability, scalar tensors that carry a gradient or plain numbers.
        path
            Label -> choice that was sampled, which ``'threshold'`` needs.

        Returns
        -------
        tuple
            The loss, and a dict of detached values: ``'loss_original'``, ``'penalty'`` (E), ``'normalized_penalty'`` (what
            the weight multiplies or is the exponent of), ``'loss_final'``, and for ``weight='auto'`` ``'multiplier'``,
            that of the backward pass before (0 if there was none).
        """
        self._forget_backward_pass()
        expected: Any = self.profile(self._with_live_probs(loss, sample))
        details: dict[str, Any] = {}
        if self.form == "threshold":
            normalized = self._of_path(sample, path)
        elif self.form == "add":
            normalized = expected
        elif self.form == "add#linear":
            normalized = self.nonlinear_fn(expected / self.target_ms - 1)
        else:
            normalized = self._log_ratio(expected)

        if self.weight == "auto":
            total = self._constrained(loss, expected)
            details["multiplier"] = 0.0 if self._multiplier is None else self._multiplier
        elif self.form == "mul#log":
            total = self.loss_scale * loss * normalized**self.weight
        else:
            total = loss + self.weight * normalized
        details |= {
            "loss_original": loss, "penalty": expected, "normalized_penalty": normalized, "loss_final": total,
        }  # fmt: skip
        return total, {name: v.detach() if isinstance(v, Tensor) else v for name, v in details.items()}

    def profile(self, sample: dict[str, Any]) -> Any:
        """E under the probabilities ``sample``: exact for a sum, for a maximum the lower bound that the profiler gives."""
        if isinstance(self.profiler, LatencyProfiler):
            # NNI goes through the choices one by one; of a maximum through all networks, of what is nested through all pairs.
            return self.profiler.expectation(sample)
        return super().profile(sample)

    def _of_path(self, sample: dict[str, Any], path: dict[str, Any] | None) -> Any:
        """Sum of p_k F_k over the sampled candidates, or 0 below the target."""
        if path is None:
            raise TypeError("form 'threshold' needs the sampled path, which this strategy does not say; use DSNAS")
        assert self.target_ms is not None
        if self.profiler.profile(path) < self.target_ms:
            return 0.0
        hashable = {label: tuple(choice) if isinstance(choice, list) else choice for label, choice in path.items()}
        sampled = {
            label: {choice: p if choice == hashable[label] else 0.0 for choice, p in dist.items()}
            for label, dist in sample.items()
        }
        # The constant part of the cost is in it as well, and has no gradient.
        return self.profile(sampled)

    def _log_ratio(self, expected: Any) -> Any:
        """ln E / ln T."""
        assert self.target_ms is not None
        value = float(expected.detach() if isinstance(expected, Tensor) else expected)
        if not value > 1:
            raise ValueError(
                f"expected latency is {value}; allowed with form 'mul#log': greater than 1, the logarithm changes its sign "
                "there. Use a smaller unit, or form 'add#linear'"
            )
        log = torch.log(expected) if isinstance(expected, Tensor) else math.log(expected)
        return log / math.log(self.target_ms)

    def _constrained(self, loss: Tensor, expected: Any) -> Tensor:
        """L, with a graph in which backward gives the logits g_L + lambda g_E."""
        if not isinstance(expected, Tensor) or not expected.requires_grad or not torch.is_grad_enabled():
            return loss
        assert self.target_ms is not None
        ratio = expected / self.target_ms
        leaves = leaves_of(ratio)
        cost_grads = torch.autograd.grad(ratio, leaves, retain_graph=True)
        gap = ratio.detach() - 1

        def solve(task_grads: Sequence[Tensor], scale: Tensor) -> Tensor:
            at_most = self.nonlinear == "positive"
            floor = FLOOR * scale.abs().to(task_grads[0].device)
            value = multiplier(task_grads, cost_grads, gap, self.tolerance, at_most, floor)
            self._multiplier = value / scale.to(value)
            return value

        # Nothing times E makes every logit take part in backward, those too that the task does not reach.
        total = loss + (0.0 * ratio).to(loss)
        self._backward_pass = BackwardPass(total, leaves, cost_grads, solve)
        return total

    def _with_live_probs(self, loss: Tensor, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample, with probabilities from the supernet where plain numbers would leave the logits without a gradient."""
        expression = self.profiler.expression
        if not (torch.is_grad_enabled() and loss.requires_grad and isinstance(expression, MutableExpression)):
            return sample
        numbers = {
            label
            for label, probs in sample.items()
            if isinstance(probs, dict) and not any(isinstance(p, Tensor) for p in probs.values())
        }
        plain = {label: spec for label, spec in expression.simplify().items() if label in numbers} if numbers else {}
        if not plain:
            return sample
        found = {} if self.model_space is None else logits_of(self.model_space)
        live = {}
        for label, spec in plain.items():
            if label not in found or len(found[label][0]) != len(spec.values):
                where = (
                    f"{type(self.profiler).__name__} does not keep its model space"
                    if self.model_space is None
                    else f"no layer of {type(self.model_space).__name__} has {len(spec.values)} logits for it"
                )
                raise TypeError(
                    f"choice {label!r}: its probabilities are plain numbers, so its latency has no gradient, and {where}; "
                    "pass model_space=, the model space that the strategy searches"
                )
            logits, softmax = found[label]
            probs = torch.softmax(logits, -1) if isinstance(softmax, GumbelSoftmax) else softmax(logits)
            live[label] = dict(zip(spec.values, probs.unbind(), strict=True))
            # Another space than the one in training has other logits, from the first step on.
            if type(softmax) is nn.Softmax and not _equal(sample[label], live[label]):
                raise ValueError(
                    f"choice {label!r}: its probabilities are {sample[label]}, but those of the layer in "
                    f"{type(self.model_space).__name__} are {dict(zip(spec.values, probs.tolist(), strict=True))}; "
                    "pass model_space=, the model space that the strategy searches"
                )
        return {**sample, **live}

    def _forget_backward_pass(self) -> None:
        """Take back the hooks of a forward pass that no backward pass has followed."""
        if self._backward_pass is not None:
            self._backward_pass.remove()
            self._backward_pass = None

    def __deepcopy__(self, memo: dict[int, Any]) -> LatencyPenalty:
        # Where the supernet is not copied along, and before it, the copy goes on to look at the one in training.
        space = self.model_space
        alone = space is not None and id(space) not in memo
        if alone:
            memo[id(space)] = space
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy({**self.__dict__, "_backward_pass": None}, memo))  # a copy waits for none
        if alone:
            del memo[id(space)]
        return copied


def _above(value: Any, least: float) -> bool:
    """Whether it is a finite number greater than ``least``."""
    return isinstance(value, Real) and least < float(value) < math.inf


def _equal(numbers: dict[Any, float], tensors: dict[Any, Tensor]) -> bool:
    """Whether two distributions are the same up to rounding."""
    ours = torch.stack(list(tensors.values())).tolist()
    theirs = [numbers.get(choice, math.nan) for choice in tensors]
    return all(abs(a - b) <= 1e-6 for a, b in zip(ours, theirs, strict=True))
