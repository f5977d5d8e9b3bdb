"""Settings of every test run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, run
from sys import executable

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

os.environ["NNI_PROXYLESS_QUIET_SECONDS"] = "0"  # two files run at a time, and nobody needs their milliseconds to be true


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The same arithmetic, and the same load, on every machine; two files run at a time."""
    torch.set_num_threads(1)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    """Runs a command as a user types it, in an empty folder, with this environment's programs on PATH."""

    def type_in(
        *words: str | Path, timeout: float = 300, cwd: Path = tmp_path, **environment: str
    ) -> CompletedProcess[str]:
        path = f"{Path(executable).parent}{os.pathsep}{os.environ['PATH']}"
        return run(
            [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=timeout,
            env={**os.environ, "PATH": path, "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1", **environment}, stdin=None, check=False,
        )  # fmt: skip

    return type_in
