"""Networks of which any may be the best, as far as a table can tell.

A table is off by about one per cent of a network, and good networks are no further apart: which of them is the most probable within a budget, or
the fastest of a score, is a matter of the table's errors. So the best is looked for by the table as it is, and as it might be:

    F'_c = F_c (1 + s z),   z ~ N(0, 1), for every cost F_c of a choice

Whoever times what is found has the best of it by a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..profiler import LatencyProfiler
from .budget import BudgetError

__all__ = ["contenders"]

Sample = dict[str, Any]

ERROR = 0.03  # s: of ten such costs the sum is off by 1 %, as tables are (experiments/benchmarks/runtime_tables)
TRIES = 4  # tables for each network


def contenders(
    find: Callable[[LatencyProfiler], Sample], profiler: LatencyProfiler, n: int, *, error: float = ERROR, seed: int = 0
) -> list[Sample]:
    """Up to n different networks, that of the table as it is first; fewer where the best is the same by most tables.

    Parameters
    ----------
    find
        Gives the best network by these costs.
    error
        s, relative.
    seed
        Of the errors.

    Raises
    ------
    BudgetError
        As ``find`` raises it for the table as it is; a table that might be and has no network is passed over.
    """
    draw, found = np.random.default_rng(seed), [find(profiler)]
    for _ in range(TRIES * n):
        if len(found) >= n:
            break
        try:
            sample = find(profiler.redrawn(error, draw))
        except BudgetError:
            continue
        if sample not in found:
            found.append(sample)
    return found
