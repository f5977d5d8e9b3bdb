"""What does each reward of DSNAS find?

    python -m experiments.benchmarks.rewards.run --seeds 20 --output experiments/benchmarks/rewards/records/rewards.json

The gradient as reward, which is the paper's, asks how the loss changes with the *scale* of a candidate's output y; the loss
as reward asks how good the network was. Three questions, from the smallest network to a real one:

A. *Size.* How large is the gradient reward where y feeds a convolution with batch norm behind it, with and without
   something added to y in between? In float64, for three eps of the batch norm.
B. *Planted candidates.* A chain of four choices, of four candidates each. One candidate of each choice is planted: the
   labels are what the network of the planted candidates says. All others are mixtures of the planted weights and random
   ones. Weights stand still, so there is nothing to learn but the choices. How many does a search find?
C. *Digits.* In a supernet that has been trained for a while, does a candidate's mean reward say anything about the mean loss
   of the networks that contain it?
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning
from nni.nas.nn.pytorch import LayerChoice
from nni_proxyless.search_spaces import MobileNetV2Space
from nni_proxyless.strategies import DSNAS
from nni_proxyless.strategies.supernet.gate import Gate
from nni_proxyless.strategies.supernet.gate_gradient import route_gate_gradients
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset

from nni_proxyless.core.batch_norm import batch_norm_statistics_kept
from nni_proxyless.core.progress import bar
from nni_proxyless.data import digits, loader, split
from nni_proxyless.data.accuracy import as_channels_last
from nni_proxyless.search.evaluator import TaskTraining
from nni_proxyless.tasks import Classification

from ..common import record
from ..common.planted import (
    LAYERS,
    SPACE_EPS,
    EndAfter,
    StillWeights,
    Way,
    planted_task,
    silence,
    trainer,
)
from .report import ARC_LEARNING_RATE, EPS, bars, markdown


class Sizes(NamedTuple):
    """How much is computed; the second set for a test that everything runs, the third for A and part of B alone."""

    draws: int = 50  # A
    images: int = 512  # B
    batch: int = 32
    epochs: int = 20
    pretraining: int = 10  # C, epochs
    digits: int = 1151  # images: all that a search trains on
    paths: int = 1500


QUICK = Sizes(draws=5, images=32, epochs=1, pretraining=1, digits=32, paths=26)
SHORT = QUICK._replace(draws=20, images=512, epochs=20)


# -- A: the size of the gradient reward ----------------------------------------------------------------------------------


def gradient_reward(eps: float, *, added: bool, draw: int) -> tuple[float, float]:
    """r of one output y that goes through conv, batch norm, ReLU and a classifier, and sum |dL/dy * y|, of which r is the rest.

    Parameters
    ----------
    added
        Whether a tensor of the size of y, which does not depend on y, is added to it first, as a skip connection does.
    """
    make = torch.Generator().manual_seed(draw)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    y, x = noise(32, 8, 6, 6).requires_grad_(), noise(32, 8, 6, 6)
    kernel, classifier = noise(8, 8, 3, 3) / math.sqrt(72), noise(10, 8)
    labels = torch.randint(10, (32,), generator=make)
    gate = torch.ones(1, dtype=torch.float64, requires_grad=True)
    z = route_gate_gradients(gate, y, [None], ())
    z = nn.functional.conv2d(z + x if added else z, kernel, padding=1)
    z = nn.functional.batch_norm(z, None, None, training=True, eps=eps).relu().mean((2, 3))
    r, dy = torch.autograd.grad(cross_entropy(z @ classifier.T, labels), (gate, y))
    return float(r), float((dy * y.detach()).abs().sum())


def sizes_of_reward(draws: int) -> list[dict[str, Any]]:
    """Mean |r| over draws of everything, the same draws for every eps."""
    rows: list[dict[str, Any]] = []
    for added in (False, True):
        smallest = None
        for eps in EPS:
            found = [gradient_reward(eps, added=added, draw=draw) for draw in range(draws)]
            size = statistics.mean(abs(r) for r, _ in found)
            smallest = smallest or size
            rows.append({
                "skip_connection_behind": added, "eps": eps, "mean_abs_reward": size, "ratio_to_smallest_eps": size / smallest,
                "relative_to_terms": size / statistics.mean(terms for _, terms in found),
            })  # fmt: skip
    return rows


# -- B: planted candidates -----------------------------------------------------------------------------------------------


WAYS = [
    *(Way(f"gradient, eps {eps:g}", "gradient", eps) for eps in EPS),
    Way(f"gradient on the branch, eps {SPACE_EPS:g}", "gradient", SPACE_EPS, on_branch=True),
    Way(f"loss, eps {SPACE_EPS:g}", "loss", SPACE_EPS),
]


def found_by(way: Way, *, residual: bool, seed: int, sizes: Sizes) -> int:
    """How many of the planted candidates one search finds."""
    space, planted, data = planted_task(way, residual=residual, seed=seed, images=sizes.images)
    strategy = DSNAS(
        reward=way.reward, search_epochs=sizes.epochs, arc_learning_rate=ARC_LEARNING_RATE, fix_gap=1.0,
        log_prob_every_n_step=10**9, seed=seed,
    )  # fmt: skip
    supernet = strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(
        Lightning(
            StillWeights(),
            trainer(sizes.epochs + 1, EndAfter(sizes.epochs)),  # DSNAS wants an epoch for its child
            train_dataloaders=DataLoader(
                data, sizes.batch, shuffle=True, generator=torch.Generator().manual_seed(seed)
            ),
        )
    )
    evaluator.evaluate(supernet)
    assert evaluator.module.child_since is None
    return sum(evaluator.module.export()[label] == best for label, best in planted.items())


def planted_candidates(seeds: int, sizes: Sizes, ways: Sequence[Way]) -> list[dict[str, Any]]:
    todo = [(residual, way) for residual in (False, True) for way in ways if residual or not way.on_branch]
    rows = []
    with bar(len(todo) * seeds, "planted candidates", "search") as done:
        for residual, way in todo:
            began = time.perf_counter()
            found = []
            for seed in range(seeds):
                found.append(found_by(way, residual=residual, seed=seed, sizes=sizes))
                done.update()
            rows.append({
                "residual": residual, "way": way.name, "reward": way.reward, "eps": way.eps, "on_branch": way.on_branch,
                "found": found, "seeds_with_all": sum(n == LAYERS for n in found),
                "share_of_choices": sum(found) / (LAYERS * seeds),
                "seconds_per_search": round((time.perf_counter() - began) / seeds, 2),
            })  # fmt: skip
    return rows


# -- C: a real supernet --------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """What was seen on random paths: per path the loss, per label and path the candidate, r, and sum |dL/dy * y|."""

    loss: Tensor
    candidate: dict[str, Tensor]
    reward: dict[str, Tensor]
    terms: dict[str, Tensor]


def pretrained(eps: float, epochs: int, data: Any) -> Any:
    """The module of a search that has pretrained a supernet on the digits and goes no further."""
    torch.manual_seed(0)
    space = MobileNetV2Space("small", num_classes=10, in_channels=1)
    for norm in space.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = eps
    strategy = DSNAS(search_epochs=1, warmup_epochs=epochs, reward="gradient", seed=0)
    supernet = strategy.mutate_model(space).to(memory_format=torch.channels_last)
    task = TaskTraining(
        task=Classification(),
        optimizer="adamw",
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=4e-5,
        label_smoothing=0.0,
    )
    evaluator = strategy.mutate_evaluator(
        Lightning(
            task,
            # Logits are still nearly uniform then, and so were the paths.
            trainer(epochs + 2, EndAfter(epochs)),
            train_dataloaders=loader(data, 32, seed=0, factory=DataLoader),
        )
    )
    evaluator.evaluate(supernet)
    assert evaluator.module.trainer.current_epoch == epochs, "the search has begun"
    return evaluator.module


def paths(gates: Sequence[Gate], n: int) -> Iterator[dict[Gate, int]]:
    """Random paths; of any N in a row, which begin with a multiple of N, a choice takes each of its N candidates once."""
    make = torch.Generator().manual_seed(1)
    columns = {}
    for gate in gates:
        k = len(gate.choices)
        columns[gate] = torch.cat([torch.randperm(k, generator=make) for _ in range(-(-n // k))])
    for i in range(n):
        yield {gate: int(column[i]) for gate, column in columns.items()}


def endless(batches: Any) -> Iterator[Any]:
    while True:
        yield from batches


def sample(module: Any, data: Any, n: int, done: Any) -> Sample:
    """The gradient reward and the loss of random paths, in training mode, while nothing learns."""
    gates, supernet = module.searched, module.model.train()
    losses: list[float] = []
    seen: dict[str, dict[str, list[float]]] = {
        what: {g.label: [] for g in gates} for what in ("candidate", "reward", "terms")
    }

    def watch(layer: LayerChoice, args: Any, y: Tensor) -> None:
        y.register_hook(lambda dy: seen["terms"][layer.label].append(float((dy * y.detach()).abs().sum())))

    hooks = [m.register_forward_hook(watch) for m in supernet.modules() if isinstance(m, LayerChoice)]
    batches = endless(loader(data, 32, seed=7))
    with batch_norm_statistics_kept(list(supernet.modules())):
        for path in paths(gates, n):
            x, targets = next(batches)
            variables = {gate: torch.zeros(1, requires_grad=True) for gate in gates}
            for gate, active in path.items():  # as DSNAS opens them for this reward
                gate.open(active, probed=(active,), variables=variables[gate], shift=False)
            loss = cross_entropy(supernet(as_channels_last(x)), targets)
            loss.backward()
            losses.append(float(loss.detach()))
            for gate, active in path.items():
                grad = variables[gate].grad
                assert grad is not None, f"{gate.label} has not run"
                seen["candidate"][gate.label].append(active)
                seen["reward"][gate.label].append(float(grad))
            for p in supernet.parameters():
                p.grad = None
            done.update()
    for hook in hooks:
        hook.remove()
    module.reset_gates()
    columns = {
        what: {label: torch.tensor(v, dtype=torch.float64) for label, v in by.items()} for what, by in seen.items()
    }
    return Sample(torch.tensor(losses, dtype=torch.float64), **columns)


def means_by(candidate: Tensor, values: Tensor) -> Tensor:
    """Mean of the values of every candidate, shape (N,)."""
    return torch.stack([values[candidate == j].mean() for j in range(int(candidate.max()) + 1)])


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two vectors, neither of them constant."""
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (a.norm() * b.norm()))


def rewards_on_digits(eps: float, sizes: Sizes) -> dict[str, Any]:
    data: Any = split(digits(), alphas=0.2, validation=0.2).all_but_validation
    data = Subset(data, range(min(sizes.digits, len(data))))
    began = time.perf_counter()
    module = pretrained(eps, sizes.pretraining, data)
    with bar(sizes.paths, f"digits, eps {eps:g}", "path") as done:
        drawn = sample(module, data, sizes.paths, done)
    half = sizes.paths // 2
    parts = (slice(None, half), slice(half, None))
    choices = []
    for gate in module.searched:
        candidate, reward = drawn.candidate[gate.label], drawn.reward[gate.label]
        loss, mean_reward = means_by(candidate, drawn.loss), means_by(candidate, reward)
        loss_halves = [means_by(candidate[part], drawn.loss[part]) for part in parts]
        reward_halves = [means_by(candidate[part], reward[part]) for part in parts]
        choices.append({
            "label": gate.label, "candidates": gate.choices, "mean_loss": loss.tolist(), "mean_reward": mean_reward.tolist(),
            "reward_with_loss": pearson(mean_reward, loss),
            "loss_between_halves": pearson(*loss_halves),
            "reward_between_halves": pearson(*reward_halves),
            "spread_of_mean_loss": float(loss.std()),
            "spread_of_mean_reward": float(mean_reward.std()),
            "std_of_one_reward": float(reward.std()),
            "reward_relative_to_terms": float(reward.abs().mean() / drawn.terms[gate.label].mean()),
        })  # fmt: skip
    return {
        "eps": eps, "mean_loss": float(drawn.loss.mean()), "std_of_one_loss": float(drawn.loss.std()), "choices": choices,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, help="of the planted candidates (default: 20; short: 2)")
    parser.add_argument("--short", action="store_true", help="A; B by the loss alone; C so small that it says nothing")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    options = parser.parse_args(arguments)
    options.seeds = (2 if options.short else 20) if options.seeds is None else options.seeds
    if options.seeds < 1:
        parser.error(f"argument --seeds: {options.seeds}; allowed: 1 or more")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    silence()
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else SHORT if options.short else Sizes()
    ways = [way for way in WAYS if way.reward == "loss" or not options.short]
    began = time.perf_counter()
    found = {
        "size": sizes_of_reward(sizes.draws),
        "planted": planted_candidates(options.seeds, sizes, ways),
        "digits": [rewards_on_digits(eps, sizes) for eps in (SPACE_EPS, EPS[-1])],
    }
    result = record.provenance(__file__, options, time.perf_counter() - began) | found
    result["settings"] |= {"arc_learning_rate": ARC_LEARNING_RATE, **sizes._asdict()}
    result["bars"] = bars(result)
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
