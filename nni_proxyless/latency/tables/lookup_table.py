"""Lookup tables: latencies measured once, then read from a file. How they are measured: ``build.py``; their file:
``yaml_format.py``."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..calibration import Calibration
from ..estimator import LatencyEstimator
from ..estimators.device import Measurement
from .yaml_format import TableError, TimedNetwork, read_table, write_table

if TYPE_CHECKING:  # it needs NNI
    from ..operation import Operation

__all__ = ["LookupTable", "TableError", "TableOnly"]


OPTIONS = "options"  # the condition that is there only where a runtime has some that are not its defaults
REMEDY = (
    "Name another file to measure anew, or delete this one; a table of another runtime needs latency.estimator.runtime, one of another "
    "target latency.estimator.name: table"
)


class LookupTable(LatencyEstimator):
    """Latencies by key, calibrated on whole networks if that was done (``nni-proxyless latency check``).

    Parameters
    ----------
    rows
        Key -> :class:`~nni_proxyless.latency.Measurement`.
    conditions
        What they hold for. A published table does not say; it has the name of its file.
    measured
        How and when.
    source
        Where the table comes from, for messages.
    unit
        Of the numbers.
    space
        ``{'name': …, 'arguments': {…}, 'input_shape': […]}``, the space whose operations these are.
    constant
        What a network takes beside its operations.
    calibration
        What makes whole networks of sums of rows.
    networks
        Whole networks that were timed on the target together with the rows; what a calibration can be fitted on elsewhere.
    in_constant
        Of a table that was fitted to whole networks: keys of what all of these run. It is in the constant and needs no rows.
    references
        Some of the networks that it was fitted to.
    """

    def __init__(
        self,
        rows: Mapping[str, Measurement],
        conditions: Mapping[str, object] | None = None,
        *,
        measured: Mapping[str, object] | None = None,
        source: str = "lookup table",
        unit: str = "ms",
        space: Mapping[str, Any] | None = None,
        constant: Measurement | None = None,
        calibration: Calibration | None = None,
        networks: Sequence[TimedNetwork] = (),
        in_constant: Collection[str] = (),
        references: Sequence[TimedNetwork] = (),
    ):
        self.rows = dict(rows)
        self._conditions = dict(conditions or {})
        self.measured = dict(measured or {})
        self.source = source
        self.unit = unit
        self.space = None if space is None else dict(space)
        self.constant = constant
        self.calibration = calibration
        self.networks = list(networks)
        self.in_constant = frozenset(in_constant)
        self.references = list(references)

    @property
    def conditions(self) -> Mapping[str, object]:
        return self._conditions

    @property
    def constant_ms(self) -> float:  # type: ignore[override]  # an attribute of the interface, computed here
        constant = 0.0 if self.constant is None else self.constant.median_ms
        return constant if self.calibration is None else self.calibration.apply(constant)

    def estimate(self, operation: Operation) -> float:
        """Median milliseconds of the operation's row, times the slope of the calibration.

        What :meth:`holds` says is in the constant of the table counts nothing here.

        Raises
        ------
        KeyError
            No such row; the message names the key and the nearest ones.
        """
        if self.holds(operation):
            return 0.0
        row = self.row(operation)
        if row is None:
            near = difflib.get_close_matches(operation.key, self.rows, n=3, cutoff=0.0)
            raise KeyError(
                f"{self.source}: no row '{operation.key}'; the nearest: {', '.join(near) or 'the table is empty'}"
            )
        return row.median_ms if self.calibration is None else self.calibration.slope * row.median_ms

    def holds(self, operation: Operation) -> bool:
        """Whether the constant of the table has the operation in it.

        So it is with what runs beside modules in every network, unless there is a row for it; and, where the table was fitted
        to whole networks, with all that every one of them runs, whether or not there is a row of the same key for candidates.
        """
        if operation.key in self.in_constant and not operation.conditions:
            return True
        return operation.in_constant and self.row(operation) is None

    def row(self, operation: Operation) -> Measurement | None:
        """The operation's row, under its own key or another one that published tables use; None if there is none."""
        for keys in ((operation.key,), *operation.other_names):
            if all(key in self.rows for key in keys):
                return _together([self.rows[key] for key in keys])
        return None

    def replace(self, **changes: Any) -> LookupTable:
        """The same table with some parts changed."""
        parts = {name: getattr(self, name) for name in
                 ("rows", "conditions", "measured", "source", "unit", "space", "constant", "calibration", "networks",
                  "in_constant", "references")}  # fmt: skip
        return LookupTable(**{**parts, **changes})

    @classmethod
    def read(cls, path: str | Path, *, unit: str = "ms") -> LookupTable:
        """Read a table of this project's layout, or of the published ones.

        Raises
        ------
        TableError
            With the file, the row and the reason; also if its unit is another one. There is no partial load.
        """
        table = cls(**read_table(path), source=str(path))
        if table.unit != unit:
            raise TableError(f"{path}: unit is {table.unit!r}; allowed here: {unit!r}")
        return table

    def write(self, path: str | Path) -> None:
        """Write the table atomically."""
        write_table(path, {**vars(self), "conditions": self.conditions})

    def require(self, conditions: Mapping[str, object], remedy: str = REMEDY, *, of_runtime: bool = False) -> None:
        """Refuse a table whose numbers hold for something else, or that does not say.

        A published table says nothing at all; it passes only where nothing is asked for.

        Parameters
        ----------
        remedy
            What to do about it, for the message.
        of_runtime
            Whether the conditions are all that a runtime says of itself: options of the table that it does not name are others then.

        Raises
        ------
        TableError
            Names every condition that differs, with both values.
        """
        differ = [
            f"{k} is {self.conditions[k]!r} in the table, {v!r} here" if k in self.conditions else f"{k} is {v!r} here, the table does not say"
            for k, v in conditions.items()
            if k not in self.conditions or self.conditions[k] != v
        ]  # fmt: skip
        if of_runtime and OPTIONS in self.conditions and OPTIONS not in conditions:
            differ.append(f"{OPTIONS} is {self.conditions[OPTIONS]!r} in the table, none here")
        if differ:
            raise TableError(f"{self.source}: measured under other conditions: {'; '.join(differ)}. {remedy}")


def _together(rows: Sequence[Measurement]) -> Measurement:
    """One operation that a table has in several parts."""
    if len(rows) == 1:
        return rows[0]
    return Measurement(
        sum(row.median_ms for row in rows), sum(row.p95_ms for row in rows), min(row.count for row in rows),
        any(row.predicted for row in rows),
    )  # fmt: skip


@dataclasses.dataclass
class TableOnly(LatencyEstimator):
    """Another target than this machine: a phone, a board, a published table. Nothing is measured here, the table must be there.

    What is given is required of the table's conditions, what is None is not looked at.

    Parameters
    ----------
    device, runtime, threads, batch, precision
        As in the head of the table.
    unit
        Of its numbers: 'ms'; 'mJ' for a table of energy, and so on.
    """

    device: str | None = None
    runtime: str | None = None
    threads: int | None = None
    batch: int | None = None
    precision: str | None = None
    unit: str = "ms"

    @property
    def conditions(self) -> Mapping[str, object]:
        named = {name: getattr(self, name) for name in ("device", "runtime", "threads", "batch", "precision")}
        return {name: value for name, value in named.items() if value is not None}

    def estimate(self, operation: Operation) -> float:
        """
        Raises
        ------
        KeyError
            Always: without a table it knows nothing.
        """
        raise KeyError(f"estimator 'table' measures nothing, and no table knows '{operation.key}'")
