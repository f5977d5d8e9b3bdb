"""Write files atomically."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["write_text", "write_weights"]


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically: to a temporary file beside it, then rename; a crash keeps the old one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_weights(path: str | Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a ``state_dict`` as safetensors: tensors only, no pickle; atomic like :func:`write_text`."""
    import torch  # here: it takes seconds, and a text needs none of it
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Copies: weights that stand at two places have two names, which safetensors refuses to share one tensor.
        copies = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()
        }
        save_file(copies, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
