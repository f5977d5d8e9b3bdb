"""The files that a user starts from, ``experiments/``, as the package carries them."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

__all__ = ["shipped"]


def shipped(name: str) -> Path:
    """Where the file ``experiments/name`` lies in this installation."""
    return Path(str(importlib.resources.files("nni_proxyless.experiments") / name))
