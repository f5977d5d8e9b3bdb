"""Do tables hold on a GPU, in torch, torch.compile and ONNX Runtime? Built and checked as a user does it, in under ten minutes.

    python -m experiments.benchmarks.gpu.run --output experiments/benchmarks/gpu/records/gpu.json
    python -m experiments.benchmarks.gpu.run --short --device cpu      # tries the script where there is no GPU

A case is a space, a batch and a runtime: ``nni-proxyless latency build`` and ``check`` in one process, which is ended when the minutes are
over. ``torch`` times operations inside of networks, the others fit rows to few whole networks, since each takes seconds to export or
compile. Cases that were not run, or failed, are recorded with the reason. Beside that it is recorded how alike two runtimes rank the same
networks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from ..common import record
from .report import bars, markdown

SPACES = {"small": (["mobilenetv2", "preset=small", "num_classes=10"], "32"), "imagenet": (["mobilenetv2"], "224")}
RUNTIMES = ("torch", "onnxruntime", "torch-compile")  # what takes longest, and is missed least, comes last
BUILD = {"torch": "--repeats 40 --warmup 4", "onnxruntime": "--networks 30", "torch-compile": "--networks 10"}
CHECK = {
    "torch": (15, 40),
    "onnxruntime": (10, 40),
    "torch-compile": (4, 40),
}  # networks to judge by and to calibrate on, repeats
SHORT_BUILD = {"torch": "--repeats 3 --warmup 0", "onnxruntime": "--networks 10 --repeats 5"}
SHORT_CHECK = (3, 5)
# Both commands in one process, since importing takes seconds; it ends with the code of the first that fails.
CODE = "import json, sys; from nni_proxyless.cli.main import main; sys.exit(next(filter(None, map(main, json.loads(sys.argv[1]))), 0))"


def measure(case: Mapping[str, Any], device: str, seconds: float, *, short: bool) -> dict[str, Any]:
    """What check has found, or why there is nothing."""
    if seconds <= 0:
        return {**case, "why": "the minutes were over"}
    space, resolution = SPACES[case["space"]]
    runtime = case["runtime"]
    n, repeats = SHORT_CHECK if short else CHECK[runtime]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        table, found = f"{folder}/table.yaml", Path(folder) / "check.json"
        build = [
            "latency", "build", "--space", *space, "--resolution", resolution, "--device", device, "--batch", str(case["batch"]), "--runtime",
            runtime, *(SHORT_BUILD if short else BUILD)[runtime].split(), "--output", table,
        ]  # fmt: skip
        check = ["latency", "check", table, "--networks", str(n), "--calibration", str(n), "--repeats", str(repeats)]
        words = [sys.executable, "-c", CODE, json.dumps([build, [*check, "--json", str(found)]])]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return {**case, "why": f"was ended after {seconds:.0f} s, when the minutes were over"}
        if done.returncode != 0:
            return {**case, "why": (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]}
        return {
            **case,
            "seconds": round(time.perf_counter() - began, 1),
            **json.loads(found.read_text(encoding="utf-8")),
        }


def ranks(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How alike two runtimes rank the networks that both have timed, for each space and batch."""
    found = []
    for a, b in itertools.combinations(entries, 2):
        if (a["space"], a["batch"]) != (b["space"], b["batch"]):
            continue
        ms = [{repr(n["architecture"]): n["measured_ms"] for n in entry["networks"]} for entry in (a, b)]
        both = [network for network in ms[0] if network in ms[1]]
        if len(both) >= 3:
            spearman = float(stats.spearmanr(*[[timed[network] for network in both] for timed in ms]).statistic)
            runtimes = [a["runtime"], b["runtime"]]
            found.append(
                {
                    "space": a["space"],
                    "batch": a["batch"],
                    "runtimes": runtimes,
                    "networks": len(both),
                    "spearman": spearman,
                }
            )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="(default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=9.5, help="after which nothing runs any more (default: %(default)s)"
    )
    parser.add_argument("--spaces", nargs="+", choices=list(SPACES))
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES)
    parser.add_argument(
        "--short", action="store_true", help="small space, one image, without torch-compile; few timings, no bars"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the result, written after every case")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(
            f"--device {options.device}: torch finds no CUDA device here; --short --device cpu tries the script"
        )
    options.spaces = options.spaces or (["small"] if options.short else list(SPACES))
    options.batches = options.batches or ([1] if options.short else [1, 32])
    options.runtimes = options.runtimes or list(SHORT_BUILD if options.short else RUNTIMES)
    began, cases = time.perf_counter(), []
    for runtime, space, batch in itertools.product(options.runtimes, options.spaces, options.batches):
        case = {"space": space, "batch": batch, "runtime": runtime}
        left = 60 * options.minutes - (time.perf_counter() - began)
        cases.append(measure(case, options.device, left, short=options.short))
        print(f"{runtime}, {space}, batch {batch}: {cases[-1].get('why', 'done')}", file=sys.stderr, flush=True)
        entries = [c for c in cases if "why" not in c]
        result = record.provenance(__file__, options, time.perf_counter() - began) | {
            "threads": None,
            "entries": entries,
            "not_run": [c for c in cases if "why" in c],
            "ranks": ranks(entries),
            "bars": [] if options.short else bars(entries),
        }
        record.write(result, options.output)
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
