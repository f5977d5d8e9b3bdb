"""What one step of a search costs, as a ratio to an ordinary training step of the network that it runs.

    python -m experiments.benchmarks.step_cost.run --output step_cost.json --picture step_cost.svg
    python -m experiments.benchmarks.step_cost.run --short            # what the bars of ProxylessNAS and DSNAS need
    python -m experiments.benchmarks.step_cost.run --sweep            # over layers and pixels, in the place of candidates

The *floor* is a plain PyTorch training step of one sampled network: the same modules as a plain chain, an optimizer over
its parameters alone, without NNI, Lightning or any code of this project. Every timed step stands between floor steps
on the paths that it samples; its ratio is its time by their mean, so that neither the drift of a machine nor the choice of
a path is in it. Everything is measured in one process, in a new order in every round. ``floor again`` is the control: the
floor in the place of a step, which must come out as 1.

The steps are the real ones of real fits: every module is attached to a Lightning trainer of its own. The fits are nested,
each runs inside the first batch of the one before it, and the innermost one measures. Of DSNAS, a step is one batch of
its search stage: weights and logits learn from the same backward pass, by each of its two rewards.

Per batch and layer, candidates that were run are counted by forward hooks, also those that run inside backward. Saved
activations are what autograd holds at most at one time, every storage once, without parameters, buffers and the batch.
Peak memory is measured apart from all this, each step in a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import logging
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nni_proxyless.strategies import ProxylessNAS

from nni_proxyless.core.progress import bar

from ..common import chain, record
from ..common.chain import CANDIDATES, Chain, Search, plain_chain
from ..common.step_measures import added_bytes, can_measure_memory, entry, measure_in_turns, noise
from ..common.steps import DSNAS_STEPS, NAMES, NNI_STEPS, Step, floor_step, steps_of
from .report import SIZES, bars, by_configuration, configuration, from_pieces, markdown, picture

# The short steps that bars are set on: timed more often than the others, which take several times as long.
OFTEN = {"floor again", "weight step", "two-path step", *DSNAS_STEPS.values()}
TIMES = 3
CONTIGUOUS = "floor, contiguous"
COMPARED = ("NNI Proxyless batch", "NNI GumbelDARTS batch")  # by bars
MAIN = ("floor again", "weight step", "two-path step", "DSNAS batch", *COMPARED)
SWEEP = [  # layers, pixels, batch: smaller where images are large
    (6, 64, 32), (12, 64, 32), (21, 64, 32), (12, 32, 32), (12, 128, 8), (12, 224, 4)
]  # fmt: skip
# Runs whose peak memory is measured: some paths of what samples one, one run of what runs all candidates.
IN_MEMORY = {
    "whole batch": 1,
    "DSNAS batch": 5,
    **dict.fromkeys(NNI_STEPS, 1),
    COMPARED[0]: 3,
    "NNI RandomOneShot batch": 5,
}
PLAIN_RUNS = 5


class Place(NamedTuple):
    """Where steps are measured."""

    sizes: dict[str, int]
    memory: str
    names: list[str]


def plan(options: argparse.Namespace) -> list[Place]:
    if options.sweep:
        return [
            Place({"candidates": 7, "layers": layers, "pixels": pixels, "batch": batch}, "channels-last", list(MAIN))
            for layers, pixels, batch in SWEEP
        ]
    places = []
    candidates = sorted(set(options.candidates))
    compared = 7 if 7 in candidates else candidates[0]  # with NNI as its users run it, in the other memory format
    for n in candidates:
        sizes = {"candidates": n} | {key: getattr(options, key) for key in SIZES[1:]}
        last, contiguous = [*NAMES, CONTIGUOUS], ["floor again", "two-path step", "DSNAS batch", *NNI_STEPS]
        if options.short:
            last, contiguous = [*OFTEN, "whole batch", *COMPARED, CONTIGUOUS], [*COMPARED]
        if n == compared:
            places += [Place(sizes, "channels-last", last), Place(sizes, "contiguous", contiguous)]
        else:
            names = sorted(OFTEN) if options.short else [*NAMES]
            places.append(Place(sizes, "channels-last", names))
    return places


def build(places: Sequence[Place], options: argparse.Namespace) -> tuple[list[Search], list[Step]]:
    """The searches whose fits are nested, and the steps that they take."""
    searches: list[Search] = []
    steps: list[Step] = []
    for place in places:
        search = functools.partial(a_search, searches, place.sizes, place.memory, options)
        steps += steps_of(place.names, search, options.seed)
        if CONTIGUOUS in place.names:
            pair = [
                a_search(searches, place.sizes, memory, options, ProxylessNAS(seed=options.seed))
                for memory in chain.FORMATS
            ]
            steps.append(floor_step(CONTIGUOUS, *pair))
    return searches, steps


def a_search(
    searches: list[Search], sizes: dict[str, int], memory: str, options: argparse.Namespace, strategy: Any
) -> Search:
    space = Chain(sizes["layers"], sizes["candidates"])
    searches.append(Search(strategy, space, plain_chain, sizes, memory, options))
    return searches[-1]


def times_in_a_round(step: Step, *, short: bool) -> int:
    often = OFTEN | {"whole batch", COMPARED[0]} if short else OFTEN
    return TIMES if step.name in often and step.search.memory == "channels-last" else 1


def measured(searches: Sequence[Search], steps: Sequence[Step], options: argparse.Namespace) -> None:
    """Inspect and time all steps, inside fits of all searches."""

    # Before a layer's first backward pass nobody knows whether something works in place behind it, and copies are made.
    warmed = [s for s in steps if s.name not in (*NNI_STEPS, "whole batch")]
    # The short form leaves out NNI's slow steps, of which no bar asks but for the time, several times what it may be.
    inspected = [s for s in steps if s.name not in NNI_STEPS] if options.short else list(steps)
    # What this one keeps depends on the path, also by the floor of the same path.
    inspected += [s for s in steps for _ in range(TIMES - 1) if s.name == "two-path step"]
    order = [s for s in steps for _ in range(times_in_a_round(s, short=options.short))]
    measure_in_turns(searches, warmed, inspected, order, options.rounds)


def memory(places: Sequence[Place], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory of the strategies, and of a plain step, in channels-last memory."""
    device = torch.device(options.device)
    if options.short or not can_measure_memory(device):
        return []
    found = []
    places = [place for place in places if place.memory == "channels-last"]
    names = {
        name: n for name, n in IN_MEMORY.items() if name in COMPARED or not name.startswith("NNI") or not options.sweep
    }
    with bar(len(places) * (1 + len(names)), "peak memory", "step") as done:
        for place in places:

            def make(name: str, place: Place = place) -> Step:
                return steps_of(
                    [name], functools.partial(a_search, [], place.sizes, place.memory, options), options.seed
                )[0]

            plain = 0
            for name, runs in {"plain step": PLAIN_RUNS, **names}.items():
                is_plain = name == "plain step"
                added = added_bytes(
                    functools.partial(make, "floor again" if is_plain else name), runs, plain=is_plain, device=device
                )
                plain = added if is_plain else plain
                found.append(
                    {"memory_format": place.memory, **place.sizes, "name": name, "added_bytes": added}
                    | {"by_plain": added / plain}
                )
                done.update()
    return found


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="only what the bars of ProxylessNAS and DSNAS need")
    parser.add_argument("--sweep", action="store_true", help="7 candidates, over layers and pixels")
    parser.add_argument(
        "--candidates",
        type=int,
        nargs="+",
        choices=sorted(CANDIDATES),
        default=[2, 7, 12],
        help="per layer (default: 2 7 12)",
    )
    parser.add_argument("--layers", type=int, default=12, help="searched layers (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=64, help="height and width of an image (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="how often all is timed (default: 3; with --sweep or --short 2)")
    parser.add_argument("--steps", nargs="+", metavar="NAME", help="only these steps, more closely; no bars then")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument(
        "--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--picture", type=Path, help="SVG file for a picture of it")
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 2 if options.short or options.sweep else 3
    known = [*NAMES, CONTIGUOUS]
    if unknown := set(options.steps or ()) - set(known):
        parser.error(f"argument --steps: unknown {sorted(unknown)}; allowed: {', '.join(known)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    began = time.perf_counter()
    for name in ("pytorch_lightning", "lightning", "nni"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    random.seed(options.seed)
    sys.setrecursionlimit(100_000)  # some forty frames per nested fit

    places = plan(options)
    if options.steps:
        places = [place._replace(names=[n for n in place.names if n in options.steps]) for place in places]
    in_memory = [] if options.steps else memory(places, options)
    searches, steps = build(places, options)
    measured(searches, steps, options)
    entries = [entry(step) for step in steps]
    by = by_configuration(entries)
    for e in entries:
        here, there = (
            by.get(configuration(e | {"memory_format": memory}), {}) for memory in (e["memory_format"], "channels-last")
        )
        e["noise"] = noise(e, here.get("floor again") or there.get("floor again"))
    result = {
        **record.provenance(__file__, options, time.perf_counter() - began),
        "arc_update_every": chain.UPDATE_EVERY,
        "sgd": chain.SGD,
        "bars": [] if options.steps else bars(entries),
        "entries": entries + ([] if options.steps else from_pieces(entries)),
        "memory": in_memory,
    }
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
