"""Final training of a derived network: it can be killed at any moment and goes on to the same weights.

All randomness is a function of the position in the training: the order of the images of (seed, epoch), the augmentation of an
image of (seed, epoch, index), dropout and the like of (seed, process, batch). A checkpoint holds no generator.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ..config.train_config import TrainConfig
from ..core.atomic_files import write_text, write_weights
from ..core.cpu_threads import say_if_other_threads, threads_in_words, use
from ..core.errors import UserError
from ..core.merit import Merit
from ..core.progress import bar
from ..core.tensorboard_writer import Curves
from ..data.fingerprint import fingerprint, image_differences
from ..data.image_parts import ImageData, loader
from ..data.outputs import require_outputs
from ..data.validate import make_images
from ..models.architecture import Architecture
from ..models.build import installed_versions
from ..models.export.int8_accuracy import int8_merit, is_for_int8
from ..models.record import merit_figures
from ..tasks import Task
from .augmentation import augmented, cut_out
from .batches import Division, Judge, divide, seed_everything
from .checkpoint import TrainingCheckpoint, settings
from .data_parallel import DataParallel
from .distributed import Processes, joined
from .loss import require_fits
from .networks import student
from .rank import count
from .teacher import Teaching, with_teacher

__all__ = ["TrainResult", "train"]

_logger = logging.getLogger(__name__)

_STEP = 3  # so that a step's seed is never that of an order or an image


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes
    ----------
    folder
        Where its files are.
    merit, value
        Which figure of merit, and what it is on the test images for the weights after the last epoch: ``weights.safetensors``.
    best
        ``epoch``, from 1 on, and ``test_accuracy``, or another figure of merit by its name, of ``best.safetensors``; empty if nothing was trained.
    judged_on
        The images that have chosen the best epoch, ``test`` or ``validation``.
    metrics
        Figures for NNI.
    """

    folder: Path
    merit: Merit
    value: float
    best: dict[str, Any]
    judged_on: str
    metrics: dict[str, float]


def train(
    config: TrainConfig,
    architecture_path: Path,
    folder: Path,
    *,
    report: Callable[[dict[str, float]], None] = lambda metrics: None,
) -> TrainResult:
    """Train a derived network, or go on with the training that is in ``folder``, if it is the same.

    Parameters
    ----------
    config
        Checked already. With 0 epochs the weights are only evaluated, and nothing is written.
    architecture_path
        ``architecture.json``; weights are read from its folder.
    folder
        Gets ``weights.safetensors``, ``best.safetensors``, ``result.json``, ``history.jsonl`` and ``train.yml`` as it was
        resolved, all at the end: until then what an earlier training has left stays. Meanwhile there is ``checkpoint/``, and
        ``tensorboard/`` grows.
        One that does not stand beside ``architecture.json`` also gets a copy of that.
    report
        Called once per epoch with one flat dict of numbers.

    Raises
    ------
    UserError
        Files are missing or damaged, settings do not fit each other, this machine or the unfinished training that is there,
        or the training diverged; results of an earlier training then stay as they are.
    """
    if config.pipeline is not None and config.epochs and count() % (n_stages := config.pipeline.stages):
        raise UserError(
            f"pipeline.stages: {n_stages}, but the number of processes is {count()}; allowed: {n_stages} processes, or a multiple of that: "
            f"torchrun --standalone --nproc-per-node {n_stages} -m nni_proxyless train …"
        )
    threads = use(config.threads)
    with joined(config.device) as processes:
        # A function of its own: what holds the processes together is gone when they part.
        return _train(config, architecture_path, folder, processes, report, threads)


def _train(
    config: TrainConfig, architecture_path: Path, folder: Path, processes: Processes,
    report: Callable[[dict[str, float]], None], threads: int,
) -> TrainResult:  # fmt: skip
    if processes.is_first:
        _logger.info("CPU threads: %s", threads_in_words(threads, processes.count))
    architecture = Architecture.read(architecture_path)
    network: Any = student(config, architecture_path, architecture).to(memory_format=torch.channels_last)
    if config.pipeline is None or not config.epochs:  # else a process has room for its stage alone
        network = network.to(processes.device)
    with processes.first_alone():
        data = _images(architecture)
    known_by = {part: fingerprint(data, part) for part in ("train_plain", "test")} if config.epochs else {}
    if config.augmentation is not None:
        data = augmented(data, config.augmentation, architecture)
    if config.cutout:
        data = cut_out(data, config.cutout)
    require_outputs(network, data, f"{architecture_path}: its network")
    require_fits(config, data.task, architecture.task["name"])
    division = divide(data, config.validation)
    if config.epochs == 0:
        merit = data.task.merit
        value = Judge(division.test, config.batch_size, config.workers, processes, data.task)(network)
        figures = {"default": merit.score(value), f"test_{merit.name}": value}
        return TrainResult(folder, merit, value, {}, division.judged_on, figures)
    config, teaching = with_teacher(config, architecture_path, architecture, network, data, folder, processes)
    calibration = data.train_plain if is_for_int8(architecture.latency.get("conditions", {})) else None
    training = _Training(
        config, architecture_path, folder, processes, network, teaching, division, data.task, known_by, report, calibration
    )  # fmt: skip
    return training.run()


def _images(architecture: Architecture) -> ImageData:
    try:
        return make_images(architecture.data["name"], architecture.data["arguments"], architecture.task)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the images of architecture.json: data: {error}") from error


class _Training:
    """One training: its position (epoch, batch), its history, and its steps."""

    def __init__(
        self, config: TrainConfig, architecture_path: Path, folder: Path, processes: Processes, network: nn.Module,
        teaching: Teaching, division: Division, task: Task,
        known_by: dict[str, Any], report: Callable[[dict[str, float]], None], calibration: Any = None,
    ):  # fmt: skip
        self.config, self.architecture_path, self.folder = config, architecture_path, folder
        self.processes, self.division, self.report = processes, division, report
        self.task, self.merit = task, task.merit
        self.calibration = calibration  # training images, if the network is for 8 bits
        self.checkpoint = TrainingCheckpoint(folder)
        self.known_by = known_by
        self.taught_by, of_teacher = teaching.described, teaching.sha256
        self.settings = settings(
            config.model_dump(mode="json"), architecture_path.read_bytes(), processes.count, of_teacher
        )
        self.found = self.checkpoint.read_for(self.settings)
        self.parallel = _parallel(network, config, processes, division, task, teaching.network, self.found)
        self.optimization, self.batches = self.parallel.optimization, self.parallel.batches
        self.test = self.judge = self.parallel.judge(division.test)
        if division.judging is not None:
            self.judge = self.parallel.judge(division.judging)

        self.epoch = self.batch = 0
        self.loss_sum = torch.zeros((), device=processes.device)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.seconds = 0.0
        self._since = time.perf_counter()

    def run(self) -> TrainResult:
        """Train to the end and write the results."""
        self.processes.wait()  # nobody writes while another one reads
        if self.found is not None:
            self._go_on(self.found)
            self.found = None
        per_epoch = self.batches.per_epoch
        total = self.config.epochs * per_epoch
        curves: Any = contextlib.nullcontext()
        if self.processes.is_first:
            curves = contextlib.closing(Curves(self.folder, self.epoch + 1))
        with (
            curves as self.curves,
            bar(total, "training", "batch") if self.processes.is_first else contextlib.nullcontext() as progress,
        ):
            if progress is not None:
                progress.n = progress.initial = self.epoch * per_epoch + self.batch
            while self.epoch < self.config.epochs:
                self._one_epoch(progress)
        return self._finish()

    def _one_epoch(self, progress: Any) -> None:
        config = self.config
        began, first = time.perf_counter(), self.batch
        since_saved = 0
        for images, targets in self.parallel.begin(self.epoch, first):
            moved = self._one_batch(images, targets)
            since_saved += 1
            if progress is not None:
                progress.update()
            if moved and since_saved >= config.checkpoint_every and self.batch < self.batches.per_epoch:
                self._save()
                since_saved = 0
        loss = self._mean_loss()
        seconds = time.perf_counter() - began
        n_images = (self.batch - first) * self.parallel.images_per_batch
        self.parallel.end_epoch()
        value = self.judge(self.optimization.judged)
        record = {
            "epoch": self.epoch + 1, "train_loss": loss, self.merit.name: value,
            "learning_rate": self.optimization.last_learning_rate, "images_per_second": n_images / seconds,
        }  # fmt: skip
        self.history.append(record)
        if not self.best or self.merit.score(value) > self.merit.score(self.best[self.merit.name]):
            self.best = {"epoch": self.epoch + 1, self.merit.name: value, "weights": self.parallel.weights()}
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum.zero_()
        self._save()
        if not self.processes.is_first:
            return
        _logger.info(
            "epoch %d/%d: train loss %.4f, %s %s %s, learning rate %.3g, %.0f images/s, %.1f s",
            self.epoch, config.epochs, loss, self.division.judged_on, self.merit.name, self.merit.in_words(value), record["learning_rate"],
            record["images_per_second"], time.perf_counter() - began,
        )  # fmt: skip
        self.curves.add(record)
        self._tell(record)

    def _tell(self, record: Mapping[str, float]) -> None:
        self.report(
            {**merit_figures(self.merit, record), **{name: record[name] for name in ("train_loss", "learning_rate")}}
        )

    def _one_batch(self, images: Any, targets: Any) -> bool:
        """Learn from a batch; the weights move after the last batch of a group. Returns whether they did."""
        group, per_epoch = self.config.accumulate_grad_batches, self.batches.per_epoch
        in_group = min(group, per_epoch - self.batch // group * group)
        last = self.batch % group == in_group - 1
        seed_everything(self.config.seed, _STEP, self.processes.rank, self.epoch * per_epoch + self.batch)
        self.loss_sum += self.parallel.learn(images, targets, in_group, moves=last)
        self.batch += 1
        return last

    def _mean_loss(self) -> float:
        """Of the epoch so far, over all processes; the same error in each where it is no number."""
        loss = self.parallel.mean_loss(self.loss_sum, self.batch)
        if not math.isfinite(loss) or not self.parallel.is_finite():
            what = "the weights are no numbers" if math.isfinite(loss) else f"the loss is {loss}"
            again = f" and delete {self.checkpoint.place} to start over" if self.checkpoint.exists else ""
            raise UserError(
                f"training: {what} in epoch {self.epoch + 1}: the training diverged. Use a smaller learning_rate{again}."
            )
        return loss

    def _save(self) -> None:
        """Write a checkpoint; one from which a training that has diverged would go on is not written."""
        self._mean_loss()
        state = self.parallel.state_dict(self.loss_sum)
        if not self.processes.is_first:
            return
        self.checkpoint.write(
            {
                "settings": self.settings,
                "data_fingerprint": self.known_by,
                "config": self.config.model_dump(mode="json"),
                "architecture": str(self.architecture_path.resolve()),
                "epoch": self.epoch,
                "batch": self.batch,
                "history": self.history,
                "best": self.best,
                "seconds": self._seconds(),
                "threads": torch.get_num_threads(),
                **state,
            }
        )
        write_text(self.checkpoint.place / "history.jsonl", self._history_text())

    def _go_on(self, state: dict[str, Any]) -> None:
        for part, there in state.get("data_fingerprint", {}).items():  # older versions have noted none
            if different := image_differences(there, self.known_by[part]):
                raise UserError(
                    f"data: these are not the images of the training in {self.folder} ({part}): {'; '.join(different)}. Give it its "
                    f"images back; or choose another output; or delete {self.checkpoint.place} to start over"
                )
        self.parallel.load_state_dict(state, self.loss_sum)
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.history, self.best, self.seconds = state["history"], state["best"], state["seconds"]
        if self.processes.is_first:
            where = f"batch {self.batch} of epoch {self.epoch + 1}" if self.batch else f"epoch {self.epoch}"
            _logger.info("going on after %s of %d", where, self.config.epochs)
            say_if_other_threads(state.get("threads"))
            for record in self.history:  # NNI numbers what a process reports from 0 on
                self._tell(record)

    def _finish(self) -> TrainResult:
        last, weights = self.history[-1], self.parallel.weights()
        in_int8 = self._in_int8(weights)
        name = self.merit.name
        on_test = {"last": last[name], "best": self.best[name]}
        if self.division.judging is not None:  # the one look at the test images
            on_test["last"] = self.test(self.optimization.judged)
            self.parallel.load_weights(self.best["weights"])
            on_test["best"] = self.test(self.optimization.network)
        figures: dict[str, dict[str, Any]] = {
            which: {"epoch": int(epoch["epoch"]), f"test_{name}": on_test[which]}
            for which, epoch in (("last", last), ("best", self.best))
        }
        if self.division.judging is not None:
            figures["last"][f"validation_{name}"] = last[name]
            figures["best"][f"validation_{name}"] = self.best[name]
        judged_on = self.division.judged_on
        if self.processes.is_first:
            result = {
                name: on_test["last"], **in_int8, **self.merit.described(), "last": figures["last"], "best": {**figures["best"], "chosen_on": judged_on},
                "epochs": self.config.epochs, "weights": self.config.weights, "architecture": self.architecture_path.name,
                "processes": self.processes.count, "threads": torch.get_num_threads(), "device": str(self.processes.device), "seconds": self._seconds(),
                **self.taught_by, **self.parallel.described(), "versions": installed_versions(),
            }  # fmt: skip
            resolved = self.config.model_dump(mode="json")
            if self.folder.resolve().parent != self.architecture_path.resolve().parent:
                write_text(self.folder / "architecture.json", self.architecture_path.read_text(encoding="utf-8"))
            write_weights(self.folder / "best.safetensors", self.best["weights"])
            write_weights(self.folder / "weights.safetensors", weights)
            write_text(self.folder / "history.jsonl", self._history_text())
            write_text(self.folder / "train.yml", yaml.safe_dump(resolved, sort_keys=False))
            write_text(self.folder / "result.json", json.dumps(result, indent=2) + "\n")
            self.checkpoint.remove()
        self.processes.wait()
        metrics = {
            **merit_figures(self.merit, last), "train_loss": last["train_loss"], f"test_{name}": on_test["last"],
            "best": self.best[name], f"best_test_{name}": on_test["best"],
            **{f"test_{key}": value for key, value in in_int8.items() if value is not None},
        }  # fmt: skip
        return TrainResult(self.folder, self.merit, on_test["last"], figures["best"], judged_on, metrics)

    def _in_int8(self, weights: Mapping[str, Any]) -> dict[str, float | None]:
        """The figure of merit of the last weights on the test images when they are quantized, if the network is for 8 bits."""
        if self.calibration is None or not self.processes.is_first:
            return {}
        test = loader(self.division.test, self.config.batch_size, workers=self.config.workers)
        found = int8_merit(self.parallel.whole(weights), self.calibration, test, self.task)
        return {f"{self.merit.name}_int8": found}

    def _history_text(self) -> str:
        return "".join(json.dumps(record) + "\n" for record in self.history)

    def _seconds(self) -> float:
        return self.seconds + time.perf_counter() - self._since


def _parallel(
    network: nn.Module, config: TrainConfig, processes: Processes, division: Division, task: Task,
    taught_by: nn.Module | None, found: Mapping[str, Any] | None,
) -> Any:  # fmt: skip
    """The network whole in each process, or in stages; with a checkpoint, in those that it is of."""
    if config.pipeline is None:
        return DataParallel(network, config, processes, division, task, taught_by)
    from .pipeline_parallel import PipelineParallel  # not every torch has it: those for macOS have no processes

    cut_before = None if found is None else found["pipeline"]["cut_before"]
    return PipelineParallel(network, config, processes, division, task, cut_before)
