"""Choose by the clock: of some networks the best one that is within a budget as timed, in the runtime of the search.

A table is off by about one per cent, so a network that is within a budget by its table may not be within it on the device, and one that is
not may be. The networks come with the best first: by probabilities those that may be the most probable within the budget
(:mod:`..latency.objectives.contenders`), by the supernet those that it selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.atomic_files import write_csv
from ..core.errors import UserError
from ..core.freezing import freeze
from ..latency import DeviceEstimator, TimingError
from ..latency.digits import in_words
from ..latency.estimators.whole_networks import NetworkMeasurement
from .finished_search import FinishedSearch
from .measured_network import measure_in_turns
from .supernet_files import TIMED

__all__ = ["TimedChoice", "choose_timed", "require_timing"]

Sample = dict[str, Any]


@dataclass(frozen=True)
class TimedChoice:
    """Networks that were timed, the best first, and which of them is within the budget.

    Attributes
    ----------
    samples, table_ms, measurements
        Of each network: its choices, what it costs by the table, and its time.
    budget
        In ``unit``, as all milliseconds here are.
    """

    samples: list[Sample]
    table_ms: list[float]
    measurements: list[NetworkMeasurement]
    budget: float
    unit: str

    @property
    def within(self) -> list[int]:
        """Which networks are within the budget as timed."""
        return [i for i, timed in enumerate(self.measurements) if timed.median_ms <= self.budget]

    @property
    def choices(self) -> Sample:
        """The best network within the budget."""
        return self.samples[self.within[0]]

    def record(self) -> dict[str, Any]:
        """For ``architecture.json``."""
        return {"networks": len(self.samples), "within_budget": len(self.within)}

    def write(self, folder: Path) -> None:
        """Write ``timed.csv``: a row per network, the best first; a column per choice."""
        labels, within = sorted(self.samples[0]), self.within
        rows = []
        for i, (sample, table_ms, timed) in enumerate(zip(self.samples, self.table_ms, self.measurements, strict=True)):
            of_timing = (timed.median_ms, timed.scatter, table_ms, self.unit, int(i in within), int(i == within[0]))
            rows.append((*of_timing, *(sample[label] for label in labels)))
        header = ("measured_ms", "measured_scatter", "table_ms", "unit", "within_budget", "selected", *labels)
        write_csv(folder / TIMED, header, rows)


def require_timing(search: FinishedSearch, n: int) -> DeviceEstimator:
    """What times the networks of a search; refuses fewer than one, and a search whose latencies nothing here has measured.

    Raises
    ------
    UserError
        n is less than 1, or the search counts, or has read a table of somewhere else.
    """
    if n < 1:
        raise UserError(f"--time: {n} is not allowed here; allowed: 1 or more networks")
    estimator = search.parts.estimator
    if not isinstance(estimator, DeviceEstimator):
        name = search.parts.config.latency.estimator.name
        raise UserError(
            f"--time: {search.folder} has its latencies of estimator {name!r}, which times nothing; allowed: after a search with estimator 'device'"
        )
    return estimator


def choose_timed(search: FinishedSearch, samples: Sequence[Sample], budget: float) -> TimedChoice:
    """Time networks, the best first, in turns on the device of a search (:func:`require_timing`).

    Raises
    ------
    UserError
        A network cannot be timed, or none is within the budget.
    """
    networks = [freeze(search.supernet, dict(sample)) for sample in samples]
    shape, estimator = search.architecture.input_shape, require_timing(search, len(samples))
    try:
        timed, speed = measure_in_turns(search.profiler, estimator, networks, shape, search.space)
    except TimingError as error:
        raise UserError(f"--time: {error}") from error
    table_ms = [float(search.profiler.profile(sample)) for sample in samples]
    found = TimedChoice([dict(sample) for sample in samples], table_ms, timed, budget, search.profiler.unit)
    if not found.within:
        fastest = min(range(len(timed)), key=lambda i: timed[i].median_ms)
        now = "" if speed is None else f"; networks of the table timed beside it take {speed:.2f} times as long as then"
        raise UserError(
            f"--time: of {len(timed)} networks that were timed none is within {in_words(budget)} {found.unit}; the fastest of them took "
            f"{in_words(timed[fastest].median_ms)}, {in_words(table_ms[fastest])} by the table{now}. Allowed: a larger budget, or again while nothing "
            "else runs"
        )
    return found
