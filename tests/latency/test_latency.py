"""Latency: timing on this machine."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nni_proxyless.latency import (
    DeviceEstimator,
    Measurement,
    Operation,
)
from nni_proxyless.latency.estimators.device import InARow


def operation(module: nn.Module, *shape: int) -> Operation:
    return Operation("an operation", module, shape)


# -- timing on this machine --------------------------------------------------------------------------------------------


def test_a_large_layer_takes_longer_than_a_small_one():
    """A 2048x2048 product has 65,536 times the work of an 8x8 one; the order is certain whatever else the machine does."""
    large, small = DeviceEstimator(runtime="torch", warmup=2, repeats=15).measure(
        [(nn.Linear(2048, 2048), (2048,)), (nn.Linear(8, 8), (8,))]
    )
    assert large.median_ms > 3 * small.median_ms > 0
    for row in (large, small):
        assert row.count == 15
        assert row.p95_ms >= row.median_ms


def test_measurement_is_median_and_95th_percentile():
    """Of 1 ... 100: 50.5 and 96, the smallest value that at least 95 % of the others lie below; the order does not matter."""
    assert Measurement.of([float(i) for i in range(100, 0, -1)]) == Measurement(50.5, 96.0, 100)
    assert Measurement.of([3.0]) == Measurement(3.0, 3.0, 1)


class Spy(nn.Linear):
    """Notes under what it ran; shared between copies, because what is timed is a copy."""

    def __init__(self, log: list):
        super().__init__(4, 4)
        object.__setattr__(self, "log", log)

    def __deepcopy__(self, memo):
        return Spy(self.log)

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(
            (tuple(x.shape), x.dtype, self.weight.dtype, self.training, torch.is_inference(x), torch.get_num_threads())
        )
        return super().forward(x)


def test_an_operation_is_timed_as_the_estimator_says():
    """Batch, precision, threads, evaluation and inference mode are what was asked for, in every run, warm-up included."""
    log: list = []
    threads = torch.get_num_threads()
    rounds = []
    estimator = DeviceEstimator(
        runtime="torch", batch=5, precision="bfloat16", threads=threads + 1, warmup=2, repeats=3
    )
    estimator.measure([(Spy(log).train(), (4,))], progress=lambda: rounds.append(1))
    assert log == [((5, 4), torch.bfloat16, torch.bfloat16, False, True, threads + 1)] * 5
    assert len(rounds) == 3


def test_the_number_of_threads_is_restored_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        DeviceEstimator(runtime="torch", threads=before + 1).estimate(operation(nn.Linear(4, 4), 5))
    assert torch.get_num_threads() == before


def test_conditions_of_the_machine():
    conditions = DeviceEstimator(runtime="torch", batch=2, threads=3, precision="float16").conditions
    assert conditions["runtime"] == f"torch {torch.__version__}"
    assert (conditions["batch"], conditions["threads"], conditions["precision"]) == (2, 3, "float16")
    assert conditions["device"]


def test_all_wrong_arguments_of_the_estimator_are_named_at_once():
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole text is compared)
        DeviceEstimator(device="tpu", threads=0, batch=-1, precision="int8", warmup=-2, repeats=0)
    assert str(caught.value) == (
        "threads is 0; allowed: 1 or more; batch is -1; allowed: 1 or more; repeats is 0; allowed: 1 or more; "
        "warmup is -2; allowed: 0 or more; precision is 'int8'; allowed: float32, float16, bfloat16; "
        "device is 'tpu'; allowed: cpu, cuda, cuda:N, mps"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is what this is about")
def test_a_missing_accelerator_is_named():
    with pytest.raises(ValueError, match="device is 'cuda:1', but torch finds no CUDA device here"):
        DeviceEstimator(device="cuda:1")


def test_measuring_draws_nothing_from_the_global_generator():
    """Else a search would find one network when it measures its table and another when it reads it."""
    convolution = nn.Conv2d(2, 2, 3)
    before = torch.get_rng_state()
    DeviceEstimator(runtime="torch", warmup=1, repeats=2).measure([(convolution, (2, 8, 8))])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("takes", "counted"), [((0.9, 0.5, 0.4, 0.3, 9.0), 3), ((1.0, 0.7, 9.0), 1)])
def test_of_runs_in_a_row_the_last_counts_of_short_ones_the_fourth(takes, counted):
    runs = iter(takes)
    assert InARow(lambda: next(runs))() == takes[counted]
    assert next(runs) == 9.0, "no run more"
