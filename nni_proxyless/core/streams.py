"""Make standard output and error accept every text; end a command whose reader has closed the pipe.

A terminal may accept ASCII only (``PYTHONIOENCODING=ascii``, a C locale without UTF-8), and file names may hold any bytes. A character
that a stream cannot encode is written as ``\\u2026``: a command must not fail because of a character in its help.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

__all__ = ["READER_GONE", "in_letters", "prepare_streams", "say", "to_reader"]

READER_GONE = 141  # what a shell gives for a program that SIGPIPE has ended


def in_letters(name: str) -> str:
    """The name of a file as pictures and files in UTF-8 take it: of bytes that are no letters, what a terminal shows, ``\\udce9``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def prepare_streams() -> None:
    """Make both streams accept every text; replace a closed one (``>&-``) by a stream to /dev/null.

    A closed stream is dangerous: the next file that is opened gets its number, and with it everything that a C library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def to_reader(run: Callable[[], int]) -> int:
    """Run a command; :data:`READER_GONE` if the reader of its results has gone (``nni-proxyless report | head -1``)."""
    ended: BaseException | None = None
    try:
        code = run()
    except (BrokenPipeError, SystemExit) as error:  # the latter of argparse, after a help
        ended = error
    if (lost := _lost()) is None:
        if ended is not None:
            raise ended
        return code
    if isinstance(lost, BrokenPipeError):
        return READER_GONE
    say(f"nni-proxyless: standard output: {lost.strerror}")
    return 1


def say(text: str, write: Callable[[str], object] = lambda text: print(text, file=sys.stderr, flush=True)) -> None:
    """Print a line on standard error; do not fail if nobody reads it."""
    try:
        write(text)
    except OSError:
        _redirect_to_null(sys.stderr)


def _lost() -> OSError | None:
    """The error that kept standard output from accepting everything, if any."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _redirect_to_null(sys.stdout)
        return error
    return None


def _redirect_to_null(stream: TextIO) -> None:
    """Send the stream to /dev/null: Python flushes the rest of its buffer at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
