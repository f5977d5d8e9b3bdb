"""A dict of tensors and plain values in one file with a checksum.

Layout::

    nni-proxyless … 2               a first line of the caller's: what this is, and the version of its format
    4f53cda1...                     SHA-256 of the payload, hexadecimal
    (payload)                       torch.save of a dict; read with weights_only, so no code of the file ever runs

All tensors of one type lie in the payload as one, see :mod:`.packing`: torch takes as long for a tensor of a few numbers as for a large
one, and a supernet with its optimizer has thousands. A payload without that, of an earlier version, is read as it is.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["DamagedError", "read_payload", "state_of", "write_sealed"]


class DamagedError(Exception):
    """The file is truncated or changed; the message says which, without the name of the file."""


def write_sealed(path: Path, first_line: bytes, state: Mapping[str, Any]) -> None:
    """Write the file and flush it to the disk. The caller passes a temporary path and renames the file afterwards.

    Parameters
    ----------
    first_line
        Ends with a line feed.
    state
        Nested dicts, lists, tuples, numbers, texts, None and tensors.
    """
    import torch

    from .packing import pack

    # To memory first: torch.save to a full disk dies in the middle of a zip file with an error that names no disk.
    buffer = io.BytesIO()
    torch.save(pack(dict(state)), buffer)
    with open(path, "wb") as file:
        file.write(first_line + hashlib.sha256(buffer.getbuffer()).hexdigest().encode() + b"\n")
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def read_payload(file: BinaryIO) -> bytes:
    """Read the payload after the first line and verify its digest.

    Raises
    ------
    DamagedError
        Truncated or changed.
    """
    digest, payload = file.readline(65), file.read()
    if len(digest) < 65:
        raise DamagedError("truncated within the second line")
    if digest != hashlib.sha256(payload).hexdigest().encode() + b"\n":
        raise DamagedError("truncated or changed: the content does not have the digest that was written with it")
    return payload


def state_of(payload: bytes) -> dict[str, Any]:
    """Decode a payload; tensors come back on the CPU.

    Raises
    ------
    DamagedError
        Not a dict of tensors and plain values.
    """
    import torch  # here: whether there is a checkpoint is asked without it

    from .packing import is_packed, unpack

    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        if is_packed(state):
            state = unpack(state)
    except Exception as error:  # torch promises no particular one
        reason = (str(error).splitlines() or [""])[0]
        raise DamagedError(f"not loadable: {type(error).__name__}: {reason}") from error
    if not isinstance(state, dict):
        raise DamagedError(f"holds a {type(state).__name__} in the place of a dict")
    return state
