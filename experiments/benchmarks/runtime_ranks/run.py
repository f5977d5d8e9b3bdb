"""Do runtimes rank networks alike?

    python -m experiments.benchmarks.runtime_ranks.run --output experiments/benchmarks/runtime_ranks/records/runtime_ranks.json

Random networks of a space are prepared for all runtimes at once, in one process, and timed in turns: a round runs every network in every
runtime, twice, and the second run counts. A network's latency is the 20th percentile of its rounds. All of it is done several times, the
networks prepared anew each time: how well a runtime agrees with itself is what its agreement with another is to be read against.

One time of one space is written as soon as it is done, and not repeated when the command is given again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from nni_proxyless.latency.estimators.timing import timing_settings
from nni_proxyless.latency.runtimes.runtime import Runner, Runtime, make_runtime
from nni_proxyless.latency.tables.timed_networks import random_samples

from ..common import record
from ..common.options import read_options
from ..common.runtimes import SPACES, TARGETS, chosen, in_own_process, in_this_process
from .report import markdown, picture

EVERY = ("torch", "onnxruntime", "openvino", "ncnn", "mnn", "onnxruntime-int8")
PERCENTILE = 20
SEED = 7


class Sizes(NamedTuple):
    """Networks, rounds that are timed, and rounds before."""

    networks: int
    rounds: int
    warmup: int = 3


SIZES = {"small-16": Sizes(40, 60), "small": Sizes(40, 60), "imagenet": Sizes(24, 20, 1), "tiny": Sizes(8, 3, 1)}


def runtimes_of(targets: Sequence[str]) -> dict[str, Runtime]:
    """Those that can be had here; what of the others is missing goes to standard error."""
    found = {}
    for name in targets:
        target = TARGETS[name]
        try:
            settings = {"device": "cpu", "threads": 1, "batch": target.batch, "precision": target.precision}
            found[name] = make_runtime(target.runtime, target.options, **settings)
        except ValueError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def times(space: str, targets: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of random networks of a space in each runtime."""
    one, sizes, runtimes = SPACES[space], SIZES[space], runtimes_of(targets)
    whole = one.make()
    samples = random_samples(whole, sizes.networks, SEED)
    networks = [(whole.freeze(sample), one.shape) for sample in samples]
    began = time.perf_counter()
    with contextlib.ExitStack() as opened:
        opened.enter_context(TARGETS["torch"].estimator(repeats=1, warmup=0).alone())
        runners = {name: opened.enter_context(runtime.prepare(networks)) for name, runtime in runtimes.items()}
        opened.enter_context(timing_settings(torch.device("cpu"), 1))
        prepared = time.perf_counter()
        rounds = [_round(runners) for _ in range(sizes.warmup + sizes.rounds)][sizes.warmup :]
    # (rounds, runtimes, networks) -> (runtimes, networks)
    ms = np.percentile(np.array(rounds), PERCENTILE, axis=0)
    return {
        "prepared_seconds": round(prepared - began, 1), "timed_seconds": round(time.perf_counter() - prepared, 1),
        "rounds": sizes.rounds, "networks": len(samples),
        "runtimes": {name: str(runtime.conditions["runtime"]) for name, runtime in runtimes.items()},
        "ms": {name: [round(float(value), 5) for value in row] for name, row in zip(runners, ms, strict=True)},
    }  # fmt: skip


def _round(runners: dict[str, list[Runner]]) -> list[list[float]]:
    """A network in every runtime, then the next, so that a change of the machine's speed hits all runtimes alike."""
    turns = [[_second(runner) for runner in of_network] for of_network in zip(*runners.values(), strict=True)]
    return [list(of_runtime) for of_runtime in zip(*turns, strict=True)]


def _second(runner: Runner) -> float:
    runner.run_ms()
    return runner.run_ms()


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, help="how often all is prepared and timed (default: 2; short: 1)")
    parser.add_argument(
        "--only", nargs="+", metavar="SPACE:TARGET,…", help=f"of {', '.join(SIZES)} and {', '.join(TARGETS)}"
    )
    options = read_options(
        parser, arguments, short="a tiny space, once", output="JSON file for the result; what is in it is not measured again"
    )  # fmt: skip
    options.times = options.times or (1 if options.short else 2)
    try:
        pairs = chosen(options.only, ["tiny"] if options.short else ["small-16", "small", "imagenet"], EVERY)
    except ValueError as error:
        parser.error(f"argument --only: {error}")
    options.spaces = {space: [target for s, target in pairs if s == space] for space, _ in pairs}
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    there = options.output is not None and options.output.exists()
    spaces: dict[str, list[Any]] = json.loads(options.output.read_text(encoding="utf-8"))["spaces"] if there else {}

    def result() -> dict[str, Any]:
        said = record.provenance(__file__, argparse.Namespace(short=options.short, times=options.times))
        return said | {"threads": 1, "spaces": spaces, "bars": []}

    for space, targets in options.spaces.items():
        while len(spaces.get(space, [])) < options.times:
            print(f"{space}, {len(spaces.get(space, [])) + 1} of {options.times} …", file=sys.stderr, flush=True)
            alone = in_this_process if options.short else in_own_process
            spaces.setdefault(space, []).append(alone(times, space, targets))
            record.write(result(), options.output)
    return record.finish(result(), options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
