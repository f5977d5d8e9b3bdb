"""Is the network that DSNAS leaves as good as the same network trained from scratch for as many epochs?

    python -m experiments.benchmarks.no_retraining.run --task digits --output no_retraining_digits.json
    python -m experiments.benchmarks.no_retraining.run --task fashion-mnist --output no_retraining_fashion-mnist.json

For every seed: one ``nni-proxyless search`` with DSNAS, and then its network with fresh weights, trained with the same
images, augmentation, batch size, optimizer and learning rates for as many epochs as the whole search took, pretraining and
search included. Both get batch-norm statistics from the same images, and both are judged on the test images, which nothing
has seen. The cost that the searches are held to is multiply-adds, so that nothing depends on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2

from nni_proxyless.cli.main import main as command
from nni_proxyless.config import registry
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.core.batch_norm import estimate_statistics
from nni_proxyless.data import loader, split
from nni_proxyless.data.accuracy import as_channels_last, evaluate_accuracy
from nni_proxyless.derive import Architecture, build_network

from .. import ROOT
from ..common import record
from .report import bars, markdown

SEARCH = ROOT / "experiments" / "search_dsnas.yml"
COMMON = ["latency.estimator={name: macs}", "latency.table=null", "trainer.threads=1", "trainer.accelerator=cpu"]
TASKS = {
    "digits": [],
    "fashion-mnist": [
        "data={name: 'experiments.benchmarks.common.fashion:part_of_fashion_mnist', batch_size: 128, validation: 0.1}",
        "space={name: mobilenetv2, preset: small, stem_width: 8, stem_stride: 2, widths: [8, 16, 24], depths: [1, 2, 1],"
        " kernels: [3, 5], feature_mix: 64}",
        "strategy.warmup_epochs=1", "strategy.search_epochs=3", "training.epochs=24",
    ],
}  # fmt: skip
SHORT = ["strategy.warmup_epochs=1", "strategy.search_epochs=2", "training.epochs=5"]


def from_scratch(config: SearchConfig, architecture: Architecture) -> float:
    """Accuracy on the test images of the same network, trained as the search trains, but alone and from the start."""
    torch.manual_seed(config.seed)
    data = registry.load("nni_proxyless.datasets", config.data.name)(**config.data.arguments)
    parts = split(data, alphas=config.data.alphas, validation=config.data.validation)
    batches = loader(parts.all_but_validation, config.data.batch_size, seed=config.seed)
    network: Any = build_network(architecture).to(memory_format=torch.channels_last)
    training = config.training
    optimizer = create_optimizer_v2(
        network, training.optimizer, lr=training.learning_rate, momentum=training.momentum,
        weight_decay=training.weight_decay, filter_bias_and_bn=False,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(batches) * training.epochs)
    for _ in range(training.epochs):
        network.train()
        for images, targets in batches:
            loss = torch.nn.functional.cross_entropy(
                network(as_channels_last(images)), targets, label_smoothing=training.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    every = max(1, -(-len(parts.weights_plain) // training.calibration_images))
    some = torch.utils.data.Subset(parts.weights_plain, range(0, len(parts.weights_plain), every))
    batches = (as_channels_last(images) for images, _ in loader(some, config.data.batch_size))
    estimate_statistics(network, batches, torch.device("cpu"))
    return evaluate_accuracy(network, loader(data.test, config.data.batch_size))


def run(task: str, seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """One search, and its network from scratch."""
    words = [*COMMON, *TASKS[task], *overrides, f"seed={seed}"]
    out = folder / f"{task}-{seed}"
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):  # what a search prints is not this benchmark's result
        if command(["search", str(SEARCH), *words, f"output={out}"]) != 0:
            raise SystemExit(f"no_retraining: the search with seed {seed} has failed")
    searched = time.perf_counter() - began
    architecture = Architecture.read(out / "architecture.json")
    config = read_config(SearchConfig, out / "search.yml")
    began = time.perf_counter()
    scratch = from_scratch(config, architecture)
    return {
        "seed": seed,
        "deployed": architecture.search["test_accuracy"],
        "scratch": scratch,
        "macs": architecture.macs,
        "target_macs": architecture.latency["target_ms"] * 1e6,
        "choices": architecture.choices,
        "seconds": [round(searched, 1), round(time.perf_counter() - began, 1)],
    }


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one seed, few epochs: shows that it runs, and has no bar")
    parser.add_argument("--task", choices=sorted(TASKS), default="digits", help="(default: %(default)s)")
    parser.add_argument("--overrides", nargs="+", metavar="key=value", help="of the search")
    parser.add_argument("--seeds", type=int, nargs="+", help="(default: 0 to 4; short: 0)")
    parser.add_argument("--output", type=Path, help="JSON file for the result, written after every seed")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)  # task and overrides without their flags, as before
    options = parser.parse_intermixed_args(arguments)
    if words := vars(options).pop("words"):
        if words[0] not in TASKS:
            parser.error(f"task: {words[0]!r} is not allowed here; allowed: {', '.join(sorted(TASKS))}")
        options.task, options.overrides = words[0], [*words[1:], *(options.overrides or ())] or None
    options.seeds = options.seeds or ([0] if options.short else [0, 1, 2, 3, 4])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    logging.getLogger("nni_proxyless").setLevel(logging.INFO)
    torch.set_num_threads(1)
    overrides = [*(SHORT if options.short else ()), *(options.overrides or ())]
    runs: list[dict[str, Any]] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            runs.append(run(options.task, seed, Path(folder), overrides))
            result = record.provenance(__file__, options, time.perf_counter() - began) | {
                "task": options.task,
                "overrides": [*COMMON, *TASKS[options.task], *overrides],
                "runs": runs,
                "bars": bars(runs, short=options.short),
            }
            record.write(result, options.output)
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
