"""Is a lookup table true? Built and checked as a user does it, in separate runs.

    python -m experiments.benchmarks.latency_truth.run --runs 3 --output experiments/benchmarks/latency_truth/records/latency_truth.json

Each run is two commands in processes of their own, ``nni-proxyless latency build`` of the ImageNet space (224x224, batch 1, one
thread) and ``nni-proxyless latency check`` of that table. Recorded are the seconds of the build, and how far the table is off
for 30 random networks that were not calibrated on. The short form times everything less often and judges by fewer networks; how
long its build takes is then no bar.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common import record
from .report import bars, markdown, picture

SHORT = {"build": "--repeats 40 --warmup 4", "check": "--networks 15 --calibration 15 --repeats 40"}


def run(folder: Path, method: str, space: list[str], build: list[str], check: list[str]) -> dict[str, Any]:
    """One table, built and checked."""
    table = folder / "table.yaml"
    table.unlink(missing_ok=True)
    command = [str(Path(sys.executable).parent / "nni-proxyless"), "latency"]
    began = time.perf_counter()
    subprocess.run(
        [*command, "build", *space, "--runtime", "torch", "--method", method, *build, "--output", str(table)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - began
    subprocess.run(
        [*command, "check", str(table), *check, "--json", str(folder / "check.json")], check=True, stdout=sys.stderr
    )
    found = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    return {"method": method, "build_seconds": round(seconds, 1), **found}


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one run, with fewer timings and networks")
    parser.add_argument("--runs", type=int, help="(default: 3; short: 1)")
    parser.add_argument("--methods", nargs="+", default=["networks"], choices=["networks", "isolated"])
    parser.add_argument("--space", nargs="+", default=["mobilenetv2"], help="(default: the ImageNet space)")
    parser.add_argument("--resolution", default="224")
    parser.add_argument("--channels", default="3")
    parser.add_argument("--build", help="more words for latency build, in one text")
    parser.add_argument("--check", help="more words for latency check, in one text")
    parser.add_argument("--output", type=Path, help="JSON file for the result, written after every run")
    parser.add_argument("--picture", type=Path, help="SVG or PNG file for the picture")
    options = parser.parse_args(arguments)
    options.runs = options.runs or (1 if options.short else 3)
    for name, words in SHORT.items():
        if getattr(options, name) is None:
            setattr(options, name, words if options.short else None)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    space = ["--space", *options.space, "--resolution", options.resolution, "--channels", options.channels]
    runs: list[dict[str, Any]] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.runs):
            for method in options.methods:
                runs.append(
                    run(Path(folder), method, space, (options.build or "").split(), (options.check or "").split())
                )
                seconds = time.perf_counter() - began
                result = record.provenance(__file__, options, seconds) | {
                    "threads": runs[0]["conditions"]["threads"],  # of the commands, not of this process
                    "runs": runs,
                    "bars": bars(runs, short=options.short),
                }
                record.write(result, options.output)
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
