"""LiteRT, which was TensorFlow Lite, on the CPU, with files that litert-torch converts."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.silenced import descriptors_silenced, exporters_silenced
from .runtime import InProcess, Program, Runner, Runtime

__all__ = ["LiteRt", "write_tflite"]


@dataclass(frozen=True, kw_only=True)
class LiteRt(Runtime):
    """Interpreters of LiteRT with XNNPACK, as they are by default."""

    name: ClassVar[str] = "litert"
    packages: ClassVar[tuple[str, ...]] = ("litert_torch", "ai_edge_litert")
    extra: ClassVar[str] = "litert"

    @property
    def version(self) -> str:
        return version("ai-edge-litert")

    def load(self, program: Program, folder: Path) -> Runner:
        file = write_tflite(program, folder / "model.tflite")
        with descriptors_silenced():  # from C, that it has a delegate
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(str(file), num_threads=self.threads)
            interpreter.allocate_tensors()
        return _Interpreter(interpreter, program.inputs)


class _Interpreter(InProcess):
    def __init__(self, interpreter: Any, inputs: tuple[Tensor, ...]):
        self.interpreter = interpreter
        signature = interpreter.get_signature_runner()
        for (
            name,
            there,
        ) in signature.get_input_details().items():  # args_0 and so on; one that makes no difference may be missing
            interpreter.set_tensor(there["index"], inputs[int(name.rpartition("_")[2])].numpy())
        found = signature.get_output_details()
        self.results = [found[name]["index"] for name in sorted(found, key=lambda name: int(name.rpartition("_")[2]))]

    def run(self) -> None:
        self.interpreter.invoke()

    def outputs(self) -> list[Tensor]:
        self.run()
        return [torch.from_numpy(self.interpreter.get_tensor(index)) for index in self.results]  # copies

    def close(self) -> None:
        del self.interpreter


def write_tflite(program: Program, path: Path) -> Path:
    """Convert a module, which takes some ten seconds, of which the import is as many once.

    Raises
    ------
    Exception
        Of any kind: it cannot be converted.
    """
    with exporters_silenced(), descriptors_silenced():
        import litert_torch

        litert_torch.convert(program.module, program.inputs).export(str(path))
    return path
