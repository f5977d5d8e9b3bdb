"""Time operations inside whole networks of a space, and draw random networks.

Operations timed one by one read low when they are summed: input and weights lie in other caches than they do in
a network. So the operations are timed where they stand. A copy of the space runs, one path at a time, and a second copy that
nobody looks into; any space of ``LayerChoice``, ``Repeat`` and ``InputChoice`` will do.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from nni.mutable import Categorical, Mutable
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from torch import nn

from ...core.nni_compat import set_depth_of_dry_run
from ..calls import Shape, sizes_of
from ..estimators.device import DeviceEstimator
from ..operation import Operation, operations_of

__all__ = ["Networks", "balanced_samples", "random_samples"]

Sample = dict[str, Any]


class Networks:
    """All networks of a space, one at a time; made by :meth:`on`.

    Attributes
    ----------
    operations
        Of the space.
    """

    def __init__(
        self, space: ModelSpace, whole: ModelSpace, input_shape: Shape, estimator: DeviceEstimator,
        operations: list[Operation],
    ):  # fmt: skip
        self.operations = operations
        self._space, self._whole, self._estimator = space, whole, estimator
        self._input = estimator.input_of(input_shape)
        self._times: list[tuple[str, Any, Any]] = []

    @classmethod
    @contextmanager
    def on(cls, estimator: DeviceEstimator, space: ModelSpace, input_shape: Shape) -> Iterator[Networks]:
        """A copy of the space on the device of the estimator, ready to be timed."""
        traced = copy.deepcopy(space).eval()
        # Where and in the type the space is, wherever they are timed.
        operations = [op for op in operations_of(traced, input_shape) if not op.in_constant]
        for op in operations:
            if op.is_beside:
                raise ValueError(
                    f"'{op.key}', when {_place_text(op)}: the products of matrices that this module computes by itself, outside of the modules "
                    "that it holds, cannot be timed inside of networks; allowed: method isolated, or a module that computes them"
                )
        with estimator.prepared([traced, copy.deepcopy(traced)]) as (timed, whole):
            networks = cls(timed, whole, input_shape, estimator, operations)
            networks._attach({module: name for name, module in traced.named_modules()}, dict(timed.named_modules()))
            yield networks

    def _attach(self, names: Mapping[nn.Module, str], modules: Mapping[str, nn.Module]) -> None:
        """Let every operation say when it begins and ends."""
        operations: dict[tuple[nn.Module, nn.Module], dict[str, Operation]] = {}
        for op in self.operations:
            parts = [op.module] if op.module in names else list(op.module)  # type: ignore[call-overload]  # a Sequential
            ends = modules[names[parts[0]]], modules[names[parts[-1]]]
            operations.setdefault(ends, {})[op.key] = op
        for (first, last), by_key in operations.items():
            key_of = self._key_of(list(by_key.values()))
            entered: list[tuple[str, Any]] = []

            def begin(module: nn.Module, args: Any, kwargs: Any, key_of: Any = key_of, entered: Any = entered) -> None:
                entered.append((key_of(args, kwargs), self._now()))

            def end(module: nn.Module, args: Any, output: Any, entered: Any = entered) -> None:
                now = self._now()
                self._times.append((*entered.pop(), now))

            first.register_forward_pre_hook(begin, with_kwargs=True)
            last.register_forward_hook(end)

    def _key_of(self, operations: Sequence[Operation]) -> Callable[[Any, Any], str]:
        """Which of the operations of one module a call is, by the shapes of all that it is given."""
        if len(operations) == 1:
            return lambda args, kwargs: operations[0].key
        keys = {op.sizes(self._estimator.batch): op.key for op in operations}
        return lambda args, kwargs: keys[sizes_of((args, kwargs))]

    def run(self, sample: Mapping[str, Any]) -> tuple[float, list[tuple[str, float]]]:
        """Run one network once.

        Returns
        -------
        total, operations
            Milliseconds of the network, and those of its operations by key, in the order in which they ran.
        """
        _choose(self._space, sample)
        self._times = []
        self._estimator.synchronize()
        start = self._now()
        self._space(self._input)
        end = self._now()
        self._estimator.synchronize()
        return self._ms(start, end), [(key, self._ms(a, b)) for key, a, b in self._times]

    def run_whole(self, sample: Mapping[str, Any]) -> float:
        """Milliseconds of one run of one network, without the hooks on its operations, which take time."""
        _choose(self._whole, sample)
        return self._estimator.time(self._whole, self._input)

    # A CUDA device is asked by events, which do not hold it up; waiting for it between operations would.

    def _now(self) -> Any:
        device = self._estimator.device.type
        if device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._estimator.device))
            return event
        if device != "cpu":
            self._estimator.synchronize()
        return time.perf_counter()

    def _ms(self, start: Any, end: Any) -> float:
        if self._estimator.device.type == "cuda":
            return float(start.elapsed_time(end))
        return (end - start) * 1e3


def _place_text(operation: Operation) -> str:
    return " and ".join(f"{label} is {' or '.join(map(repr, choices))}" for label, choices in operation.conditions)


def _choose(space: ModelSpace, sample: Mapping[str, Any]) -> None:
    """Set the space to the network of this architecture."""
    for module in space.modules():
        if isinstance(module, LayerChoice):
            # Straight to the candidate, as in a derived network: NNI's own forward looks through all names first, which took a
            # tenth of the time of a small network.
            object.__setattr__(module, "forward", module[sample[module.label]])
        elif isinstance(module, Repeat) and isinstance(module.depth_choice, Mutable):
            set_depth_of_dry_run(module, module.depth_choice.freeze(dict(sample)))


def random_samples(space: ModelSpace, n: int, seed: int) -> list[Sample]:
    """Different random architectures, every candidate as likely as the others; fewer if the space has no more."""
    draw = np.random.RandomState(seed)
    found: dict[str, Sample] = {}
    for _ in range(20 * n):
        sample = _random(space, draw)
        found.setdefault(repr(sorted(sample.items())), sample)
        if len(found) == n:
            break
    return list(found.values())


def balanced_samples(space: ModelSpace, operations: Sequence[Operation], repeats: int, seed: int = 0) -> list[Sample]:
    """Architectures in which every candidate occurs equally often, in rounds: within one, all candidates have their turn.

    A drift of the machine then hits all alike. Operations that still run in fewer than ``repeats`` networks, since they
    need several choices at once, have networks of their own at the end.
    """
    draw = np.random.RandomState(seed)
    values = {label: list(m.values) for label, m in space.simplify().items() if isinstance(m, Categorical)}
    largest = max(map(len, values.values()), default=1)
    samples: list[Sample] = []
    for _ in range(repeats):
        orders = {label: draw.permutation(len(choices)) for label, choices in values.items()}
        samples += [
            _random(space, draw) | {label: values[label][order[i % len(order)]] for label, order in orders.items()}
            for i in range(largest)
        ]
    by_key: dict[str, list[Operation]] = {}
    for op in operations:
        by_key.setdefault(op.key, []).append(op)
    for ops in by_key.values():
        missing = repeats - sum(any(op.runs_in(sample) for op in ops) for sample in samples)
        for _ in range(missing):
            needed = {label: choices[draw.randint(len(choices))] for label, choices in ops[0].conditions}
            samples.append(_random(space, draw) | needed)
    return samples


def _random(space: ModelSpace, draw: np.random.RandomState) -> Sample:
    sample: Sample = {}
    for mutable in space.simplify().values():
        mutable.random(sample, draw)
    return {str(label): choice for label, choice in sample.items()}  # NNI's labels are no plain texts
