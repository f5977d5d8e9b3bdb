"""Time networks that a search has found, beside networks that its table was fitted to."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from ..latency import DeviceEstimator, LatencyProfiler, TimingError
from ..latency.estimators.whole_networks import NetworkMeasurement, eager_ms, time_networks
from ..latency.operation import Shape
from ..latency.runtimes.default import TORCH
from ..models.deviation import deviation_of
from ..models.fitted_networks import fitted_networks, speed_of
from .latency_table import measuring_alone

__all__ = ["measure_derived", "measure_in_turns"]

_logger = logging.getLogger(__name__)


def measure_derived(
    profiler: LatencyProfiler, estimator: DeviceEstimator, network: nn.Module, input_shape: Shape, space: ModelSpace,
    sample: Mapping[str, Any], folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """What :func:`..models.record.latency_record` takes of a network that is timed: ``measured_ms`` and so on.

    Where a table was fitted to whole networks, some of them are timed in turns with this one: ``table_again_ms`` is what the table says, at the
    speed that these have now. A time that deviates from the table's (:mod:`..models.deviation`) is taken once more, the one with less scatter counts,
    and if that deviates as well, the log says so. For the record the network is also timed in eager torch. Where a runtime fails,
    ``measured_ms`` is None: that is no reason to lose a search.

    Parameters
    ----------
    space
        With all candidates of all paths.
    folder
        Of the search, which keeps the table; for the log.
    """
    table_ms = float(profiler.profile(dict(sample)))
    table = {"table_ms": table_ms, "unit": profiler.unit, "calibrated": profiler.calibration is not None}
    references = fitted_networks(profiler, space)
    try:
        with measuring_alone(estimator):
            found = _measured(estimator, network, input_shape, references, table_ms)
            eager = (
                None if estimator.runtime == TORCH else eager_ms(estimator, _as_tables_have_it(network), input_shape)
            )
        if deviation_of({**table, **found}) is not None:
            with measuring_alone(estimator):
                again = _measured(estimator, network, input_shape, references, table_ms)
            found = min(found, again, key=lambda timing: timing["measured_scatter"])
    except TimingError as error:
        _logger.warning("the derived network is not timed: %s", error)
        return {"measured_ms": None, "measured_conditions": estimator.conditions}
    if (deviation := deviation_of({**table, **found})) is not None:
        _logger.warning("the derived network, measured: %s", deviation.in_words(folder))
    found["measured_eager_ms"] = found["measured_ms"] if estimator.runtime == TORCH else eager
    return {**found, "measured_conditions": estimator.conditions}


def _measured(
    estimator: DeviceEstimator, network: nn.Module, input_shape: Shape, references: Sequence[tuple[nn.Module, float]],
    table_ms: float,
) -> dict[str, Any]:  # fmt: skip
    (whole,), speed = _beside(estimator, [network], input_shape, references)
    return {
        "measured_ms": whole.median_ms, "measured_scatter": whole.scatter,
        "table_again_ms": None if speed is None else table_ms * speed,
    }  # fmt: skip


def measure_in_turns(
    profiler: LatencyProfiler, estimator: DeviceEstimator, networks: Sequence[nn.Module], input_shape: Shape, space: ModelSpace
) -> tuple[list[NetworkMeasurement], float | None]:  # fmt: skip
    """Time networks in turns, and beside them some that the table was fitted to.

    Returns
    -------
    measurements, speed
        One per network; and how many times as long as in the table its own networks take now, None where it has none.

    Raises
    ------
    TimingError
        One of them cannot be run, or a run has failed.
    """
    with measuring_alone(estimator):
        return _beside(estimator, networks, input_shape, fitted_networks(profiler, space))


def _beside(
    estimator: DeviceEstimator, networks: Sequence[nn.Module], input_shape: Shape, references: Sequence[tuple[nn.Module, float]]
) -> tuple[list[NetworkMeasurement], float | None]:  # fmt: skip
    beside = [(_as_tables_have_it(network), input_shape) for network, _ in references]
    found = time_networks(estimator, [(_as_tables_have_it(network), input_shape) for network in networks], beside)
    again = found[len(networks) :]
    return found[: len(networks)], speed_of([now.median_ms for now in again], [then for _, then in references])


def _as_tables_have_it(network: nn.Module) -> nn.Module:
    """A copy whose weights lie in memory as those of networks that tables are made of; a supernet that judges has channels last."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format)
