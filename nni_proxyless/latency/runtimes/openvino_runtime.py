"""OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .onnx_file import module_of, write_onnx
from .runtime import PROFILED_RUNS, InProcess, Program, Runner, Runtime

__all__ = ["OpenVino"]

HINTS = {
    "float32": "f32",
    "bfloat16": "bf16",
    "int8": "f32",
}  # int8 is what the file says; the hint is for what it leaves


@dataclass(frozen=True, kw_only=True)
class OpenVino(Runtime):
    """One request at a time, on one stream, as latency is asked for."""

    name: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "openvino")
    extra: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = tuple(HINTS)

    @property
    def version(self) -> str:
        return version("openvino")

    def load(self, program: Program, folder: Path) -> Runner:
        import openvino

        file = write_onnx(program, folder / "model.onnx", self.precision)
        hints = {
            "INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
        }  # fmt: skip
        inputs = dict(zip(file.inputs, program.inputs, strict=True))

        def open_request(**more: Any) -> Any:
            model = openvino.Core().compile_model(openvino.Core().read_model(file.path), "CPU", {**hints, **more})
            request = model.create_infer_request()
            for given in model.inputs:
                request.set_tensor(given, openvino.Tensor(inputs[given.any_name].numpy()))
            return request

        return _Request(open_request)

    @property
    def profiles(self) -> bool:
        return True


class _Request(InProcess):
    def __init__(self, open_request: Callable[..., Any]):
        self.open, self.request = open_request, open_request()

    def run(self) -> None:
        self.request.infer()

    def outputs(self) -> list[Tensor]:
        self.run()
        return [torch.from_numpy(tensor.data.copy()) for tensor in self.request.output_tensors]

    def profile(self) -> dict[str, float]:
        request = self.open(PERF_COUNT=True)
        for _ in range(PROFILED_RUNS):
            request.infer()
        found: dict[str, float] = {}
        for node in request.get_profiling_info():  # on average over all runs
            name = module_of(node.node_name)
            found[name] = found.get(name, 0.0) + node.real_time.total_seconds() * 1e3
        return found

    def close(self) -> None:
        del self.open, self.request
