"""Is the table of every runtime true for whole networks, and is it there in five minutes?

    python -m experiments.benchmarks.runtime_tables.run --output experiments/benchmarks/runtime_tables/records/runtime_tables.json

A cell is a space and a target, and has three steps, each in a process of its own, as three commands would be:

- *build*: the table, by :func:`~nni_proxyless.latency.build_lookup_table` with the method that the runtime has by itself and the
  repeats of ``nni-proxyless latency build``;
- *check*: :func:`~nni_proxyless.latency.check_table` times 30 random networks that judge and 30 others that it calibrates on, none
  of which the table was fitted to;
- *again*: the 30 that judge, prepared and timed once more. How far two timings are apart is how close a table can come.

Each step is written as soon as it is done, and not repeated when the command is given again: a machine that is quiet for minutes only
makes the record in slices. ``--only small:onnxruntime,ncnn imagenet:mnn`` makes some cells, ``--again`` makes them anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nni_proxyless.latency import LookupTable, build_lookup_table, check_table, trace_operations
from nni_proxyless.latency.tables.build import method_for
from nni_proxyless.latency.tables.check import agreement, time_networks
from nni_proxyless.latency.tables.time_in_chunks import in_turn

from ..common import record
from ..common.options import read_options
from ..common.runtimes import SPACES, TARGETS, Target, chosen, in_own_process, in_this_process
from .report import bars, markdown, picture

STEPS = ("build", "check", "again")
ONLY_IF_ASKED = (
    "torch-compile",
    "onnxruntime-batch-32",
)  # the first compiles every network for seconds, the second is no runtime more


class Sizes(NamedTuple):
    """How often and how many."""

    operations: int = 150  # timings of each, inside of networks
    networks: int = 30  # timings of each that is fitted to
    calls: int = 5  # the same, of a command: each is a median already
    warmup: int = 10
    check: int = (
        50  # timings of each network that judges: of 60, two medians of a network, prepared anew, were 0.4 % apart
    )
    n: int = 30  # that judge; as many others calibrate, or, where each is compiled for seconds, a third
    fitted: int | None = None  # networks; None: as many as the product takes


SHORT = Sizes(operations=3, networks=4, calls=1, warmup=1, check=4, n=8, fitted=16)


def build(space: str, target: str, table: Path, sizes: Sizes) -> dict[str, Any]:
    """Build the table of a cell and write it; the seconds are those of everything but imports."""
    one, on = SPACES[space], TARGETS[target]
    made, estimator = one.make(), on.estimator(repeats=1, warmup=sizes.warmup)
    method = method_for(estimator, made)
    estimator.repeats = _repeats(on, sizes.operations if method == "networks" else sizes.networks, sizes)
    n = sizes.fitted if method == "fit" else None
    began = time.perf_counter()
    built = build_lookup_table(made, one.shape, estimator, networks=n)
    seconds = time.perf_counter() - began
    table.parent.mkdir(parents=True, exist_ok=True)
    built.write(table)
    return {
        "seconds": round(seconds, 1), "rows": len(built.rows), "measured": built.measured, "conditions": dict(built.conditions),
        "method": built.measured["method"],
    }  # fmt: skip


def check(space: str, target: str, table: Path, sizes: Sizes) -> dict[str, Any]:
    """How far the table is off for networks that it was not made from."""
    one, read = SPACES[space], LookupTable.read(table)
    estimator = TARGETS[target].estimator(repeats=1, warmup=2)
    estimator.repeats = _repeats(TARGETS[target], sizes.check, sizes)
    began = time.perf_counter()
    found = check_table(
        read,
        one.make(),
        one.shape,
        estimator,
        n_networks=sizes.n,
        n_calibration=max(3, sizes.n // (3 if TARGETS[target].runtime == "torch-compile" else 1)),
    )
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "before": dataclasses.asdict(found.before), "after": dataclasses.asdict(found.after),
        "calibration": found.calibration.plain(), "also_fitted": _also_fitted(space, read, found.samples),
        "samples": found.samples, "measured_ms": found.measured_ms, "predicted_ms": found.predicted_ms,
        "calibrated_ms": found.calibrated_ms,
    }  # fmt: skip


def again(space: str, target: str, samples: list[dict[str, Any]], first: list[float], sizes: Sizes) -> dict[str, Any]:
    """The same networks, timed once more; against the first timing as a table is against one."""
    one, on = SPACES[space], TARGETS[target]
    estimator = on.estimator(repeats=1, warmup=2)
    estimator.repeats = _repeats(on, sizes.check, sizes)
    began = time.perf_counter()
    second = time_networks(one.make(), samples, one.shape, estimator)
    speed = statistics.median(b / a for a, b in zip(first, second, strict=True))
    return {
        "seconds": round(time.perf_counter() - began, 1), "measured_ms": second, "speed": speed,
        "apart": dataclasses.asdict(agreement([ms / speed for ms in second], first)),
    }  # fmt: skip


def _repeats(target: Target, repeats: int, sizes: Sizes) -> int:
    return min(repeats, sizes.calls) if target.runtime == "command" else repeats


def _also_fitted(space: str, table: LookupTable, samples: Sequence[dict[str, Any]]) -> int:
    """How many of these networks the table was fitted to; it holds their number, and they are always drawn alike."""
    if table.measured["method"] != "fit":
        return 0
    one = SPACES[space].make()
    operations = trace_operations(one, SPACES[space].shape)
    fitted = in_turn(one, operations, int(str(table.measured["networks"])))
    ran = {tuple(op.runs_in(sample) for op in operations) for sample in fitted}
    return sum(tuple(op.runs_in(sample) for op in operations) in ran for sample in samples)


# -- the record -------------------------------------------------------------------------------------------------------------


class Cells:
    """What was measured so far, in the file that becomes the record."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.began = options, time.perf_counter()
        path = options.output
        there = path is not None and path.exists()
        self.cells: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"] if there else {}

    def result(self) -> dict[str, Any]:
        settings = argparse.Namespace(short=self.options.short)
        said = record.provenance(__file__, settings) | {"threads": 1}
        return said | {"cells": self.cells, "bars": [] if self.options.short else bars(self.cells)}

    def add(self, name: str, step: str, found: dict[str, Any]) -> None:
        """Keep a step, with its day, its versions and how busy the machine was."""
        said = record.provenance(__file__, argparse.Namespace())
        self.cells.setdefault(name, {})[step] = {
            **record.without_places(found),
            "date": said["date"],
            "machine": said["machine"]["cpu"],
        }
        record.write(self.result(), self.options.output)


def make(cells: Cells, space: str, target: str, folder: Path, alone: Callable[..., Any]) -> None:
    """The steps of a cell that are not there yet."""
    name, options = f"{space}:{target}", cells.options
    sizes = SHORT if options.short else Sizes()
    table = folder / f"{space}-{target}.yaml"
    if options.again:
        cells.cells.pop(name, None)
    done = cells.cells.get(name, {})
    if "build" not in done or ("check" not in done and not table.exists()):
        cells.add(name, "build", alone(build, space, target, table, sizes))
    if "check" not in done:
        cells.add(name, "check", alone(check, space, target, table, sizes))
    if "again" not in done:
        first = cells.cells[name]["check"]
        cells.add(name, "again", alone(again, space, target, first["samples"], first["measured_ms"], sizes))


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", metavar="SPACE:TARGET,…", help=f"of {', '.join(SPACES)} and {', '.join(TARGETS)}"
    )
    parser.add_argument("--again", action="store_true", help="make cells anew that are in the record already")
    options = read_options(
        parser, arguments, short="a tiny space, few networks, few timings", folder="runtime_tables",
        output="JSON file for the result; what is in it is not measured again",
    )  # fmt: skip
    every = [name for name in TARGETS if name not in ONLY_IF_ASKED]
    try:
        options.cells = chosen(options.only, ["tiny"] if options.short else ["small", "imagenet"], every)
    except ValueError as error:
        parser.error(f"argument --only: {error}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    cells = Cells(options)
    for space, target in options.cells:
        try:
            TARGETS[target].estimator(repeats=1, warmup=0)
        except ValueError as error:
            print(f"{space}:{target} is left out: {error}", file=sys.stderr)
            continue
        print(f"{space}:{target} …", file=sys.stderr, flush=True)
        try:
            make(cells, space, target, options.folder, in_this_process if options.short else in_own_process)
        except ValueError as error:  # of this cell alone
            print(f"{space}:{target} failed: {error}", file=sys.stderr)
    return record.finish(cells.result(), options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
