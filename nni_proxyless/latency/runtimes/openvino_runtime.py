"""OpenVINO, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .onnx_file import write_onnx
from .runtime import InProcess, Program, Runner, Runtime

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
        model = openvino.Core().compile_model(openvino.Core().read_model(file.path), "CPU", hints)
        request = model.create_infer_request()
        inputs = dict(zip(file.inputs, program.inputs, strict=True))
        for given in model.inputs:
            request.set_tensor(given, openvino.Tensor(inputs[given.any_name].numpy()))
        return _Request(request, len(model.outputs))


class _Request(InProcess):
    def __init__(self, request: Any, n_outputs: int):
        self.request, self.n_outputs = request, n_outputs

    def run(self) -> None:
        self.request.infer()

    def outputs(self) -> list[Tensor]:
        self.run()
        return [torch.from_numpy(self.request.get_output_tensor(i).data.copy()) for i in range(self.n_outputs)]

    def close(self) -> None:
        del self.request
