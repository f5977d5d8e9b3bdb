"""Write files atomically."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["replacing", "write_csv", "write_text", "write_weights"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: to the temporary path beside it that this yields, then rename.

    A crash keeps the old file, and so does an error, after which the temporary file is gone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as a CSV file, atomically; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_weights(path: str | Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a ``state_dict`` as safetensors: tensors only, no pickle; atomic like :func:`write_text`."""
    import torch  # here: it takes seconds, and a text needs none of it
    from safetensors.torch import save_file

    # Copies: weights that stand at two places have two names, which safetensors refuses to share one tensor.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()
    }
    with replacing(path) as temporary:
        save_file(copies, temporary)
