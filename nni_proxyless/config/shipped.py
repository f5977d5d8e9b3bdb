"""The files of ``experiments/`` that the package ships."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

__all__ = ["shipped"]


def shipped(name: str) -> Path:
    """Where the file ``experiments/name`` lies in this installation."""
    return Path(str(importlib.resources.files("nni_proxyless.experiments") / name))
