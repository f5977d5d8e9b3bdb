"""A short form of every benchmark, one after the other; fails where a bar is missed by more than the noise of its run.

    make bench                                       # or: python -m experiments.benchmarks.bench --folder bench

Each runs in a process of its own, leaves JSON, picture and log in the folder, and does not stop the others. On two cores that do
nothing else all take less than 20 minutes. What the long forms have found stands in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import ROOT, results
from .common import record

PACKAGE = __package__
# In this order: those that time come first, while a machine that has just been left alone is quiet.
ALL = {
    "start_up": "commands that write two files, check one, or refuse",
    "step_cost": "cost of a step of the search",
    "busy": "a machine that others use too",
    "latency_truth": "what the table says against what is measured",
    "budget": "time of an exact derivation",
    "search_overhead": "a whole small search by its steps",
    "search_hours": "cost of a whole search",
    "scale": "the ImageNet space: memory, throughput, processes",
    "known_answer": "spaces whose best network is known",
    "rewards": "what DSNAS learns from",
    "no_retraining": "DSNAS deployed as it is",
    "ranking": "accuracy in the supernet against accuracy alone",
    "specialization": "networks for different targets",
    "quality": "searched networks against random ones and MobileNetV2",
}


def run(name: str, folder: Path) -> dict[str, Any]:
    """One benchmark: how it ended, and its bars."""
    output, log = folder / f"{name}.json", folder / f"{name}.log"
    output.unlink(missing_ok=True)
    words = [sys.executable, "-m", f"{PACKAGE}.{name}.run", "--short", "--output", str(output)]
    if name == "quality":
        with socket.socket() as any_free:  # somebody's web UI may have the usual one
            any_free.bind(("127.0.0.1", 0))
            port = any_free.getsockname()[1]
        words += ["--folder", str(folder / "quality"), "--port", str(port)]
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(
            words, stdout=file, stderr=subprocess.STDOUT, check=False, env=environment(), cwd=ROOT
        ).returncode
    bars = json.loads(output.read_text(encoding="utf-8"))["bars"] if output.exists() else []
    # 1 with a result is a missed bar, which the result tells itself.
    failed = code != 0 and not (code == 1 and record.missed(bars))
    return {"benchmark": name, "seconds": round(time.monotonic() - began, 1), "failed": failed, "bars": bars}


def environment() -> dict[str, str]:
    """Threads are set on purpose by each benchmark; those that wait must not spin, and a log is no place for NNI's warnings."""
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}


def missed_in_records() -> set[tuple[str, str]]:
    """Benchmark and bar of all that the long forms have missed, as RESULTS.md says."""
    return {(section.benchmark, b["bar"]) for section, b in results.recorded_bars() if b["verdict"] == "missed"}


def markdown(runs: list[dict[str, Any]]) -> list[str]:
    """Which ran for how long, and every bar."""
    rows = []
    for found in runs:
        verdicts = [b["verdict"] for b in found["bars"]]
        counted = ", ".join(f"{verdicts.count(v)} {v}" for v in ("met", "within noise", "missed") if v in verdicts)
        rows.append(
            (
                found["benchmark"],
                ALL[found["benchmark"]],
                f"{found['seconds'] / 60:.1f}",
                "FAILED" if found["failed"] else counted,
            )
        )
    bars = [b | {"bar": f"{found['benchmark']}: {b['bar']}"} for found in runs for b in found["bars"]]
    return [*record.table(("benchmark", "", "minutes", "bars"), rows), "", *record.bars_table(bars)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="of results and logs (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=sorted(ALL), default=list(ALL), metavar="NAME", help=", ".join(ALL)
    )
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder, runs = options.folder.resolve(), []
    for name in options.only:
        print(f"{name}: {ALL[name]} …", end=" ", file=sys.stderr, flush=True)
        runs.append(run(name, folder))
        print(f"{runs[-1]['seconds'] / 60:.1f} min", file=sys.stderr)
        result = record.provenance(__file__, options, sum(r["seconds"] for r in runs)) | {"runs": runs}
        record.write(result, folder / "bench.json")
    print("\n".join([*record.head(result), "", *markdown(runs)]))
    wrong = [f"{r['benchmark']}: failed, see {options.folder / r['benchmark']}.log" for r in runs if r["failed"]]
    known = missed_in_records()
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
