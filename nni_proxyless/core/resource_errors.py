"""Explain out-of-memory and disk-full errors in one line: under NNI, the last line is all that a failed trial shows."""

from __future__ import annotations

import errno

__all__ = ["explain"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of libraries that have no error number: torch's allocator and its file writer, safetensors'.
_SAY_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_SAY_NO_SPACE = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed writing",
    "unexpected pos ",
)


def explain(error: BaseException) -> str | None:
    """The reason and the remedy, as one line; None for any other error."""
    text = str(error)
    first_line = text.strip().partition("\n")[0]
    if isinstance(error, MemoryError) or any(words in text for words in _SAY_NO_MEMORY):
        return (
            f"out of memory: {first_line or 'Python could not get more'}. Use a smaller batch_size, or end what else needs the "
            "memory: search and train go on with --resume FOLDER"
        )
    if (isinstance(error, OSError) and error.errno in _NO_SPACE) or any(words in text for words in _SAY_NO_SPACE):
        return f"no space left on the disk: {first_line}. Free some: search and train go on with --resume FOLDER"
    return None
