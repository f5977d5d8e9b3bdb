"""Does a search find the best network, where it is known which one that is?

    python -m experiments.benchmarks.known_answer.run --output known_answer.json --picture known_answer.svg

A. *Planted candidates.* The chain of :mod:`..rewards.run`: one candidate of each of four choices is what the labels were made by,
   weights stand still, so there is nothing to learn but the choices. How many does each strategy find?
B. *All 64 networks of a small space*, trained from scratch on scikit-learn's digits, each several times, since the truth has
   noise too. Then searches: where does the network that they find stand among the 64, in accuracy alone and with targets in
   multiply-adds? A network with a target is the most probable one within it and near it, as a search leaves it; without
   that, the most probable one of all within it.

The accuracies of the 64 networks are in the result, and ``--truth known_answer.json`` takes them from there, as ``--short``
does, so that searches can be run again without them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.nni_baselines import Proxyless
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset

from nni_proxyless.core.progress import bar
from nni_proxyless.latency import LatencyPenalty, LatencyProfiler, MacsEstimator, best_under_budget

from ..common import record
from ..common.planted import LAYERS, SPACE_EPS, EndAfter, StillWeights, Way, planted_task, silence, trainer
from .networks import (
    BATCH,
    EPOCHS,
    N_TRAIN,
    SHAPE,
    Small,
    allowed,
    chance,
    images,
    measure_truth,
    name_of,
    noise_of,
    optimizer_and_schedule,
    read_truth,
    standing,
)
from .report import markdown, picture

RECORDED = Path(__file__).with_name("records") / "known_answer.json"
OURS = ("two-path", "full", "reinforce", "dsnas")

# A
IMAGES, PLANTED_BATCH = 512, 32
PLANTED: dict[str, dict[str, Any]] = {  # epochs of 16 steps of the logits
    "two-path": {"epochs": 6, "arc_learning_rate": 0.1},
    "full": {"epochs": 6, "arc_learning_rate": 0.1},
    "reinforce": {"epochs": 12, "arc_learning_rate": 0.1, "reinforce_samples": 4},
    "dsnas": {"epochs": 20, "arc_learning_rate": 0.03},
}

# B
N_ALPHAS = 200  # images of the first that train the logits where a method holds images back
WARMUP_EPOCHS, SEARCH_EPOCHS = 12, 40
TARGETS = (None, 0.4, 0.15)  # shares of the most expensive network
TRAININGS = 4  # of each network


# -- A: planted candidates -----------------------------------------------------------------------------------------------


def planted_found(name: str, *, residual: bool, seed: int) -> int:
    """How many of the planted candidates one search finds."""
    space, planted, data = planted_task(Way(name, "loss", SPACE_EPS), residual=residual, seed=seed, images=IMAGES)
    epochs = PLANTED[name]["epochs"]
    arguments = {key: value for key, value in PLANTED[name].items() if key != "epochs"}
    arguments |= {"seed": seed, "log_prob_every_n_step": 10**9}
    strategy: Any
    weights: Any = data
    if name == "dsnas":
        strategy = DSNAS(search_epochs=epochs, fix_gap=1.0, **arguments)
        fit = trainer(epochs + 1, EndAfter(epochs))  # DSNAS wants an epoch for its child
    else:
        # Weights stand still, so one step of theirs is enough for all batches of the logits.
        weights = Subset(data, range(PLANTED_BATCH))
        steps = IMAGES // PLANTED_BATCH
        strategy = ProxylessNAS(update=name, arc_update_every=1, arc_update_steps=steps, **arguments)
        fit = trainer(epochs)
    space.head[-1].bias.requires_grad_()  # type: ignore[index]  # a weight step wants something with a gradient; it stands still too
    supernet = strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(
        Lightning(
            StillWeights(), fit, train_dataloaders=batches(weights, PLANTED_BATCH, seed),
            val_dataloaders=batches(data, PLANTED_BATCH, seed + 1),
        )
    )  # fmt: skip
    evaluator.evaluate(supernet)
    return sum(evaluator.module.export()[label] == best for label, best in planted.items())


def batches(data: Any, size: int, seed: int) -> Any:
    return DataLoader(data, size, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(seed))


# -- B: searches in a space of 64 networks ---------------------------------------------------------------------------------


class Task(LightningModule):
    """Trains weights as :func:`.known_networks.trained_accuracies` does."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer, schedule = optimizer_and_schedule(self.model, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


# One learning rate for all, and no entropy term: choices need not be decided, since what is left is the most probable network near
# the target. With 0.1, as experiments/search.yml has it, two-path with a target was decided before it had learned: at 40 % seeds 0 and
# 1 had regrets of 0.075 and 0.014, with 0.05 of 0.014 and 0.007. Chosen with seeds 100 to 105.
RATE = 0.02
STRATEGIES: dict[str, Callable[..., Any]] = {
    "two-path": functools.partial(ProxylessNAS, update="two-path", arc_update_every=1),
    "full": functools.partial(ProxylessNAS, update="full", arc_update_every=1),
    "reinforce": functools.partial(ProxylessNAS, update="reinforce", arc_update_every=1, reinforce_samples=10),
    "dsnas": functools.partial(DSNAS, search_epochs=SEARCH_EPOCHS, fix_gap=0.9),
    "nni-proxyless": Proxyless,
}  # fmt: skip


def search(name: str, seed: int, share: float | None) -> dict[str, Any]:
    """One search: the network that it finds, within its target if it has one."""
    torch.manual_seed(seed)
    space: Any = Small()
    profiler = LatencyProfiler(space, MacsEstimator(), SHAPE)
    target = None if share is None else share * profiler.bounds()[1]
    arguments: dict[str, Any] = {
        "arc_learning_rate": RATE, "warmup_epochs": WARMUP_EPOCHS, "log_prob_every_n_step": 10**9,
    }  # fmt: skip
    if target is not None:
        arguments["penalty"] = LatencyPenalty(profiler, target, "auto")
    if name in OURS:
        arguments["seed"] = seed
    strategy = STRATEGIES[name](**arguments)
    data = images()[0]
    epochs = WARMUP_EPOCHS + SEARCH_EPOCHS
    held_back = name != "dsnas"
    supernet = strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(
        Lightning(
            Task(),
            trainer(epochs) if held_back else trainer(epochs + 1, EndAfter(epochs)),  # nobody asks for its child
            train_dataloaders=batches(Subset(data, range(N_ALPHAS * held_back, N_TRAIN)), BATCH, seed),
            val_dataloaders=batches(Subset(data, range(N_ALPHAS)), BATCH, seed + 1) if held_back else None,
        )
    )
    began = time.process_time()
    evaluator.evaluate(supernet)
    seconds = time.process_time() - began
    probs = evaluator.module.export_probs()
    probable = {label: max(ps, key=lambda choice: ps[choice]) for label, ps in probs.items()}
    found, anywhere = probable, probable
    if target is not None:
        found = best_under_budget(probs, profiler, target, near_ms=target)
        anywhere = best_under_budget(probs, profiler, target)
    return {
        "strategy": name, "target": share, "seed": seed, "found": name_of(found), "anywhere": name_of(anywhere),
        "most_probable": name_of(probable),
        "expected_macs_by_target": None if target is None else float(profiler.expectation(probs)) / target,
        "seconds": round(seconds, 2),
    }  # fmt: skip


def judged(searches: list[dict[str, Any]], truth: dict[str, Any]) -> list[dict[str, Any]]:
    """The searches with the standing of what they have found."""
    largest = max(truth["macs"].values())
    rows = []
    for found in searches:
        share = found["target"]
        fits = share is None or truth["macs"][found["most_probable"]] <= share * largest
        rows.append(
            {
                **found,
                "most_probable_fits": fits,
                "regret_anywhere": standing(found["anywhere"], allowed(truth, share), 0.0)["regret"],
                **standing(found["found"], allowed(truth, share), noise_of(truth, share)),
            }
        )
    return rows


def bars(planted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """REINFORCE has none: it learns from sampled accuracies alone, and nobody has promised that so few are enough."""
    return [
        record.bar(
            f"{row['strategy']}, planted in {'x + branch' if row['residual'] else 'branch'}: share of seeds with all found",
            statistics.mean(n == LAYERS for n in row["found"]), at_least=1.0,
        )
        for row in planted if row["strategy"] != "reinforce"
    ]  # fmt: skip


# -- the command ---------------------------------------------------------------------------------------------------------


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--short", action="store_true", help="two seeds, ProxylessNAS two-path and DSNAS, recorded accuracies"
    )
    parser.add_argument("--planted-seeds", type=int, help="(default: 10; short: 2)")
    parser.add_argument("--seeds", type=int, help="of the searches in the space of 64 (default: 5; short: 2)")
    parser.add_argument(
        "--strategies", nargs="+", choices=sorted(STRATEGIES), help="(default: all; short: two-path, dsnas)"
    )
    parser.add_argument(
        "--truth",
        type=Path,
        help="file with the accuracies of the 64 networks: read if they are there, else measured and written (short: the recorded result)",
    )
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--picture", type=Path, help="SVG or PNG file")
    options = parser.parse_args(arguments)
    options.planted_seeds = options.planted_seeds or (2 if options.short else 10)
    options.seeds = options.seeds or (2 if options.short else 5)
    options.strategies = options.strategies or (["two-path", "dsnas"] if options.short else [*STRATEGIES])
    for name in ("planted_seeds", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"argument --{name.replace('_', '-')}: {getattr(options, name)}; allowed: 1 or more")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    silence()
    torch.set_num_threads(1)
    began = time.perf_counter()

    planted = []
    ours = [name for name in OURS if name in options.strategies]
    with bar(2 * len(ours) * options.planted_seeds, "planted candidates", "search") as done:
        for name, residual in itertools.product(ours, (False, True)):
            steps = PLANTED[name]["epochs"] * IMAGES // PLANTED_BATCH
            row: dict[str, Any] = {"strategy": name, "residual": residual, "steps": steps, "found": []}
            for seed in range(options.planted_seeds):
                row["found"].append(planted_found(name, residual=residual, seed=seed))
                done.update()
            planted.append(row)

    truth = read_truth(options.truth or RECORDED) if options.truth or options.short else None
    if truth is None:
        truth = measure_truth(1 if options.short else TRAININGS)
        if options.truth:
            record.write({"truth": truth}, options.truth)

    searches = []
    with bar(len(options.strategies) * len(TARGETS) * options.seeds, "searches", "search") as done:
        for name, share, seed in itertools.product(options.strategies, TARGETS, range(options.seeds)):
            searches.append(search(name, seed, share))
            done.update()
    # A training, by its steps, is this share of a search with ProxylessNAS.
    steps = (N_TRAIN - N_ALPHAS) // BATCH * (WARMUP_EPOCHS + 2 * SEARCH_EPOCHS)
    draws = max(1, round(steps / (EPOCHS * (N_TRAIN // BATCH))))
    shown = argparse.Namespace(**{name: v for name, v in vars(options).items() if name != "truth"})
    result = {
        **record.provenance(__file__, shown, time.perf_counter() - began), "bars": bars(planted), "planted": planted, "planted_batch": PLANTED_BATCH,
        "truth": truth, "judging_images": len(images()[1]),
        "searches": judged(searches, truth), "chance": [chance(truth, share, draws) for share in TARGETS],
    }  # fmt: skip
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
