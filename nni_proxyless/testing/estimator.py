"""Tests that an estimator of your own inherits. Needs pytest, which the package itself does not.

from nni_proxyless.testing import EstimatorContract

class TestMine(EstimatorContract):
    def make_estimator(self):
        return MyEstimator(device="a phone")

    def operations(self):
        return [Operation("small", nn.Conv2d(3, 8, 3), (3, 16, 16)), Operation("large", nn.Conv2d(3, 64, 3), (3, 16, 16))]
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence

import pytest
import torch
import yaml
from torch import nn

from ..latency import LatencyEstimator, Operation

__all__ = ["EstimatorContract"]


class EstimatorContract:
    """What every ``LatencyEstimator`` does. Inherit in a class whose name begins with ``Test``, and say of what it is.

    Attributes
    ----------
    exact
        Whether the same operation always gets the same number. False for one that measures.
    """

    exact = True

    def make_estimator(self) -> LatencyEstimator:
        """A new estimator, always of the same arguments."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_estimator()")

    def operations(self) -> Sequence[Operation]:
        """Two or more different operations that it knows, new ones at every call, with the same keys in the same order."""
        raise NotImplementedError(f"{type(self).__name__} needs a method operations()")

    def unknown_operation(self) -> Operation | None:
        """One that it does not know; None if it finds a number for whatever runs."""
        return None

    def _estimates(self, estimator: LatencyEstimator, operations: Sequence[Operation]) -> list[float]:
        found = [estimator.estimate(operation) for operation in operations]
        return found if self.exact else [0.0 for _ in found]

    def test_it_is_an_estimator(self) -> None:
        """And it has operations to be tested on."""
        assert isinstance(self.make_estimator(), LatencyEstimator), "make_estimator() gives no LatencyEstimator"
        assert len({operation.key for operation in self.operations()}) >= 2, "operations() gives fewer than two keys"

    def test_an_estimate_is_a_number(self) -> None:
        """A finite float of 0 or more, no tensor and no numpy scalar: it ends up in files and in expressions of NNI."""
        estimator = self.make_estimator()
        for operation in self.operations():
            found = estimator.estimate(operation)
            assert type(found) is float, f"{operation.key}: {found!r} is a {type(found).__name__}; allowed: float"
            assert math.isfinite(found), f"{operation.key}: {found}; allowed: finite"
            assert found >= 0, f"{operation.key}: {found}; allowed: 0 or more"

    def test_equal_operations_cost_the_same(self) -> None:
        """The weights of a module make no difference, nor does whether it was asked for before."""
        estimator = self.make_estimator()
        first = self._estimates(estimator, self.operations())
        assert self._estimates(estimator, self.operations()) == first, "asked again, the estimates differ"
        assert self._estimates(self.make_estimator(), self.operations()) == first, "another estimator says otherwise"

    def test_the_order_makes_no_difference(self) -> None:
        """An estimate says something of an operation, not of those that came before it."""
        forwards = self._estimates(self.make_estimator(), self.operations())
        backwards = self._estimates(self.make_estimator(), list(self.operations())[::-1])
        assert backwards[::-1] == forwards, "in another order, the estimates differ"

    def test_an_operation_is_left_as_it_is(self) -> None:
        """Mode of every part, weights, buffers and gradients of the module are the search's, not the estimator's."""
        estimator = self.make_estimator()
        for operation in self.operations():
            module = operation.module.train()
            parts = list(module.modules())
            parts[-1].eval()
            modes = [part.training for part in parts]
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)
            before = copy.deepcopy(module.state_dict())
            estimator.estimate(operation)
            assert [part.training for part in parts] == modes, f"{operation.key}: the mode of a part has changed"
            after = module.state_dict()
            assert list(after) == list(before), f"{operation.key}: there are other weights than before"
            for name, value in after.items():
                assert torch.equal(value, before[name]), f"{operation.key}: {name} has changed"
            for name, parameter in module.named_parameters():
                assert parameter.requires_grad, f"{operation.key}: {name} has no gradient any more"
                kept = parameter.grad is not None and bool((parameter.grad == 1).all())
                assert kept, f"{operation.key}: the gradient of {name} has changed"
            hooks = [part for part in parts if part._forward_hooks or part._forward_pre_hooks]
            assert not hooks, f"{operation.key}: a hook is left in it"

    def test_nothing_is_drawn_from_the_global_generator(self) -> None:
        """Else a search would find one network with this estimator and another with a table of its numbers."""
        estimator, operations = self.make_estimator(), self.operations()
        before = torch.get_rng_state()
        for operation in operations:
            estimator.estimate(operation)
        assert torch.equal(torch.get_rng_state(), before), "random numbers have been drawn"

    def test_conditions_are_plain_and_stay_the_same(self) -> None:
        """They are written to YAML and compared: names to text, numbers, true, false or None."""
        estimator = self.make_estimator()
        before = dict(estimator.conditions)
        for name, value in before.items():
            assert type(name) is str, f"conditions: the name {name!r} is no text"
            plain = type(value) in (str, int, float, bool, type(None))
            assert plain, f"conditions: {name} is {value!r}, a {type(value).__name__}; allowed: text, numbers, None"
        assert yaml.safe_load(yaml.safe_dump(before)) == before, "conditions do not survive YAML"
        for operation in self.operations():
            estimator.estimate(operation)
        assert dict(estimator.conditions) == before, "estimating has changed the conditions"
        assert dict(self.make_estimator().conditions) == before, "another estimator has other conditions"

    def test_unit_and_combine(self) -> None:
        """What the numbers are, and what a network has of them."""
        estimator = self.make_estimator()
        assert type(estimator.unit) is str, f"unit is {estimator.unit!r}; allowed: text"
        assert estimator.unit, "unit is empty"
        assert estimator.combine in ("sum", "max"), f"combine is {estimator.combine!r}; allowed: 'sum', 'max'"
        assert 0 <= estimator.constant_ms < math.inf, f"constant_ms is {estimator.constant_ms}; allowed: 0 or more"

    def test_an_unknown_operation_is_refused_by_name(self) -> None:
        """A ``KeyError`` that names the key, or, of one that knows whatever runs, a number: never a silent constant."""
        estimator, unknown = self.make_estimator(), self.unknown_operation()
        key = "an operation that nobody has measured"
        asked = Operation(key, nn.Linear(3, 5), (3,)) if unknown is None else unknown
        try:
            found = estimator.estimate(asked)
        except KeyError as error:
            if asked.key not in str(error):
                pytest.fail(f"the KeyError does not name '{asked.key}': {error}")
            return
        if unknown is not None:
            pytest.fail(f"'{asked.key}' is unknown, and yet it got {found}; allowed: KeyError")
        assert 0 <= found < math.inf, f"'{asked.key}' got {found}; allowed: a number, or KeyError"

    def test_it_can_be_copied_and_pickled(self) -> None:
        """To another process, and with whatever holds it."""
        estimator = self.make_estimator()
        expected = self._estimates(estimator, self.operations())
        for other in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
            assert dict(other.conditions) == dict(estimator.conditions), "a copy has other conditions"
            assert (other.unit, other.combine) == (estimator.unit, estimator.combine), "a copy has another unit"
            assert self._estimates(other, self.operations()) == expected, "a copy estimates otherwise"
