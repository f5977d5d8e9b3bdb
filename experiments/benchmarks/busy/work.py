"""What the benchmark measures: steps of a search or of a training, a second or two at a time, whenever a line on stdin says so.

    python -m experiments.benchmarks.busy.work search FOLDER

After each step it writes a dot, and a new line when the time is over and it waits for the next one; so also once it is ready. The
variables of OpenMP are in its environment when it starts.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

from .. import ROOT

ARCHITECTURE = ROOT / "experiments" / "digits_architecture.json"
EPOCHS = 100_000  # nobody sees the last


class Halts:
    """After each step: on with the next one, or wait until there is time again; at the end of stdin the process ends."""

    def __init__(self) -> None:
        self.tells = os.dup(1)
        os.dup2(2, 1)  # what others print is no step
        self.until: float | None = (
            None  # of a step that nobody has asked for: the first, which comes before anything is measured
        )

    def after_step(self) -> None:
        if self.until is not None:
            os.write(self.tells, b".")
            if time.perf_counter() < self.until:
                return
        os.write(self.tells, b"\n")
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # in the middle of a fit, of which nobody wants the rest
        self.until = time.perf_counter() + float(line)


def search(folder: Path, halts: Halts) -> None:
    """ProxylessNAS as experiments/search.yml has it, architecture steps from the first epoch on."""
    import torch
    from nni.nas.evaluator.pytorch import LightningModule  # noqa: F401  (first: else NNI's circular imports fail)
    from nni.nas.space import RawFormatModelSpace
    from nni_proxyless.search_spaces import MobileNetV2Space
    from nni_proxyless.strategies import ProxylessNAS
    from pytorch_lightning import Callback

    from nni_proxyless.config.read import read_config
    from nni_proxyless.config.search_config import SearchConfig
    from nni_proxyless.config.shipped import shipped
    from nni_proxyless.data import split
    from nni_proxyless.data.validate import make_images
    from nni_proxyless.models.space import make_space
    from nni_proxyless.search.build import make_evaluator, space_arguments_for
    from nni_proxyless.search.run import InProcessEngine

    class AfterSteps(Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            halts.after_step()

    words = {"training.epochs": EPOCHS, "strategy.warmup_epochs": 0, "trainer.accelerator": "cpu"}
    config = read_config(SearchConfig, shipped("search.yml"), [("busy", name, value) for name, value in words.items()])
    images = make_images(config.data.name, config.data.arguments)
    parts = split(images, alphas=config.data.alphas, validation=config.data.validation)
    space = make_space(config.space.name, space_arguments_for(MobileNetV2Space, config.space.arguments, images))
    space.to(memory_format=torch.channels_last)
    evaluator = make_evaluator(config, folder, parts, images.task, AfterSteps())
    ProxylessNAS(**config.strategy.arguments, seed=0)(RawFormatModelSpace(space, evaluator), InProcessEngine())


def training(folder: Path, halts: Halts) -> None:
    """``nni-proxyless train`` as experiments/train.yml has it, of the network in experiments/digits_architecture.json."""
    from nni_proxyless.config.read import read_config
    from nni_proxyless.config.shipped import shipped
    from nni_proxyless.config.train_config import TrainConfig
    from nni_proxyless.training import loop

    class Halting(loop._Training):
        def _one_batch(self, *arguments: Any) -> bool:
            moved = super()._one_batch(*arguments)
            halts.after_step()
            return moved

    loop._Training = Halting  # type: ignore[misc]
    words = {"epochs": EPOCHS, "weights": "scratch", "device": "cpu", "threads": None}
    config = read_config(TrainConfig, shipped("train.yml"), [("busy", name, value) for name, value in words.items()])
    loop.train(config, ARCHITECTURE, folder)


def main(work: str, folder: str) -> NoReturn:
    warnings.simplefilter("ignore")
    Path(folder).mkdir(parents=True)
    for name in ("pytorch_lightning", "lightning", "nni"):
        logging.getLogger(name).setLevel(logging.ERROR)
    {"search": search, "training": training}[work](Path(folder), Halts())
    raise SystemExit("busy.work: ended by itself")


if __name__ == "__main__":
    main(*sys.argv[1:])
