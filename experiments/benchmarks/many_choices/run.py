"""What 648 choices cost whoever searches them: seconds of what is done once, microseconds of a step.

    python -m experiments.benchmarks.many_choices.run --output many_choices.json
    python -m experiments.benchmarks.many_choices.run --short          # 72 choices

The space is ProxylessNAS's for CIFAR. The floor of what is done once is a plain deep copy of one of its networks: as many modules made
anew, with no choice among them; beside it stands NNI's own way where NNI has one for this space.

Steps are measured as in step_cost, whose first lines say how: on the space itself, and on one of as many choices that is so narrow that
hardly anything is computed. There, what goes beyond a plain step of the same network is the host's work on choices, and what a step runs
besides. All paths at once is a batch of NNI's DARTS, which takes so long that it is timed once.
"""

from __future__ import annotations

import argparse
import copy
import functools
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nni.nas.strategy
import torch
from nni.nas.nn.pytorch import recursive_freeze
from nni_proxyless.search_spaces import PyramidTreeSpace
from nni_proxyless.strategies import ProxylessNAS

from nni_proxyless.core.freezing import freeze, freeze_children
from nni_proxyless.core.nni_compat import expression_expectation
from nni_proxyless.latency import LatencyProfiler, MacsEstimator, best_under_budget

from ..common import record
from ..common.chain import Search
from ..common.step_measures import added_bytes, can_measure_memory, entry, measure_in_turns, noise
from ..common.steps import Step, steps_of
from .report import ALL_AT_ONCE, CONTROL, COPY, DSNAS, FREEZE, MAKE, MUTATE, PLAIN, TWO_PATH, bars, markdown

SHAPE = (3, 32, 32)
NARROW_STEPS = (CONTROL, "weight step", TWO_PATH, "REINFORCE update", DSNAS)
STEPS = (CONTROL, TWO_PATH, "full step", DSNAS, ALL_AT_ONCE)
IN_MEMORY = {PLAIN: 2, TWO_PATH: 2, DSNAS: 2, "full step": 1, ALL_AT_ONCE: 1}  # runs


class Timer:
    """Seconds of this process's CPU time that actions take, by name: what else a machine does is not in them."""

    def __init__(self, repeats: int):
        self.repeats = repeats
        self.actions: list[dict[str, Any]] = []

    def add(
        self, name: str, action: Callable[[Any], Any], prepare: Callable[[], Any] = lambda: None, *, repeats: int | None = None
    ) -> Any:  # fmt: skip
        """Time an action, and return what it gave last; what ``prepare`` does before each run is not timed."""
        found, given = [], None
        for _ in range(repeats or self.repeats):
            prepared = prepare()
            began = time.process_time()
            given = action(prepared)
            found.append(time.process_time() - began)
        self.actions.append(
            {"action": name, "seconds": statistics.median(found), "spread": max(found) - min(found), "all": found}
        )
        return given


def once(timer: Timer, preset: Any, seed: int) -> dict[str, Any]:
    """What is done once or a few times in a search."""
    make = functools.partial(PyramidTreeSpace, preset)
    space = make()
    draw, labels = random.Random(seed), space.simplify()
    sample = {str(label): draw.choice(list(mutable.values)) for label, mutable in labels.items()}
    network = copy.deepcopy(freeze(space, sample))
    timer.add(COPY, lambda _: copy.deepcopy(network))
    timer.add(MAKE, lambda _: make())
    timer.add(FREEZE, lambda _: freeze(space, sample))
    timer.add("freeze any space, by its children", lambda _: freeze_children(space, sample))
    timer.add("freeze it by NNI", lambda _: recursive_freeze(space, sample, include_root=False), repeats=1)
    timer.add(MUTATE, lambda fresh: ProxylessNAS().mutate_model(fresh), make)
    timer.add("make it by NNI", lambda fresh: nni.nas.strategy.Proxyless().mutate_model(fresh), make, repeats=1)
    profiler = timer.add(
        "find what candidates cost", lambda _: LatencyProfiler(space, MacsEstimator(), SHAPE), repeats=1
    )
    alphas = {label: torch.randn(len(mutable.values), requires_grad=True) for label, mutable in labels.items()}
    probs = {
        label: dict(zip(labels[label].values, alpha.softmax(0).tolist(), strict=True))
        for label, alpha in alphas.items()
    }

    def live() -> dict[str, Any]:
        return {
            label: dict(zip(labels[label].values, a.softmax(0).unbind(), strict=True)) for label, a in alphas.items()
        }

    timer.add("cost of a network", lambda _: profiler.profile(sample))
    timer.add("cost of a network by NNI's expression", lambda _: profiler.expression.evaluate(sample), repeats=1)
    timer.add("expected cost and its gradient", lambda found: profiler.expectation(found).backward(), live)
    timer.add(
        "the same by NNI's expression",
        lambda found: expression_expectation(profiler.expression, found).backward(),
        live,
        repeats=1,
    )
    budget = profiler.profile(sample)
    timer.add("most probable network within a budget", lambda _: best_under_budget(probs, profiler, budget))
    return {
        "choices": len(labels),
        "parameters": sum(p.numel() for p in space.parameters()),
        "actions": timer.actions,
    }


def search_of(
    searches: list[Search], space: dict[str, Any], sizes: dict[str, Any], options: Any, strategy: Any
) -> Search:
    """A search of a space with these arguments, put to the others."""
    searches.append(Search(strategy, PyramidTreeSpace(**space), freeze, sizes, "contiguous", options, classes=10))
    return searches[-1]


def recorded(searches: Sequence[Search], steps: Sequence[Step], rounds: int) -> list[dict[str, Any]]:
    """Inspect and time steps; the one of all paths at once is timed a single time, and not inspected."""
    ours = [step for step in steps if step.name != ALL_AT_ONCE]
    order = [step for step in steps for _ in range(rounds if step in ours else 1)]
    measure_in_turns(searches, ours, ours, order, rounds=1)
    entries = [entry(step) for step in steps]
    control = next(e for e in entries if e["name"] == CONTROL)
    return [e | {"noise": noise(e, control)} for e in entries]


def narrow_steps(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of a narrow space with as many choices."""
    searches: list[Search] = []
    space = {"preset": options.preset, "stem_width": options.width, "final_width": 2 * options.width}
    search = functools.partial(search_of, searches, space, {"pixels": 8, "batch": 2}, options)
    return recorded(searches, steps_of(NARROW_STEPS, search, options.seed), options.rounds)


def steps(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of the space itself."""
    searches: list[Search] = []
    sizes = {"pixels": SHAPE[-1], "batch": options.batch}
    search = functools.partial(search_of, searches, {"preset": options.preset}, sizes, options)
    return recorded(searches, steps_of(STEPS, search, options.seed), options.rounds)


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What steps of the space itself add to the memory of a process of their own, and a plain step."""
    device = torch.device(options.device)
    if options.short or not can_measure_memory(device):
        return []
    sizes = {"pixels": SHAPE[-1], "batch": options.batch}

    def make(name: str) -> Step:
        search = functools.partial(search_of, [], {"preset": options.preset}, sizes, options)
        return steps_of([CONTROL if name == PLAIN else name], search, options.seed)[0]

    added = {
        name: added_bytes(functools.partial(make, name), runs, plain=name == PLAIN, device=device)
        for name, runs in IN_MEMORY.items()
    }
    return [{"name": name, "added_bytes": found, "by_plain": found / added[PLAIN]} for name, found in added.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="72 choices, one round of steps on two images, no memory")
    parser.add_argument(
        "--preset", choices=("paper", "small"), help="of the space (default: paper; with --short small)"
    )
    parser.add_argument(
        "--width", type=int, default=4, help="least channels in the space of steps (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of what is done once (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="images of a step (default: 8; with --short 2)")
    parser.add_argument("--rounds", type=int, help="of steps (default: 3; with --short 1)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    options = parser.parse_args(arguments)
    options.preset = options.preset or ("small" if options.short else "paper")
    options.batch = options.batch or (2 if options.short else 8)
    options.rounds = options.rounds or (1 if options.short else 3)
    began = time.perf_counter()
    for name in ("pytorch_lightning", "lightning", "nni"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    sys.setrecursionlimit(100_000)  # some forty frames per nested fit

    on_cpu = argparse.Namespace(**vars(options), device="cpu", precision="32-true")
    in_memory = memory(on_cpu)  # first: a process begins with what this one holds
    found = once(Timer(options.repeats), options.preset, options.seed)
    of_host, entries = narrow_steps(on_cpu), steps(on_cpu)
    result = {
        **record.provenance(__file__, options, time.perf_counter() - began), **found, "bars": bars(found["actions"], entries),
        "narrow": of_host, "entries": entries, "memory": in_memory,
    }  # fmt: skip
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
