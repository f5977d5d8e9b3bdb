"""Accuracy and latency of one network as one number, for strategies that learn from samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nni.nas.profiler import Profiler

__all__ = ["LatencyReward", "reward"]


def reward(accuracy: float, latency_ms: float, target_ms: float, exponent: float) -> float:
    """accuracy * (latency / target) ** exponent, the goal of MnasNet and of the REINFORCE variant of ProxylessNAS.

    At the target it is the accuracy itself; with the official code's exponent, -0.1, a network that takes twice as long
    has 93 % of it.

    Parameters
    ----------
    accuracy
        0 or more, usually up to 1. With a negative score, a slower network would come out better.
    latency_ms, target_ms
        Greater than 0, in the same unit.
    exponent
        0 (latency does not count) or less.

    Raises
    ------
    ValueError
        A number outside its range.
    """
    if not 0 <= accuracy < math.inf:
        raise ValueError(f"accuracy is {accuracy}; allowed: 0 or more")
    if not 0 < latency_ms < math.inf:
        raise ValueError(f"latency_ms is {latency_ms}; allowed: greater than 0")
    if problems := _problems(target_ms, exponent):
        raise ValueError("; ".join(problems))
    return accuracy * (latency_ms / target_ms) ** exponent


def _problems(target_ms: float, exponent: float) -> list[str]:
    problems = []
    if not 0 < target_ms < math.inf:
        problems.append(f"target_ms is {target_ms}; allowed: greater than 0")
    if not -math.inf < exponent <= 0:
        problems.append(f"exponent is {exponent}; allowed: 0 or less")
    return problems


class LatencyReward:
    """The reward of one sampled network: its accuracy, weighed by its latency; see :func:`reward`.

    Parameters
    ----------
    latency
        Any ``Profiler`` of NNI, or any function from a sample (label -> choice) to milliseconds: a table, a predictor, a
        measurement of the real network. It need not be differentiable. Each sample is asked for once.
    target_ms
        Latency at which the reward is the accuracy.
    exponent
        0 or less; -0.1 is the official code's.

    Raises
    ------
    ValueError
        An argument outside its range; on a call, an accuracy below 0, or a latency that is no positive finite number.
    """

    def __init__(self, latency: Profiler | Callable[[dict[str, Any]], float], target_ms: float, exponent: float = -0.1):
        problems = _problems(target_ms, exponent)
        measure: Any = latency.profile if isinstance(latency, Profiler) else latency
        if not callable(measure):
            problems.insert(0, f"latency is a {type(latency).__name__}; allowed: a Profiler of NNI, or a function")
        if problems:
            raise ValueError("; ".join(problems))
        self.latency = latency
        self.target_ms = target_ms
        self.exponent = exponent
        self._measure = measure
        self._known: dict[Any, float] = {}

    def __call__(self, accuracy: float, sample: dict[str, Any]) -> float:
        """Reward of the network ``sample``."""
        return reward(accuracy, self.latency_ms(sample), self.target_ms, self.exponent)

    def latency_ms(self, sample: dict[str, Any]) -> float:
        """Latency of the network ``sample``, from memory if it has been asked for before."""
        key = _hashable(sample)
        if key not in self._known:
            value = self._measure(sample)
            try:
                ms = float(value)
            except (TypeError, ValueError):
                ms = math.nan
            if not 0 < ms < math.inf:
                raise ValueError(f"latency of {sample} is {value!r}; allowed: a finite number greater than 0")
            self._known[key] = ms
        return self._known[key]


def _hashable(value: Any) -> Any:
    """The same for equal samples, whatever the order of their labels; an ``InputChoice`` has a list as its value."""
    if isinstance(value, dict):
        return frozenset((label, _hashable(choice)) for label, choice in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    return value
