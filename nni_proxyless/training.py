"""Final training of a derived network, with timm's optimizer, scheduler, loss and EMA."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from . import registry
from .config import TrainConfig
from .data import ImageData, loader
from .derive import Architecture, build_network, load_weights
from .errors import UserError
from .evaluator import as_channels_last, evaluate_accuracy
from .files import write_text, write_weights
from .progress import bar

__all__ = ["TrainResult", "train"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """Accuracy on the test images, after the last epoch, of the averaged weights that are saved."""

    folder: Path
    accuracy: float


def train(config: TrainConfig, architecture_path: Path, folder: Path) -> TrainResult:
    """Train a derived network on all training images and test it on images that no search has seen.

    Parameters
    ----------
    config
        Checked already.
    architecture_path
        ``architecture.json``; inherited weights are read from ``weights.safetensors`` beside it.
    folder
        Gets ``train.yml`` as it was resolved, ``history.jsonl``, and at the end ``weights.safetensors`` and
        ``result.json``.

    Raises
    ------
    UserError
        Files are missing or damaged, or the training diverged; results of an earlier training then stay as they are.
    """
    torch.manual_seed(config.seed)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    architecture = Architecture.read(architecture_path)
    inherited = (
        load_weights(architecture_path.with_name("weights.safetensors")) if config.weights == "inherited" else None
    )
    data: ImageData = registry.load("nni_proxyless.datasets", architecture.data["name"])(
        **architecture.data["arguments"]
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "train.yml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    network: Any = build_network(architecture, inherited).to(config.device).to(memory_format=torch.channels_last)
    if hasattr(network, "drop_rate"):
        network.drop_rate = config.dropout
    train_batches = loader(data.train, config.batch_size, seed=config.seed, workers=config.workers)
    test_batches = loader(data.test, config.batch_size, workers=config.workers)

    optimizer = create_optimizer_v2(
        network, config.optimizer, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=config.epochs, warmup_epochs=min(config.warmup_epochs, config.epochs - 1),
        warmup_lr=config.learning_rate / 10, warmup_prefix=True, step_on_epochs=False, updates_per_epoch=len(train_batches),
    )  # fmt: skip
    loss_function = LabelSmoothingCrossEntropy(config.label_smoothing)
    average = ModelEmaV3(network, decay=config.ema_decay, use_warmup=True)

    (folder / "history.jsonl").unlink(missing_ok=True)
    with bar(config.epochs * len(train_batches), "training", "batch") as progress:
        step = 0
        for epoch in range(config.epochs):
            began = time.perf_counter()

            def after_step() -> None:
                nonlocal step
                step += 1
                scheduler.step_update(step)
                average.update(network, step=step)
                progress.update()

            loss = _train_epoch(network, train_batches, loss_function, optimizer, after_step)
            if not math.isfinite(loss):
                raise UserError(
                    f"training: the loss is {loss} after epoch {epoch + 1}: the training diverged. Use a smaller learning_rate."
                )
            record = {"epoch": epoch + 1, "train_loss": loss, "test_accuracy": evaluate_accuracy(average.module, test_batches),
                      "seconds": time.perf_counter() - began}  # fmt: skip
            with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            _logger.info("epoch %d/%d: train loss %.4f, test accuracy %.4f, %.1f s", epoch + 1, config.epochs, loss,
                         record["test_accuracy"], record["seconds"])  # fmt: skip

    accuracy = record["test_accuracy"]
    write_weights(folder / "weights.safetensors", average.module.state_dict())
    result = {
        "accuracy": accuracy,
        "epochs": config.epochs,
        "weights": config.weights,
        "architecture": str(architecture_path.name),
    }
    write_text(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return TrainResult(folder, accuracy)


def _train_epoch(
    network: nn.Module,
    batches: object,
    loss_function: nn.Module,
    optimizer: torch.optim.Optimizer,
    after_step: Callable[[], None],
) -> float:
    """One epoch; returns the mean loss."""
    network.train()
    device = next(network.parameters()).device
    losses = []
    for images, targets in batches:  # type: ignore[attr-defined]
        loss = loss_function(network(as_channels_last(images.to(device))), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        after_step()
    return float(torch.stack(losses).mean())
