"""Images of the final training: their division, their order, and their random augmentation.

No state: the order of an epoch is a function of (seed, epoch), the augmentation of an image of (seed, epoch, index). So
neither the number of loader processes nor a stop in the middle of an epoch changes the result.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from ..core.errors import UserError
from ..data.accuracy import updated
from ..data.image_parts import ImageData, kinds_in_order, loader
from ..tasks import Task
from ..tasks.classification import RightAnswers
from .distributed import Processes

__all__ = ["Division", "EpochBatches", "Judge", "divide", "seed_everything", "training_loader"]

_ORDER, _IMAGE = 1, 2  # so that an image's seed is never that of an order


def seed_everything(*numbers: int, device_too: bool = True) -> None:
    """Seed all global generators of this process from these numbers alone."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    seed = int(words[2]) << 31 ^ int(words[3])
    if device_too:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@dataclass(frozen=True)
class Division:
    """Which images train, and which judge every epoch.

    Attributes
    ----------
    train
        Augmented.
    judging
        Part of the training images that was held out; None: the test images judge.
    test
        Images that no search has seen.
    """

    train: Dataset
    judging: Dataset | None
    test: Dataset

    @property
    def judged_on(self) -> str:
        return "test" if self.judging is None else "validation"


def divide(data: ImageData, validation: float) -> Division:
    """Hold a share of the training images out, of every class, or kind that the task says, the same; the division depends on the data alone.

    Raises
    ------
    UserError
        A class has too few images.
    """
    if not validation:
        return Division(data.train, None, data.test)
    held_out: list[int] = []
    rest: list[int] = []
    for kind, members in kinds_in_order(data):
        n = round(validation * len(members))
        if not 0 < n < len(members):
            raise UserError(f"validation: {kind} has {len(members)} images: too few for two parts, one of {validation}")
        held_out += members[:n].tolist()
        rest += members[n:].tolist()
    return Division(Subset(data.train, sorted(rest)), Subset(data.train_plain, sorted(held_out)), data.test)


class _Seeded(Dataset):
    """Images by (epoch, index); all randomness on their way is seeded by that."""

    def __init__(self, images: Any, seed: int):
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        self._seed_for(key)
        return self.images[key[1]]

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        """What torch's loaders ask for where they find it: the same as one by one, in the same order."""
        images: Any = self.images
        indices = [index for _, index in keys]
        while isinstance(images, Subset):
            images, indices = images.dataset, [images.indices[index] for index in indices]
        if not getattr(images, "draws_in_turn", False):
            return [self[key] for key in keys]
        return images.in_turn(indices, lambda place: self._seed_for(keys[place]))

    def _seed_for(self, key: tuple[int, int]) -> None:
        # Images are made on the CPU; to seed a CUDA device from a loader process would start one there.
        seed_everything(self.seed, _IMAGE, *key, device_too=False)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one process in one epoch, from any batch on.

    A batch of all processes together is a run of the epoch's order, dealt out by turns. Its last images, which fill no
    batch, are left out.

    Parameters
    ----------
    n_images
        How many there are in all.
    batch_size
        Of one process; with fewer images, what they suffice for.
    even
        Whether a batch must have an even number of images.
    """

    def __init__(self, n_images: int, batch_size: int, seed: int, processes: Processes, *, even: bool = False):
        each = n_images // processes.count
        self.batch_size = min(batch_size, each - each % 2 if even else each)
        if self.batch_size < 1:
            raise UserError(f"{n_images} training images are too few for {processes.count} processes")
        self.n_images, self.seed, self.processes = n_images, seed, processes
        self.epoch = self.first = 0

    @property
    def per_epoch(self) -> int:
        """Batches in a whole epoch."""
        return self.n_images // (self.batch_size * self.processes.count)

    def begin(self, epoch: int, first: int = 0) -> None:
        """What is iterated over next: this epoch, from this batch on."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.per_epoch - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, _ORDER, self.epoch)).permutation(self.n_images)
        together = self.batch_size * self.processes.count
        for batch in range(self.first, self.per_epoch):
            mine = order[batch * together : (batch + 1) * together][self.processes.rank :: self.processes.count]
            yield [(self.epoch, int(index)) for index in mine]


def training_loader(images: Any, batches: EpochBatches, workers: int) -> DataLoader:
    """Gives (images, classes), batch by batch, as ``batches`` says."""
    return DataLoader(
        _Seeded(images, batches.seed), batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=batches.processes.device.type == "cuda",
        generator=torch.Generator(),  # seeds loader processes, which seed themselves; without it a global one is moved
    )  # fmt: skip


class Judge:
    """The task's figure of merit on some images; every process sees its part of them, each image once."""

    def __init__(self, images: Any, batch_size: int, workers: int, processes: Processes, task: Task):
        self.n_images, self.processes, self.task = len(images), processes, task
        part = Subset(images, range(processes.rank, len(images), processes.count))
        self.n_here = len(part)
        self.batches = loader(part, batch_size, workers=workers)

    def __call__(self, network: nn.Module) -> float:
        metric = self.task.metric()
        if self.n_here:
            updated(metric, network, self.batches)
        if isinstance(metric, RightAnswers):  # over the processes that the judge knows, be they all or those of a stage
            return int(self.processes.total(metric.right.cpu())) / self.n_images
        return float(metric.compute())
