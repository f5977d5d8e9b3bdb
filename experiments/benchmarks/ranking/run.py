"""Does the score that a network has during a search predict the accuracy that it has after training?

    python -m experiments.benchmarks.ranking.run --output ranking.json --picture ranking.svg

The question of the DSNAS paper. 20 networks of a MobileNetV2 space, spread over all costs, have two accuracies on
Fashion-MNIST: with the weights of a supernet, on the validation images that a search judges by, batch-norm statistics
estimated afresh as a search does; and after training from scratch, on test images. Kendall's tau says how often the first
orders two networks as the second does. Cost alone orders networks too: tau of the multiply-adds is what a score has to beat,
and among pairs of about equal cost it says nothing at all. What the noise of training allows is tau between two trainings.

Supernets are looked at twice: after the pretraining, in which all paths are as likely as the others, and at the end of the
search. A search of DSNAS ends here where the paper's first stage does: one epoch later all candidates but one are gone.
``nni-random`` trains on random paths all the time. With ``+shared`` all candidates of a choice train the same weights, with
``+size-bias`` large candidates are on their paths more often (``size_bias: 1``).
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning
from nni_proxyless.search_spaces import MobileNetV2Space
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.nni_baselines import RandomOneShot
from pytorch_lightning import Callback
from timm.optim import create_optimizer_v2
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from nni_proxyless.core.progress import bar
from nni_proxyless.data import fashion_mnist, loader
from nni_proxyless.data.accuracy import as_channels_last
from nni_proxyless.derive import count_macs
from nni_proxyless.search.evaluator import TaskTraining
from nni_proxyless.search.monitor import judge
from nni_proxyless.tasks import Classification

from ..common import record
from ..common.planted import EndAfter, silence, trainer
from .report import judged, markdown, picture, tau, tau_in_band

SPACE = {
    "preset": "small", "stem_width": 8, "stem_stride": 2, "first_width": 8, "widths": (8, 16, 24), "depths": (1, 3, 1),
    "strides": (2, 2, 1), "kernels": (3, 5), "expansions": (1, 6), "feature_mix": 64, "num_classes": 10, "in_channels": 1,
}  # fmt: skip
SHAPE = (1, 32, 32)
TRAINING = {"optimizer": "adamw", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 4e-5}


class Sizes(NamedTuple):
    """How much is computed; the second set is for the short form."""

    networks: int = 20
    images: int = 2400  # for weights; as many for the logits, validation and calibration as the shares below say
    validation: int = 1500
    calibration: int = 480
    test: int = 4000
    batch: int = 64
    epochs: int = 12  # of training from scratch
    warmup: int = 8
    search: int = 16
    resamples: int = 1000


SHORT = Sizes(
    networks=6, images=480, validation=300, calibration=160, test=500, epochs=3, warmup=2, search=3, resamples=200
)


class Images(NamedTuple):
    weights: TensorDataset
    alphas: TensorDataset
    both: TensorDataset
    calibration: TensorDataset
    validation: TensorDataset
    test: TensorDataset


@functools.cache
def images(sizes: Sizes) -> Images:
    """Parts of Fashion-MNIST, in memory, not augmented. A fifth of the images for weights is held back for logits."""
    n = -(-(sizes.images + sizes.validation) // 10) * 10
    data = fashion_mnist(n_train=n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()

    def part(of: Any, indices: Sequence[int]) -> TensorDataset:
        x, y = zip(*(of[i] for i in indices), strict=True)
        return TensorDataset(torch.stack(x), torch.tensor(y))

    both = part(data.train_plain, order[: sizes.images])
    held_back = sizes.images // 5
    x, y = both.tensors
    return Images(
        weights=TensorDataset(x[held_back:], y[held_back:]), alphas=TensorDataset(x[:held_back], y[:held_back]), both=both,
        calibration=TensorDataset(x[held_back:][: sizes.calibration], y[held_back:][: sizes.calibration]),
        validation=part(data.train_plain, order[sizes.images :]), test=part(data.test, range(sizes.test)),
    )  # fmt: skip


# -- networks ------------------------------------------------------------------------------------------------------------


def spread_over_costs(n: int, seed: int = 0) -> list[tuple[dict[str, str], int]]:
    """So many networks with their multiply-adds: of all, in the order of cost, one at random of every n-th part."""
    space = MobileNetV2Space(**SPACE)  # type: ignore[arg-type]
    costs: dict[str, dict[str, int]] = {}
    smallest = {str(label): min(m.values, key=lambda c: (c != "skip", c)) for label, m in space.simplify().items()}
    least = count_macs(space.freeze(smallest), SHAPE)
    for label, mutable in space.simplify().items():  # costs add up, for shapes do not depend on choices
        costs[str(label)] = {
            c: count_macs(space.freeze({**smallest, str(label): c}), SHAPE) - least for c in mutable.values
        }
    every = sorted(
        (least + sum(costs[label][c] for label, c in zip(costs, choices, strict=True)), choices)
        for choices in itertools.product(*(costs[label] for label in costs))
    )
    chance = random.Random(seed)
    parts = [every[i * len(every) // n : (i + 1) * len(every) // n] for i in range(n)]
    return [(dict(zip(costs, choices, strict=True)), macs) for macs, choices in map(chance.choice, parts)]


def trained_accuracy(architecture: dict[str, str], seed: int, sizes: Sizes) -> float:
    """Of a network trained from scratch, on the test images."""
    torch.manual_seed(seed)
    network = MobileNetV2Space(**SPACE).freeze(architecture).to(memory_format=torch.channels_last).train()  # type: ignore[arg-type]
    parts = images(sizes)
    batches = loader(parts.both, sizes.batch, seed=seed)
    optimizer = create_optimizer_v2(
        network, TRAINING["optimizer"], lr=TRAINING["learning_rate"], momentum=TRAINING["momentum"],
        weight_decay=TRAINING["weight_decay"], filter_bias_and_bn=False,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, sizes.epochs * len(batches))
    for _ in range(sizes.epochs):
        for x, y in batches:
            loss = cross_entropy(network(as_channels_last(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judged_by(network, parts.test, sizes)


def judged_by(network: Any, judging: TensorDataset, sizes: Sizes) -> float:
    """As a search judges: batch-norm statistics from training images first."""
    calibration = loader(images(sizes).calibration, sizes.batch)
    return judge(network, calibration, loader(judging, 500), torch.device("cpu"))


# -- supernets -----------------------------------------------------------------------------------------------------------


# As the shipped files of experiments/ have them, but for DSNAS: where all choices are made, all other candidates are gone, and nothing
# is left to look at. So none is made before the end, and no probability comes so close to 1 that it would count as made.
STRATEGIES: dict[str, Callable[..., Any]] = {
    "two-path": functools.partial(ProxylessNAS, arc_update_every=2, arc_learning_rate=0.1, entropy_weight=1.0),
    "dsnas": functools.partial(DSNAS, fix_gap=1.0, arc_learning_rate=0.02, entropy_weight=1.0),
    "nni-random": RandomOneShot,
}
SHARED, BIASED = "shared", "size-bias"
SUPERNETS = (
    *STRATEGIES, *(f"{name}+{SHARED}" for name in STRATEGIES), *(f"{name}+{SHARED}+{BIASED}" for name in ("two-path", "dsnas")),
)  # fmt: skip


class Look(Callback):
    """Accuracy of all networks with the weights of the supernet, after certain epochs."""

    def __init__(self, networks: Sequence[dict[str, str]], epochs: dict[int, str], sizes: Sizes):
        self.networks, self.epochs, self.sizes = networks, epochs, sizes
        self.seen: dict[str, list[float]] = {}

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if (when := self.epochs.get(trainer.current_epoch + 1)) is None:
            return
        validation = images(self.sizes).validation
        self.seen[when] = [
            judged_by(copy.deepcopy(module.model.freeze(network)), validation, self.sizes) for network in self.networks
        ]


def inherited(name: str, seed: int, networks: Sequence[dict[str, str]], sizes: Sizes) -> dict[str, Any]:
    """One search without a latency target, and what its supernet says of the networks."""
    torch.manual_seed(seed)
    called = name
    name, *more = called.split("+")
    space: Any = MobileNetV2Space(**SPACE, shared_weights=SHARED in more).to(memory_format=torch.channels_last)  # type: ignore[arg-type]
    epochs = sizes.warmup + sizes.search
    arguments: dict[str, Any] = {}
    if name != "nni-random":
        arguments = {
            "warmup_epochs": sizes.warmup,
            "seed": seed,
            "log_prob_every_n_step": 10**9,
            "size_bias": float(BIASED in more),
        }
    if name == "dsnas":
        arguments["search_epochs"] = sizes.search
    strategy = STRATEGIES[name](**arguments)
    look = Look(networks, {sizes.warmup: "after pretraining", epochs: "after the search"}, sizes)
    parts, held_back = images(sizes), name == "two-path"
    make = functools.partial(loader, factory=DataLoader)
    supernet = strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(
        Lightning(
            TaskTraining(task=Classification(), label_smoothing=0.0, **TRAINING),  # type: ignore[arg-type]  # a dict of several types
            trainer(epochs + (name == "dsnas"), look, EndAfter(epochs)),  # DSNAS wants an epoch for its child
            train_dataloaders=make(parts.weights if held_back else parts.both, sizes.batch, seed=seed),
            val_dataloaders=make(parts.alphas, sizes.batch, seed=seed + 1) if held_back else None,
        )
    )
    began = time.process_time()
    evaluator.evaluate(supernet)
    return {
        "strategy": called, "seed": seed, "accuracies": look.seen,
        "seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


# -- the command ---------------------------------------------------------------------------------------------------------


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tiny sizes, one seed: shows that everything runs")
    parser.add_argument("--seeds", type=int, help="of the supernets (default: 2; short: 1)")
    parser.add_argument("--trainings", type=int, default=2, help="of every network, 2 or more (default: %(default)s)")
    parser.add_argument(
        "--strategies", nargs="+", choices=sorted(SUPERNETS), default=[*SUPERNETS], help="(default: all)"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--picture", type=Path, help="SVG or PNG file")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (1 if options.short else 2)
    for name, least in (("seeds", 1), ("trainings", 2)):
        if getattr(options, name) < least:
            parser.error(f"argument --{name}: {getattr(options, name)}; allowed: {least} or more")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    silence()
    torch.set_num_threads(1)
    began = time.perf_counter()
    sizes = SHORT if options.short else Sizes()
    chosen = spread_over_costs(sizes.networks)

    supernets = []
    with bar(len(options.strategies) * options.seeds, "supernets", "search") as done:
        for name, seed in itertools.product(options.strategies, range(options.seeds)):
            supernets.append(inherited(name, seed, [network for network, _ in chosen], sizes))
            done.update()
    networks: list[dict[str, Any]] = []
    with bar(len(chosen) * options.trainings, "from scratch", "training") as done:
        for network, macs in chosen:
            networks.append({"choices": network, "macs": macs, "final": []})
            for seed in range(options.trainings):
                networks[-1]["final"].append(trained_accuracy(network, seed, sizes))
                done.update()

    result: dict[str, Any] = {"bars": [], "sizes": sizes._asdict(), "networks": networks, "supernets": supernets}
    for supernet in supernets:
        supernet["worth"] = {
            when: judged(seen, result, sizes.resamples) for when, seen in supernet["accuracies"].items()
        }
    macs_of = [network["macs"] for network in networks]
    result["cost"] = judged(macs_of, result, sizes.resamples)
    first, second = ([network["final"][i] for network in networks] for i in (0, 1))
    result["control"] = {**tau(first, second, sizes.resamples), "in_band": tau_in_band(first, second, macs_of)}
    variances = [statistics.variance(network["final"]) for network in networks]
    result["noise"] = math.sqrt(statistics.mean(variances) / options.trainings)
    result = {**record.provenance(__file__, options, time.perf_counter() - began), **result}
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
