"""The training steps whose cost is compared: those of ProxylessNAS and DSNAS, of NNI's own strategies, and the plain one."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

import nni.nas.strategy
import torch
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.estimators import sample_pair
from torch import nn

from .chain import UPDATE_EVERY, Floor, Path, Search

DSNAS_STEPS = {"loss": "DSNAS batch", "gradient": "DSNAS batch, gradient reward"}  # by reward
NNI_STEPS = {
    "NNI Proxyless batch": nni.nas.strategy.Proxyless,
    "NNI GumbelDARTS batch": nni.nas.strategy.GumbelDARTS,
    "NNI DARTS batch": nni.nas.strategy.DARTS,
    "NNI RandomOneShot batch": nni.nas.strategy.RandomOneShot,
}
OTHER_UPDATES = {"full step": "full", "REINFORCE update": "reinforce"}
NAMES = (
    "floor again", "weight step", "two-path step", "full step", "REINFORCE update", "whole batch", *DSNAS_STEPS.values(), *NNI_STEPS
)  # fmt: skip

T = TypeVar("T")


@dataclass(eq=False)
class Step:
    """Something to measure.

    Parameters
    ----------
    paths
        Says, before :attr:`run`, which paths that will sample; the floor is measured on each. None where nobody can tell.
    paths_after
        The same when it has run, for a step whose later paths depend on what it does; else None.
    batches
        Training batches of one run.
    runs_on
        The search whose modules run, if not those of ``search``.
    networks
        What runs beside the modules of a search.
    """

    name: str
    search: Search
    run: Callable[[], Any]
    paths: Callable[[], list[Path]] | None
    paths_after: Callable[[], list[Path]] | None = None
    batches: int = 1
    runs_on: Search | None = None
    networks: Callable[[], list[nn.Module]] = list
    executed: set[float] = field(default_factory=set)
    activations: list[tuple[int, int]] = field(default_factory=list)
    times: list[tuple[Any, Any]] = field(default_factory=list)


def foreseen(module: Any, *draws: Callable[[Any], T]) -> list[T]:
    """What a search will sample next: drawn, and the generator put back to where it was."""
    generator = module.gates[0].generator
    state = generator.get_state()
    paths = [draw(module) for draw in draws]
    generator.set_state(state)
    module.reset_gates()
    return paths


def one_path(module: Any) -> Path:
    return {gate.label: gate.value(gate.sample_path()) for gate in module.gates}


def active_of_pairs(module: Any) -> Path:
    return both_of_pairs(module)[0]


def both_of_pairs(module: Any) -> tuple[Path, Path]:
    """The active candidates of the pairs, and the others."""
    pairs = {gate: sample_pair(gate.probs(), gate.generator) for gate in module.gates}
    active, other = ({gate.label: gate.value(pair[i]) for gate, pair in pairs.items()} for i in range(2))
    return active, other


def steps_of(names: Collection[str], search: Callable[[Any], Search], seed: int) -> list[Step]:
    """The steps of these names; ``search`` makes a search of a strategy, of which no more are made than needed."""

    def proxyless(update: Any) -> Search:
        return search(ProxylessNAS(update=update, arc_update_every=UPDATE_EVERY, seed=seed))

    steps = []
    if {"floor again", "weight step", "two-path step", "whole batch"} & set(names):
        steps += two_path_steps(proxyless("two-path"))
    steps += [architecture_step(name, proxyless(update)) for name, update in OTHER_UPDATES.items() if name in names]
    steps += [
        dsnas_step(name, search(DSNAS(reward=reward, search_epochs=2, fix_gap=1.0, seed=seed)))
        for reward, name in DSNAS_STEPS.items()
        if name in names
    ]
    steps += [nni_step(name, search(strategy())) for name, strategy in NNI_STEPS.items() if name in names]
    return [step for step in steps if step.name in names]


# -- ours ----------------------------------------------------------------------------------------------------------------


def two_path_steps(search: Search) -> list[Step]:
    """Floor again, and ProxylessNAS: a weight step, an architecture step, and what they come to together."""
    module = search.module

    def whole_batches() -> None:
        for batch_idx in range(UPDATE_EVERY):
            module.search_step(search.batch, batch_idx)

    return [
        floor_step("floor again", search, search),
        Step(
            "weight step", search, lambda: module.weight_step(search.batch, 0), functools.partial(foreseen, module, one_path)
        ),
        architecture_step("two-path step", search),
        Step(
            "whole batch", search, whole_batches,
            functools.partial(foreseen, module, *[one_path] * UPDATE_EVERY, active_of_pairs), batches=UPDATE_EVERY,
        ),
    ]  # fmt: skip


def architecture_step(name: str, search: Search) -> Step:
    """One update of the architecture of ProxylessNAS, by any of its three."""
    module = search.module
    samples = module.options.reinforce_samples if name == "REINFORCE update" else 1

    def paths() -> list[Path]:
        if name == "two-path step":  # runs both, so that its ratio does not depend on which of the two is the larger
            return list(*foreseen(module, both_of_pairs))
        # Of the networks of one update of REINFORCE, first and last: two are enough for their mean, over the rounds.
        drawn = foreseen(module, *[one_path] * samples)
        return drawn if samples == 1 else [drawn[0], drawn[-1]]

    return Step(name, search, lambda: module.architecture_step(search.held_out, 0), paths)


def dsnas_step(name: str, search: Search) -> Step:
    """A batch of DSNAS's search stage, which trains the weights and the logits at once."""
    module = search.module
    # Not batch 0, with which an epoch would begin.
    return Step(
        name, search, lambda: module.search_step(search.batch, 1), functools.partial(foreseen, module, one_path)
    )


def floor_step(name: str, search: Search, other: Search) -> Step:
    """The floor of ``other`` in the place of a step, on paths of ``search``."""
    floors: list[Floor] = []

    def drawn() -> list[Path]:
        path = one_path(search.module)
        search.module.reset_gates()
        floors[:] = [Floor(other, path)]
        return [path]

    return Step(
        name,
        search,
        lambda: floors[0].step(),
        drawn,
        runs_on=other,
        networks=lambda: [floor.network for floor in floors],
    )


# -- NNI's -----------------------------------------------------------------------------------------------------------------


def nni_step(name: str, search: Search) -> Step:
    """A batch of one of NNI's strategies, with its default arguments.

    Those of the DARTS family take an architecture step and a weight step on every batch; RandomOneShot leaves the step to
    Lightning, whose own loop is run here.
    """
    module = search.module

    def both() -> None:
        # Not a multiple of 10, with which probabilities would be logged.
        module.training_step({"train": search.batch, "val": search.held_out}, 1)

    def by_lightning() -> None:
        trainer = module.trainer
        batch = OrderedDict(batch=search.batch, batch_idx=1)
        trainer.fit_loop.epoch_loop.automatic_optimization.run(trainer.optimizers[0], 1, batch)

    def first_path() -> list[Path]:
        with torch.random.fork_rng([search.device] if search.device.type == "cuda" else []):
            return [module.resample()]

    def sampled_path() -> list[Path]:
        return [{layer.label: layer._sampled for layer in search.layers}]

    if module.automatic_optimization:
        return Step(name, search, by_lightning, None, sampled_path)
    if name == "NNI Proxyless batch":
        return Step(name, search, both, first_path, sampled_path)
    return Step(name, search, both, lambda: [search.any_path()])
