"""ncnn, on the CPU, with files that pnnx converts."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .onnx_file import write_onnx
from .runtime import InProcess, Program, Runner, Runtime

__all__ = ["Ncnn", "NcnnFiles", "write_ncnn"]

CONVERSION_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Ncnn(Runtime):
    """Networks of ncnn, which know no batch."""

    name: ClassVar[str] = "ncnn"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "ncnn", "pnnx")
    extra: ClassVar[str] = "ncnn"

    @property
    def version(self) -> str:
        return version("ncnn")

    def problems(self) -> list[str]:
        found = super().problems()
        return [*found, f"batch is {self.batch}; allowed with runtime {self.name}: 1"] if self.batch > 1 else found

    def load(self, program: Program, folder: Path) -> Runner:
        import ncnn

        file = write_ncnn(program, folder)
        network = ncnn.Net()
        network.opt.num_threads = self.threads
        network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
        if network.load_param(str(file.param)) != 0 or network.load_model(str(file.weights)) != 0:
            raise ValueError("ncnn does not load what pnnx has converted")
        return _Network(network, [ncnn.Mat(x[0].contiguous().numpy()).clone() for x in program.inputs])


class _Network(InProcess):
    def __init__(self, network: Any, inputs: list[Any]):
        self.network = network
        self.inputs = list(zip(network.input_names(), inputs, strict=True))
        self.names = list(network.output_names())

    def run(self) -> list[Any]:
        extractor = self.network.create_extractor()
        for name, mat in self.inputs:
            extractor.input(name, mat)
        found = []
        for name in self.names:
            code, mat = extractor.extract(name)
            if code != 0:
                raise RuntimeError(f"ncnn ends with code {code}")
            found.append(mat)
        return found

    def outputs(self) -> list[Tensor]:
        return [torch.tensor(mat.numpy()).unsqueeze(0) for mat in self.run()]  # a copy

    def close(self) -> None:
        self.network.clear()


@dataclass(frozen=True)
class NcnnFiles:
    """The layers of a network, and their weights."""

    param: Path
    weights: Path


def write_ncnn(program: Program, folder: Path) -> NcnnFiles:
    """Convert a module by pnnx, from an ONNX file: from TorchScript it comes to the same layers in twice the time.

    Raises
    ------
    ValueError
        pnnx has failed, or has left an operator that ncnn does not have.
    """
    import ncnn
    import pnnx

    files = NcnnFiles(folder / "model.ncnn.param", folder / "model.ncnn.bin")
    source = write_onnx(program, folder / "model.onnx").path
    shapes = ",".join(f"[{','.join(map(str, x.shape))}]" for x in program.inputs)
    # What it writes besides, it writes beside the model.
    done = subprocess.run(
        [pnnx.EXEC_PATH, str(source), f"inputshape={shapes}", "fp16=0", f"ncnnparam={files.param}", f"ncnnbin={files.weights}"],
        cwd=folder, capture_output=True, timeout=CONVERSION_SECONDS, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0 or not files.param.exists():
        raise ValueError(f"pnnx cannot convert it: it ended with code {done.returncode}")
    layers = [line.split()[0] for line in files.param.read_text(encoding="utf-8").splitlines()[2:] if line.strip()]
    # Some releases of ncnn do not refuse an unknown layer, but end the process.
    if unknown := sorted({layer for layer in layers if ncnn.layer_to_index(layer) < 0}):
        raise ValueError(f"ncnn has no {', '.join(unknown)}")
    return files
