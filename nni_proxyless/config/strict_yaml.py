"""Read YAML strictly: ambiguous or unbounded input is refused, with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import UserError, shown

__all__ = ["YAML_OF_NNI", "parse_value", "read_yaml"]

MOST_VALUES = 10_000  # in one file, aliases followed: a few lines of aliases can stand for more than a memory holds
_MERGE = "tag:yaml.org,2002:merge"


class _Strict(yaml.SafeLoader):
    """safe_load that refuses a key given twice, a value that its tag does not fit, and aliases without end."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _unfolded(node, {}, set()) > MOST_VALUES:
            raise _at(node, f"aliases followed, there are more than {MOST_VALUES} values")
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        # Here and not where mappings are made of nodes: there, merged keys have joined a mapping's own.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE else None
            if name in seen:
                raise _at(key, f"key '{key.value}' stands there twice")
            if name is not None:
                seen.add(name)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # 2026-02-31, !!int x, !!bool maybe
            raise _at(node, f"{shown(node.value)} is no {node.tag.rpartition(':')[2]}") from error


class _WithFloats(_Strict):
    """The same, and 1e-3 is a number, as for YAML 1.2 and every reader of files."""


_WithFloats.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)

YAML_OF_NNI = _Strict  # to NNI's own reader 1e-3 is text


def read_yaml(path: str | Path, *, example: str = "", loader: Any = _WithFloats) -> dict[str, Any]:
    """Read the mapping in a file; an empty file gives an empty mapping.

    Parameters
    ----------
    path
        The file, in UTF-8.
    example
        Keys that such a file has, for the message when it has none.
    loader
        :data:`YAML_OF_NNI` for values as NNI sees them.

    Raises
    ------
    UserError
        No such file, no text, no YAML, no mapping; names the file, the line and what is there.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: byte 0x{content[error.start]:02x} is no UTF-8 text") from error
    found = _load(text, loader, str(path))
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected keys{f' such as {example}' if example else ''}, got {type(found).__name__}")
    return found


def parse_value(text: str, source: str = "command line") -> Any:
    """A value from the command line, read as YAML.

    Raises
    ------
    UserError
        It is none, or has a comment, which would be lost without a word.
    """
    where = f"{source}: {shown(text)} is not a value"
    value = _load(text, _WithFloats, where)
    for found in re.finditer(r"(?:^|\s)#", text):
        try:
            rest = yaml.load(text[: found.start()], Loader=_WithFloats)  # a SafeLoader
        except yaml.YAMLError:  # cut inside of quotes
            continue
        if rest == value:
            raise UserError(
                f"{where}: to YAML all behind '#' is a comment; allowed: quotes around the value, '\"{text.strip()}\"'"
            )
    return value


def _load(text: str, loader: Any, where: str) -> Any:
    try:
        return yaml.load(text, Loader=loader)  # a SafeLoader
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{where}: line {line}: character #x{error.character:04x} is not allowed in YAML") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{where}: line {mark.line + 1 if mark else '?'}: {what}") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply") from error


def _unfolded(node: Any, known: dict[int, int], above: set[int]) -> int:
    """How many values a node stands for, aliases followed."""
    if id(node) in above:
        raise _at(node, "an alias stands in what it is an alias of")
    if id(node) not in known:
        above.add(id(node))
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_unfolded(part, known, above) for part in parts)
        above.remove(id(node))
    return known[id(node)]


def _at(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
