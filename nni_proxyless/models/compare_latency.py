"""Networks timed in turns in one run, so that they can be compared."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import UserError
from ..latency import DeviceEstimator, LookupTable, TableError, TimingError
from ..latency.estimators.device import runs_foreign_code, runtime_of
from ..latency.estimators.whole_networks import time_networks
from ..latency.operation import Shape
from ..latency.tables.lookup_table import OPTIONS
from .architecture import Architecture
from .build import build_network
from .fitted_networks import fitted_networks, speed_of
from .space import make_space

__all__ = ["measure_side_by_side"]

_logger = logging.getLogger(__name__)


def measure_side_by_side(
    architectures: Sequence[Architecture | None], tables: Sequence[Path | None] | None = None
) -> list[dict[str, Any]]:
    """The records under ``latency`` with what the networks take now, timed in turns in one run, so that a drift of the machine hits all alike.

    A network that was measured on another machine or runtime keeps the figures of its own search; the record of None is empty.

    Parameters
    ----------
    tables
        Files of the tables by which the networks were found. Networks that a table was fitted to are timed beside these: ``table_again_ms`` is
        then what it says at the speed that the machine has now.
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
        networks, fitted = {}, _Fitted(wanted)
        for i in here:
            a = architectures[i]
            assert a is not None
            try:
                networks[i] = build_network(a), a.input_shape
            except UserError as error:  # of a space that is not installed here
                _logger.warning("not timed again: %s", error)
                continue
            if tables is not None:
                fitted.add(i, a, tables[i])
        try:
            measured = time_networks(estimator, list(networks.values()), fitted.networks) if networks else []
        except TimingError as error:
            _logger.warning("not timed again: %s", error)
            continue
        speeds = fitted.speeds([m.median_ms for m in measured[len(networks) :]])
        for i, measurement in zip(networks, measured, strict=False):
            table_ms, speed = result[i].get("table_ms"), speeds.get(i)
            result[i].update(
                measured_ms=measurement.median_ms, measured_scatter=measurement.scatter,
                table_again_ms=None if table_ms is None or speed is None else table_ms * speed,
            )  # fmt: skip
    return result


class _Fitted:
    """The networks of several tables, each once, however many tables were fitted to it; a table that several searches share is read once."""

    def __init__(self, conditions: Mapping[str, object]):
        self.networks: list[tuple[nn.Module, Shape]] = []
        self._conditions = conditions
        self._places: dict[Hashable, int] = {}
        self._tables: dict[Hashable, list[tuple[int, float]]] = {}  # places, milliseconds then
        self._of: dict[int, list[tuple[int, float]]] = {}  # number of an architecture -> the same

    def add(self, i: int, architecture: Architecture, path: Path | None) -> None:
        """Those of the table in a file, if it is one of these conditions and of the architecture's space."""
        if path is None or not path.exists():
            return
        of_space = json.dumps([architecture.space, architecture.input_shape])
        table = of_space, path.read_bytes()
        if table not in self._tables:
            self._tables[table] = list(self._timed(architecture, of_space, path))
        self._of[i] = self._tables[table]

    def _timed(self, architecture: Architecture, of_space: str, path: Path) -> Iterator[tuple[int, float]]:
        try:
            table = LookupTable.read(path)
            names = [*self._conditions, OPTIONS]
            if any(table.conditions.get(name) != self._conditions.get(name) for name in names):
                return
            space = make_space(architecture.space["name"], architecture.space["arguments"])
        except (TableError, UserError, ValueError):
            return
        for reference, (network, then) in zip(table.references, fitted_networks(table, space), strict=False):
            key = of_space, json.dumps(dict(reference.architecture), sort_keys=True)
            if key not in self._places:
                self._places[key] = len(self.networks)
                self.networks.append((network, architecture.input_shape))
            yield self._places[key], then

    def speeds(self, now: Sequence[float]) -> dict[int, float | None]:
        """Number of an architecture -> how many times as long as then those of its table take."""
        return {i: speed_of([now[at] for at, _ in of], [then for _, then in of]) for i, of in self._of.items()}
