"""Calibrate a sum of rows to the milliseconds of the whole network: a fixed cost and a slope.

t is the sum of a network's rows, m what the network takes when it is timed as a whole. Isolated operations summed read
18 % low on a CPU (ImageNet space, one thread), operations timed inside networks a few per cent off: m is close to a + b t, with a and b the
same for all networks of a space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .digits import significant

__all__ = ["Calibration", "fit_calibration"]


@dataclass(frozen=True)
class Calibration:
    """m = fixed_ms + slope * t.

    Attributes
    ----------
    fixed_ms
        What is the same for every network. May be negative: the rows then count something twice.
    slope
        Greater than 0.
    n_networks
        How many networks it was fitted on.
    mean_error, worst_error
        Relative, of other networks that were timed in the same run; NaN if there were none.
    date
        When.

    Raises
    ------
    ValueError
        A figure that cannot be.
    """

    fixed_ms: float
    slope: float
    n_networks: int
    mean_error: float
    worst_error: float
    date: str

    def __post_init__(self) -> None:
        numbers = {
            "fixed_ms": self.fixed_ms,
            "slope": self.slope,
            "mean_error": self.mean_error,
            "worst_error": self.worst_error,
        }
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isinf(value):
                raise ValueError(f"{name} is {value!r}; allowed: a finite number")
        if not math.isfinite(self.fixed_ms):
            raise ValueError(f"fixed_ms is {self.fixed_ms}; allowed: a finite number")
        if not self.slope > 0:
            raise ValueError(f"slope is {self.slope}; allowed: greater than 0")
        if isinstance(self.n_networks, bool) or not isinstance(self.n_networks, int) or self.n_networks < 2:
            raise ValueError(f"n_networks is {self.n_networks!r}; allowed: a whole number of 2 or more")

    def apply(self, table_ms: float) -> float:
        """Milliseconds of the whole network, from the sum of its rows."""
        return self.fixed_ms + self.slope * table_ms

    def undo(self, calibrated_ms: float) -> float:
        """The sum of the rows, from what :meth:`apply` has made of it."""
        return (calibrated_ms - self.fixed_ms) / self.slope

    def plain(self) -> dict[str, Any]:
        """For a file."""
        return {name: significant(value) if isinstance(value, float) else value for name, value in asdict(self).items()}


def fit_calibration(table_ms: Sequence[float], measured_ms: Sequence[float]) -> tuple[float, float]:
    """Fixed cost and slope with the least squared relative error.

    Parameters
    ----------
    table_ms, measured_ms
        Of the same networks, at least two of different latency.

    Raises
    ------
    ValueError
        Too few networks, or what was measured does not grow with the table.
    """
    t, m = np.asarray(table_ms, dtype=float), np.asarray(measured_ms, dtype=float)
    if len(t) < 2 or np.ptp(t) == 0:
        raise ValueError(
            f"a calibration needs at least two networks of different latency; these are {sorted(set(t))} ms"
        )
    (fixed, slope), *_ = np.linalg.lstsq(np.stack([1 / m, t / m], 1), np.ones_like(m), rcond=None)
    if not slope > 0:
        raise ValueError(
            f"what was measured does not grow with the table (slope {slope:.3g}): the table is of something else, or the machine was busy"
        )
    return float(fixed), float(slope)
