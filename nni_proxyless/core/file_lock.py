"""One process at a time: a lock file that is held while something lasts.

The lock is the kernel's (``lockf``); the file gives it a name and says who holds it. The kernel releases it when the process
ends, however it ends: nobody waits for the file of a killed process. ``flock`` failed: a process that
loads images, forked, held it for some seconds after its parent had been killed.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # to mypy a module is never None

__all__ = ["HeldError", "hold", "of_this_machine"]

_logger = logging.getLogger(__name__)

_held: set[Path] = set()
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class HeldError(Exception):
    """Another process holds the lock, and ``wait`` is False; the message says which, and what it does."""


@contextmanager
def hold(path: Path, doing: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock; within the same process it may be held several times over.

    On a file system without locks, a warning is logged and nothing is locked.

    Parameters
    ----------
    path
        The lock file, in a folder that is there. Made here, and removed at the end.
    doing
        What this process does, for the messages of the others: "measures on this machine's cpu".
    wait
        Wait until the lock is free; the log says once for whom. False: raise instead.

    Raises
    ------
    HeldError
        Another process holds it, and ``wait`` is False.
    """
    path = path.resolve()
    if path in _held or fcntl is None:
        yield
        return
    handle = _take(path, doing, wait)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        if handle is not None:
            path.unlink(missing_ok=True)  # before it is let go: whoever waits for it looks whether it is still there
            os.close(handle)


def of_this_machine(name: str) -> Path:
    """The lock file that all processes of this user on this machine, and on no other, know by this name."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"nni-proxyless-{user}-{name}.lock"


def _take(path: Path, doing: str, wait: bool) -> int | None:
    """The open file, locked; None where there are no locks."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(handle, wait)
            if _is_still_there(path, handle):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} {doing}".encode())
                return handle
        except BaseException as error:
            os.close(handle)
            if isinstance(error, OSError) and error.errno in _WITHOUT_LOCKS:
                _logger.warning(
                    "%s: this file system knows no locks (%s): see that no second process %s", path, error, doing
                )
                return None
            raise
        os.close(handle)  # whoever held it has removed the file: the next one makes another


def _lock(handle: int, wait: bool) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # POSIX allows either
        holder = os.pread(handle, 1000, 0).decode(errors="replace") or "another process"
        if not wait:
            raise HeldError(holder) from error
        _logger.info("waiting: %s", holder)
        fcntl.lockf(handle, fcntl.LOCK_EX)


def _is_still_there(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
