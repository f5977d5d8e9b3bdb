"""Exporters say much that nobody has asked for; what they have done is checked on what they write."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

__all__ = ["descriptors_silenced", "exporters_silenced", "first_line"]


@contextmanager
def exporters_silenced() -> Iterator[None]:
    """Silence torch, onnxscript and onnxruntime: deprecation warnings, and what older releases print among a command's results.

    What they do is checked on the file.
    """
    names = ("torch.onnx", "torch.export", "torch.utils.cpp_extension", "onnxscript", "onnx_ir", "onnxruntime")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:  # onnxruntime logs the traceback of an error before it goes on without that step
            logger.setLevel(logging.CRITICAL if logger.name == "onnxruntime" else logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_line(error: Any) -> str:
    """The first line of an error's message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def descriptors_silenced() -> Iterator[None]:
    """Silence what compiled code prints to standard output and standard error by itself; of the whole process, while it lasts."""
    library = ctypes.CDLL(None)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        library.fflush(None)  # what was printed before is not to be lost
        for descriptor in kept:
            os.dup2(nowhere, descriptor)
        yield
    finally:
        library.fflush(None)
        os.close(nowhere)
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
