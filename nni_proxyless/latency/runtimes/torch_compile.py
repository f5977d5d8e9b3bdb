"""PyTorch compiled by ``torch.compile``, which needs a C++ compiler on a CPU."""

from __future__ import annotations

import os
import shutil
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ...core.silenced import exporters_silenced
from .runtime import Program, Runner
from .torch_eager import TorchEager, TorchRunner

__all__ = ["TorchCompile"]

COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True, kw_only=True)
class TorchCompile(TorchEager):
    """Every module is one graph, compiled for the shape that it is given.

    Attributes
    ----------
    mode
        Of ``torch.compile``.
    """

    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"

    name: ClassVar[str] = "torch-compile"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def problems(self) -> list[str]:
        found = super().problems()
        compilers = [os.environ["CXX"]] if os.environ.get("CXX") else list(COMPILERS)
        if self.device == "cpu" and not any(map(shutil.which, compilers)):
            found.append(f"runtime {self.name} needs a C++ compiler; none of these is there: {', '.join(compilers)}")
        return found

    def load(self, program: Program, folder: Path) -> Runner:
        module, inputs = self._placed(program)
        with exporters_silenced():
            function = torch.compile(_function_of(module), fullgraph=True, dynamic=False, mode=self.mode)
            function(*inputs)
        return TorchRunner(function, inputs, torch.device(self.device))


def _function_of(module: nn.Module) -> Any:
    """A function with code of its own.

    What torch has compiled it keeps by code: all modules of a class would share one place, where it goes through what it has for the
    others at every call, and compiles no more than eight.
    """

    def run(*inputs: Any) -> Any:
        return module(*inputs)

    return types.FunctionType(run.__code__.replace(), globals(), "run", None, run.__closure__)
