"""Tests that a runtime of your own inherits. Needs pytest, which the package itself does not.

from nni_proxyless.testing import RuntimeContract

class TestMine(RuntimeContract):
    def make_runtime(self, **settings):
        return MyRuntime(**settings)
"""

from __future__ import annotations

import copy
import gc
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from ..latency import DeviceEstimator, Operation, Runtime, TimingError

__all__ = ["RuntimeContract"]

TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2, "int8": 2e-1}
"""Precision -> by how much an output may differ from torch's, relative to its largest value."""


class RuntimeContract:
    """What every ``Runtime`` does. Inherit in a class whose name begins with ``Test``, and say of what it is.

    Attributes
    ----------
    precisions
        Those whose outputs are compared with torch's.
    """

    precisions: tuple[str, ...] = ("float32",)

    def make_runtime(self, **settings: Any) -> Runtime:
        """A new runtime with these settings: device, threads, batch, precision."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_runtime(**settings)")

    def operations(self) -> list[Operation]:
        """Two or more different operations that it runs, new ones at every call, with the same weights and keys in the same order."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [
                nn.Conv2d(3, 8, 3, stride=2),
                nn.BatchNorm2d(8),
                nn.ReLU6(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Dropout(),
            ]
            network, linear = nn.Sequential(*layers, nn.Linear(8, 4)), nn.Linear(6, 5)
        return [Operation("a network", network, (3, 8, 8)), Operation("a linear layer", linear, (6,))]

    def refused_operation(self) -> Operation | None:
        """One that it cannot run; None if there is nothing that it refuses."""
        return Operation("an operation that raises", _Raises(), (4,))

    def test_it_is_a_runtime(self) -> None:
        """That can be made here, and that has operations to be tested on."""
        runtime = self.make_runtime()
        assert isinstance(runtime, Runtime), "make_runtime() gives no Runtime"
        assert runtime.problems() == [], "make_runtime() gives one that has problems"
        assert len({operation.key for operation in self.operations()}) >= 2, "operations() gives fewer than two keys"

    def test_outputs_are_those_of_torch(self) -> None:
        """On the noise that is timed, and the same again after some runs; a runtime that runs elsewhere need not hand them out.

        A run takes time: a finite float of more than 0.
        """
        operations = self.operations()
        with self.make_runtime().prepare(operations) as prepared:
            for operation, runner in zip(operations, prepared, strict=True):
                before = runner.outputs()
                _require_close(operation, before, 1, "float32")
                for _ in range(3):
                    ms = runner.run_ms()
                    assert type(ms) is float, f"{operation.key}: {ms!r} is a {type(ms).__name__}; allowed: float"
                    assert 0 < ms < math.inf, f"{operation.key}: {ms} ms; allowed: more than 0, and finite"
                for one, other in zip(before or [], runner.outputs() or [], strict=True):
                    assert torch.equal(one, other), f"{operation.key}: after some runs, its outputs are others"

    def test_outputs_in_other_precisions(self) -> None:
        """As far as the precision goes."""
        for precision in self.precisions:
            if precision != "float32":
                operations = self.operations()
                with self.make_runtime(precision=precision).prepare(operations) as prepared:
                    for operation, runner in zip(operations, prepared, strict=True):
                        _require_close(operation, runner.outputs(), 1, precision)

    def test_a_batch_is_run_whole(self) -> None:
        """Every output has as many samples; or the batch is refused beforehand."""
        runtime = self.make_runtime(batch=2)
        assert runtime.conditions["batch"] == 2, "the batch is not among the conditions"
        if problems := runtime.problems():
            assert any(problem.startswith("batch is 2") for problem in problems), f"no word of the batch: {problems}"
            return
        operation = self.operations()[0]
        with runtime.prepare([operation]) as (runner,):
            _require_close(operation, runner.outputs(), 2, "float32")

    def test_conditions_are_plain_and_say_the_settings(self) -> None:
        """They are written to YAML and compared: names to text, numbers, true, false or None."""
        conditions = dict(self.make_runtime(threads=2).conditions)
        for name, value in conditions.items():
            plain = type(name) is str and type(value) in (str, int, float, bool, type(None))
            assert plain, f"conditions: {name} is {value!r}, a {type(value).__name__}; allowed: text, numbers, None"
        assert yaml.safe_load(yaml.safe_dump(conditions)) == conditions, "conditions do not survive YAML"
        assert dict(self.make_runtime(threads=2).conditions) == conditions, "equal settings have other conditions"
        assert conditions["threads"] == 2, "the threads are not among the conditions"
        assert dict(self.make_runtime(threads=1).conditions) != conditions, "other threads have the same conditions"
        for name in ("device", "runtime", "batch", "precision"):
            assert name in conditions, f"conditions: {name} is missing"
        assert str(conditions["runtime"]).split(" ")[0] == self.make_runtime().name, (
            "the runtime does not begin with its name"
        )

    def test_what_is_out_of_range_is_a_problem(self) -> None:
        """Named with its value and what is allowed; nothing is raised."""
        for name, value in {"threads": 0, "batch": 0, "precision": "float3", "device": "abacus"}.items():
            said = "; ".join(self.make_runtime(**{name: value}).problems())
            for part in (name, str(value), "allowed"):
                assert part in said, f"{name} is {value!r}, and the problems do not say {part!r}: {said}"

    def test_a_module_is_left_as_it_is(self) -> None:
        """Mode of every part, weights, buffers, gradients and hooks are the search's; and nothing is drawn from the global generator."""
        operations = self.operations()
        before = []
        for operation in operations:
            parts = list(operation.module.train().modules())
            parts[-1].eval()
            for parameter in operation.module.parameters():
                parameter.grad = torch.ones_like(parameter)
            before.append(([part.training for part in parts], copy.deepcopy(operation.module.state_dict())))
        drawn, threads = torch.get_rng_state(), torch.get_num_threads()
        with self.make_runtime().prepare(operations) as prepared:
            for runner in prepared:
                runner.run_ms()
        assert torch.equal(torch.get_rng_state(), drawn), "random numbers have been drawn"
        assert torch.get_num_threads() == threads, "torch has another number of threads"
        for operation, (modes, weights) in zip(operations, before, strict=True):
            parts = list(operation.module.modules())
            assert [part.training for part in parts] == modes, f"{operation.key}: the mode of a part has changed"
            for name, value in operation.module.state_dict().items():
                assert torch.equal(value, weights[name]), f"{operation.key}: {name} has changed"
            for name, parameter in operation.module.named_parameters():
                kept = parameter.requires_grad and parameter.grad is not None and bool((parameter.grad == 1).all())
                assert kept, f"{operation.key}: the gradient of {name} has changed"
            hooks = [part for part in parts if part._forward_hooks or part._forward_pre_hooks]
            assert not hooks, f"{operation.key}: a hook is left in it"

    def test_what_it_cannot_run_is_refused_by_name(self) -> None:
        """A ``TimingError`` that names the operation and the runtime."""
        operation = self.refused_operation()
        if operation is None:
            return
        runtime = self.make_runtime()
        with pytest.raises(TimingError) as caught, runtime.prepare([operation]) as (runner,):
            runner.run_ms()
        for part in (f"'{operation.key}'", runtime.name):
            assert part in str(caught.value), f"the error does not name {part}: {caught.value}"
        assert "\n" not in str(caught.value), f"the error has several lines: {caught.value}"

    def test_what_it_opens_it_closes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No file of it is left, nor open, once its runners are gone, also where something in between has failed."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        operations = self.operations()

        def use() -> None:
            with self.make_runtime().prepare(operations[-1:]):
                raise _InBetween

        for _ in range(2):  # the first one opens what a library keeps
            with pytest.raises(_InBetween):
                use()
            if not os.path.isdir("/proc/self/fd"):
                continue
            gc.collect()
            held = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
            assert not [path for path in held if path.startswith(str(tmp_path))], "a file is still open"
        left = [path for path in tmp_path.iterdir() if path.name.startswith("nni-proxyless-")]
        assert not left, f"files are left: {left}"

    def test_a_profile_is_of_the_modules(self) -> None:
        """Where a runtime says what nodes take, they are of the modules that it runs, and take about as long as a run."""
        runtime, operation = self.make_runtime(), self.operations()[0]
        if not runtime.profiles:
            return
        found: list[Mapping[str, float]] = []
        with runtime.prepare([operation], lambda number, profile: found.append(profile)) as (runner,):
            whole = max(runner.run_ms() for _ in range(10))
        assert len(found) == 1, f"one operation has {len(found)} profiles"
        assert all(0 <= ms < math.inf for ms in found[0].values()), f"these are no milliseconds: {found[0]}"
        assert sum(found[0].values()) <= 10 * whole, f"nodes take {sum(found[0].values())} ms, a run of them {whole} ms"
        modules = dict(operation.module.named_modules())
        assert any(name and name in modules for name in found[0]), f"of no module are {list(found[0])}"

    def test_it_can_be_copied_and_pickled(self) -> None:
        """To another process, and with the estimator that holds it."""
        runtime = self.make_runtime(threads=2)
        for other in (copy.deepcopy(runtime), pickle.loads(pickle.dumps(runtime))):
            assert other == runtime, "a copy is another one"
            assert dict(other.conditions) == dict(runtime.conditions), "a copy has other conditions"

    def test_an_estimator_times_with_it(self) -> None:
        """In turns, round after round; and it is found again by its conditions."""
        runtime = self.make_runtime()
        name = (
            runtime.name
            if type(runtime).__module__.startswith("nni_proxyless.")
            else f"{type(runtime).__module__}:{type(runtime).__qualname__}"
        )
        silent = {option: getattr(runtime, option) for option in runtime.silent}
        estimator = DeviceEstimator(runtime=name, options={**runtime.options, **silent}, warmup=1, repeats=2)
        rounds = estimator.time_in_turns(self.operations()[-1:])
        assert [len(times) for times in rounds] == [1, 1], f"two rounds of one operation are {rounds}"
        assert all(0 < ms < math.inf for times in rounds for ms in times), f"these are no milliseconds: {rounds}"
        again = DeviceEstimator.of_conditions(estimator.conditions)
        assert dict(again.conditions) == dict(estimator.conditions), "what its conditions describe has others"


class _Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("this module does not run\nwhatever runs it")


class _InBetween(Exception):
    pass


@torch.no_grad()
def _require_close(operation: Operation, found: list[Tensor] | None, batch: int, precision: str) -> None:
    if found is None:
        return
    from ..latency.estimators.timing import noise

    module = copy.deepcopy(operation.module).eval()
    expected = module(noise(operation.input_shape, batch, torch.device("cpu"), "float32"))
    assert [tuple(output.shape) for output in found] == [tuple(expected.shape)], (
        f"{operation.key}: outputs of another shape"
    )
    difference = float((found[0] - expected).abs().max() / expected.abs().max())
    assert difference <= TOLERANCES[precision], (
        f"{operation.key}, {precision}: outputs differ from torch's by {difference:.2g}"
    )
    if precision == "int8":
        assert difference > TOLERANCES["float32"], f"{operation.key}: in int8, outputs are those of float32"
