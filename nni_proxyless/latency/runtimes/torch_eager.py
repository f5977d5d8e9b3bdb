"""PyTorch as it is: one operation after the other, called from Python."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..calls import tensors_in
from ..estimators.timing import DEVICES, PRECISIONS, problems_of, time_ms, timing_settings
from .runtime import Program, Runner, Runtime

__all__ = ["TorchEager", "TorchRunner"]


class TorchRunner(Runner):
    """A function of tensors; a device is waited for before and after a run."""

    def __init__(self, function: Any, inputs: tuple[Tensor, ...], device: torch.device):
        self.function, self.inputs, self.device = function, inputs, device

    def run_ms(self) -> float:
        return time_ms(self.function, self.inputs, self.device)

    def outputs(self) -> list[Tensor]:
        return [output.float().cpu() for output in tensors_in(self.function(*self.inputs))]


@dataclass(frozen=True, kw_only=True)
class TorchEager(Runtime):
    """Eager mode: what training runs, and few ship. :class:`~nni_proxyless.latency.DeviceEstimator` times it inside of networks, too."""

    name: ClassVar[str] = "torch"
    devices: ClassVar[tuple[str, ...]] = DEVICES
    precisions: ClassVar[tuple[str, ...]] = tuple(PRECISIONS)

    @property
    def version(self) -> str:
        return torch.__version__

    def problems(self) -> list[str]:
        return problems_of(self.device, self.threads, self.batch, self.precision, 0, 1, self.devices)

    def surroundings(self) -> AbstractContextManager[Any]:
        return timing_settings(torch.device(self.device), self.threads)

    def load(self, program: Program, folder: Path) -> Runner:
        return TorchRunner(*self._placed(program), torch.device(self.device))

    def _placed(self, program: Program) -> tuple[Any, tuple[Tensor, ...]]:
        """The module and its inputs as and where they are to run."""
        dtype = PRECISIONS[self.precision]
        inputs = tuple(x.to(self.device, dtype if x.is_floating_point() else x.dtype) for x in program.inputs)
        return program.module.to(device=self.device, dtype=dtype), inputs
