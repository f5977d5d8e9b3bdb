"""RESULTS.md and the pictures in docs/background/, from the recorded results of the questions; nothing is measured.

    python -m experiments.benchmarks.results

A record is what the long form of a benchmark has left by ``--output``. Each benchmark writes its own section and draws its own
picture; what it says of all of them together stands in FOUND.md, which goes in front.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nni_proxyless.core.atomic_files import write_text

from .common import record

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs" / "background"


class Section(NamedTuple):
    """A part of RESULTS.md: a record, the benchmark that made it, and its picture in docs/background/, if it has one."""

    title: str
    benchmark: str
    record: str
    picture: str | None = None


SECTIONS = [
    Section("Cost of a step", "step_cost", "step_cost.json", "bench_step_cost.svg"),
    Section("Cost over layers and pixels", "step_cost", "step_cost_sweep.json"),
    Section("A whole small search by its steps", "search_overhead", "search_overhead.json"),
    Section("Commands that answer at once", "start_up", "start_up.json"),
    Section("Cost of a whole search", "search_hours", "search_hours.json"),
    Section("A machine that others use too", "busy", "busy.json"),
    Section("Quality of what is found", "quality", "quality.json", "bench_quality.svg"),
    Section("Quality of what is found: seeds 1 to 5, 10,000 test images", "quality", "quality_seeds_1_to_5.json"),
    Section("Quality of what is found: expansions 3 and 6, short trainings", "quality", "quality_expansions_3_6.json"),
    Section("Spaces whose best network is known", "known_answer", "known_answer.json", "bench_known_answer.svg"),
    Section("Accuracy in the supernet against accuracy alone", "ranking", "ranking.json", "bench_ranking.svg"),
    Section("Networks for different targets", "specialization", "specialization.json", "bench_specialization.svg"),
    Section("Truth of a table", "latency_truth", "latency_truth.json", "bench_latency_truth.svg"),
    Section("Truth of a table: another machine", "latency_truth", "latency_truth_epyc.json"),
    Section("Time of an exact derivation", "budget", "budget.json"),
    Section("Scale", "scale", "scale.json", "bench_scale.svg"),
    Section("What DSNAS learns from", "rewards", "rewards.json"),
    Section("DSNAS deployed as it is: digits", "no_retraining", "no_retraining_digits.json"),
    Section("DSNAS deployed as it is: Fashion-MNIST", "no_retraining", "no_retraining_fashion-mnist.json"),
]


def recorded_bars() -> Iterator[tuple[Section, dict[str, Any]]]:
    """Every bar of every record."""
    for section in SECTIONS:
        path = HERE / section.benchmark / "records" / section.record
        if path.exists():
            for bar in json.loads(path.read_text(encoding="utf-8")).get("bars", []):
                yield section, bar


def missed_bars() -> Iterator[str]:
    """What the records have missed by more than their noise."""
    missed = [(section.title, b) for section, b in recorded_bars() if b["verdict"] == "missed"]
    yield from ("", "## Missed bars", "")
    if not missed:
        yield "None."
        return
    rows = [(title, b["bar"], f"{b['value']:.4g}", record.limits(b)) for title, b in missed]
    yield from record.table(("", "bar", "measured", "allowed"), rows)


def lines() -> Iterator[str]:
    """RESULTS.md; a benchmark without a record says so."""
    yield "# What the benchmarks have found"
    yield ""
    yield "Written by `python -m experiments.benchmarks.results` from the records of the questions, and FOUND.md."
    yield ""
    yield from (HERE / "FOUND.md").read_text(encoding="utf-8").splitlines()
    yield from missed_bars()
    for section in SECTIONS:
        yield from ("", f"## {section.title}", "")
        path = HERE / section.benchmark / "records" / section.record
        if path.exists():
            # Deeper headings than this one's.
            for line in importlib.import_module(f"{__package__}.{section.benchmark}.run").markdown(
                json.loads(path.read_text(encoding="utf-8"))
            ):
                yield f"##{line}" if line.startswith("#") else line
        else:
            yield f"Not recorded yet: `python -m experiments.benchmarks.{section.benchmark}.run`."


def main() -> None:
    write_text(HERE / "RESULTS.md", "\n".join(lines()) + "\n")
    for section in SECTIONS:
        path = HERE / section.benchmark / "records" / section.record
        if section.picture and path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            importlib.import_module(f"{__package__}.{section.benchmark}.run").picture(result, DOCS / section.picture)


if __name__ == "__main__":
    main()
