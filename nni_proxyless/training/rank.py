"""The rank of this process under torchrun; read without torch, whose import would delay error messages."""

from __future__ import annotations

import os

__all__ = ["count", "rank"]


def rank() -> int:
    """Which process this is, from 0 on; only 0 talks and writes."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def count() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))
