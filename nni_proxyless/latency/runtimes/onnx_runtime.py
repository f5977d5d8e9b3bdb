"""ONNX Runtime, on the CPU or on CUDA."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .onnx_file import module_of, origins, write_onnx
from .runtime import PROFILED_RUNS, InProcess, Program, Runner, Runtime

__all__ = ["OnnxRuntime", "Session"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
KERNEL = "_kernel_time"  # behind the name of a node


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(Runtime):
    """Sessions of ONNX Runtime with all of its optimizations. Inputs lie where it runs, so that no copy is timed."""

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    devices: ClassVar[tuple[str, ...]] = tuple(PROVIDERS)
    precisions: ClassVar[tuple[str, ...]] = ("float32", "int8")

    @property
    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.precision == "int8" and self._kind != "cpu":
            found.append(
                f"precision is 'int8', device is {self.device!r}; allowed with runtime {self.name} in int8: cpu"
            )
        if found or self._kind == "cpu":
            return found
        if PROVIDERS[self._kind] not in (there := self._providers_here()):
            found.append(
                f"device is {self.device!r}, but this onnxruntime has no {PROVIDERS[self._kind]}; it has {', '.join(there)}. "
                "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            )
        if not torch.cuda.is_available():  # which says what the device is called, and brings the libraries
            found.append(f"device is {self.device!r}, but torch finds no CUDA device here")
        elif self._number >= torch.cuda.device_count():
            allowed = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
            found.append(f"device is {self.device!r}, which torch does not find here; allowed: cpu, {allowed}")
        return found

    @property
    def _kind(self) -> str:
        return self.device.partition(":")[0]

    @property
    def _number(self) -> int:
        return int(self.device.partition(":")[2] or 0)

    @property
    def providers(self) -> list[str | tuple[str, dict[str, Any]]]:
        """What a session is asked to run on, the first one as far as it can."""
        cpu = PROVIDERS["cpu"]
        return [cpu] if self._kind == "cpu" else [(PROVIDERS[self._kind], {"device_id": self._number}), cpu]

    def _providers_here(self) -> list[str]:
        import onnxruntime

        return list(onnxruntime.get_available_providers())

    def load(self, program: Program, folder: Path) -> Runner:
        import onnxruntime

        file = write_onnx(program, folder / "model.onnx", self.precision)
        inputs = dict(zip(file.inputs, program.inputs, strict=True))

        def open_session(profile: Path | None = None) -> Session:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
            options.log_severity_level = 3  # its warnings are about devices that are not asked for
            if profile is not None:
                options.enable_profiling, options.profile_file_prefix = True, str(profile)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Specified provider")  # said below
                session = onnxruntime.InferenceSession(str(file.path), options, providers=self.providers)
            if (wanted := PROVIDERS[self._kind]) not in session.get_providers():  # it goes on without a word
                raise ImportError(
                    f"{wanted} does not load, and all would run on the CPU: onnxruntime-gpu needs the CUDA and cuDNN that it was built for"
                )
            return Session(session, inputs, self._kind, self._number)

        runner = open_session()
        runner.path, runner.open_profiled = file.path, lambda: open_session(folder / "profile")
        return runner

    @property
    def profiles(self) -> bool:
        return self._kind == "cpu"  # of CUDA it says how long it takes to ask for something


class Session(InProcess):
    """A session on inputs that lie where it runs, by name."""

    path: Path
    open_profiled: Callable[[], Session]

    def __init__(self, session: Any, inputs: dict[str, Tensor], device: str, number: int):
        import onnxruntime

        self.session, self.binding = session, session.io_binding()
        self.kept = []
        for name in (given.name for given in session.get_inputs()):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(inputs[name].numpy(), device, number)
            self.binding.bind_ortvalue_input(name, value)
            self.kept.append(value)
        for given in session.get_outputs():
            self.binding.bind_output(given.name, device, number)
        self.is_cuda = device == "cuda"

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)
        if self.is_cuda:
            self.binding.synchronize_outputs()

    def outputs(self) -> list[Tensor]:
        self.run()
        return [torch.from_numpy(array.copy()) for array in self.binding.copy_outputs_to_cpu()]

    def profile(self) -> dict[str, float]:
        profiled = self.open_profiled()
        for _ in range(PROFILED_RUNS):
            profiled.run()
        origin = origins(self.path)
        events = json.loads(Path(profiled.session.end_profiling()).read_text(encoding="utf-8"))
        profiled.close()
        runs: list[tuple[float, dict[str, float]]] = []
        nodes: dict[str, float] = {}
        for event in events:
            if event["name"] == "model_run":  # it comes after its nodes
                runs.append((event["dur"], nodes))
                nodes = {}
            elif event["cat"] == "Node" and event["name"].endswith(KERNEL):
                name = module_of(origin(event["name"].removesuffix(KERNEL), event["args"]["op_name"]))
                nodes[name] = nodes.get(name, 0.0) + event["dur"] / 1e3
        undisturbed = [nodes for _, nodes in sorted(runs, key=lambda run: run[0])][: PROFILED_RUNS // 2]
        return {name: statistics.fmean(nodes[name] for nodes in undisturbed) for name in undisturbed[0]}

    def close(self) -> None:
        del self.session, self.binding, self.kept
