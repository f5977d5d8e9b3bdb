"""Pack thousands of tensors into one per type, and back; values, shapes and strides stay bit for bit."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

__all__ = ["is_packed", "pack", "unpack"]

LARGEST = (
    2**16
)  # elements of a tensor that is packed: of larger ones the copy would cost more than it saves, in memory too
_KEY = "packed tensors"
_PLACE = "tensor at"


def pack(state: dict[str, Any]) -> dict[str, Any]:
    """Replace small dense tensors by their places; return the structure and one flat tensor per type.

    Parameters
    ----------
    state
        Nested dicts, lists and tuples of plain values and tensors. Tensors that are the same memory are kept once.
    """
    flat: dict[torch.dtype, list[Tensor]] = {}
    ends: dict[torch.dtype, int] = {}
    known: dict[tuple, dict[str, list]] = {}

    def place_of(tensor: Tensor) -> Any:
        if not 0 < tensor.numel() <= LARGEST or not _is_dense(tensor):
            return tensor
        kind, shape, strides = tensor.dtype, tuple(tensor.shape), tensor.stride()
        same = (tensor.data_ptr(), tensor.device, kind, shape, strides)
        if same not in known:
            begin = ends.get(kind, 0)
            ends[kind] = begin + tensor.numel()
            flat.setdefault(kind, []).append(tensor.detach().cpu().as_strided((tensor.numel(),), (1,)))
            known[same] = {_PLACE: [str(kind).removeprefix("torch."), begin, list(shape), list(strides)]}
        return known[same]

    structure = _mapped(state, lambda item: place_of(item) if isinstance(item, Tensor) else item)
    return {_KEY: {str(kind).removeprefix("torch."): torch.cat(parts) for kind, parts in flat.items()}, "of": structure}


def is_packed(state: Any) -> bool:
    return isinstance(state, dict) and list(state) == [_KEY, "of"]


def unpack(packed: dict[str, Any]) -> dict[str, Any]:
    """Restore what :func:`pack` was given, with its tensors on the CPU."""
    flat = packed[_KEY]
    known: dict[tuple, Tensor] = {}

    def tensor_at(item: Any) -> Any:
        if not (type(item) is dict and list(item) == [_PLACE]):
            return item
        kind, begin, shape, strides = item[_PLACE]
        key = (kind, begin, *shape, *strides)
        if key not in known:
            known[key] = torch.empty_strided(shape, strides, dtype=flat[kind].dtype)
            known[key].copy_(flat[kind].as_strided(shape, strides, begin))
        return known[key]

    return _mapped(packed["of"], tensor_at)


def _mapped(value: Any, leaf: Any) -> Any:
    found = leaf(value)
    if found is not value:
        return found
    kind = type(value)
    if kind is dict or kind is OrderedDict:
        return kind((key, _mapped(item, leaf)) for key, item in value.items())
    if kind is list or kind is tuple:
        return kind(_mapped(item, leaf) for item in value)
    return value


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a part of the memory without gaps and overlaps, in whatever order."""
    if tensor.layout is not torch.strided:
        return False
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(
        (stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1
    ):
        if stride != expected:
            return False
        expected *= size
    return True
