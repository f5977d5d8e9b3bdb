"""Networks timed in turns in one run, so that they can be compared."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from ..core.errors import UserError
from ..latency import DeviceEstimator, TimingError
from ..latency.estimators.device import runs_foreign_code, runtime_of
from ..latency.estimators.whole_networks import time_networks
from .architecture import Architecture
from .build import build_network

__all__ = ["measure_side_by_side"]

_logger = logging.getLogger(__name__)


def measure_side_by_side(architectures: Sequence[Architecture | None]) -> list[dict[str, Any]]:
    """The records under ``latency`` with what the networks take now, timed in turns in one run, so that a drift of the machine hits all alike.

    A network that was measured on another machine or runtime keeps the figures of its own search; the record of None is empty.
    """
    result = [{} if a is None else dict(a.latency) for a in architectures]
    conditions = [None if a is None else a.latency.get("measured_conditions") for a in architectures]
    for wanted in {json.dumps(c, sort_keys=True): c for c in conditions if c is not None}.values():
        here = [i for i, c in enumerate(conditions) if c == wanted]
        if runs_foreign_code(runtime_of(wanted)):
            continue
        try:
            estimator = DeviceEstimator.of_conditions({"torch_device": "cpu", **wanted})
        except ValueError:
            continue
        if dict(estimator.conditions) != wanted:
            continue
        networks = {}
        for i in here:
            a = architectures[i]
            assert a is not None
            try:
                networks[i] = build_network(a), a.input_shape
            except UserError as error:  # of a space that is not installed here
                _logger.warning("not timed again: %s", error)
        try:
            measured = time_networks(estimator, list(networks.values())) if networks else []
        except TimingError as error:
            _logger.warning("not timed again: %s", error)
            continue
        for i, measurement in zip(networks, measured, strict=True):
            result[i].update(
                measured_ms=measurement.median_ms, measured_scatter=measurement.scatter, table_again_ms=None
            )
    return result
