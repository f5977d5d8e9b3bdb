"""The questions, found by looking: every folder beside ``common/`` is one.

QUESTION/
  __init__.py    a first line; PLACE, RECORDS; where needed FIRST and short
  run.py         measures; takes ``--short`` and ``--output FILE``
  report.py      ``markdown(result)``, and ``picture(result, path)`` where a record has one: from the record alone
  records/       what the long form of run.py has left by ``--output``
  README.md      the question, its answer in one line, what was found, where it does not win, how to run it again
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

PACKAGE = __package__.rpartition(".")[0]
NEEDED = ("__init__.py", "run.py", "report.py", "README.md")


class Record(NamedTuple):
    """A file in ``records/``, the heading of its part of RESULTS.md, and its picture in docs/background/, if it has one."""

    file: str
    title: str
    picture: str | None = None


def no_more_words(folder: Path) -> list[str]:
    """The short form needs ``--short`` and ``--output`` alone."""
    return []


@dataclass(frozen=True)
class Question:
    """A folder, and what its ``__init__.py`` says.

    Attributes
    ----------
    package
        Of all questions, for ``python -m``.
    place
        ``PLACE``, in RESULTS.md and in the table of README.md.
    first
        ``FIRST``: it times, so that ``make bench`` runs it before the others, while a machine that was left alone is quiet.
    records
        ``RECORDS``, in the order of RESULTS.md.
    short
        More words of its short form; given the folder of results.
    """

    name: str
    package: str
    folder: Path
    place: float = math.inf
    first: bool = False
    records: tuple[Record, ...] = ()
    short: Callable[[Path], list[str]] = field(default=no_more_words, compare=False)

    @property
    def module(self) -> str:
        return f"{self.package}.{self.name}.run"

    @property
    def report(self) -> ModuleType:
        return importlib.import_module(f"{self.package}.{self.name}.report")

    @property
    def readme(self) -> str:
        return (self.folder / "README.md").read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        """The question itself, as README.md is headed."""
        return self._head()[0]

    @property
    def answer(self) -> str:
        """In one line."""
        return self._head()[1]

    def section(self, title: str) -> list[str]:
        """Lines of a section of README.md; none where it has no such section."""
        found = re.search(rf"^## {re.escape(title)}\n+(.*?)\s*(?=^## |\Z)", self.readme, re.MULTILINE | re.DOTALL)
        return found[1].splitlines() if found else []

    def path(self, record: Record) -> Path:
        return self.folder / "records" / record.file

    def _head(self) -> tuple[str, str]:
        found = re.match(r"# (.+\?)\n\n(.+)\n(?:\n|\Z)", self.readme)
        if found is None:
            raise ValueError(
                f"{self.folder / 'README.md'} begins otherwise; needed: '# question?', an empty line, the answer in one line"
            )
        return found[1], found[2]


def questions(package: str = PACKAGE) -> list[Question]:
    """All of them, by their place."""
    home = Path(next(iter(importlib.import_module(package).__path__)))
    found = [
        _question(package, folder)
        for folder in home.iterdir()
        if folder.is_dir()
        and folder.name != "common"
        and folder.name[0] not in "_."  # __pycache__, an editor's
        and any(path.is_file() for path in folder.iterdir())
    ]
    return sorted(found, key=lambda question: (question.place, question.name))


def _question(package: str, folder: Path) -> Question:
    module = importlib.import_module(f"{package}.{folder.name}")
    names = {"PLACE": "place", "FIRST": "first", "RECORDS": "records", "short": "short"}
    declared: dict[str, Any] = {key: getattr(module, name) for name, key in names.items() if hasattr(module, name)}
    declared["records"] = tuple(Record(*one) for one in declared.get("records", ()))
    return Question(folder.name, package, folder, **declared)


def problems(question: Question) -> list[str]:
    """What a question lacks but for records that are not there yet, a sentence each."""
    found = [f"{question.name}: no {name}" for name in NEEDED if not (question.folder / name).exists()]
    if "README.md" in "".join(found):
        return found
    try:
        question.title  # noqa: B018  (raises)
    except ValueError as error:
        found.append(f"{question.name}: {error}")
    if not question.records:
        found.append(f"{question.name}: no RECORDS in __init__.py")
    known = {record.file for record in question.records}
    texts = "".join(page.read_text(encoding="utf-8") for page in question.folder.glob("*.md"))
    found += [
        f"{question.name}: records/{path.name} is neither in RECORDS nor on a page of its folder"
        for path in sorted(question.folder.glob("records/*"))
        if path.name not in known and path.name not in texts
    ]
    return found


def unrecorded(question: Question) -> list[Record]:
    """Records that are not there yet."""
    return [record for record in question.records if not question.path(record).exists()]
