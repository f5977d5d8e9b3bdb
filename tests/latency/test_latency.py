"""Latency: timing on this machine."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nni_proxyless.latency import (
    DeviceEstimator,
    Measurement,
    Operation,
)
from nni_proxyless.latency.estimators import timing
from nni_proxyless.latency.estimators.device import InARow
from nni_proxyless.latency.estimators.timing import device_name


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
    with pytest.raises(ValueError, match="device is 'cuda:1', but torch finds no CUDA device here; allowed: cpu"):
        DeviceEstimator(device="cuda:1")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="a machine without MPS is what this is about")
def test_mps_is_refused_where_there_is_none(tmp_path, refused):
    build = [
        "latency",
        "build",
        "--space",
        "mobilenetv2",
        "preset=small",
        "--resolution",
        "16",
        "--output",
        tmp_path / "x",
    ]
    said = refused(*build, "--device", "mps")
    assert "device is 'mps', but torch finds no MPS device here; allowed: cpu" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("runtime", ["torch", "torch-compile"])
def test_a_number_that_no_accelerator_has_is_refused(monkeypatch, runtime):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda:2", "cuda:9", "cuda:300"):
        message = f"device is '{device}', which torch does not find here; allowed: cpu, cuda:0, cuda:1$"
        with pytest.raises(ValueError, match=message):
            DeviceEstimator(device=device, runtime=runtime)
    with pytest.raises(ValueError, match="device is 'cuda:01'; allowed: cpu, cuda, cuda:N"):
        DeviceEstimator(device="cuda:01", runtime=runtime)
    assert [DeviceEstimator(device=device, runtime=runtime).device.index for device in ("cuda", "cuda:1")] == [None, 1]


def test_what_has_mps_has_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert DeviceEstimator(device="mps").device.type == "mps"
    with pytest.raises(ValueError, match="device is 'mps:1', which torch does not find here; allowed: cpu, mps"):
        DeviceEstimator(device="mps:1")
    with pytest.raises(ValueError, match=r"device is 'mps'; allowed: cpu, cuda, cuda:N$"):
        DeviceEstimator(device="mps", runtime="torch-compile")


# -- what a machine is called ------------------------------------------------------------------------------------------------

PI_4 = "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
PI_5 = PI_4.replace("0xd08", "0xd0b")
LITTLE = PI_4.replace("0xd08", "0xd05")
XEON = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) Gold 6254 CPU @ 3.10GHz\nstepping\t: 7\n\n"


@pytest.fixture
def called(monkeypatch) -> Iterator[Callable[..., str]]:
    """What a machine is called whose kernel has these files; no other name is known of it than ``aarch64``."""

    def name(cpuinfo: str, model: str = "") -> str:
        files = {"/proc/cpuinfo": cpuinfo, "/proc/device-tree/model": model}

        def open_made_up(path: str, **named: Any) -> io.StringIO:
            if not files.get(path):
                raise FileNotFoundError(path)
            return io.StringIO(files[path])

        device_name.cache_clear()
        monkeypatch.setattr(timing, "open", open_made_up, raising=False)
        return device_name(torch.device("cpu"))

    monkeypatch.setattr(timing.platform, "processor", lambda: "")
    monkeypatch.setattr(timing.platform, "machine", lambda: "aarch64")
    yield name
    device_name.cache_clear()


def test_two_boards_with_arm_processors_have_two_names(called):
    """The table of one is then not taken for that of the other."""
    assert called(PI_4 * 4) == "aarch64, CPU 0x41:0xd08"
    assert called(PI_5 * 4) == "aarch64, CPU 0x41:0xd0b"
    assert called(LITTLE * 4 + PI_5 * 2) == called(PI_5 * 2 + LITTLE * 4) == "aarch64, CPU 0x41:0xd05 0x41:0xd0b"
    assert called(PI_5, "Raspberry Pi 5 Model B Rev 1.0\0") == "Raspberry Pi 5 Model B Rev 1.0, CPU 0x41:0xd0b"
    assert called("", "A board\0") == "A board"
    assert called("") == "aarch64"


def test_a_processor_with_a_name_is_called_by_it_and_nothing_else(called):
    assert called(XEON * 2, "A board\0") == "Intel(R) Xeon(R) Gold 6254 CPU @ 3.10GHz"


def test_a_mac_is_called_by_its_chip(called, monkeypatch):
    monkeypatch.setattr(timing.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(timing.platform, "processor", lambda: "arm")
    monkeypatch.setattr(timing.platform, "machine", lambda: "arm64")
    said = "Apple M2 Pro\n"
    monkeypatch.setattr(
        timing.subprocess, "run", lambda words, **named: subprocess.CompletedProcess(words, 0, said, "")
    )
    assert called("") == "Apple M2 Pro"
    monkeypatch.setattr(timing.subprocess, "run", lambda words, **named: pytest.fail("a Mac with another processor"))
    monkeypatch.setattr(timing.platform, "machine", lambda: "x86_64")
    assert called("") == "arm"


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
