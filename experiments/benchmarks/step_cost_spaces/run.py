"""What one step of a search costs on choices of values and on cells, as a ratio to an ordinary training step of the network that it runs.

    python -m experiments.benchmarks.step_cost_spaces.run --kind values --output values.json
    python -m experiments.benchmarks.step_cost_spaces.run --kind cells --output cells.json
    python -m experiments.benchmarks.step_cost_spaces.run --short                  # one space of each kind, less often
    python -m experiments.benchmarks.step_cost_spaces.run --spaces autoformer      # of this space alone

Measured as in step_cost, whose first lines say how: every timed step of a search stands between steps of the *floor*, a plain PyTorch
training step of the network of the same path, on the same batch, with the same optimizer; ``floor again`` is the control. The
network is what the space itself makes of a path, with modules of its own size. It takes a step before it is timed: the first with
layers of a new size makes kernels for them, for whoever runs them first.

Of choices of values the step is one of DSNAS, which is by the loss: weights and logits learn from the same backward pass. The
arguments of layers are worked out before anything is timed, since a search does so once for each value that they may have.

On cells all steps of ProxylessNAS two-path and DSNAS are timed, and batches of NNI's own DARTS and GumbelDARTS.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from nni_proxyless.search_spaces import cells, hub
from nni_proxyless.strategies import DSNAS

from ..common import chain, record
from ..common.chain import CLASSES, Search
from ..common.chain import Path as NetworkPath
from ..common.step_measures import entry, measure_in_turns, noise
from ..common.steps import Step, dsnas_step, floor_step, steps_of
from .report import CELLS, CONTROL, DSNAS_BATCH, ON_CELLS, VALUES, bars, markdown

WARMING_PATHS = 300  # after which hardly any layer meets a value for the first time
TIMES = 3  # in a round, of a step that bars are set on; of the control one less, and of a long one a single time


class Setting(NamedTuple):
    """A space, and the images that its steps are timed on."""

    make: Callable[[argparse.Namespace, int], Any]
    kind: str
    pixels: int
    batch: int


SETTINGS = {
    "mobilenetv3": Setting(lambda *_: hub.MobileNetV3(num_labels=CLASSES), VALUES, 64, 16),
    "mobilenetv3, larger images": Setting(lambda *_: hub.MobileNetV3(num_labels=CLASSES), VALUES, 96, 16),
    "shufflenet": Setting(lambda *_: hub.ShuffleNet(num_labels=CLASSES, channel_search=True), VALUES, 64, 16),
    "autoformer": Setting(lambda _, pixels: hub.Former(num_labels=CLASSES, img_size=pixels), VALUES, 96, 16),
    "darts": Setting(
        lambda options, _: cells.Darts(num_labels=CLASSES, width=options.width, num_cells=options.cells), CELLS, 32, 16
    ),
}
SHORT = ("mobilenetv3", "darts")


class SpaceSearch(Search):
    """A search whose networks are made by the space itself; which modules run is not counted."""

    first_steps = 1

    def __init__(self, strategy: Any, make: Callable[[], Any], sizes: dict[str, Any], options: argparse.Namespace):
        untouched = make()
        super().__init__(strategy, make(), lambda _, path: untouched.freeze(path), sizes, "contiguous", options)
        self._mutables = untouched.simplify()
        self._random = numpy.random.RandomState(options.seed)
        self.layers = []

    def any_path(self) -> NetworkPath:
        path: NetworkPath = {}
        for mutable in self._mutables.values():
            mutable.random(path, self._random)
        return path

    def prepare(self) -> None:
        super().prepare()
        module = self.module
        for _ in range(WARMING_PATHS if hasattr(module, "gates") else 0):
            path = {gate: random.randrange(len(gate.choices)) for gate in module.gates}
            for kernel in module.parts.super_kernels:
                kernel.sampling_policy.arguments(kernel, path)


def build(options: argparse.Namespace) -> tuple[list[Search], list[Step]]:
    """The searches whose fits are nested, and the steps that they take."""
    searches: list[Search] = []
    steps: list[Step] = []
    for name in options.spaces:
        setting = SETTINGS[name]
        sizes = {
            "space": name, "kind": setting.kind, "pixels": options.pixels or setting.pixels, "batch": options.batch or setting.batch,
        }  # fmt: skip

        def search(strategy: Any, setting: Setting = setting, sizes: dict[str, Any] = sizes) -> Search:
            def make() -> Any:
                return setting.make(options, sizes["pixels"])

            searches.append(SpaceSearch(strategy, make, sizes, options))
            return searches[-1]

        if setting.kind == VALUES:
            one = search(DSNAS(search_epochs=2, fix_gap=1.0, seed=options.seed))
            steps += [floor_step(CONTROL, one, one), dsnas_step(DSNAS_BATCH, one)]
        else:
            steps += steps_of(ON_CELLS, search, options.seed)
    return searches, steps


def times_in_a_round(step: Step) -> int:
    long = step.batches > 1 or step.name.startswith("NNI")
    return 1 if long else TIMES - 1 if step.name == CONTROL else TIMES


def measured(searches: Sequence[Search], steps: Sequence[Step], options: argparse.Namespace) -> None:
    """Inspect and time all steps, inside fits of all searches."""

    order = [s for s in steps for _ in range(times_in_a_round(s))]
    # Of the long ones the inspected run is the first.
    warmed = [s for s in steps if times_in_a_round(s) == TIMES]
    measure_in_turns(searches, warmed, steps, order, options.rounds)


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help=f"{' and '.join(SHORT)}, one round")
    parser.add_argument("--kind", choices=(VALUES, CELLS), help="of the spaces (default: both)")
    parser.add_argument(
        "--spaces", nargs="+", choices=SETTINGS, metavar="NAME", help=f"of these: {'; '.join(SETTINGS)}"
    )
    parser.add_argument("--pixels", type=int, help="height and width of an image, in the place of each space's own")
    parser.add_argument("--batch", type=int, help="images, in the place of each space's own")
    parser.add_argument("--cells", type=int, default=4, help="of darts (default: %(default)s)")
    parser.add_argument("--width", type=int, default=16, help="of darts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="how often all is timed (default: 2; with --short 1)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument(
        "--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    options = parser.parse_args(arguments)
    names = options.spaces or (SHORT if options.short else SETTINGS)
    options.spaces = [name for name in SETTINGS if name in names and options.kind in (None, SETTINGS[name].kind)]
    if not options.spaces:
        parser.error(f"argument --spaces: none of {', '.join(names)} is of kind {options.kind}")
    if options.rounds is None:
        options.rounds = 1 if options.short else 2
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    began = time.perf_counter()
    for name in ("pytorch_lightning", "lightning", "nni"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    random.seed(options.seed)
    torch.manual_seed(options.seed)  # of the spaces, which are made before a search sets it
    sys.setrecursionlimit(100_000)  # some forty frames per nested fit

    searches, steps = build(options)
    measured(searches, steps, options)
    entries = [entry(step) for step in steps]
    controls = {e["space"]: e for e in entries if e["name"] == CONTROL}
    for e in entries:
        e["noise"] = noise(e, controls[e["space"]])
    result = {
        **record.provenance(__file__, options, time.perf_counter() - began),
        "arc_update_every": chain.UPDATE_EVERY,
        "sgd": chain.SGD,
        "bars": bars(entries),
        "entries": entries,
    }
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
