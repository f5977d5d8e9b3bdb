"""Processes whose imports are done: forked from one that has imported what a search and a training use.

A command that is started imports for ten seconds. Where a test needs a process of its own, to kill it or to have two of them,
and not the start, it is forked. Each command is started as typed in at least one other test.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

# ``tests.strategies.searches`` for test_resume.py: there is one server, and it imports once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["nni_proxyless.search.run", "nni_proxyless.training.loop", "tests.strategies.searches"]
)


def fork(function: Callable[..., Any], *arguments: Any, cwd: Path, said: Path, **environment: str) -> BaseProcess:
    """Start ``function(*arguments)`` in the folder ``cwd``; what it prints goes to the file ``said``, what it returns is the exit code."""
    given = {**os.environ, "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1", **environment}
    said.touch()
    process = processes.Process(
        target=_run, args=(function, arguments, str(cwd), str(said), given, multiprocessing.get_start_method())
    )
    process.start()
    return process


def _run(
    function: Callable[..., Any], arguments: tuple, cwd: str, said: str, environment: dict[str, str], method: str
) -> None:
    # Else its own processes would come from another server, and those of a loader would outlive it when it is killed.
    multiprocessing.set_start_method(method, force=True)
    os.setsid()  # as the fixture ``command`` does, and for its reason
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    torch.set_num_threads(1)  # OMP_NUM_THREADS has been read
    sys.exit(function(*arguments))
