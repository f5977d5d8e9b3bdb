"""MNN, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core.silenced import descriptors_silenced
from .onnx_file import OnnxFile, write_onnx
from .runtime import InProcess, Program, Runner, Runtime

__all__ = ["Mnn"]


@dataclass(frozen=True, kw_only=True)
class Mnn(Runtime):
    """Sessions of MNN. A run has the copies of inputs and outputs in it: their memory is the session's own, and used for more."""

    name: ClassVar[str] = "mnn"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "MNN")
    extra: ClassVar[str] = "mnn"

    @property
    def version(self) -> str:
        return version("MNN")

    def load(self, program: Program, folder: Path) -> Runner:
        with descriptors_silenced():  # it prints to standard output, from C
            # Not by MNN.tools, which would install a package that reports to its makers what is converted.
            import _tools
            import MNN

            file, converted = write_onnx(program, folder / "model.onnx"), folder / "model.mnn"
            words = [
                "mnnconvert",
                "-f",
                "ONNX",
                "--modelFile",
                str(file.path),
                "--MNNModel",
                str(converted),
                "--bizCode",
                "x",
            ]
            _tools.mnnconvert(words)
            if not converted.exists():
                raise ValueError("its converter has written nothing")
            interpreter = MNN.Interpreter(str(converted))
            session = interpreter.createSession({"numThread": self.threads, "precision": "high", "backend": "CPU"})
            return _Session(interpreter, session, file, program)


class _Session(InProcess):
    def __init__(self, interpreter: Any, session: Any, file: OnnxFile, program: Program):
        import MNN

        self.interpreter, self.session = interpreter, session
        there = interpreter.getSessionInputAll(session)
        self.inputs = []
        for name, x in zip(file.inputs, program.inputs, strict=True):
            if name in there:
                kind = MNN.Halide_Type_Float if x.is_floating_point() else MNN.Halide_Type_Int64
                array = np.ascontiguousarray(x.numpy())
                self.inputs.append(
                    (there[name], MNN.Tensor(tuple(x.shape), kind, array, MNN.Tensor_DimensionType_Caffe))
                )
        self.results = []
        given = interpreter.getSessionOutputAll(session)
        for name in file.outputs:
            shape = tuple(given[name].getShape())
            zeros = np.zeros(shape, dtype=np.float32)
            held = MNN.Tensor(shape, MNN.Halide_Type_Float, zeros, MNN.Tensor_DimensionType_Caffe)
            self.results.append((given[name], held, shape))

    def run(self) -> None:
        for there, here in self.inputs:
            there.copyFrom(here)
        if self.interpreter.runSession(self.session) != 0:
            raise RuntimeError("the session has failed")
        for there, here, _ in self.results:
            there.copyToHostTensor(here)

    def outputs(self) -> list[Tensor]:
        self.run()
        return [
            torch.tensor(np.array(here.getData(), dtype=np.float32).reshape(shape)) for _, here, shape in self.results
        ]

    def close(self) -> None:
        del self.inputs, self.results, self.session, self.interpreter
