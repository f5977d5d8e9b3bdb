"""RESULTS.md, the table in README.md and the pictures in docs/background/, from what the questions have recorded; nothing is measured.

    python -m experiments.benchmarks.results

A record is what the long form of a benchmark has left by ``--output``. Each question writes its own part and draws its own
picture; what its README.md says under "Where it does not win" goes in front.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nni_proxyless.core.atomic_files import write_text

from . import ROOT
from .common import record
from .common.questions import PACKAGE, Question, Record, problems, questions, unrecorded

HERE = Path(__file__).resolve().parent
DOCS = ROOT / "docs" / "background"
BEGIN, END = "<!-- written by results.py -->", "<!-- end -->"


def recorded(question: Question) -> Iterator[tuple[Record, dict[str, Any]]]:
    """What lies in its ``records/``, as RECORDS names it."""
    for one in question.records:
        if one not in unrecorded(question):
            yield one, json.loads(question.path(one).read_text(encoding="utf-8"))


def recorded_bars(package: str = PACKAGE) -> Iterator[tuple[Question, Record, dict[str, Any]]]:
    """Every bar of every record."""
    for question in questions(package):
        for one, result in recorded(question):
            for bar in result.get("bars", []):
                yield question, one, bar


def where_it_does_not_win(package: str = PACKAGE) -> Iterator[str]:
    """That section of every README.md."""
    yield from ("## Where this project does not win", "")
    for question in questions(package):
        if lines := question.section("Where it does not win"):
            yield from (f"[{question.title}]({question.name}/README.md)", "", *lines, "")


def missed_bars(package: str = PACKAGE) -> Iterator[str]:
    """What the records have missed by more than their noise."""
    missed = [(one.title, b) for _, one, b in recorded_bars(package) if b["verdict"] == "missed"]
    yield from ("## Missed bars", "")
    if not missed:
        yield "None."
        return
    rows = [(title, b["bar"], f"{b['value']:.4g}", record.limits(b)) for title, b in missed]
    yield from record.table(("", "bar", "measured", "allowed"), rows)


def lines(package: str = PACKAGE) -> Iterator[str]:
    """RESULTS.md; a record that is not there yet is named with the command that makes it."""
    yield from ("# What the benchmarks have found", "")
    yield from (f"Written by `python -m {PACKAGE}.results` from records/ and README.md of every question.", "")
    yield from where_it_does_not_win(package)
    yield from missed_bars(package)
    for question in questions(package):
        results = dict(recorded(question))
        for one in question.records:
            yield from ("", f"## {one.title}", "")
            if one not in results:
                yield f"Not recorded yet: `python -m {question.module}`."
                continue
            for line in question.report.markdown(results[one]):  # deeper headings than this one's
                yield f"##{line}" if line.startswith("#") else line


def front(package: str = PACKAGE) -> list[str]:
    """The table of README.md."""
    rows = []
    for question in questions(package):
        results = [result for _, result in recorded(question)]
        verdicts = [b["verdict"] for result in results for b in result.get("bars", [])]
        dates, lacking = sorted({result["date"] for result in results}), len(unrecorded(question))
        recorded_on = ", ".join(dates) + (f"; {lacking} not yet" if lacking else "") if dates else "not recorded yet"
        rows.append((
            f"[{question.title}]({question.name}/README.md)", question.answer,
            recorded_on, record.counted(verdicts),
        ))  # fmt: skip
    return record.table(("question", "answer", "recorded", "bars"), rows)


def with_front(page: str) -> str:
    """README.md with its table written anew."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"README.md: no table between '{BEGIN}' and '{END}'")
    return "\n".join([before + BEGIN, *front(), END + after])


def main() -> None:
    if lacking := [problem for question in questions() for problem in problems(question)]:
        raise SystemExit("\n".join(lacking))
    write_text(HERE / "RESULTS.md", "\n".join(lines()) + "\n")
    write_text(HERE / "README.md", with_front((HERE / "README.md").read_text(encoding="utf-8")))
    for question in questions():
        for one, result in recorded(question):
            if one.picture:
                question.report.picture(result, DOCS / one.picture)


if __name__ == "__main__":
    main()
