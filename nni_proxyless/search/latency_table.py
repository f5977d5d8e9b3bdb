"""Latencies of a search: read or measure its table, resolve its target, measure the derived network."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from nni.nas.nn.pytorch import ModelSpace

from ..config import registry
from ..config.search_config import EstimatorSection
from ..core.errors import UserError
from ..core.file_lock import hold
from ..core.progress import steps
from ..latency import (
    DeviceEstimator,
    LatencyEstimator,
    LatencyProfiler,
    LookupTable,
    TableError,
    TableOnly,
    build_lookup_table,
)
from ..latency.digits import in_words
from ..latency.estimators.idle_machine import wait_until_quiet
from ..latency.objectives.budget import fastest, slowest
from ..latency.operation import Operation, Shape, shape_text, trace_operations
from ..latency.runtimes.runtime import RefusedByRuntime
from ..latency.tables.build import FITTED
from .nni_trial import is_helper

__all__ = [
    "build_table",
    "building",
    "latency_range",
    "make_estimator",
    "make_profiler",
    "measuring_alone",
    "profiler_without_measuring",
    "said_of_fit",
    "say_drift",
    "target_in_ms",
]  # fmt: skip

_logger = logging.getLogger(__name__)

GOES_ON = "The search has steered by this table and goes on with no other: restore these conditions, a version by installing it, or begin a new search"
FEW = 4
TABLE_DRIFT = 0.05


def make_estimator(section: EstimatorSection) -> LatencyEstimator:
    """The estimator of a section of ``search.yml``.

    Raises
    ------
    UserError
        It cannot work here: a runtime that is not installed, a program that may not be executed.
    """
    try:
        estimator: LatencyEstimator = registry.load("nni_proxyless.estimators", section.name)(**section.arguments)
    except ValueError as error:
        raise UserError(f"latency.estimator: {error}") from error
    return estimator


def make_profiler(
    space: ModelSpace, input_shape: Shape, estimator: LatencyEstimator, table_path: Path | None, kept: Path,
    description: Mapping[str, Any] | None = None,
) -> LatencyProfiler:  # fmt: skip
    """Latencies of a space: from the table if there is one, else measured now and, if a path is given, written there.

    Parameters
    ----------
    kept
        Where the search keeps the table that it works with. If that is there already, the search goes on with it: a
        machine does not measure the same twice, and a search that is taken up again must not change its mind.
    description
        Name and arguments of the space, for the head of a table that is measured.
    """
    with _said_of("latency"):
        if not kept.exists():
            table = _find_table(space, input_shape, estimator, table_path, kept, description)
            if table is None:
                return LatencyProfiler(space, estimator, input_shape)
            table.write(kept)
            if table_path is None:
                partial_of(kept).unlink(missing_ok=True)
            rounded = LookupTable.read(kept, unit=estimator.unit)
            rounded.source = table.source  # what the user can mend
            return LatencyProfiler(space, rounded, input_shape)
        table = LookupTable.read(kept, unit=estimator.unit)
        if not is_helper():  # those have another number of processes, and read what the first has measured
            _require(table, estimator, input_shape, GOES_ON)
        return LatencyProfiler(space, table, input_shape)


def profiler_without_measuring(
    space: ModelSpace, input_shape: Shape, estimator: LatencyEstimator, table_path: Path | None, where: str = "latency", *,
    operations: Sequence[Operation] | None = None,
) -> LatencyProfiler | None:  # fmt: skip
    """Latencies of a space from the table, if it is there, or from an estimator that measures nothing; else None.

    Parameters
    ----------
    where
        The section of the file, for messages.
    operations
        Of the space, if they are known already.

    Raises
    ------
    UserError
        The table is of something else, or lacks a row.
    """
    with _said_of(where):
        if table_path is not None and table_path.exists():
            estimator = _read(table_path, estimator, input_shape)
        else:
            _require_table(estimator, table_path)
            if isinstance(estimator, DeviceEstimator):
                return None
        return LatencyProfiler(space, estimator, input_shape, operations=operations)


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # a TableError, or a table that makes no sense for this space
        raise UserError(f"{where}.table: {error}") from error
    except KeyError as error:
        raise UserError(f"{where}.table: {error.args[0]}") from error


def _find_table(
    space: ModelSpace, input_shape: Shape, estimator: LatencyEstimator, path: Path | None, kept: Path,
    description: Mapping[str, Any] | None,
) -> LookupTable | None:  # fmt: skip
    if path is not None and path.exists():
        return _read(path, estimator, input_shape)
    _require_table(estimator, path)
    if not isinstance(estimator, DeviceEstimator):
        return None
    with nullcontext() if path is None else building(path):
        if path is not None and path.exists():  # now: somebody else has built it, and this process has waited for that
            return _read(path, estimator, input_shape)
        # What is timed is kept beside the table, so that another search with the same estimator goes on with it after a kill, and so does
        # latency build with the same --repeats, --warmup and --method. A build of another kind sets it aside.
        partial = partial_of(path or kept)
        table = build_table(space, input_shape, estimator, partial=partial, description=description)
        _logger.info("latencies: measured, %d rows, %s", len(table.rows), _of(table))
        if path is not None:
            table.write(path)
            _logger.info("latencies: written to %s", path)
            partial.unlink(missing_ok=True)  # without a path the caller does, who writes the table
    return table


def _require_table(estimator: LatencyEstimator, path: Path | None) -> None:
    if isinstance(estimator, TableOnly):
        raise TableError(f"{path or 'none is named'}: not there; latency.estimator.name 'table' measures nothing")


def _read(path: Path, estimator: LatencyEstimator, input_shape: Shape) -> LookupTable:
    table = LookupTable.read(path, unit=estimator.unit)
    _require(table, estimator, input_shape)
    _logger.info("latencies: read from %s, %s%s", path, _of(table), _busy_note(table))
    return table


@contextmanager
def building(path: Path) -> Iterator[None]:
    """Lock the building of this table: a second process waits for the first."""
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold(path.with_name(f"{path.name}.lock"), f"builds {path}"))
        except OSError as error:  # before anything is measured
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error
        yield


def partial_of(path: Path) -> Path:
    """Path of the timings so far, until the table is written."""
    return path.with_name(f"{path.name}.partial")


def build_table(
    space: ModelSpace, input_shape: Shape, estimator: DeviceEstimator, *, partial: Path, **arguments: Any
) -> LookupTable:
    """:func:`..latency.build_lookup_table` on a quiet machine, or with a note in the table's head that it was not."""
    if partial.exists():
        _logger.info("latencies: going on with %s, if it is of this build", partial)
    with measuring_alone(estimator) as busy, steps("measuring latencies", "step") as progress:
        try:
            table = build_lookup_table(space, input_shape, estimator, partial=partial, progress=progress, **arguments)
        except RefusedByRuntime as error:
            raise _with_candidate(error, space, input_shape, estimator) from error
    _require_positive(table, space, input_shape, partial)
    if busy:
        table.measured["busy"] = busy
    if table.measured["method"] in FITTED:
        _logger.info("latencies: %s", said_of_fit(table))
    say_drift(table)
    return table


def _require_positive(table: LookupTable, space: ModelSpace, input_shape: Shape, partial: Path) -> None:
    """Refuse a constant so far below zero that the cheapest network would take less than no time."""
    try:
        LatencyProfiler(space, table, input_shape)
    except ValueError as error:
        partial.unlink(missing_ok=True)  # or the next build would go on with it
        raise UserError(
            f"latencies: what a network takes beside its operations came out as {in_words(table.constant_ms)} ms, so that the cheapest network "
            "would take less than no time: the machine was busy. Nothing is written; measure again while nothing else runs"
        ) from error


def said_of_fit(table: LookupTable) -> str:
    """For a person: how true a table is that was fitted to whole networks."""
    m: Any = table.measured
    if m["networks"] < FEW:  # one that is left out leaves next to nothing to fit to
        return f"fitted to {m['networks']} networks, too few to say how true it is"
    return (
        f"fitted to {m['networks']} networks; those left out of the fit are off by {m['mean_error']:.1%} on average, {m['worst_error']:.1%} "
        f"at worst, the noise of their timing included; Spearman {m['spearman']:.3f}"
    )


def _with_candidate(
    error: RefusedByRuntime, space: ModelSpace, input_shape: Shape, estimator: DeviceEstimator
) -> RefusedByRuntime:
    """The refusal of the first operation that a runtime cannot run, with the choices that lead there; a network has many of them."""
    for op in trace_operations(space, input_shape):
        if op.computes and not op.in_constant:
            try:
                with estimator.runs([op]):
                    continue
            except RefusedByRuntime as refused:
                chosen = " and ".join(f"{label} is {' or '.join(map(str, some))}" for label, some in op.conditions)
                return RefusedByRuntime(f"{refused}; it runs {f'when {chosen}' if chosen else 'in every network'}")
    return error


@contextmanager
def measuring_alone(estimator: DeviceEstimator) -> Iterator[float]:
    """A context for measurements: no other process of this user measures, and the machine is quiet, or a warning says that it is not.

    Gives the share of the cores that the measurement needs and others use; 0.0 on a quiet machine, and on another one.
    """
    with estimator.alone():
        yield 0.0 if estimator.elsewhere else wait_until_quiet(estimator.threads)


def _require(table: LookupTable, estimator: LatencyEstimator, input_shape: Shape, *remedy: str) -> None:
    """Refuse a table of another target than the search asks for."""
    resolution = {"resolution": shape_text(input_shape[1:])}
    if isinstance(estimator, TableOnly) and "resolution" not in table.conditions:
        resolution = {}  # published tables do not say; their keys do
    table.require({**estimator.conditions, **resolution}, *remedy, of_runtime=isinstance(estimator, DeviceEstimator))


def say_drift(table: LookupTable) -> None:
    """Warn if the machine was not as fast at the end as it was at the beginning."""
    drift = table.measured.get("drift")
    if isinstance(drift, float) and abs(drift - 1) > TABLE_DRIFT:
        _logger.warning(
            "the machine drifted while latencies were measured: what came first took %.2f times as long at the end. All were "
            "timed in turns, so they compare; for their level: nni-proxyless latency check",
            drift,
        )


def _of(table: LookupTable) -> str:
    """What a table holds for, as far as it says."""
    said = [str(table.conditions[name]) for name in ("device", "runtime", "precision") if name in table.conditions]
    return ", ".join(said) or "of an unknown target"


def _busy_note(table: LookupTable) -> str:
    busy = table.measured.get("busy")
    return f", measured while others used {100 * busy:.0f} % of the cores it needed" if isinstance(busy, float) else ""


def latency_range(profiler: LatencyProfiler) -> tuple[float, float]:
    """Milliseconds of the fastest and of the slowest network."""
    return (fastest(profiler)[1], slowest(profiler)[1]) if profiler.nested_ms else profiler.bounds()


def target_in_ms(configured: float | str | None, slowest_ms: float) -> float | None:
    """The target in milliseconds; ``'60%'`` is that share of the slowest network's latency."""
    return float(configured.rstrip("%")) / 100 * slowest_ms if isinstance(configured, str) else configured
