"""The file from which a search goes on, ``search.ckpt``, and what it may hold.

How it is written and verified: :mod:`nni_proxyless.core.checkpoint_file`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nni_proxyless.core.checkpoint_file import CheckpointError, Checkpoints

__all__ = ["CheckpointError", "CheckpointFolder"]

_ALLOWED = "dict, list, tuple, str, int, float, bool, None, torch.Tensor"


class CheckpointFolder(Checkpoints):
    """The checkpoints of one search.

    Format 1 had no state of the method, and paths of one process only; 2, which is read too, each tensor by itself; 3,
    which one flipped bit makes a 2, is none.
    """

    def __init__(self, folder: str | Path):
        super().__init__(folder, "search", b"nni-proxyless checkpoint ", version=4, also_read=(2,))

    def write(self, state: Mapping[str, Any]) -> Path:
        """As :meth:`.Checkpoints.write`; what would not come back as it was is refused.

        Parameters
        ----------
        state
            Nested dicts (an ``OrderedDict`` is stored as one), lists, tuples, str, int, float, bool, None and dense
            tensors (subclasses such as ``nn.Parameter`` are stored as plain tensors without gradient).

        Raises
        ------
        TypeError
            Anything else in ``state``; the message names its place.
        CheckpointError
            A file in the way that is not this program's; it is left as it is.
        """
        if not isinstance(state, dict):
            raise TypeError(f"the checkpoint is a {type(state).__name__}; allowed: dict")
        return super().write(_plain(state, ""))


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _plain(value: Any, path: str) -> Any:
    """A copy of the structure that holds plain types only; tensors share their memory with the original.

    Types are compared exactly: ``numpy.float64`` is a float, a ``Counter`` is a dict, yet neither would come back as
    what it was.
    """
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value, path)
    if kind is list or kind is tuple:
        return kind(_plain(item, _below(path, i)) for i, item in enumerate(value))
    if kind is dict or kind is OrderedDict:
        for key in value:
            if key is not None and type(key) not in (str, int, float, bool):
                raise TypeError(
                    f"{path or 'the checkpoint'} has a key {key!r}, a {type(key).__name__}; allowed: str, int, float, bool, None"
                )
        return {key: _plain(item, _below(path, key)) for key, item in value.items()}
    raise TypeError(f"{path} is a {kind.__name__}; allowed: {_ALLOWED}")


def _plain_tensor(tensor: torch.Tensor, path: str) -> torch.Tensor:
    # Wrapper subclasses (DTensor) hold their values in other tensors: as a plain tensor they would be empty.
    if tensor.layout is not torch.strided or tensor.is_meta or hasattr(tensor, "__tensor_flatten__"):
        raise TypeError(
            f"{path} is a {type(tensor).__name__} of layout {tensor.layout} on {tensor.device}; allowed: dense tensors with values"
        )
    plain = tensor.detach().as_subclass(torch.Tensor)
    # torch.save writes the whole storage behind a view.
    is_view = plain.untyped_storage().nbytes() != plain.numel() * plain.element_size()
    return plain.clone() if is_view else plain
