"""What the benchmark measures: one process of a pipeline, which has a stage of the network.

    python -m experiments.benchmarks.pipeline.work SETTINGS STORE RANK

SETTINGS is one JSON object, STORE a file by which the processes find each other. The first process writes what was measured, as JSON.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch.nn.functional import cross_entropy

import nni_proxyless.timm_models  # noqa: F401  (timm knows proxyless_cpu by it)
from nni_proxyless.data.accuracy import as_channels_last
from nni_proxyless.training.pipeline import Plan, Stage, balanced, keep_only, layers_of, measured, pipelined

CLASSES = 10


class Memory:
    """MiB that a process holds at most, beyond what it held when it was asked to watch."""

    def __init__(self, device: torch.device):
        self.device = device
        self.before = self._now("VmRSS")

    def begin(self) -> None:
        """What was held until now does not count."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # proc(5): resets VmHWM

    def peak(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return self._now("VmHWM") - self.before

    def _now(self, entry: str) -> float:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.findall(rf"{entry}:\s+(\d+) kB", status)[0]) / 1024


def measure(settings: dict[str, Any], store: str, rank: int) -> dict[str, Any]:
    """Seconds of each step, until the last process has moved its weights; MiB of each process; seconds of each layer with a micro-batch.

    Parameters
    ----------
    settings
        ``network`` of timm, ``side`` and ``batch`` of its images, ``processes``, ``micro_batches``, ``schedule``, ``rematerialize``,
        ``steps``, ``device``.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    count, on_gpu = settings["processes"], settings["device"] == "cuda"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", f"file://{store}", rank=rank, world_size=count)
    try:
        return _measure(settings, rank, device)
    finally:
        torch.distributed.destroy_process_group()


def _measure(settings: dict[str, Any], rank: int, device: torch.device) -> dict[str, Any]:
    count, n_micro_batches, batch = settings["processes"], settings["micro_batches"], settings["batch"]
    memory = Memory(device)
    network: Any = timm.create_model(settings["network"], num_classes=CLASSES).to(memory_format=torch.channels_last)
    layers = list(layers_of(network).values())
    images = as_channels_last(torch.randn(batch, network.in_chans, settings["side"], settings["side"]).to(device))
    targets = torch.randint(CLASSES, (batch,)).to(device)
    told: list[Any] = [None, None]
    if rank == 0:
        micro_batch = images[: batch // n_micro_batches]
        costs = measured(layers, micro_batch)
        seconds = [cost.seconds for cost in costs]
        told = [Plan.of(balanced(seconds, count), costs, micro_batch), seconds]
    torch.distributed.broadcast_object_list(told)
    plan, layer_seconds = told
    stage = Stage(keep_only(plan.layers(rank), layers), rank, count, rematerialize=settings["rematerialize"]).to(device)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.01, momentum=0.9)
    schedule = pipelined(
        stage, rank, count, device, n_micro_batches, plan=plan, schedule=settings["schedule"], loss=cross_entropy
    )
    given = ([images] if rank == 0 else [], {"target": targets} if rank == count - 1 else {})
    memory.begin()
    found = []
    for _ in range(1 + settings["steps"]):  # the first one warms up
        torch.distributed.barrier()
        began = time.perf_counter()
        schedule.step(*given[0], **given[1])
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = torch.tensor(time.perf_counter() - began, device=device, dtype=torch.float64)
        torch.distributed.all_reduce(took, torch.distributed.ReduceOp.MAX)
        found.append(float(took))
    peaks: list[Any] = [None] * count
    torch.distributed.all_gather_object(peaks, memory.peak())
    return {
        "seconds": found[1:], "peak_mib": [round(peak, 1) for peak in peaks], "layer_seconds": layer_seconds,
        "begins": list(plan.begins),
    }  # fmt: skip


if __name__ == "__main__":
    said = measure(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    if sys.argv[3] == "0":
        print(json.dumps(said))
