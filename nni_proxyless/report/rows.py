"""One row of figures per network or trial, for table, CSV and page."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.merit import Merit
from ..core.streams import in_letters
from ..models.deviation import TABLE, Deviation, deviation_of, deviations_in_words
from ..models.record import runtime_of_record
from .runs import Found

__all__ = ["Row", "csv_text", "deviations_of", "rows_of", "runtimes_of", "table_near"]


@dataclass(frozen=True)
class Row:
    """The figures of one network, or of a trial without one.

    Attributes
    ----------
    name, kind, state, seconds, strategy, seed
        As :class:`~nni_proxyless.report.runs.Found` has them.
    what
        In words: the strategy, a random network, or whose blocks at which width.
    reason
        Why there is no network; empty where there is one.
    target, unit
        A limit of the search, or the budget of a network that was derived or drawn; a share such as ``60%`` until it is resolved.
    expected
        Over the probabilities at the end of the search.
    predicted, calibrated
        Of the network: the sum of the table's rows, and what the table's calibration, if it has one, makes of it.
    measured_ms, measured_scatter, runtime
        Timed side by side with the others where this machine can, else as the file has it; how far parts of the timing are apart; and in what.
    table_again_ms
        What the table says, at the speed that the machine had while the network was timed; None where that is not known.
    measured_eager_ms
        The same in eager torch, at the end of the search.
    metric, higher_is_better, is_share
        Name of the figure of merit, which way it is better, and whether it is a share.
    search_merit, final_merit
        On the validation part with the weights of the search; on the test images after the final training.
    search_merit_int8, final_merit_int8
        The same of the network in 8 bits, where the search was for such.
    """

    name: str
    kind: str
    state: str
    reason: str
    what: str
    seconds: float | None
    strategy: str | None
    target: float | str | None
    seed: int | None
    unit: str
    expected: float | None
    predicted: float | None
    calibrated: float | None
    measured_ms: float | None
    measured_scatter: float | None
    table_again_ms: float | None
    runtime: str | None
    measured_eager_ms: float | None
    macs: int | None
    n_params: int | None
    metric: str
    higher_is_better: bool
    is_share: bool
    search_merit: float | None
    final_merit: float | None
    search_merit_int8: float | None
    final_merit_int8: float | None
    folder: Path

    @property
    def merit(self) -> Merit:
        return Merit(self.metric, self.higher_is_better, self.is_share)

    @property
    def rank(self) -> tuple[bool, float]:
        """More for a better network of the same metric: by the final training; without one by the search, which is on other images."""
        value = self.search_merit if self.final_merit is None else self.final_merit
        return self.final_merit is not None, -math.inf if value is None else self.merit.score(value)

    @property
    def by_table(self) -> float | None:
        """What the search went by: calibrated where the table is, else predicted."""
        return self.predicted if self.calibrated is None else self.calibrated

    @property
    def deviation(self) -> Deviation | None:
        """Of the measured milliseconds, where it is worth saying."""
        return deviation_of(self._record)

    @property
    def _record(self) -> dict[str, Any]:
        return {
            "measured_ms": self.measured_ms, "measured_scatter": self.measured_scatter, "table_ms": self.by_table,
            "table_again_ms": self.table_again_ms, "calibrated": self.calibrated is not None, "unit": self.unit,
        }  # fmt: skip

    @property
    def _search_folder(self) -> Path:
        """With the table, if that is there."""
        table = table_near(self.folder)
        return self.folder if table is None else table.parent


def rows_of(found: Sequence[Found], latencies: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row per search, training or network, with the records of :func:`..models.compare_latency.measure_side_by_side`."""
    return [_row(f, latency) for f, latency in zip(found, latencies, strict=True)]


def table_near(folder: Path) -> Path | None:
    """The table by which the network in a folder was found: there, or one above it, for a derived network or a random one."""
    tables = (place / TABLE for place in (folder, *list(folder.parents)[:2]))
    return next((table for table in tables if table.exists()), None)


def deviations_of(rows: Sequence[Row]) -> str:
    """What is to be said of the marked numbers, in one line; empty where there are none."""
    return deviations_in_words([(row.name, row._search_folder, row._record) for row in rows])


def runtimes_of(rows: Sequence[Row]) -> list[str]:
    """What the networks were timed in, each once; milliseconds of several are not to be compared."""
    return list(dict.fromkeys(row.runtime for row in rows if row.runtime is not None))


def csv_text(rows: Sequence[Row]) -> str:
    """All rows with all digits; an empty cell is what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Row)])
    writer.writerows(["" if value is None else value for value in vars(row).values()] for row in rows)
    return in_letters(text.getvalue())


def predicted_and_calibrated(latency: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Of the ``latency`` of an architecture; the second is None without a calibration."""
    if not latency.get("calibrated"):
        return latency.get("table_ms"), None
    return latency.get("predicted_ms"), latency.get("table_ms")


def _in_words(f: Found) -> str:
    search = {} if f.architecture is None else f.architecture.search
    if f.kind == "reference":
        return f"{search.get('structure')}, width {search.get('width')}"
    if f.kind == "random":
        return "random networks"
    return f"{f.strategy}, derived" if f.kind == "derived" else str(f.strategy or "")


def _row(f: Found, latency: Mapping[str, Any]) -> Row:
    a = f.architecture
    predicted, calibrated = predicted_and_calibrated(latency)
    return Row(
        name=f.name, kind=f.kind, state=f.state, reason=f.reason if f.failed else "", what=_in_words(f), seconds=f.seconds, strategy=f.strategy,
        target=f.target, seed=f.seed, unit=f.unit, expected=latency.get("expected_ms"),
        predicted=predicted, calibrated=calibrated, measured_ms=latency.get("measured_ms"),
        measured_scatter=latency.get("measured_scatter"), table_again_ms=latency.get("table_again_ms"),
        runtime=runtime_of_record(latency), measured_eager_ms=latency.get("measured_eager_ms"), macs=None if a is None else a.macs,
        n_params=None if a is None else a.n_params, metric=f.merit.name, higher_is_better=f.merit.higher_is_better, is_share=f.merit.is_share,
        search_merit=f.search_merit, final_merit=f.final_merit, search_merit_int8=f.search_merit_int8, final_merit_int8=f.final_merit_int8,
        folder=f.folder,
    )  # fmt: skip
