"""Lookup tables: latencies measured once, read ever after.

One YAML file. Its head says what was measured where, its rows hold median and spread per key:

    format: nni-proxyless lookup table 1
    unit: ms
    conditions: {device: …, runtime: torch 2.15.0, threads: 1, batch: 1, precision: float32, resolution: 32x32}
    measured: {date: '2026-11-22', repeats: 50, warmup: 10}
    rows:
      expanded_conv-input:16x16x16-output:16x16x16-expand:3-kernel:3-stride:1-idskip:1: {median: 0.2, p95: 0.3, count: 50}

The layout of the published ProxylessNAS tables, ``key: {count, mean, var}`` without a head, is read as well.
"""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from nni.nas.nn.pytorch import ModelSpace

from ..files import write_text
from .device import DeviceEstimator, Measurement
from .estimator import LatencyEstimator
from .operation import Operation, Shape, shape_text, trace_operations

__all__ = ["LookupTable", "TableError", "build_lookup_table"]

FORMAT = "nni-proxyless lookup table 1"


class TableError(ValueError):
    """A table that cannot be used: unreadable, foreign, or measured under other conditions."""


class LookupTable(LatencyEstimator):
    """Latencies by key.

    Parameters
    ----------
    rows
        Key -> :class:`~nni_proxyless.latency.Measurement`.
    conditions
        What they hold for. A published table does not say; it has the name of its file.
    source
        Where the table comes from, for messages.
    """

    def __init__(
        self,
        rows: Mapping[str, Measurement],
        conditions: Mapping[str, object] | None = None,
        *,
        measured: Mapping[str, object] | None = None,
        source: str = "lookup table",
    ):
        self.rows = dict(rows)
        self._conditions = dict(conditions or {})
        self.measured = dict(measured or {})
        self.source = source

    @property
    def conditions(self) -> Mapping[str, object]:
        return self._conditions

    def estimate(self, operation: Operation) -> float:
        """Median milliseconds of the operation's row.

        Raises
        ------
        KeyError
            No such row; the message names the key and the nearest ones.
        """
        row = self.rows.get(operation.key)
        if row is None:
            near = difflib.get_close_matches(operation.key, self.rows, n=3, cutoff=0.0)
            raise KeyError(
                f"{self.source}: no row '{operation.key}'; the nearest: {', '.join(near) or 'the table is empty'}"
            )
        return row.median_ms

    @classmethod
    def read(cls, path: str | Path) -> LookupTable:
        """Read a table, of this project's layout or of the published one.

        Raises
        ------
        TableError
            With the file, the row and the reason. There is no partial load.
        """
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise TableError(f"{path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise TableError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(content, dict):
            raise TableError(f"{path}: not a lookup table: expected a mapping, got {type(content).__name__}")
        if not content:
            raise TableError(f"{path}: not a lookup table: it is empty")

        if "format" not in content:  # the published layout has rows only
            rows = {k: _row(path, k, v, "mean", None) for k, v in content.items()}
            return cls(rows, {"source": path.name}, source=str(path))
        if content["format"] != FORMAT:
            raise TableError(f"{path}: format is {content['format']!r}; allowed: {FORMAT!r}")
        if content.get("unit") != "ms":
            raise TableError(f"{path}: unit is {content.get('unit')!r}; allowed: 'ms'")
        for part in ("conditions", "measured", "rows"):
            if not isinstance(content.get(part), dict):
                raise TableError(f"{path}: {part} is missing or not a mapping")
        rows = {k: _row(path, k, v, "median", "p95") for k, v in content["rows"].items()}
        return cls(rows, content["conditions"], measured=content["measured"], source=str(path))

    def write(self, path: str | Path) -> None:
        """Write the table, all of it or, if that fails, nothing."""
        content = {
            "format": FORMAT,
            "unit": "ms",
            "conditions": dict(self.conditions),
            "measured": self.measured,
            "rows": {
                key: {"median": round(row.median_ms, 6), "p95": round(row.p95_ms, 6), "count": row.count}
                for key, row in sorted(self.rows.items())
            },
        }
        write_text(path, yaml.safe_dump(content, sort_keys=False, width=200))

    def require(self, conditions: Mapping[str, object]) -> None:
        """Refuse a table whose numbers hold for something else.

        Raises
        ------
        TableError
            Names every condition that differs, with both values.
        """
        differ = [
            f"{k} is {self.conditions[k]!r} in the table, {v!r} here"
            for k, v in conditions.items()
            if k in self.conditions and self.conditions[k] != v
        ]
        if differ:
            raise TableError(
                f"{self.source}: measured under other conditions: {'; '.join(differ)}. Name another file to measure anew, "
                "or delete this one."
            )


def build_lookup_table(
    space: ModelSpace,
    input_shape: Shape,
    estimator: DeviceEstimator,
    *,
    progress: Callable[[], None] | None = None,
) -> LookupTable:
    """Measure every operation of a space once, however often it occurs.

    Parameters
    ----------
    space
        Any NNI ``ModelSpace`` of ``LayerChoice``.
    input_shape
        Of one sample, (channels, height, width).
    estimator
        Where and how to measure.
    progress
        Called once per round of measurements, ``estimator.repeats`` times in all.
    """
    operations = {op.key: op for op in trace_operations(space, input_shape)}
    measured = estimator.measure([(op.module, op.input_shape) for op in operations.values()], progress=progress)
    return LookupTable(
        dict(zip(operations, measured, strict=True)),
        {**estimator.conditions, "resolution": shape_text(input_shape[1:] or input_shape)},
        measured={"date": datetime.date.today().isoformat(), "repeats": estimator.repeats, "warmup": estimator.warmup},
    )


def _row(path: Path, key: Any, row: Any, center: str, spread: str | None) -> Measurement:
    def number(name: str) -> float:
        value = row.get(name) if isinstance(row, dict) else None
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise TableError(f"{path}: row '{key}': {name} is {value!r}; allowed: a number of 0 or more")
        return float(value)

    count = number("count")
    if count < 1 or count != int(count):
        raise TableError(f"{path}: row '{key}': count is {row['count']!r}; allowed: a whole number of 1 or more")
    return Measurement(number(center), number(spread or center), int(count))
