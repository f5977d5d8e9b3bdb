"""Networks that a table was fitted to: timed once more, they tell how fast the machine is now."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

    from ..latency import LatencyProfiler, LookupTable

__all__ = ["fitted_networks", "speed_of"]


def fitted_networks(table: LookupTable | LatencyProfiler, space: ModelSpace) -> list[tuple[nn.Module, float]]:
    """Those that a table names, and their milliseconds then, calibrated as all of the table is; none if it was not fitted, or if they are
    of another space.

    Parameters
    ----------
    space
        With all candidates of all paths.
    """
    references = getattr(table, "references", ())
    if not references:
        return []
    from ..core.freezing import freeze  # here: with these come NNI and SciPy
    from ..latency.tables.check import architectures_of

    try:
        samples = architectures_of(references, space, "the table")
    except ValueError:
        return []
    then = [timed.measurement.median_ms for timed in references]
    if table.calibration is not None:
        then = [table.calibration.apply(ms) for ms in then]
    return [(freeze(space, sample), ms) for sample, ms in zip(samples, then, strict=True)]


def speed_of(now: Sequence[float], then: Sequence[float]) -> float | None:
    """How many times as long as then they take now, by the median; None without any."""
    return statistics.median(a / b for a, b in zip(now, then, strict=True)) if now else None
