"""Write and read TorchScript and ``torch.export`` files; reading needs no code of the modules."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.silenced import exporters_silenced

__all__ = ["read_program", "read_torchscript", "write_program", "write_torchscript"]


def write_torchscript(network: nn.Module, shape: Sequence[int], path: Path, *, batch: int | None = 1) -> None:
    """Trace the network in evaluation mode; a trace of these networks takes any batch, whatever it was made with."""
    network = copy.deepcopy(network).cpu().eval()
    with torch.no_grad(), warnings.catch_warnings():
        # Deprecated since torch 2.15 in favor of torch.export; it is what phones and boards with an older torch have.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        # Numbers that a module computes from the size of its input become constants, and images have one size.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.save(torch.jit.trace(network, torch.zeros(batch or 2, *shape), check_trace=False), str(path))


def read_torchscript(path: Path) -> Callable[[Tensor], Tensor]:
    """The network of such a file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        return torch.jit.load(str(path))


def write_program(network: nn.Module, shape: Sequence[int], path: Path, *, batch: int | None = 1) -> None:
    """Export the network in evaluation mode through ``torch.export``; a batch of None is free."""
    network = copy.deepcopy(network).cpu().eval()
    dynamic: Any = None if batch else ({0: torch.export.Dim.DYNAMIC},)
    with exporters_silenced():
        program = torch.export.export(network, (torch.zeros(batch or 2, *shape),), dynamic_shapes=dynamic)
        content = io.BytesIO()  # it warns of paths that do not end in .pt2, which a temporary one might not
        torch.export.save(program, content)
    path.write_bytes(content.getvalue())


def read_program(path: Path) -> Callable[[Tensor], Tensor]:
    """The network of such a file."""
    with exporters_silenced():
        return torch.export.load(io.BytesIO(path.read_bytes())).module()
