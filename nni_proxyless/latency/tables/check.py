"""Check a table against whole networks: its error, its ranking, and the calibration that corrects it.

Random networks are timed as wholes, in turns, so that a drift of the machine hits all alike; here, or on the target, together
with the rows of the table, where that is another machine. On one half the calibration is fitted, the other half judges:
predicted (the sum of the rows), calibrated and measured stand side by side.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nni.nas.nn.pytorch import ModelSpace
from scipy import stats

from ...core.freezing import freeze
from ..calibration import Calibration, fit_calibration
from ..choices import read_back
from ..digits import in_words
from ..estimators.device import DeviceEstimator
from ..operation import Shape
from ..profiler import LatencyProfiler
from ..runtimes.default import TORCH
from .drift import without_drift
from .lookup_table import LookupTable
from .timed_networks import random_samples
from .yaml_format import TimedNetwork

__all__ = ["Agreement", "Check", "agreement", "architectures_of", "check_recorded", "check_table"]

PREPARATIONS = 3  # of every network
QUICK_S = 30.0  # for the first of them; networks that take longer differ less from themselves


@dataclass(frozen=True)
class Agreement:
    """Predicted against measured milliseconds of some networks.

    Attributes
    ----------
    bias, mean_error, worst_error
        Relative: mean of predicted / measured - 1, and mean and largest of its absolute value.
    rmse_ms
        In milliseconds.
    spearman, kendall
        Rank correlations, each with the ends of its 95 % interval (percentiles of 2,000 bootstrap samples).
    """

    bias: float
    mean_error: float
    worst_error: float
    rmse_ms: float
    spearman: tuple[float, float, float]
    kendall: tuple[float, float, float]


def agreement(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> Agreement:
    """How well predicted milliseconds agree with measured ones, of at least three networks."""
    p, m = np.asarray(predicted_ms, dtype=float), np.asarray(measured_ms, dtype=float)
    relative = p / m - 1

    def with_interval(correlation: Callable[[Any, Any], Any]) -> tuple[float, float, float]:
        draw = np.random.default_rng(0)
        picks = draw.integers(len(p), size=(2000, len(p)))
        # A sample of one network again and again has no rank correlation.
        found = [float(correlation(p[i], m[i]).statistic) for i in picks if np.ptp(p[i]) > 0 and np.ptp(m[i]) > 0]
        low, high = np.percentile(found, [2.5, 97.5])
        return float(correlation(p, m).statistic), float(low), float(high)

    return Agreement(
        bias=float(relative.mean()),
        mean_error=float(np.abs(relative).mean()),
        worst_error=float(np.abs(relative).max()),
        rmse_ms=float(np.sqrt(np.mean((p - m) ** 2))),
        spearman=with_interval(stats.spearmanr),
        kendall=with_interval(stats.kendalltau),
    )


@dataclass(frozen=True)
class Check:
    """What :func:`check_table` or :func:`check_recorded` has found; all lists are of the networks that judge.

    Attributes
    ----------
    samples
        Their architectures.
    predicted_ms, calibrated_ms, measured_ms
        Sum of the rows; that with the new calibration; timed.
    before, after
        Agreement without and with the calibration.
    calibration
        To go into the table.
    timed
        Where the networks were timed, and on what.
    """

    samples: list[dict[str, Any]]
    predicted_ms: list[float]
    calibrated_ms: list[float]
    measured_ms: list[float]
    before: Agreement
    after: Agreement
    calibration: Calibration
    timed: str


def check_table(
    table: LookupTable,
    space: ModelSpace,
    input_shape: Shape,
    estimator: DeviceEstimator,
    *,
    n_networks: int = 30,
    n_calibration: int = 30,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Check:
    """Time random networks of a space and compare the table with them.

    Parameters
    ----------
    table
        A calibration that it has already is left out of account.
    space, input_shape
        Whose operations the table knows.
    estimator
        Must be the table's target. Each network is timed ``estimator.repeats`` times, the whole networks as they would be
        deployed.
    n_networks, n_calibration
        How many judge, and how many the calibration is fitted on; different ones.
    progress
        Called after each round with the number of rounds done and in all.

    Raises
    ------
    TableError
        The table holds for another target.
    ValueError
        The space has too few networks.
    KeyError
        The table lacks a row.
    """
    if n_networks < 3 or n_calibration < 3:
        raise ValueError(f"n_networks is {n_networks} and n_calibration {n_calibration}; allowed: 3 or more of each")
    samples = random_samples(space, n_networks + n_calibration, seed)
    if len(samples) < n_networks + n_calibration:
        raise ValueError(
            f"the space has {len(samples)} different networks, fewer than the {n_networks + n_calibration} that are to be timed"
        )
    predicted = _predicted(table, space, input_shape, samples)  # first: it says what the table lacks
    measured = time_networks(space, samples, input_shape, estimator, progress)
    said = estimator.conditions
    return _judge(samples, predicted, measured, n_networks, f"here: {said['device']}, {said['runtime']}")


def check_recorded(table: LookupTable, space: ModelSpace, input_shape: Shape) -> Check:
    """Compare a table with the whole networks that were timed on its target together with its rows; nothing is timed here.

    The first half of them judges, on the second the calibration is fitted.

    Parameters
    ----------
    table
        With ``networks``. A calibration that it has already is left out of account.
    space, input_shape
        Whose operations the table knows.

    Raises
    ------
    ValueError
        The table has too few networks, or one that is not of the space.
    KeyError
        The table lacks a row.
    """
    if len(table.networks) < 6:
        raise ValueError(
            f"{table.source}: holds {len(table.networks)} networks; allowed: 6 or more, 3 to judge and 3 to calibrate on"
        )
    samples = architectures_of(table.networks, space, table.source)
    predicted = _predicted(table, space, input_shape, samples)
    measured = [network.measurement.median_ms for network in table.networks]
    said = {"device": "its target", "runtime": "unknown runtime", **table.conditions}
    timed = f"on the target of the table, not here: {said['device']}, {said['runtime']}, {table.measured.get('date', 'undated')}"
    return _judge(samples, predicted, measured, len(samples) - len(samples) // 2, timed)


def architectures_of(networks: Sequence[TimedNetwork], space: ModelSpace, where: str) -> list[dict[str, Any]]:
    """Of networks of a file, with the choices as the space has them.

    Raises
    ------
    ValueError
        One of them is not of the space.
    """
    mutables = space.simplify()
    samples = [
        {label: read_back(choice, mutables.get(label)) for label, choice in network.architecture.items()}
        for network in networks
    ]
    for i, sample in enumerate(samples, start=1):
        _require_of(space, sample, f"{where}: network {i}")
    return samples


def _require_of(space: ModelSpace, sample: Mapping[str, Any], where: str) -> None:
    """Refuse an architecture that does not belong to the space."""
    mutables = space.simplify()
    if set(sample) != set(mutables):
        different = ", ".join(sorted(set(sample) ^ set(mutables)))
        raise ValueError(f"{where} is of another space: the labels {different} are in one of the two only")
    for label, mutable in mutables.items():
        error = mutable.check_contains({label: sample[label]})
        if error is not None:
            raise ValueError(f"{where} is of another space: label {label!r}: {error}")


def _predicted(
    table: LookupTable, space: ModelSpace, input_shape: Shape, samples: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Sums of rows, without a calibration."""
    profiler = LatencyProfiler(space, table.replace(calibration=None), input_shape)
    return [float(profiler.profile(dict(sample))) for sample in samples]


def _judge(
    samples: list[dict[str, Any]], predicted: list[float], measured: list[float], n_networks: int, timed: str
) -> Check:
    """The first ``n_networks`` judge, on the others the calibration is fitted."""
    fixed, slope = fit_calibration(predicted[n_networks:], measured[n_networks:])
    p, m = predicted[:n_networks], measured[:n_networks]
    calibrated = [fixed + slope * ms for ms in p]
    after = agreement(calibrated, m)
    today = datetime.date.today().isoformat()
    calibration = Calibration(fixed, slope, len(samples) - n_networks, after.mean_error, after.worst_error, today)
    return Check(samples[:n_networks], p, calibrated, m, agreement(p, m), after, calibration, timed)


def time_networks(
    space: ModelSpace, samples: Sequence[Mapping[str, Any]], input_shape: Shape, estimator: DeviceEstimator,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:  # fmt: skip
    """Median milliseconds of whole networks, timed in turns, the drift of the machine divided out.

    A network that is prepared anew has its weights elsewhere in memory, and is faster or slower by some per cent for as long as it is there
    (:mod:`.time_in_chunks`). So where all are prepared and timed within half a minute, that is done three times; not in eager torch, which prepares
    nothing, and not by a program, which prepares them for every timing.
    """
    prepares = estimator.runtime != TORCH and not estimator.runs_programs
    done, began, preparations = itertools.count(1), time.perf_counter(), 1
    found: list[list[tuple[int, float]]] = []

    def tick() -> None:
        if progress is not None:
            progress(next(done), preparations * estimator.repeats)

    while len(found) < preparations:
        networks = [(freeze(space, sample), input_shape) for sample in samples]
        rounds = estimator.time_in_turns(networks, progress=tick)
        times, _ = without_drift([list(enumerate(of)) for of in rounds])
        found.append([(i, statistics.median(times[i])) for i in range(len(samples))])
        if prepares and time.perf_counter() - began < QUICK_S:
            preparations = PREPARATIONS
    times, _ = without_drift(found)
    return [statistics.median(times[i]) for i in range(len(samples))]


def report(check: Check) -> str:
    """For a person: both agreements side by side, and the networks that are furthest off."""

    def ranks(value: tuple[float, float, float]) -> str:
        return f"{value[0]:.4f} ({value[1]:.3f} to {value[2]:.3f})"

    rows = [("", "predicted", "calibrated")]
    for name, show in {
        "bias": lambda a: f"{a.bias:+.2%}", "mean error": lambda a: f"{a.mean_error:.2%}", "worst error": lambda a: f"{a.worst_error:.2%}",
        "RMSE": lambda a: f"{in_words(a.rmse_ms)} ms", "Spearman": lambda a: ranks(a.spearman), "Kendall": lambda a: ranks(a.kendall),
    }.items():  # fmt: skip
        rows.append((name, show(check.before), show(check.after)))
    c = check.calibration
    lines = [f"{a:<12} {b:>26} {d:>26}" for a, b, d in rows]
    lines += [
        "",
        f"timed {check.timed}",
        f"{len(check.measured_ms)} networks, {in_words(statistics.mean(check.measured_ms))} ms on average; the furthest off:",
    ]
    lines += [f"{'predicted':>12} {'calibrated':>12} {'measured':>12}"]
    order = sorted(range(len(check.measured_ms)), key=lambda i: -abs(check.calibrated_ms[i] / check.measured_ms[i] - 1))
    lines += [
        f"{in_words(check.predicted_ms[i]):>12} {in_words(check.calibrated_ms[i]):>12} {in_words(check.measured_ms[i]):>12}"
        for i in order[:3]
    ]
    lines += [
        "",
        f"calibration: measured = {in_words(c.fixed_ms, '+')} ms + {c.slope:.4f} * predicted, fitted on {c.n_networks} other networks",
    ]
    return "\n".join(lines)


def as_plain(check: Check) -> dict[str, Any]:
    """For a file."""
    columns = zip(check.samples, check.predicted_ms, check.calibrated_ms, check.measured_ms, strict=True)
    return {
        "before": dataclasses.asdict(check.before),
        "after": dataclasses.asdict(check.after),
        "calibration": check.calibration.plain(),
        "mean_ms": statistics.mean(check.measured_ms),
        "networks": [
            {"architecture": sample, "predicted_ms": p, "calibrated_ms": c, "measured_ms": m}
            for sample, p, c, m in columns
        ],
    }


def draw(check: Check, path: Any, title: str = "") -> None:
    """Predicted and calibrated against measured, as a picture."""
    from matplotlib.figure import Figure  # here: it takes a second to import

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(check.measured_ms, check.predicted_ms, marker="x", color="tab:orange", label="predicted: sum of rows")
    axes.scatter(check.measured_ms, check.calibrated_ms, s=18, color="tab:blue", label="calibrated")
    ends = [min(*check.measured_ms, *check.predicted_ms), max(*check.measured_ms, *check.predicted_ms)]
    axes.plot(ends, ends, color="gray", linewidth=1, zorder=0)
    axes.set(xlabel="measured, ms", ylabel="from the table, ms", title=title)
    axes.legend()
    axes.set_aspect("equal")
    figure.savefig(path, dpi=150)
