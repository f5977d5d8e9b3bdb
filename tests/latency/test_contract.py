"""Every estimator of this package keeps the contract, and the contract sees each way of breaking it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nni_proxyless.latency import DeviceEstimator, LatencyEstimator, LookupTable, MacsEstimator, Measurement, Operation
from nni_proxyless.latency.estimators.counts import ActivationsEstimator, ParametersEstimator
from nni_proxyless.testing import EstimatorContract


def layers() -> list[Operation]:
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    return [Operation("a convolution", convolution, (3, 8, 8)), Operation("a linear layer", nn.Linear(4, 2), (4,))]


class Contract(EstimatorContract):
    def operations(self):
        return layers()


class TestDeviceEstimator(Contract):
    exact = False

    def make_estimator(self):
        return DeviceEstimator(runtime="torch", warmup=0, repeats=2)


class TestLookupTable(Contract):
    def make_estimator(self):
        rows = {"a convolution": Measurement(1.5, 2.0, 10), "a linear layer": Measurement(0.5, 0.5, 10)}
        return LookupTable(rows, {"device": "a phone", "threads": 1})

    def unknown_operation(self):
        return Operation("a pooling", nn.AvgPool2d(2), (3, 8, 8))


class TestMacsEstimator(Contract):
    def make_estimator(self):
        return MacsEstimator()


class TestParametersEstimator(Contract):
    def make_estimator(self):
        return ParametersEstimator()


class TestActivationsEstimator(Contract):
    def make_estimator(self):
        return ActivationsEstimator()


# -- the contract can fail -------------------------------------------------------------------------------------------------


class Broken(LatencyEstimator):
    """Wrong in one way; 1.0 for everything else."""

    def __init__(self, way: str = "no way"):
        self.way = way
        self.asked = 0
        if way == "cannot be pickled":
            self.function = lambda: None
        if way == "unit":
            self.unit = 3
        if way == "combine":
            self.combine = "mean"

    @property
    def conditions(self) -> Any:
        kinds = {"a tuple": (1, 2), "numpy": np.float64(1.0), "grows": self.asked}
        return {"device": kinds.get(self.way, "a phone")}

    def estimate(self, operation: Operation) -> float:
        self.asked += 1
        module = operation.module
        if self.way == "no key":
            raise KeyError("unknown")
        if self.way == "eval":
            module.eval()
        if self.way == "weights":
            next(module.parameters()).data.zero_()
        if self.way == "gradient":
            module.zero_grad()
        if self.way == "hook":
            module.register_forward_hook(lambda *args: None)
        if self.way == "draws":
            torch.randn(1)
        wrong: dict[str, Any] = {
            "nan": math.nan, "negative": -1.0, "a tensor": torch.tensor(1.0), "numpy scalar": np.float64(1.0),
            "counts": float(self.asked), "looks at weights": float(sum(p.abs().sum() for p in module.parameters()).detach()),
        }  # fmt: skip
        return wrong.get(self.way, 1.0)


@pytest.mark.parametrize(
    ("way", "test"),
    [
        ("nan", "test_an_estimate_is_a_number"), ("negative", "test_an_estimate_is_a_number"),
        ("a tensor", "test_an_estimate_is_a_number"), ("numpy scalar", "test_an_estimate_is_a_number"),
        ("counts", "test_equal_operations_cost_the_same"), ("counts", "test_the_order_makes_no_difference"),
        ("looks at weights", "test_equal_operations_cost_the_same"),
        ("eval", "test_an_operation_is_left_as_it_is"), ("weights", "test_an_operation_is_left_as_it_is"),
        ("gradient", "test_an_operation_is_left_as_it_is"), ("hook", "test_an_operation_is_left_as_it_is"),
        ("draws", "test_nothing_is_drawn_from_the_global_generator"),
        ("a tuple", "test_conditions_are_plain_and_stay_the_same"), ("numpy", "test_conditions_are_plain_and_stay_the_same"),
        ("grows", "test_conditions_are_plain_and_stay_the_same"),
        ("unit", "test_unit_and_combine"), ("combine", "test_unit_and_combine"),
        ("no key", "test_an_unknown_operation_is_refused_by_name"), ("silent", "test_an_unknown_operation_is_refused_by_name"),
        ("cannot be pickled", "test_it_can_be_copied_and_pickled"),
    ],
)  # fmt: skip
def test_the_contract_can_fail(way, test):
    """Each way of being wrong, and one test that sees it; an estimator that is wrong in no way passes that test."""

    def checks(broken: str) -> EstimatorContract:
        contract = Contract()
        contract.make_estimator = lambda: Broken(broken)
        if broken == "silent":
            contract.unknown_operation = lambda: layers()[0]
        return contract

    getattr(checks("no way"), test)()
    with pytest.raises((AssertionError, AttributeError, pytest.fail.Exception, TypeError, KeyError)):
        getattr(checks(way), test)()


def test_what_is_missing_in_a_subclass_is_named():
    with pytest.raises(NotImplementedError, match=r"EstimatorContract needs a method make_estimator\(\)"):
        EstimatorContract().test_unit_and_combine()
