"""One run of a module on a device: its input, its settings, its clock; and what a table says about all that.

Standard library and torch only: ``nni-proxyless latency export`` copies this file to the target, so that a phone times as
:class:`~nni_proxyless.latency.DeviceEstimator` does.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

__all__ = ["DEVICES", "PRECISIONS", "conditions_of", "device_name", "keep_freed_memory", "median_and_p95", "noise", "noise_like", "problems_of", "spread", "synchronize", "time_ms", "timing_settings", "wait_policy_of"]  # fmt: skip

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEVICES = ("cpu", "cuda", "mps")


def problems_of(
    device: str, threads: int, batch: int, precision: str, warmup: int, repeats: int, devices: Sequence[str] = DEVICES
) -> list[str]:
    """What is wrong with these settings, each with what is allowed; ``devices``: of :data:`DEVICES`, those that can be meant."""
    problems = [
        f"{name} is {value}; allowed: 1 or more"
        for name, value in {"threads": threads, "batch": batch, "repeats": repeats}.items()
        if value < 1
    ]
    if warmup < 0:
        problems.append(f"warmup is {warmup}; allowed: 0 or more")
    if precision not in PRECISIONS:
        problems.append(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}")
    kind, _, number = device.partition(":")
    if not re.fullmatch(f"({'|'.join(devices)})(:(0|[1-9][0-9]*))?", device):
        problems.append(f"device is {device!r}; allowed: {', '.join(devices).replace('cuda', 'cuda, cuda:N')}")
    elif kind != "cpu":
        here = _devices_here()
        allowed = ", ".join(name for of in devices for name in here[of])
        if not (there := here[kind]):
            problems.append(f"device is {device!r}, but torch finds no {kind.upper()} device here; allowed: {allowed}")
        elif int(number or 0) >= len(there):
            problems.append(f"device is {device!r}, which torch does not find here; allowed: {allowed}")
    return problems


def _devices_here() -> dict[str, list[str]]:
    """Those that torch finds, by kind."""
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return {"cpu": ["cpu"], "cuda": [f"cuda:{i}" for i in range(n_cuda)], "mps": mps}


def conditions_of(device: torch.device, runtime: str, threads: int, batch: int, precision: str) -> dict[str, object]:
    """What timings hold for, as the head of a table says it."""
    return {
        "device": device_name(device),
        "torch_device": device.type,
        "runtime": runtime,
        "threads": threads,
        "batch": batch,
        "precision": precision,
        # Of a job that torchrun or Lightning has started on several; they would measure beside each other.
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def wait_policy_of(device: torch.device, threads: int) -> dict[str, str]:
    """How threads waited for each other while they were timed, for what a table says about itself; nothing where none did.

    It is no condition that tables are compared by: those that are older do not say it.
    """
    if device.type != "cpu" or threads == 1:
        return {}
    return {"waiting": os.environ.get("OMP_WAIT_POLICY", "").strip().lower() or "as OpenMP does by itself"}


@lru_cache(maxsize=8)
def device_name(device: torch.device) -> str:
    """What the hardware calls itself, for the head of a table.

    The kernel has no name for a 64-bit processor of ARM: there it is the board, and by numbers who made its cores and what they are.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    maker, cores = "", set()
    for line in _text_of("/proc/cpuinfo").split("\n"):
        field, _, said = map(str.strip, line.partition(":"))
        if field == "model name":
            return said
        if field == "CPU implementer":
            maker = said
        elif field == "CPU part":
            cores.add(f"{maker}:{said}")
    board = _text_of("/proc/device-tree/model") or _chip_of_a_mac() or platform.processor() or platform.machine()
    return f"{board}, CPU {' '.join(sorted(cores))}" if cores else board


def _text_of(path: str) -> str:
    """Of a file of the kernel's, whose texts may end with a character of code 0; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0 \n")
    except OSError:
        return ""


def _chip_of_a_mac() -> str:
    """``Apple M2 Pro``; empty elsewhere."""
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return ""
    try:
        words = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


@contextmanager
def timing_settings(device: torch.device, threads: int) -> Iterator[None]:
    """Torch as it is to be while modules are timed: inference mode, that many threads."""
    if device.type == "cpu":
        keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let the C library keep the memory of large tensors for the next ones, as it does in any process that runs for a while.

    glibc gives freed memory back to the system above a threshold, and raises it when a larger block is freed. As long as it is
    low, every large activation is paid for in page faults: a block with 5 MB of them took 8.2 ms in a young process and 5.0 ms
    in an older one, which no table can know. One block just below the most that glibc goes along with settles it.
    """
    del [torch.empty(31 * 2**20, dtype=torch.uint8)][:]


def noise(shape: Sequence[int], batch: int, device: torch.device, precision: str) -> torch.Tensor:
    """A batch of noise; ``shape`` is that of one sample."""
    # A generator of its own: whether latencies were measured or read must not change what a search draws.
    random = torch.Generator().manual_seed(0)
    return torch.randn(batch, *shape, generator=random).to(device, PRECISIONS[precision])


def noise_like(sizes: Sequence[int], device: torch.device, precision: str) -> torch.Tensor:
    """Noise of that shape, the batch included."""
    return noise(sizes[1:], sizes[0], device, precision) if sizes else noise((), 1, device, precision)[0]


def time_ms(module: Callable[..., Any], x: Any, device: torch.device, **named: Any) -> float:
    """Milliseconds of one run, the device synchronized before and after; ``x`` is the input, or a tuple of several."""
    inputs = x if isinstance(x, tuple) else (x,)
    synchronize(device)
    start = time.perf_counter()
    module(*inputs, **named)
    synchronize(device)
    return (time.perf_counter() - start) * 1e3


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def median_and_p95(times_ms: Sequence[float]) -> tuple[float, float]:
    """Of at least one timing."""
    ordered = sorted(times_ms)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def spread(drifts: Sequence[float]) -> float:
    """How much faster the machine was in its fast runs than in its slow ones: 95th by 5th percentile."""
    ordered = sorted(drifts)
    return ordered[int(0.95 * (len(ordered) - 1))] / ordered[int(0.05 * (len(ordered) - 1))]
