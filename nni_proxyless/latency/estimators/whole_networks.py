"""Time single networks so that the figure is that of the network, not that of one moment or of one place in memory."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..calls import Shape
from ..runtimes.default import TORCH
from .device import DeviceEstimator, Measurement
from .timing import PRECISIONS

__all__ = ["NetworkMeasurement", "eager_ms", "time_networks"]

PREPARED = 3  # times: see time_in_chunks.py for how much a network differs from itself, prepared anew
ENOUGH_MS = 1000.0  # of timing: small networks are through with their repeats while a machine is disturbed once
MOST = 20  # times the repeats of the estimator


@dataclass(frozen=True)
class NetworkMeasurement(Measurement):
    """Repeated timings of one network.

    ``scatter`` is how far its parts are apart, the halves of each preparation: half the range of their medians by the median of all, so
    0.02 is ± 2 %.
    """

    scatter: float = 0.0

    @classmethod
    def of_preparations(cls, times_ms: Sequence[Sequence[float]]) -> NetworkMeasurement:
        """Of the timings of each preparation, in the order in which they were taken."""
        whole = Measurement.of(list(itertools.chain(*times_ms)))
        halves = [half for times in times_ms for half in (times[: len(times) // 2], times[len(times) // 2 :]) if half]
        medians = [statistics.median(half) for half in halves]
        return cls(
            whole.median_ms, whole.p95_ms, whole.count, scatter=(max(medians) - min(medians)) / 2 / whole.median_ms
        )


def time_networks(
    estimator: DeviceEstimator,
    networks: Sequence[tuple[nn.Module, Shape]],
    beside: Sequence[tuple[nn.Module, Shape]] = (),
) -> list[NetworkMeasurement]:
    """Time networks in turns, those of a runtime that prepares them several times each.

    Parameters
    ----------
    networks
        Pairs of a module and the shape of one sample of its input.
    beside
        More of them, which are prepared once.

    Returns
    -------
    list
        One measurement per network, those beside them last.

    Raises
    ------
    TimingError
        One of them cannot be run, or a run has failed.
    """
    times = 1 if estimator.runtime == TORCH or estimator.runs_programs else PREPARED
    with estimator.runs([pair for pair in networks for _ in range(times)] + list(beside)) as runs:
        rounds = estimator.rounds(runs)
        if times > 1:
            enough = min(math.ceil(ENOUGH_MS / sum(rounds[-1])), MOST * estimator.repeats)
            rounds += estimator.rounds(runs, repeats=max(0, enough - len(rounds)))
    each = list(zip(*rounds, strict=True))
    alike = [each[i * times : (i + 1) * times] for i in range(len(networks))] + [
        [t] for t in each[len(networks) * times :]
    ]
    return [NetworkMeasurement.of_preparations(of_one) for of_one in alike]


def eager_ms(estimator: DeviceEstimator, network: nn.Module, input_shape: Shape) -> float | None:
    """Milliseconds of a network in eager torch, on the device and with the threads and batch of the estimator.

    None where that is not where the estimator's milliseconds come from: a runtime that runs elsewhere, or a device that this torch does not
    have.
    """
    if estimator.elsewhere:
        return None
    precision = estimator.precision if estimator.precision in PRECISIONS else "float32"
    try:
        eager = DeviceEstimator(
            device=str(estimator.device), threads=estimator.threads, batch=estimator.batch, precision=precision,
            warmup=estimator.warmup, repeats=estimator.repeats, runtime=TORCH,
        )  # fmt: skip
    except ValueError:
        return None
    return eager.measure([(network, input_shape)])[0].median_ms
