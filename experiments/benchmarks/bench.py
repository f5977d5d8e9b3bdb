"""A short form of every benchmark, one after the other; fails where a bar is missed by more than the noise of its run.

    make bench                                       # or: python -m experiments.benchmarks.bench --folder bench

Each runs in a process of its own, leaves JSON, picture and log in the folder, and does not stop the others. On two cores that do
nothing else all take less than 20 minutes. What the long forms have found stands in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import results
from .common import record
from .common.questions import PACKAGE, Question, questions


def run(question: Question, folder: Path) -> dict[str, Any]:
    """One benchmark: how it ended, and its bars."""
    output, log = folder / f"{question.name}.json", folder / f"{question.name}.log"
    output.unlink(missing_ok=True)
    words = [sys.executable, "-m", question.module, "--short", "--output", str(output), *question.short(folder)]
    root = question.folder.parents[question.package.count(".") + 1]
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False, env=environment(), cwd=root)
    bars = json.loads(output.read_text(encoding="utf-8"))["bars"] if output.exists() else []
    # 1 with a result is a missed bar, which the result tells itself.
    failed = done.returncode != 0 and not (done.returncode == 1 and record.missed(bars))
    return {"benchmark": question.name, "seconds": round(time.monotonic() - began, 1), "failed": failed, "bars": bars}


def environment() -> dict[str, str]:
    """Threads are set on purpose by each benchmark; those that wait must not spin, and a log is no place for NNI's warnings."""
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}


def missed_in_records(package: str) -> set[tuple[str, str]]:
    """Benchmark and bar of all that the long forms have missed, as RESULTS.md says."""
    return {(question.name, b["bar"]) for question, _, b in results.recorded_bars(package) if b["verdict"] == "missed"}


def markdown(runs: list[dict[str, Any]], titles: dict[str, str]) -> list[str]:
    """Which ran for how long, and every bar."""
    rows = []
    for found in runs:
        ended = "FAILED" if found["failed"] else record.counted([b["verdict"] for b in found["bars"]])
        rows.append((found["benchmark"], titles[found["benchmark"]], f"{found['seconds'] / 60:.1f}", ended))
    bars = [b | {"bar": f"{found['benchmark']}: {b['bar']}"} for found in runs for b in found["bars"]]
    return [*record.table(("benchmark", "", "minutes", "bars"), rows), "", *record.bars_table(bars)]


def main(arguments: list[str] | None = None, package: str = PACKAGE) -> None:
    # Those that time come first, while a machine that has just been left alone is quiet.
    every = {question.name: question for question in sorted(questions(package), key=lambda q: not q.first)}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="of results and logs (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=sorted(every), default=list(every), metavar="NAME", help=", ".join(every)
    )
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder, runs = options.folder.resolve(), []
    for name in options.only:
        print(f"{name}: {every[name].title} …", end=" ", file=sys.stderr, flush=True)
        runs.append(run(every[name], folder))
        print(f"{runs[-1]['seconds'] / 60:.1f} min", file=sys.stderr)
        result = record.provenance(__file__, options, sum(r["seconds"] for r in runs)) | {"runs": runs}
        record.write(result, folder / "bench.json")
    titles = {name: question.title for name, question in every.items()}
    print("\n".join([*record.head(result), "", *markdown(runs, titles)]))
    wrong = [f"{r['benchmark']}: failed, see {options.folder / r['benchmark']}.log" for r in runs if r["failed"]]
    known = missed_in_records(package)
    wrong += [
        f"{r['benchmark']}: {record.missed([b])[0]}{' (in its record too)' if (r['benchmark'], b['bar']) in known else ''}"
        for r in runs
        for b in r["bars"]
        if b["verdict"] == "missed"
    ]
    if wrong:
        raise SystemExit("\n".join(["", "missed:", *wrong]))


if __name__ == "__main__":
    main()
