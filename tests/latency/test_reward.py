"""The reward of a sampled network: accuracy weighed by latency."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from nni.mutable import Categorical, MutableExpression
from nni.nas.profiler import ExpressionProfiler, Profiler

from nni_proxyless.latency import LatencyReward
from nni_proxyless.latency.objectives.reward import reward


class Measured:
    """A latency that is no expression and no profiler: counts how often it is asked."""

    def __init__(self, ms: Any = 20.0):
        self.ms, self.calls = ms, 0

    def __call__(self, sample: dict) -> Any:
        self.calls += 1
        return self.ms


class Expression(ExpressionProfiler):
    """2 or 8 ms."""

    def __init__(self):
        self.expression = MutableExpression.switch_case(Categorical(["a", "b"], label="c"), {"a": 2.0, "b": 8.0})


class NoExpression(Profiler):
    """A profiler of somebody else that cannot be differentiated."""

    def __init__(self):
        pass

    def profile(self, sample: dict) -> float:
        return 4.0 if sample["c"] == "a" else 16.0


@pytest.mark.parametrize(
    ("latency", "expected"),
    [(40.0, 0.75), (80.0, 0.75 * 2**-0.1), (20.0, 0.75 * 2**0.1), (40.0 * 1024, 0.75 / 2)],
)
def test_the_reward_is_the_accuracy_times_a_power_of_the_latency(latency, expected):
    """Property 17: at the target the accuracy, at twice the target acc * 2^-0.1; 2^10 times the target halves it."""
    assert reward(0.75, latency, 40.0, -0.1) == pytest.approx(expected, rel=1e-15)
    assert LatencyReward(lambda sample: latency, 40.0)(0.75, {"c": "a"}) == pytest.approx(expected, rel=1e-15)


def test_the_exponent_says_how_much_latency_counts():
    """acc (lat/T)^w for w = -1, and for w = 0 the accuracy whatever the latency."""
    assert LatencyReward(Measured(80.0), 40.0, exponent=-1.0)(0.5, {}) == 0.25
    assert LatencyReward(Measured(80.0), 40.0, exponent=0)(0.5, {}) == 0.5


@pytest.mark.parametrize("profiler", [Expression(), NoExpression()])
def test_any_profiler_of_nni_will_do(profiler):
    """reward(b) / reward(a) = (lat(b) / lat(a))^w = 4^-0.5, with an expression and without one."""
    rewarded = LatencyReward(profiler, 3.0, exponent=-0.5)
    assert rewarded(0.9, {"c": "b"}) / rewarded(0.9, {"c": "a"}) == pytest.approx(0.5, rel=1e-15)


def test_each_network_is_measured_once():
    """A measurement is dear: the second time it comes from memory, whatever the accuracy and the order of the labels."""
    measured = Measured()
    rewarded = LatencyReward(measured, 20.0)
    assert rewarded(0.5, {"x": 1, "y": "wide"}) == 0.5
    assert rewarded(0.75, {"y": "wide", "x": 1}) == 0.75
    assert measured.calls == 1
    for i, other in enumerate([{"x": 2, "y": "wide"}, {"x": "wide", "y": 1}, {"x": 1}, {}]):
        rewarded(0.5, other)
        assert measured.calls == 2 + i


def test_the_value_of_a_choice_may_be_a_list():
    """As that of an ``InputChoice`` is; its order counts."""
    measured = Measured()
    rewarded = LatencyReward(measured, 20.0)
    for inputs in ([0, 2], [0, 2], [2, 0], [0, [2]], [0, 2]):
        rewarded(0.5, {"inputs": inputs, "op": "conv"})
    assert measured.calls == 3


@pytest.mark.parametrize("ms", [0.0, -1.0, math.nan, math.inf, None, "fast", torch.tensor([1.0, 2.0])])
def test_what_is_no_latency_is_refused(ms):
    """With the sample and the value in the message; it is not remembered, so a measurement can be tried again."""
    measured = Measured(ms)
    rewarded = LatencyReward(measured, 20.0)
    with pytest.raises(ValueError, match="latency of ") as caught:
        rewarded(0.5, {"op": "conv"})
    assert str(caught.value) == f"latency of {{'op': 'conv'}} is {ms!r}; allowed: a finite number greater than 0"
    measured.ms = torch.tensor(20.0)
    assert rewarded(0.5, {"op": "conv"}) == 0.5


@pytest.mark.parametrize("accuracy", [-0.1, math.nan, math.inf])
def test_what_is_no_accuracy_is_refused(accuracy):
    """A negative score would make the slower of two networks the better one."""
    with pytest.raises(ValueError, match=f"accuracy is {accuracy}; allowed: 0 or more"):
        LatencyReward(Measured(), 20.0)(accuracy, {})


def test_all_wrong_arguments_are_named_at_once():
    message = (
        "latency is a float; allowed: a Profiler of NNI, or a function; target_ms is 0; allowed: greater than 0; "
        "exponent is 0.1; allowed: 0 or less"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        LatencyReward(3.0, 0, exponent=0.1)
    for target in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match=f"target_ms is {target}; allowed: greater than 0"):
            LatencyReward(Measured(), target)
    for exponent in (math.nan, -math.inf):
        with pytest.raises(ValueError, match=f"exponent is {exponent}; allowed: 0 or less"):
            LatencyReward(Measured(), 1.0, exponent)
    with pytest.raises(ValueError, match=r"latency_ms is -1\.0; allowed: greater than 0"):
        reward(0.5, -1.0, 1.0, -0.1)
