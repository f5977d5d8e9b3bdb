"""What a step of a network in stages takes, in time and in memory, with one, two and four processes.

    python -m experiments.benchmarks.pipeline.run --output experiments/benchmarks/pipeline/records/pipeline.json
    python -m experiments.benchmarks.pipeline.run --device cuda          # a GPU for each process
    python -m experiments.benchmarks.pipeline.run --short                # a small network, one and two processes

The same batch of images in 4, 8, … micro-batches by both schedules, with and without re-materialization; each case in fresh processes of one
thread (:mod:`.work`). Beside a measured step stands what it would take with a device for each stage that sends in no time, from the seconds of
each layer alone: the processes of this machine may be more than its cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from nni_proxyless.core.progress import bar

from .. import ROOT
from ..common import record
from ..common.options import read_options
from .report import bars, markdown

WAYS = (("gpipe", False), ("gpipe", True), ("1f1b", False))  # schedule, re-materialization
PATIENCE = 1800.0  # seconds


def cases(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Settings for :func:`.work.measure`."""
    fixed = {name: getattr(options, name) for name in ("network", "side", "batch", "steps", "device")}
    for processes in options.stages:
        for micro_batches in options.micro_batches:
            for schedule, rematerialize in WAYS:
                if schedule == "gpipe" or micro_batches >= processes:
                    yield fixed | {
                        "processes": processes, "micro_batches": micro_batches, "schedule": schedule, "rematerialize": rematerialize,
                    }  # fmt: skip


def measured(settings: dict[str, Any]) -> dict[str, Any]:
    """One case, in processes of its own; its settings with what the first one says."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "experiments.benchmarks.pipeline.work", json.dumps(settings), f"{folder}/store"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        processes = [
            subprocess.Popen([*words, str(rank)], stdout=subprocess.PIPE, env=environment, cwd=ROOT)
            for rank in range(settings["processes"])
        ]
        try:
            said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        if any(process.returncode for process in processes):
            raise SystemExit(f"pipeline: a process of {settings} failed; it says why above")
    return settings | json.loads(said[0])


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", help="of timm (default: proxyless_cpu; short: mobilenetv3_small_050)")
    parser.add_argument("--side", type=int, help="of the images (default: 96; short: 128)")
    parser.add_argument("--batch", type=int, default=64, help="images of a step (default: %(default)s)")
    parser.add_argument("--stages", nargs="+", type=int, help="processes (default: 1 2 4; short: 1 2)")
    parser.add_argument("--micro-batches", nargs="+", type=int, help="of a batch (default: 2 4 8 16; short: 4)")
    parser.add_argument("--steps", type=int, help="that are timed (default: 7; short: 3)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    options = read_options(parser, arguments, short="a small network, one and two processes")
    chosen = {"network": ("proxyless_cpu", "mobilenetv3_small_050"), "side": (96, 128), "stages": ([1, 2, 4], [1, 2]),
              "micro_batches": ([2, 4, 8, 16], [4]), "steps": (7, 3)}  # fmt: skip
    for name, (long, short) in chosen.items():
        if getattr(options, name) is None:
            setattr(options, name, short if options.short else long)
    if wrong := [m for m in options.micro_batches if options.batch % m or options.batch // m < 2]:
        parser.error(
            f"--micro-batches: {wrong[0]} of a batch of {options.batch}; allowed: divisors that leave 2 images or more"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    began = time.perf_counter()
    every, entries = list(cases(options)), []
    with bar(len(every), "pipeline", "case") as done:
        for settings in every:
            entries.append(measured(settings))
            done.update()
    result = record.provenance(__file__, options, time.perf_counter() - began)
    result |= {"threads": 1, "bars": bars(entries), "entries": entries}
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
