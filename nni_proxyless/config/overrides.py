"""Override single values of a file by dotted path: ``training.epochs=60``, ``costs.0.target``.

Who changes a name (``latency.estimator.name=macs``) means what the file says for the old name to go: its arguments and, of an
estimator, the table that it has measured. Who changes a ``runtime`` means its options to go, and the table. A section's own keys, such as
``data.batch_size``, and whatever overrides give, stay. Of a file with ``strategies``, what stands in ``strategy`` is for each of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import UserError
from ..core.user_path import user_path
from ..latency.runtimes.default import default_runtime
from .search_config import TIMES
from .strict_yaml import parse_value

__all__ = ["NamedPath", "Override", "file_and_overrides", "is_file", "override"]

_logger = logging.getLogger(__name__)

Override = tuple[str, str, Any]
"""Source, for messages; dotted path; value."""

STRATEGY, STRATEGIES, TABLE, ESTIMATOR, RUNTIME = "strategy", "strategies", "table", "estimator", "runtime"
_warned_of: set[str] = set()  # an experiment's trials are checked one after the other


class NamedPath(NamedTuple):
    """Where a section stands that names something, the keys that are its own, and the name that it has without one."""

    path: tuple[str, ...]
    own: frozenset[str]
    default: str | None


def override(
    content: dict[str, Any], overrides: Sequence[Override], named: Sequence[NamedPath]
) -> tuple[dict[str, Any], list[str]]:
    """Apply overrides in order; return the new content and the problems found."""
    content = _unshared(content)
    for where in named:
        _drop_old_arguments(content, overrides, where)
        if where.path[-1] == ESTIMATOR:
            _drop_what_old_runtime_has(content, overrides, where)
    problems = []
    for source, dotted, value in overrides:
        keys = tuple(dotted.split("."))
        try:
            _set(content, keys, _unshared(value))
        except TypeError:
            problems.append(f"{source}: '{dotted}': '{'.'.join(keys[:-1])}' is not a section")
    return content, problems


def file_and_overrides(items: Sequence[str], source: str = "command line") -> tuple[str | None, list[Override]]:
    """Split the words after a command: at most one configuration file, and overrides ``key=value`` for :func:`override`."""
    files = [item for item in items if is_file(item)]
    if len(files) > 1:
        raise UserError(
            f"{source}: more than one configuration file: {', '.join(files)}; overrides have the form key=value"
        )
    pairs = [item.partition("=") for item in items if not is_file(item)]
    return (str(user_path(files[0], source)) if files else None), [
        (source, key, parse_value(value, source)) for key, _, value in pairs
    ]


def is_file(item: str) -> bool:
    """Whether a word after a command is a configuration file, not an override."""
    return "=" not in item or os.path.isfile(item)  # runs/lr=0.1/search.yml


def _drop_old_arguments(content: dict[str, Any], overrides: Sequence[Override], where: NamedPath) -> None:
    """Drop the file's arguments of a name that an override changes."""
    named = [
        (source, value) for source, dotted, value in overrides if tuple(dotted.split(".")) == (*where.path, "name")
    ]
    if not named:
        return
    *above, section = _sections(content, where.path)
    if not isinstance(section, dict):
        section = {}
    (source, name), old = named[-1], section.get("name", where.default)
    if name == old or (where.path == (STRATEGY,) and isinstance(content.get(STRATEGIES), Mapping)):
        return
    gone = [key for key in section if key not in where.own]
    for key in gone:
        del section[key]
    if where.path[-1] == ESTIMATOR and not _needs_table(name):
        gone += _drop_table(above[-1], where)
    _say_left_out(f"{source}: {'.'.join(where.path)} is {name}", gone, old)


def _drop_what_old_runtime_has(content: dict[str, Any], overrides: Sequence[Override], where: NamedPath) -> None:
    """Drop the file's options and table of a runtime that an override changes."""
    named = {dotted: (source, value) for source, dotted, value in overrides}
    runtime_path = ".".join((*where.path, RUNTIME))
    *above, section = _sections(content, where.path)
    if runtime_path not in named or ".".join((*where.path, "name")) in named or not isinstance(section, dict):
        return
    source, runtime = named[runtime_path]
    if section.get("name", where.default) != TIMES:
        return
    old = section.get(RUNTIME) or default_runtime(str(section.get("device", "cpu")))
    if runtime == old:
        return
    gone = [] if section.pop("options", None) is None else ["options"]
    gone += _drop_table(above[-1], where)
    _say_left_out(f"{source}: {runtime_path} is {runtime}", gone, old)


def _drop_table(holder: Any, where: NamedPath) -> list[str]:
    """Drop the table of an estimator; returns its place, if there was one."""
    if not isinstance(holder, dict) or holder.get(TABLE) is None:
        return []
    del holder[TABLE]
    return [f"{'.'.join(where.path[:-1])}.{TABLE}"]


def _say_left_out(what: str, gone: Sequence[Any], old: Any) -> None:
    text = f"{what}: left out {', '.join(map(str, gone))}, which the file has for {old}"
    if gone and text not in _warned_of:
        _warned_of.add(text)
        _logger.info("%s", text)


def _sections(content: Any, path: Sequence[str]) -> list[Any]:
    """The file itself, and what stands in it on the way along the path; None from where there is nothing."""
    found = [content]
    for key in path:
        inner = found[-1]
        if isinstance(inner, list) and key.isdecimal() and int(key) < len(inner):
            found.append(inner[int(key)])
        else:
            found.append(inner.get(key) if isinstance(inner, dict) else None)
    return found


def _unshared(value: Any) -> Any:
    """A copy in which no two places are one, as aliases of YAML make them: a value that is put into one is meant for that."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _needs_table(name: Any) -> bool:
    from ..latency import TableOnly
    from . import registry

    try:
        estimator = registry.load("nni_proxyless.estimators", str(name))
    except ValueError:  # which is said where names are checked
        return True
    return isinstance(estimator, type) and issubclass(estimator, TableOnly)


def _set(content: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    for i, key in enumerate(keys[:-1]):
        inner = content.setdefault(key, {})
        if isinstance(inner, list) and keys[i + 1].isdecimal() and int(keys[i + 1]) < len(inner):
            entries = {str(n): entry for n, entry in enumerate(inner)}  # costs.0.target: an entry of a list
            _set(entries, keys[i + 1 :], value)
            inner[:] = entries.values()
            return
        if not isinstance(inner, dict):
            raise TypeError
        content = inner
    content[keys[-1]] = value
