"""Restore the global random generators: evaluating a network must not change a search."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["generators_kept"]


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the generators of Python, NumPy and torch (on the CPU) at the end of the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
