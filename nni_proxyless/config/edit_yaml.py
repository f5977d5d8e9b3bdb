"""Edit a YAML file of two levels line by line, which keeps its comments.

PyYAML drops comments when it reads.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["remove", "set_value"]

COMMENTS = 31  # the column of a line's comment, where there is room
_LINE = re.compile(r"(?P<before>\s*[\w.]+:)(?P<space>\s*)(?P<value>[^#]*?)(?P<comment>\s+#.*)?$")


def set_value(text: str, path: str, value: Any, comment: str | None = None) -> str:
    """The text with another value at ``key`` or ``section.key``; a key that is not there joins its section at the end.

    Parameters
    ----------
    text
        YAML: sections flush left, their keys below, each value on the line of its key.
    path
        Where.
    value
        What YAML can say on one line.
    comment
        In the place of the one that is there; None: that one stays.

    Raises
    ------
    KeyError
        No such section.
    """
    lines = text.splitlines()
    found = _find(lines, path)
    said = yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True).strip()[1:-1]
    if found is None:
        section, _, key = path.partition(".")
        at = _end_of_section(lines, section)
        start = f"  {key}: {said}"
        lines.insert(at, f"{start:<{COMMENTS - 2}}  # {comment}" if comment else start)
    else:
        match = _LINE.fullmatch(lines[found])
        assert match, lines[found]
        start = f"{match['before']}{match['space'] or ' '}{said}"
        kept = (match["comment"] or "").strip() if comment is None else f"# {comment}"
        lines[found] = f"{start:<{lines[found].index('#') if match['comment'] else COMMENTS}}{kept}" if kept else start
        if kept and not lines[found][len(start)].isspace():
            lines[found] = f"{start}  {kept}"
    return "\n".join(lines) + "\n"


def remove(text: str, path: str) -> str:
    """Remove a key; a missing key is ignored."""
    lines = text.splitlines()
    found = _find(lines, path)
    if found is not None:
        del lines[found]
    return "\n".join(lines) + "\n"


def _find(lines: list[str], path: str) -> int | None:
    """The line of a key, at the top or in a section; the key may have dots, as in a searchSpace."""
    section, _, key = path.partition(".")
    inside = False
    for i, line in enumerate(lines):
        if re.match(r"[\w.]", line):
            if not key and line.startswith(f"{section}:"):
                return i
            inside = bool(key) and line.startswith(f"{section}:")
        elif inside and re.match(rf"\s+{re.escape(key)}:", line):
            return i
    return None


def _end_of_section(lines: list[str], section: str) -> int:
    begin = _find(lines, section)
    if begin is None:
        raise KeyError(section)
    at = begin + 1
    while at < len(lines) and lines[at].startswith("  "):
        at += 1
    return at
