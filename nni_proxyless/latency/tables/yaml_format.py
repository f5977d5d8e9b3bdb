"""Read and write the YAML file of a lookup table; an error names the row and the reason.

The head says what was measured where, the rows hold median and spread per key:

    format: nni-proxyless lookup table 2
    checksum: 3f1c9a50e17b2d64
    unit: ms
    conditions: {device: …, runtime: torch 2.15.0, threads: 1, batch: 1, precision: float32, resolution: 32x32, …}
    measured: {date: '2026-11-22', method: networks, repeats: 50, drift: 1.01, …}
    space: {name: mobilenetv2, arguments: {preset: small}, input_shape: [1, 16, 16]}
    constant: {median: 0.1, p95: 0.2, count: 350}
    calibration: {fixed_ms: 0.05, slope: 1.01, n_networks: 30, mean_error: 0.01, worst_error: 0.03, date: '2026-11-22'}
    rows:
      expanded_conv-input:16x16x16-output:16x16x16-expand:3-kernel:3-stride:1-idskip:1: {median: 0.2, p95: 0.3, count: 50}
    networks:
    - {architecture: {stage1.0: k3e3, stage1.1: skip, …}, median: 1.7, p95: 1.9, count: 50}
    in_constant: ['Conv-input:32x32x3-output:16x16x16', …]
    references:
    - {architecture: {stage1.0: k5e6, stage1.1: k3e3, …}, median: 0.4, p95: 0.4, count: 120}

``networks`` are whole networks that were timed on the target together with the rows, where ``latency check`` cannot do it. A table
that was fitted to whole networks has ``in_constant``, the operations that all of these run, and ``references``, some of them, to see by
whether the machine is as it was. ``space``, ``constant``, ``calibration`` and these three may be missing; a row may be marked ``predicted: true``. The checksum is over
everything else: a digit that was changed by accident is not taken for a measurement. Whoever writes a table by hand leaves
it out. Numbers have twelve significant digits, so that a table in seconds or joules is written as well as one in
milliseconds. Published tables (ProxylessNAS, once-for-all) are ``key: {count, mean, …}`` without a head.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...core.atomic_files import write_text
from ...core.errors import did_you_mean
from ...core.plain_values import as_plain
from ..calibration import Calibration
from ..digits import significant
from ..estimators.device import Measurement
from .checksum import checksum

__all__ = ["FORMAT", "TableError", "TimedNetwork", "read_table", "write_table"]

FORMAT = "nni-proxyless lookup table 2"
TOO_LONG = 1e8  # milliseconds, more than a day per operation: no measurement; of another unit nobody knows
NEEDED = ("format", "unit", "conditions", "measured", "rows")
OPTIONAL = ("checksum", "space", "constant", "calibration", "networks", "in_constant", "references")


class TableError(ValueError):
    """A table that cannot be used: unreadable, foreign, or measured under other conditions."""


@dataclass(frozen=True)
class TimedNetwork:
    """A whole network, timed on the target of its table.

    Attributes
    ----------
    architecture
        Label -> choice.
    measurement
        In milliseconds.
    """

    architecture: Mapping[str, Any]
    measurement: Measurement


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but with an error for a key given twice, where the plain one silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = key_node.value
            line = key_node.start_mark.line + 1
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"'{key}' stands twice, in lines {seen[key]} and {line}", problem_mark=key_node.start_mark
                )
            if isinstance(key, str):
                seen[key] = line
        return super().construct_mapping(node, deep)


def read_table(path: str | Path) -> dict[str, Any]:
    """The parts of a table, checked: rows, conditions, measured, unit, space, constant, calibration, networks, in_constant,
    references.

    Raises
    ------
    TableError
        With the file, the row and the reason. There is no partial load.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a safe loader, see above
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise TableError(f"{path}: not a whole YAML file: {where}{error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise TableError(f"{path}: not YAML: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    if not isinstance(content, dict):
        raise TableError(f"{path}: not a lookup table: expected a mapping, got {type(content).__name__}")
    if not content:
        raise TableError(f"{path}: not a lookup table: it is empty")
    if "format" not in content:  # the published layouts have rows only
        return {"rows": _rows(path, content, "mean", None), "conditions": {"source": path.name}}
    return _own_format(path, content)


def _own_format(path: Path, content: Mapping[Any, Any]) -> dict[str, Any]:
    if content["format"] != FORMAT:
        raise TableError(f"{path}: format is {content['format']!r}; allowed: {FORMAT!r}. Measure the table anew")
    for name in content:
        if name not in (*NEEDED, *OPTIONAL):
            raise TableError(
                f"{path}: unknown part {name!r}; allowed: {', '.join((*NEEDED, *OPTIONAL))}.{did_you_mean(name, (*NEEDED, *OPTIONAL))}"
            )
    for name in ("conditions", "measured", "rows", "space", "constant", "calibration"):
        if (name in NEEDED or name in content) and not isinstance(content.get(name), dict):
            raise TableError(f"{path}: {name} is missing or not a mapping")
    if not isinstance(content.get("unit"), str):
        raise TableError(f"{path}: unit is {content.get('unit')!r}; allowed: a text such as 'ms'")
    if not content["rows"]:
        raise TableError(f"{path}: rows is empty")
    for name, value in content["conditions"].items():
        if not isinstance(name, str) or not isinstance(value, (str, int, float)) or value != value:
            raise TableError(f"{path}: conditions: {name!r} is {value!r}; allowed: a text or a number")
    parts: dict[str, Any] = {name: content[name] for name in ("conditions", "measured", "unit")}
    most = TOO_LONG if content["unit"] == "ms" else math.inf
    parts["rows"] = _rows(path, content["rows"], "median", "p95", most)
    if "space" in content:
        parts["space"] = _space(path, content["space"])
    if "constant" in content:
        parts["constant"] = _row(f"{path}: constant", content["constant"], "median", "p95", most, least=-most)
    if "calibration" in content:
        given, names = content["calibration"], [field.name for field in dataclasses.fields(Calibration)]
        if set(given) != set(names):
            raise TableError(
                f"{path}: calibration has {', '.join(map(str, given)) or 'nothing'}; allowed: {', '.join(names)}"
            )
        try:
            parts["calibration"] = Calibration(**given)
        except (TypeError, ValueError) as error:
            raise TableError(f"{path}: calibration: {error}") from error
    for name in ("networks", "references"):
        if name in content:
            parts[name] = _networks(path, name, content[name], most)
    if "in_constant" in content:
        parts["in_constant"] = _keys(path, content["in_constant"])
        if "constant" not in content:
            raise TableError(
                f"{path}: in_constant names operations whose cost is in constant, which is missing. Measure the table anew"
            )
    if "checksum" in content and content["checksum"] != (found := checksum(content)):
        raise TableError(
            f"{path}: the content is not what was measured: checksum is {content['checksum']!r}, that of the content {found!r}. "
            "If you have changed it on purpose, delete the line 'checksum'"
        )
    return parts


def write_table(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write the parts of a table atomically."""
    plain: dict[str, Any] = {"format": FORMAT, "checksum": "", "unit": content["unit"]}
    for name in ("conditions", "measured", "space"):
        if content.get(name) is not None:
            plain[name] = dict(content[name])
    if content.get("constant") is not None:
        plain["constant"] = _plain(content["constant"])
    if content.get("calibration") is not None:
        plain["calibration"] = content["calibration"].plain()
    plain["rows"] = {key: _plain(row) for key, row in sorted(content["rows"].items())}
    if content.get("in_constant"):
        plain["in_constant"] = sorted(content["in_constant"])
    for name in ("networks", "references"):
        if content.get(name):
            plain[name] = [  # NNI's labels are texts of a kind of their own, which YAML does not know
                {
                    "architecture": {str(label): as_plain(choice) for label, choice in n.architecture.items()},
                    **_plain(n.measurement),
                }
                for n in content[name]
            ]
    # The checksum is of what a reader gets: YAML has no tuples.
    text = yaml.safe_dump({name: part for name, part in plain.items() if name != "checksum"}, sort_keys=False)
    plain["checksum"] = checksum(yaml.safe_load(text))
    write_text(path, yaml.safe_dump(plain, sort_keys=False, width=200))


def _plain(row: Measurement) -> dict[str, Any]:
    plain = {"median": significant(row.median_ms), "p95": significant(row.p95_ms), "count": row.count}
    return {**plain, "predicted": True} if row.predicted else plain


def _rows(
    path: Path, rows: Mapping[Any, Any], center: str, spread: str | None, most: float = TOO_LONG
) -> dict[str, Measurement]:
    for key in rows:
        if not isinstance(key, str):
            raise TableError(f"{path}: row '{key}': the key is a {type(key).__name__}; allowed: a text")
    return {key: _row(f"{path}: row '{key}'", row, center, spread, most) for key, row in rows.items()}


def _row(where: str, row: Any, center: str, spread: str | None, most: float, least: float = 0) -> Measurement:
    def number(name: str) -> float:
        value = row.get(name) if isinstance(row, dict) else None
        lowest = 0 if name == "count" else least
        # An integer may be too large for a float, so it is compared before it is made one.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value < most:
            allowed = "finite number" if lowest else "number of 0 or more"
            if isinstance(value, (int, float)) and most <= value < math.inf:
                allowed += f", below {most:g}"
            raise TableError(f"{where}: {name} is {value!r}; allowed: a {allowed}")
        return float(value)

    count = number("count")
    if count < 1 or count != int(count):
        raise TableError(f"{where}: count is {row['count']!r}; allowed: a whole number of 1 or more")
    predicted = row.get("predicted", False)
    if not isinstance(predicted, bool):
        raise TableError(f"{where}: predicted is {predicted!r}; allowed: true, false")
    if spread is not None and (unknown := row.keys() - {center, spread, "count", "predicted"}):
        raise TableError(f"{where}: unknown {sorted(map(str, unknown))}; allowed: {center}, {spread}, count, predicted")
    return Measurement(number(center), number(spread or center), int(count), predicted)


def _space(path: Path, space: Mapping[Any, Any]) -> dict[str, Any]:
    shape = space.get("input_shape")
    if (
        set(space) != {"name", "arguments", "input_shape"}
        or not isinstance(space["name"], str)
        or not isinstance(space["arguments"], dict)
        or not isinstance(shape, list)
        or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
    ):
        raise TableError(f"{path}: space is {space!r}; allowed: name, arguments (a mapping), input_shape (a list)")
    return dict(space)


def _keys(path: Path, keys: Any) -> list[str]:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise TableError(f"{path}: in_constant is {keys!r}; allowed: a list of keys")
    return keys


def _networks(path: Path, part: str, networks: Any, most: float) -> list[TimedNetwork]:
    if not isinstance(networks, list) or not networks:
        raise TableError(f"{path}: {part} is {networks!r}; allowed: a list of one network or more")
    found: dict[str, int] = {}
    timed = []
    for i, network in enumerate(networks, start=1):
        where = f"{path}: {part.rstrip('s')} {i}"
        names = ("architecture", "median", "p95", "count")
        if not isinstance(network, dict) or set(network) != set(names):
            raise TableError(f"{where}: {network!r}; allowed: a mapping of {', '.join(names)}")
        architecture = network["architecture"]
        if not isinstance(architecture, dict) or not architecture:
            raise TableError(f"{where}: architecture is {architecture!r}; allowed: a mapping of labels to choices")
        for label, choice in architecture.items():
            if not isinstance(label, str) or not _is_choice(choice):
                raise TableError(
                    f"{where}: {label!r} has the choice {choice!r}; allowed: a text, a number, or a list of them"
                )
        first = found.setdefault(repr(sorted(architecture.items())), i)
        if first != i:
            raise TableError(f"{where}: the same architecture as {part.rstrip('s')} {first}")
        times = {name: value for name, value in network.items() if name != "architecture"}
        measurement = _row(where, times, "median", "p95", most)
        if measurement.median_ms == 0:
            raise TableError(f"{where}: median is {network['median']!r}; allowed: greater than 0")
        timed.append(TimedNetwork(architecture, measurement))
    return timed


def _is_choice(choice: Any) -> bool:
    if isinstance(choice, list):
        return all(map(_is_choice, choice))
    return choice is None or (isinstance(choice, (str, int, float)) and choice == choice)
