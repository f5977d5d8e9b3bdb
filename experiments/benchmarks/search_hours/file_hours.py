"""The hours of the search that a file describes, on this machine as it is: what :mod:`.run` does with a file."""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
from pathlib import Path

import torch

from nni_proxyless.cli.main import main as command
from nni_proxyless.config.read import file_and_overrides, read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.search.search_time import stages_of as stages
from nni_proxyless.search.search_time import training_share

from ..common import record

N_CLASSES = 10  # of the noise, and outputs of the network: at least so many, and no more than the real data set has
SHARES = {"data.alphas": 0.25, "data.validation": 0.05}


def images_per_second(
    path: Path, items: list[str], config: SearchConfig, batches: int, classes: int
) -> dict[str, float]:
    """Of each stage, from a short run of the search on noise."""
    size, weights = config.data.batch_size, 1 - sum(SHARES.values())
    names = list(stages(config))
    if config.strategy.name == "dsnas":
        weights += SHARES["data.alphas"]
    needed = batches * size / weights
    classes = min(classes, max(N_CLASSES, int(needed / 20)))  # some images of each for every part
    n_images = max(20 * classes, math.ceil(needed / classes) * classes)
    image_size = config.data.arguments.get("image_size", 224)
    changes = {
        "data": f"{{name: synthetic, n_images: {n_images}, num_classes: {classes}, image_size: {image_size}, batch_size: {size}}}",
        **SHARES,
        "latency.estimator": "{name: macs}",
        "latency.table": "null",
        "latency.target_ms": "60%",
        "training.epochs": 2 * len(names),
        "training.calibration_images": size,
    }
    if "warm-up" in names:
        changes["strategy.warmup_epochs"] = 2
    if config.strategy.name == "dsnas":
        changes["strategy.search_epochs"] = 2
    elif "arc_start_epoch" in config.strategy.arguments:
        changes["strategy.arc_start_epoch"] = 0
    with tempfile.TemporaryDirectory() as folder:
        words = [*items, *(f"{key}={value}" for key, value in changes.items()), f"output={folder}/out"]
        if command(["search", str(path), *words]) != 0:
            raise SystemExit("the search on noise has failed")
        history = [json.loads(line) for line in Path(folder, "out", "history.jsonl").read_text().splitlines()]
    used = max(1, int(n_images * weights) // size) * size
    return {name: used / history[2 * i + 1]["seconds"] for i, name in enumerate(names)}


def hours_of_file(given: argparse.Namespace) -> list[str]:
    config = read_config(SearchConfig, given.file, file_and_overrides(given.items)[1])
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    rates = images_per_second(given.file, given.items, config, given.batches, given.classes)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"
    rows, total = [], 0.0
    for stage, epochs in stages(config).items():
        hours = epochs * given.images * training_share(config) / rates[stage] / 3600
        total += hours
        rows.append((stage, epochs, f"{rates[stage]:.1f}", f"{hours:.1f}"))
    rows.append(("together", config.training.epochs, "", f"{total:.1f}"))
    head = f"{device}, {config.trainer.devices} process(es), batch {config.data.batch_size}, {config.trainer.precision}"
    return [head, *record.table(("stage", "epochs", "images/s", "hours"), rows)]
