"""Networks timed in turns in one run, so that they can be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..derive import Architecture, build_network
from ..latency import DeviceEstimator

__all__ = ["measure_side_by_side"]


def measure_side_by_side(architectures: Sequence[Architecture | None]) -> list[float | None]:
    """Milliseconds of every network, timed in turns in one run, so that a drift of the machine hits all alike.

    A network that was measured on another machine or runtime keeps the figure of its own search.
    """
    result = [None if a is None else a.latency.get("measured_ms") for a in architectures]
    conditions = [None if a is None else a.latency.get("measured_conditions") for a in architectures]
    for wanted in {json.dumps(c, sort_keys=True): c for c in conditions if c is not None}.values():
        here = [i for i, c in enumerate(conditions) if c == wanted]
        try:
            estimator = DeviceEstimator(**{name: wanted[name] for name in ("threads", "batch", "precision")},
                                        device=wanted.get("torch_device", "cpu"))  # fmt: skip
        except (KeyError, ValueError):
            continue
        if dict(estimator.conditions) != wanted:
            continue
        networks = [(build_network(a), a.input_shape) for i in here if (a := architectures[i]) is not None]
        for i, measurement in zip(here, estimator.measure(networks), strict=True):
            result[i] = measurement.median_ms
    return result
