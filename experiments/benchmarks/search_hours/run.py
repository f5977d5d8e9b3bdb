"""How long a search of ImageNet takes, in trainings of one network and in hours.

    python -m experiments.benchmarks.search_hours.run --output search_hours.json --picture search_hours.svg
    python -m experiments.benchmarks.search_hours.run --short

times steps of both strategies in the paper's space against plain training steps of timm's models of the same sampled networks,
side by side as in :mod:`..step_cost.run`, on noise, with penalties on multiply-adds. What transfers to another machine is the ratio:
the epochs of ``experiments/imagenet/search_*.yml`` at these costs, by one training of 300 epochs. Its hours are those of the
device that measured. Reading and decoding images and judging networks are not in it. With a file,

    python -m experiments.benchmarks.search_hours.run experiments/imagenet/search_proxyless.yml
    python -m experiments.benchmarks.search_hours.run experiments/imagenet/search_dsnas.yml trainer.precision=bf16-mixed data.batch_size=512

that very search runs, with its space, batch size, strategy and trainer, on a few batches of noise: each stage for two epochs, of
which the second counts, the judging of the network included, with fewer images than in earnest.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nni_proxyless.search_spaces import MobileNetV2Space
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from timm.models.efficientnet import EfficientNet

from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.core.progress import bar
from nni_proxyless.latency import LatencyPenalty, LatencyProfiler, MacsEstimator
from nni_proxyless.models.timm_model import build_efficientnet

from .. import ROOT
from ..common import chain, record
from ..common.step_measures import measure, noise, run_once, times
from ..common.steps import Step, dsnas_step, two_path_steps
from .file_hours import hours_of_file, stages, training_share
from .report import FILES, TRAINING_EPOCHS, bars, markdown, picture

PUBLISHED_GPU_HOURS = {"proxyless": 200, "dsnas": 420}  # from the papers' tables; DSNAS's includes its training
IMAGES, CLASSES = 1_281_167, 1000  # ImageNet's
BUDGET = 330.0  # millions of multiply-adds


# -- steps of both strategies, by plain training ---------------------------------------------------------------------------


def timm_model(space: Any, path: chain.Path) -> EfficientNet:
    return build_efficientnet(EfficientNet, space.timm_definition(path))


def steps_of_stages(options: argparse.Namespace) -> tuple[list[chain.Search], list[Step]]:
    """``floor again``, and what the stages of both searches consist of."""
    shape = (3, options.pixels, options.pixels)
    profiler = LatencyProfiler(MobileNetV2Space("imagenet", num_classes=CLASSES), MacsEstimator(), shape)
    threshold = LatencyPenalty(profiler, BUDGET, 1e-6, form="threshold")
    sizes = {"candidates": 7, "layers": 21, "pixels": options.pixels, "batch": options.batch}
    searches = [
        chain.Search(
            strategy, MobileNetV2Space("imagenet", num_classes=CLASSES), timm_model, sizes, "channels-last", options, classes=CLASSES
        )
        for strategy in (
            ProxylessNAS(arc_update_every=chain.UPDATE_EVERY, seed=options.seed, penalty=LatencyPenalty(profiler, BUDGET, 0.3, form="mul#log")),
            DSNAS(search_epochs=2, fix_gap=1.0, seed=options.seed, penalty=threshold),
            DSNAS(search_epochs=2, fix_gap=1e-9, seed=options.seed, penalty=threshold),  # decides at once
        )
    ]  # fmt: skip
    two_path, dsnas, child = searches
    of_two_path = [step for step in two_path_steps(two_path) if step.name != "whole batch"]
    return searches, [*of_two_path, dsnas_step("DSNAS search", dsnas), child_step(child)]


def child_step(search: chain.Search) -> Step:
    """A batch of DSNAS's last stage. The first one begins an epoch, in which every choice is made and its other candidates go."""
    module = search.module

    def path() -> list[chain.Path]:
        return [module.export()]

    return Step(
        "DSNAS child", search, lambda: module.search_step(search.batch, int(module.child_since is not None)), path
    )


def by_stages(rows: dict[str, dict[str, Any]], config: SearchConfig) -> list[dict[str, Any]]:
    """What a batch of each stage costs, by a plain training step, and so its epochs, by a training of one network."""
    weights, name = rows["weight step"], config.strategy.name
    every = config.strategy.arguments.get("arc_update_every", chain.UPDATE_EVERY)
    found = []
    for stage, epochs in stages(config).items():
        if stage == "warm-up":  # the same code in both
            parts = [(1.0, weights)]
        elif name == "dsnas":
            parts = [(1.0, rows[f"DSNAS {stage}"])]
        else:
            resting = config.strategy.arguments.get("arc_start_epoch", 0) / epochs
            parts = [(1.0, weights), ((1 - resting) / every, rows["two-path step"])]
        ratio = sum(share * row["ratio"] for share, row in parts)
        found.append({
            "strategy": name, "stage": stage, "epochs": epochs, "ratio": ratio,
            "noise": math.hypot(*(share * row["noise"] for share, row in parts)),
            "trainings": epochs * training_share(config) * ratio / TRAINING_EPOCHS,
        })  # fmt: skip
    return found


def measured(options: argparse.Namespace) -> dict[str, Any]:
    searches, steps = steps_of_stages(options)

    def inside() -> None:
        for search in searches:
            search.prepare()
        with bar((options.rounds + 1) * len(steps), "search hours", "step") as done:
            for step in steps:
                run_once(step)
                done.update()
            order = list(steps)
            for _ in range(options.rounds):
                random.shuffle(order)
                for step in order:
                    measure(step)
                    done.update()

    chain.attached(searches, inside)
    rows = {step.name: times(step) for step in steps}
    for row in rows.values():
        row["noise"] = noise(row, rows["floor again"])
    plain = options.batch / rows["floor again"]["floor_seconds"]
    found = []
    for file in FILES.values():
        for stage in by_stages(rows, read_config(SearchConfig, ROOT / file)):
            hours = stage["trainings"] * TRAINING_EPOCHS * IMAGES / plain / 3600
            found.append(stage | {"images_per_second": plain / stage["ratio"], "hours_here": hours})
    totals = {
        name: {
            key: sum(s[key] for s in found if s["strategy"] == name) for key in ("epochs", "trainings", "hours_here")
        } | {"noise": math.hypot(*(s["trainings"] * s["noise"] / s["ratio"] for s in found if s["strategy"] == name))}
        for name in FILES
    }  # fmt: skip
    for name, total in totals.items():
        total["published_gpu_hours"] = PUBLISHED_GPU_HOURS[name]
        seconds = 3600 * PUBLISHED_GPU_HOURS[name]
        total["plain_images_per_second_for_these"] = total["trainings"] * TRAINING_EPOCHS * IMAGES / seconds
    return {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "CPU",
        "plain_images_per_second": plain, "entries": list(rows.values()), "stages": found, "totals": totals,
    }  # fmt: skip


# -- the command -------------------------------------------------------------------------------------------------------------


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="smaller images, fewer samples")
    parser.add_argument("--pixels", type=int, help="height and width of an image (default: 224; with --short 128)")
    parser.add_argument("--batch", type=int, default=8, help="images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="samples of every step (default: 8; with --short 3)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument(
        "--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--picture", type=Path, help="SVG file for a picture of it")
    of_file = parser.add_argument_group("the search of a file, on this machine as it is")
    of_file.add_argument("file", type=Path, nargs="?", help="a search.yml")
    of_file.add_argument("items", nargs="*", metavar="key=value", help="overrides")
    of_file.add_argument("--batches", type=int, default=20, help="of an epoch; at least 10 (default: %(default)s)")
    of_file.add_argument(
        "--images", type=int, default=IMAGES, help="training images of the real data set (default: ImageNet's)"
    )
    of_file.add_argument("--classes", type=int, default=CLASSES, help="of the real data set (default: ImageNet's)")
    options = parser.parse_args(arguments)
    options.pixels = options.pixels or (128 if options.short else 224)
    options.rounds = options.rounds or (3 if options.short else 8)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    began = time.perf_counter()
    if options.file:
        print("\n".join(hours_of_file(options)))
        return 0
    for name in ("file", "items", "batches", "images", "classes"):
        delattr(options, name)
    for name in ("pytorch_lightning", "lightning", "nni"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    random.seed(options.seed)
    result = measured(options)
    result = {**record.provenance(__file__, options, time.perf_counter() - began), "bars": bars(result), **result}
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
