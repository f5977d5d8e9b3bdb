"""Restore randomness and batches when a search is resumed.

The position of a pass over data cannot be saved: it is hidden in the iterator, the sampler's permutation and the worker
processes. What can be saved is the state of all randomness at the *start* of the pass and the number of batches
consumed since. Going on means to start the pass again from those states, to drop as many batches, and to set the
randomness to what it was at the stop (the dropped batches drew from it in another order than the training between
them).

Out of reach: a sampler that draws from the global randomness in the middle of a pass, data sets with a state of their
own, and loaders with ``in_order=False``. All samplers of torch draw from the global randomness at the start only.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

__all__ = [
    "HeldOutBatches",
    "ReplayableLoader",
    "divided",
    "for_this_rank",
    "loader_generators",
    "rng_state",
    "set_rng_state",
]

_logger = logging.getLogger(__name__)

_NO_BATCH = object()


def rng_state() -> dict[str, Any]:
    """The states of all global random generators, as plain types and tensors.

    torch's on the CPU and, once CUDA is in use, on every device; NumPy's legacy one; Python's. Asking does not start
    CUDA: that would put a context on the GPU of a search that runs on the CPU.
    """
    _, key, position, has_gauss, cached_gaussian = np.random.get_state()
    version, numbers, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": {
            "key": torch.from_numpy(np.asarray(key, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gaussian": float(cached_gaussian),
        },
        "python": {
            "version": version,
            "numbers": torch.tensor(numbers, dtype=torch.int64),
            "gauss_next": gauss_next,
        },
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Set all global random generators to what :func:`rng_state` returned, to the bit."""
    torch.set_rng_state(state["torch"])
    here = torch.cuda.device_count() if state["cuda"] else 0
    if here < len(state["cuda"]):
        _logger.warning("random states of %d GPUs to restore, but only %d here", len(state["cuda"]), here)
    for device, cuda in enumerate(state["cuda"][:here]):
        torch.cuda.set_rng_state(cuda, device)
    numpy = state["numpy"]
    key = numpy["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, numpy["position"], numpy["has_gauss"], numpy["cached_gaussian"]))
    python = state["python"]
    random.setstate((python["version"], tuple(python["numbers"].tolist()), python["gauss_next"]))


def loader_generators(loader: Any) -> list[torch.Generator]:
    """The generators that a torch ``DataLoader`` was given, each once, in a fixed order; of anything else, none."""
    if not isinstance(loader, DataLoader):
        return []
    batch_sampler = loader.batch_sampler
    owners = [loader, loader.sampler, getattr(batch_sampler, "sampler", None), batch_sampler]
    generators = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in generators if isinstance(g, torch.Generator)}.values())


class ReplayableLoader:
    """A loader whose passes can be started again as they were; everything else is the inner loader's.

    A pass starts with its first batch, not with ``iter``: Lightning asks for iterators early, throws some away, and
    runs hooks in between that may draw random numbers of their own. Before its first batch an iterator therefore draws
    none and starts no worker.

    Parameters
    ----------
    loader
        Anything that can be iterated; may be exchanged between passes, and None until it is known. Worker processes of
        a ``DataLoader`` with ``persistent_workers`` are started anew for every pass: they would carry randomness from
        pass to pass which is in no state.

    Attributes
    ----------
    start
        The states of all randomness (global, and the loader's generators) from which the newest pass started; None
        before the first one.
    """

    def __init__(self, loader: Any):
        self.loader = loader
        self.start: dict[str, Any] | None = None
        self._replayed_start: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._replayed_start is not None:
            set_rng_state(self._replayed_start["random"])
            self.load_state(self._replayed_start["loader"])
        self.start = {"random": rng_state(), "loader": self.state()}
        # The loader must neither have old workers nor keep the new ones: this iterator alone owns them.
        persistent = isinstance(self.loader, DataLoader) and self.loader.persistent_workers
        if persistent:
            self.loader._iterator = None
        batches = iter(self.loader)
        if persistent:
            self.loader._iterator = None
        yield from batches

    def __len__(self) -> int:
        return len(self.loader)  # TypeError where the loader has none, which is how Lightning asks

    def __getattr__(self, name: str) -> Any:
        # "loader" is missing in an object that copy or pickle has made and not yet filled.
        if name == "loader" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.loader, name)

    def replay(self, start: dict[str, Any]) -> None:
        """Let every pass start from these states (an earlier :attr:`start`), until :meth:`replayed`."""
        self._replayed_start = start

    def replayed(self) -> None:
        """Let the next pass start from the randomness of its time again."""
        self._replayed_start = None

    def state(self) -> dict[str, Any]:
        """The states of the loader's own generators."""
        return {"generators": [generator.get_state() for generator in loader_generators(self.loader)]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Set the loader's own generators to what :meth:`state` returned."""
        generators = loader_generators(self.loader)
        if len(generators) != len(state["generators"]):
            raise ValueError(
                f"the data loader has {len(generators)} random generators of its own, the saved one had {len(state['generators'])}"
            )
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.set_state(saved)


class HeldOutBatches:
    """Endless batches: a new pass over the data begins when one ends.

    Parameters
    ----------
    loader
        The held-out data. A sampler with ``set_epoch`` gets the number of the pass before it begins.
    """

    def __init__(self, loader: ReplayableLoader):
        self.loader = loader
        self.passes = 0  # that are through
        self.consumed = 0  # of the one under way
        self._start: dict[str, Any] | None = None
        self._batches: Iterator[Any] | None = None

    def __iter__(self) -> HeldOutBatches:
        return self

    def __next__(self) -> Any:
        """The next batch.

        Raises
        ------
        ValueError
            A whole pass has no batch.
        """
        if self._batches is not None:
            batch = next(self._batches, _NO_BATCH)
            if batch is not _NO_BATCH:
                self.consumed += 1
                return batch
            self.passes += 1
        self._begin_pass()
        assert self._batches is not None
        batch = next(self._batches, _NO_BATCH)
        if batch is _NO_BATCH:
            raise ValueError("the evaluator's validation data, which the architecture is trained on, have no batch")
        self._start = self.loader.start
        self.consumed = 1
        return batch

    next = __next__

    def state(self) -> dict[str, Any]:
        """Where the batches stand, as plain types and tensors; the global randomness is the caller's."""
        return {
            "start": self._start,
            "consumed": self.consumed,
            "current": self.loader.state(),
            "passes": self.passes,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go to where :meth:`state` was taken; loads the consumed batches again and leaves the global randomness as it
        is.

        Raises
        ------
        ValueError
            The pass is now shorter than what was consumed of it.
        """
        self.passes, self.consumed, self._start, self._batches = state["passes"], 0, None, None
        if state["start"] is not None:
            self._drop(state["start"], state["consumed"])
        self.loader.load_state(state["current"])

    def _drop(self, start: dict[str, Any], n_batches: int) -> None:
        kept = rng_state()
        self.loader.replay(start)
        try:
            self._begin_pass()
            assert self._batches is not None
            for i in range(n_batches):
                if next(self._batches, _NO_BATCH) is _NO_BATCH:
                    raise ValueError(
                        f"a pass over the held-out data has {i} batches, but {n_batches} of it were consumed"
                    )
        finally:
            self.loader.replayed()
            set_rng_state(kept)
        self._start, self.consumed = start, n_batches

    def _begin_pass(self) -> None:
        for sampler in _samplers_with_epochs(self.loader):
            sampler.set_epoch(self.passes)
        self._batches = iter(self.loader)


def for_this_rank(loader: Any, rank: int, world_size: int, *, seed: int, shuffle: bool | None = None) -> Any:
    """The part of a loader's data that is this process's, in batches of the same size.

    Parameters
    ----------
    loader
        A torch ``DataLoader`` (NNI's is one). One that is distributed already is returned as it is, and so is any
        loader when there is only one process.
    rank, world_size
        Number of this process, number of all processes.
    seed
        Of the order of the data; the same in all processes.
    shuffle
        None: as ``loader`` does.

    Returns
    -------
    DataLoader
        With a ``DistributedSampler``, which needs ``set_epoch`` before each pass. Without ``drop_last`` it repeats a
        few samples, so that all processes have equally many.

    Raises
    ------
    TypeError
        Data that cannot be divided without knowing what they are; the message says what to do.
    """
    if world_size == 1 or _samplers_with_epochs(loader):
        return loader
    if problem := _why_indivisible(loader):
        raise TypeError(
            f"the data cannot be divided among {world_size} processes: {problem}; allowed: a torch DataLoader of a map-style "
            "data set with shuffle=True or False. Give the DataLoader a DistributedSampler of your own"
        )
    # An incomplete batch is dropped, unless it is the only one.
    drop_last = loader.drop_last and len(loader.dataset) // world_size >= loader.batch_size
    sampler: DistributedSampler = DistributedSampler(
        loader.dataset,
        num_replicas=world_size,
        rank=rank,
        shuffle=isinstance(loader.sampler, RandomSampler) if shuffle is None else shuffle,
        seed=seed,
        drop_last=drop_last,
    )
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def divided(loader: Any, trainer: Any, seed: int) -> Any:
    """The part of a loader's data that belongs to this process."""
    return for_this_rank(loader, trainer.global_rank, trainer.world_size, seed=seed)


def _why_indivisible(loader: Any) -> str | None:
    """Why a ``DistributedSampler`` in the place of the loader's sampler would give other data; None if it would not."""
    if not isinstance(loader, DataLoader):
        return f"they are a {type(loader).__name__}"
    if isinstance(loader.dataset, IterableDataset):
        return f"their data set {type(loader.dataset).__name__} is iterable-style"
    # A batch sampler of the user's own leaves batch_size None, and a default sampler that nothing uses.
    if loader.batch_sampler is not None and (
        loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler
    ):
        return f"they have a batch sampler of their own, {type(loader.batch_sampler).__name__}"
    sampler: Any = loader.sampler
    dataset: Any = loader.dataset
    if type(sampler) not in (SequentialSampler, RandomSampler):
        return f"they have a sampler of their own, {type(sampler).__name__}"
    if len(sampler) != len(dataset) or getattr(sampler, "replacement", False):
        return f"their {type(sampler).__name__} does not go through the data set once"
    return None


def _samplers_with_epochs(loader: Any) -> list[Any]:
    """The samplers of a loader that want to know the number of the pass, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = [getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None), batch_sampler]
    return list({id(s): s for s in samplers if callable(getattr(s, "set_epoch", None))}.values())
