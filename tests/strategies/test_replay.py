"""Randomness and data order after a stop: everything goes on as if there had been none."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.data import _set_sampler_epoch, sized_len
from nni.nas.evaluator.pytorch import DataLoader as NniDataLoader
from nni_proxyless.strategies.oneshot.checkpoint import CheckpointFolder
from nni_proxyless.strategies.oneshot.data import (
    HeldOutBatches,
    ReplayableLoader,
    for_this_rank,
    loader_generators,
    rng_state,
    set_rng_state,
)
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

pytestmark = [
    # From Python 3.12 on a fork warns when there are threads; loaders fork for their workers.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    # A machine with one core.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

N, BATCH = 14, 4  # four batches a pass, the last one incomplete


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """And the randomness of the tests beside these as it was."""
    torch.set_num_threads(1)
    kept = rng_state()
    yield
    set_rng_state(kept)


def draw() -> list[float]:
    """From every global generator; an odd number of normal deviates, so that the second half of a pair stays cached."""
    numbers = [torch.rand(()).item(), torch.randn(()).item(), np.random.rand(), random.random()]
    return [*numbers, np.random.standard_normal(), random.gauss(0, 1)]


class Augmented(Dataset):
    """Every item is its index, and random numbers of all three kinds."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[int, list[float]]:
        return index, draw()


def as_lists(batch: Any) -> Any:
    return [batch[0].tolist(), [column.tolist() for column in batch[1]]]


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weighted() -> Any:
    return WeightedRandomSampler(torch.arange(1.0, N + 1), 2 * N, generator=generator())


LOADERS: dict[str, Callable[[], DataLoader]] = {
    "in order": lambda: DataLoader(Augmented(), BATCH),
    "global randomness": lambda: DataLoader(Augmented(), BATCH, shuffle=True),
    "own generator": lambda: DataLoader(Augmented(), BATCH, shuffle=True, generator=generator()),
    "with replacement": lambda: DataLoader(
        Augmented(), BATCH, sampler=RandomSampler(range(N), True, 3 * N, generator()), drop_last=True
    ),
    "subset": lambda: DataLoader(Augmented(), BATCH, sampler=SubsetRandomSampler([1, 3, 4, 8, 9])),
    "weighted": lambda: DataLoader(Augmented(), BATCH, sampler=weighted()),
    "batch sampler": lambda: DataLoader(
        Augmented(), batch_sampler=BatchSampler(RandomSampler(range(N), generator=generator()), BATCH, False)
    ),
    "distributed": lambda: DataLoader(Augmented(), 2, sampler=DistributedSampler(range(N), 2, 1, seed=3)),
    "one by one": lambda: DataLoader(
        Augmented(), batch_size=None, shuffle=True, collate_fn=lambda item: torch.utils.data.default_collate([item])
    ),
}
WORKERS: dict[str, Callable[[], DataLoader]] = {
    "workers": lambda: DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2),
    "persistent workers": lambda: DataLoader(
        Augmented(), BATCH, shuffle=True, num_workers=2, persistent_workers=True, generator=generator()
    ),
}


# -- global randomness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [0, 1])
def test_global_randomness_comes_back_exactly(tmp_path, odd):
    """Through a file, with and without half a pair of normal deviates in NumPy's and Python's caches."""
    for _ in range(odd):
        draw()
    CheckpointFolder(tmp_path).write({"random": rng_state()})
    expected = [draw() for _ in range(700)]  # NumPy's and Python's generators make 624 numbers at a time
    assert draw() != expected[0]
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    state = CheckpointFolder(tmp_path).read()
    assert state is not None
    set_rng_state(state["random"])
    assert [draw() for _ in range(700)] == expected
    set_rng_state(state["random"])  # a state is not used up
    assert draw() == expected[0]


def test_states_of_gpus_that_are_not_here_are_said(caplog):
    """A search begun on more GPUs than there are: what is here is restored, the rest is not silent."""
    state = rng_state()
    here = torch.cuda.device_count()
    state["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * (here + 2)
    expected = draw()
    set_rng_state(state)
    assert draw() == expected
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.WARNING, f"random states of {here + 2} GPUs to restore, but only {here} here")
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_randomness_on_the_gpu_comes_back_exactly():
    torch.rand(1, device="cuda")
    state = rng_state()
    expected = torch.rand(5, device="cuda")
    assert not torch.equal(torch.rand(5, device="cuda"), expected)
    set_rng_state(state)
    assert torch.equal(torch.rand(5, device="cuda"), expected)


# -- a loader's own generators -----------------------------------------------------------------------------------------


def test_generators_of_a_loader_each_once_in_order():
    own, of_sampler, of_batches = generator(), generator(), generator()

    class Batches(BatchSampler):
        generator = of_batches

    data = range(N)
    batch_sampler = Batches(RandomSampler(data, generator=of_sampler), 2, False)
    for loader, expected in [
        (DataLoader(data), []),
        (DataLoader(data, shuffle=True), []),
        (DataLoader(data, shuffle=True, generator=own), [own]),
        (DataLoader(data, sampler=RandomSampler(data, generator=of_sampler), generator=own), [own, of_sampler]),
        (DataLoader(data, batch_sampler=batch_sampler, generator=own), [own, of_sampler, of_batches]),
        (DataLoader(data, batch_sampler=[[1, 2], [3]]), []),
        (DataLoader(data, batch_size=None, generator=own), [own]),
        ([1, 2, 3], []),
        (None, []),
    ]:
        found = loader_generators(loader)
        assert len(found) == len(expected)
        assert all(one is other for one, other in zip(found, expected, strict=True))


def test_states_of_another_loader_are_refused():
    with_generator, without = ReplayableLoader(LOADERS["own generator"]()), ReplayableLoader(LOADERS["in order"]())
    message = "the data loader has 0 random generators of its own, the saved one had 1"
    with pytest.raises(ValueError, match=message):
        without.load_state(with_generator.state())


# -- one pass, as Lightning drives it ----------------------------------------------------------------------------------


def train(make: Callable[[], DataLoader], passes: int) -> tuple[list, dict[int, dict]]:
    """What a training sees in some passes, its own random numbers between the batches included.

    Also a checkpoint after every batch of the second pass.
    """
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    loader = ReplayableLoader(make())
    seen, saved = [], {}
    for epoch in range(passes):
        iter(loader)  # Lightning, once more than needed
        _set_sampler_epoch(loader, epoch)
        batches = iter(loader)
        draw()  # a hook
        for i, batch in enumerate(batches):
            seen.append((as_lists(batch), draw()))
            if epoch == 1:
                saved[i + 1] = {"start": loader.start, "now": loader.state(), "random": rng_state()}
    return seen, saved


def train_on(make: Callable[[], DataLoader], passes: int, n_done: int, saved: dict) -> list:
    """What another process sees that goes on after some batches of the second pass."""
    torch.manual_seed(99), np.random.seed(99), random.seed(99)
    loader = ReplayableLoader(make())
    loader.replay(saved["start"])
    seen = []
    for epoch in range(1, passes):
        iter(loader)
        _set_sampler_epoch(loader, epoch)
        batches = iter(loader)
        draw()  # the same hook
        for i in range(n_done if epoch == 1 else 0):
            next(batches)
            if i == n_done - 1:
                loader.load_state(saved["now"])
                set_rng_state(saved["random"])
                loader.replayed()
                # Stopped again, it would start from the same states.
                assert torch.equal(loader.start["random"]["torch"], saved["start"]["random"]["torch"])
        seen += [(as_lists(batch), draw()) for batch in batches]
    return seen


@pytest.mark.parametrize("kind", [*LOADERS, *WORKERS])
def test_a_stopped_pass_goes_on_exactly(tmp_path, kind):
    """At every batch of the second of three passes (with worker processes at one), the rest is as in the unbroken run."""
    make = {**LOADERS, **WORKERS}[kind]
    n = len(make())
    seen, saved = train(make, 3)
    assert len(seen) == 3 * n
    # What can go wrong: orders differ from pass to pass, and so do the random numbers in the items.
    assert ([batch[0] for batch, _ in seen[:n]] == [batch[0] for batch, _ in seen[n : 2 * n]]) == (kind == "in order")
    assert seen[0][0][1] != seen[n][0][1]
    CheckpointFolder(tmp_path).write(saved)
    read = CheckpointFolder(tmp_path).read()
    assert read is not None
    for n_done in [2] if kind in WORKERS else range(1, n + 1):
        assert train_on(make, 3, n_done, read[n_done]) == seen[n + n_done :]


def test_a_pass_starts_with_its_first_batch():
    """Iterators that are thrown away draw nothing, and hooks that draw after ``iter`` do not change the replay."""
    loader = ReplayableLoader(LOADERS["own generator"]())
    before = rng_state()["torch"], loader.state()["generators"][0]
    batches = iter(loader)
    iter(loader)
    assert loader.start is None
    assert torch.equal(rng_state()["torch"], before[0])
    assert torch.equal(loader.state()["generators"][0], before[1])
    next(batches)
    assert loader.start is not None
    assert torch.equal(loader.start["random"]["torch"], before[0])
    assert torch.equal(loader.start["loader"]["generators"][0], before[1])
    assert not torch.equal(loader.state()["generators"][0], before[1])


def test_replay_holds_until_it_is_over():
    loader = ReplayableLoader(LOADERS["global randomness"]())
    first = [as_lists(batch) for batch in loader]
    loader.replay(loader.start)
    assert [as_lists(batch) for batch in loader] == first
    assert [as_lists(batch) for batch in loader] == first
    loader.replayed()
    assert [as_lists(batch) for batch in loader] != first


# -- a loader to everyone else -----------------------------------------------------------------------------------------


def test_it_is_the_inner_loader_to_everyone_else():
    inner = LOADERS["distributed"]()
    loader = ReplayableLoader(inner)
    for name in ("sampler", "batch_sampler", "dataset", "batch_size", "num_workers", "collate_fn"):
        assert getattr(loader, name) is getattr(inner, name)
    assert len(loader) == len(inner) == sized_len(loader)
    _set_sampler_epoch(loader, 7)
    assert inner.sampler.epoch == 7
    assert not hasattr(loader, "no_such_thing")
    with pytest.raises(AttributeError, match="'DataLoader' object has no attribute 'no_such_thing'"):
        loader.no_such_thing  # noqa: B018  (to ask is what fails)


def test_it_can_be_copied_and_pickled():
    """Neither asks a half-made object for its loader for ever."""
    loader = ReplayableLoader(DataLoader(TensorDataset(torch.arange(6)), 2))
    list(loader)
    for made in (copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert [batch[0].tolist() for batch in made] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(AttributeError):
        ReplayableLoader.__new__(ReplayableLoader).batch_size  # noqa: B018  (to ask is what fails)


def test_a_loader_that_comes_later():
    """Lightning's module knows the object long before there are data."""
    loader = ReplayableLoader(None)
    assert sized_len(loader) is None
    assert not hasattr(loader, "sampler")
    assert HeldOutBatches(loader).state() == {"start": None, "consumed": 0, "current": {"generators": []}, "passes": 0}
    loader.loader = DataLoader(TensorDataset(torch.arange(6)), 4)
    assert len(loader) == 2
    assert [batch[0].tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("n_workers", [0, 1])
def test_nothing_is_left_over_when_a_pass_is_through(n_workers):
    """No worker process outlives its pass or an iterator that was thrown away, persistent or not."""
    inner = DataLoader(Augmented(), BATCH, num_workers=n_workers, persistent_workers=n_workers > 0)
    loader = ReplayableLoader(inner)
    before = set(multiprocessing.active_children())
    for n_batches in (len(inner), 1):
        batches = iter(loader)
        for _ in range(n_batches):
            next(batches)
        assert len(set(multiprocessing.active_children()) - before) == n_workers
        del batches
        assert set(multiprocessing.active_children()) == before
    list(loader)
    assert set(multiprocessing.active_children()) == before


# -- held-out data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*LOADERS, *WORKERS])
def test_held_out_batches_go_on_exactly(tmp_path, kind):
    """At every stopping point of two passes (with worker processes at one), the end of a pass included; stopped twice."""
    make = {**LOADERS, **WORKERS}[kind]
    n = len(make())
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    unbroken = HeldOutBatches(ReplayableLoader(make()))
    seen, states = [], []
    for _ in range(3 * n):
        states.append((unbroken.state(), rng_state()))
        seen.append((as_lists(unbroken.next()), draw()))
    assert [state["consumed"] for state, _ in states[: 2 * n + 1]] == [0, *range(1, n + 1), *range(1, n + 1)]
    assert [state["passes"] for state, _ in states[: 2 * n + 1]] == [0] * (n + 1) + [1] * n
    CheckpointFolder(tmp_path).write({"states": states})
    read = CheckpointFolder(tmp_path).read()
    assert read is not None
    for i in [n + 2] if kind in WORKERS else range(2 * n + 1):
        held_out, randomness = read["states"][i]
        torch.manual_seed(99 + i), np.random.seed(99), random.seed(99)
        stopped_again = HeldOutBatches(ReplayableLoader(make()))
        stopped_again.load_state(held_out)
        again = stopped_again.state()
        assert (again["consumed"], again["passes"]) == (held_out["consumed"], held_out["passes"])
        for now, then in zip(again["current"]["generators"], held_out["current"]["generators"], strict=True):
            assert torch.equal(now, then)
        fresh = HeldOutBatches(ReplayableLoader(make()))
        fresh.load_state(again)
        set_rng_state(randomness)
        assert [(as_lists(next(fresh)), draw()) for _ in range(i, 3 * n)] == seen[i:]


@pytest.mark.parametrize("kind", ["global randomness", "own generator", "in order"])
def test_going_on_leaves_the_global_randomness_alone(kind):
    batches = HeldOutBatches(ReplayableLoader(LOADERS[kind]()))
    states = [batches.state()]
    for _ in range(6):
        batches.next()
        states.append(batches.state())
    for state in states:
        before = rng_state()
        HeldOutBatches(ReplayableLoader(LOADERS[kind]())).load_state(state)
        after = [draw() for _ in range(3)]
        set_rng_state(before)
        assert [draw() for _ in range(3)] == after


def test_one_generator_for_two_loaders():
    """The generator is also the training data's: it ends where it was, not where the dropped batches leave it."""

    def both() -> tuple[ReplayableLoader, HeldOutBatches]:
        shared = generator()
        loaders = [DataLoader(TensorDataset(torch.arange(N)), BATCH, shuffle=True, generator=shared) for _ in range(2)]
        return ReplayableLoader(loaders[0]), HeldOutBatches(ReplayableLoader(loaders[1]))

    training, held_out = both()
    held_out.next()
    list(training)
    state = held_out.state()
    expected = [batch[0].tolist() for batch in training], [held_out.next()[0].tolist() for _ in range(7)]
    training, held_out = both()
    held_out.load_state(state)
    assert ([batch[0].tolist() for batch in training], [held_out.next()[0].tolist() for _ in range(7)]) == expected


def test_samplers_are_told_the_number_of_the_pass():
    """Before its first batch, and the same number when a pass is replayed; a batch sampler as well."""
    told: list[int] = []

    class Sampler(DistributedSampler):
        def set_epoch(self, epoch: int) -> None:
            told.append(epoch)
            super().set_epoch(epoch)

    class Batches(BatchSampler):
        def set_epoch(self, epoch: int) -> None:
            told.append(100 + epoch)

    def make() -> HeldOutBatches:
        sampler = Batches(Sampler(range(8), 2, 0, seed=1), 2, False)
        return HeldOutBatches(ReplayableLoader(DataLoader(TensorDataset(torch.arange(8)), batch_sampler=sampler)))

    batches = make()
    seen = [batches.next()[0].tolist() for _ in range(3)]
    state = batches.state()
    seen += [batches.next()[0].tolist() for _ in range(3)]
    assert told == [0, 100, 1, 101, 2, 102]
    told.clear()
    again = make()
    again.load_state(state)
    assert told == [1, 101]
    assert [again.next()[0].tolist() for _ in range(3)] == seen[3:]
    assert told == [1, 101, 2, 102]
    assert seen[:2] != seen[2:4] != seen[4:]


@pytest.mark.parametrize(
    "empty", [[], iter([]), DataLoader(TensorDataset(torch.zeros(3)), 4, drop_last=True), DataLoader(range(0), 4)]
)
def test_data_without_a_batch_are_refused(empty):
    """Whether there was none, or an iterator has run out, which can be gone through once only."""
    message = "the evaluator's validation data, which the architecture is trained on, have no batch"
    batches = HeldOutBatches(ReplayableLoader(empty))
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            batches.next()


def test_data_that_have_become_shorter_are_refused():
    batches = HeldOutBatches(ReplayableLoader([1, 2, 3]))
    for _ in range(3):
        batches.next()
    shorter = ReplayableLoader([1, 2])
    before = rng_state()["torch"]
    with pytest.raises(ValueError, match="a pass over the held-out data has 2 batches, but 3 of it were consumed"):
        HeldOutBatches(shorter).load_state(batches.state())
    assert torch.equal(rng_state()["torch"], before)


# -- several processes -------------------------------------------------------------------------------------------------


def parts(loader: Any, world_size: int, epoch: int = 0, **kwargs: Any) -> list[list[int]]:
    """What each process goes through in one pass."""
    found = []
    for rank in range(world_size):
        mine = for_this_rank(loader, rank, world_size, seed=3, **kwargs)
        mine.sampler.set_epoch(epoch)
        found.append([int(i) for (batch,) in mine for i in batch])
    return found


@pytest.mark.parametrize("loader_class", [DataLoader, NniDataLoader])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [2, 3])
def test_parts_are_disjoint_and_cover_the_data(loader_class, shuffle, world_size):
    loader = loader_class(TensorDataset(torch.arange(12)), batch_size=2, shuffle=shuffle, generator=generator())
    found = parts(loader, world_size)
    assert sorted(i for part in found for i in part) == list(range(12))
    assert {len(part) for part in found} == {12 // world_size}
    assert (found == [list(range(rank, 12, world_size)) for rank in range(world_size)]) != shuffle
    assert (parts(loader, world_size, epoch=1) == found) != shuffle
    assert parts(loader, world_size) == found
    assert (parts(loader, world_size, shuffle=not shuffle) == found) is False
    assert type(for_this_rank(loader, 0, world_size, seed=0)) is DataLoader


@pytest.mark.parametrize("drop_last", [True, False])
def test_parts_that_do_not_divide_evenly(drop_last):
    """Equally many for all: with drop_last some samples are left out, without it some are repeated."""
    found = parts(DataLoader(TensorDataset(torch.arange(11)), 2, drop_last=drop_last), 2)
    assert found == ([[0, 2, 4, 6], [1, 3, 5, 7]] if drop_last else [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 0]])


def test_everything_else_of_the_loader_is_kept():
    own = generator()

    def collate(items: list) -> list:
        return items

    def init(worker: int) -> None:
        pass

    loader = DataLoader(
        range(12), 3, shuffle=True, num_workers=1, collate_fn=collate, pin_memory=True, drop_last=True, timeout=9,
        worker_init_fn=init, multiprocessing_context="spawn", generator=own, prefetch_factor=5, persistent_workers=True,
    )  # fmt: skip
    mine = for_this_rank(loader, 1, 2, seed=7)
    for name in (
        "dataset", "batch_size", "num_workers", "collate_fn", "pin_memory", "drop_last", "timeout", "worker_init_fn",
        "multiprocessing_context", "generator", "prefetch_factor", "persistent_workers",
    ):  # fmt: skip
        assert getattr(mine, name) == getattr(loader, name), name
    sampler = mine.sampler
    assert (sampler.num_replicas, sampler.rank, sampler.seed, sampler.shuffle) == (2, 1, 7, True)
    assert sampler.drop_last
    one_by_one = for_this_rank(DataLoader(TensorDataset(torch.arange(4)), batch_size=None), 1, 2, seed=0)
    assert [int(item) for (item,) in one_by_one] == [1, 3]


def test_what_needs_no_division_is_returned_as_it_is():
    class Batches(BatchSampler):
        def set_epoch(self, epoch: int) -> None:
            pass

    data = range(8)
    for loader in (
        DataLoader(data, sampler=DistributedSampler(data, 2, 0)),
        DataLoader(data, batch_sampler=BatchSampler(DistributedSampler(data, 2, 0), 2, False)),
        DataLoader(data, batch_sampler=Batches(RandomSampler(data), 2, False)),
    ):
        assert for_this_rank(loader, 0, 2, seed=0) is loader
    for anything in ([1, 2], DataLoader(data, sampler=[1, 2]), None):
        assert for_this_rank(anything, 0, 1, seed=0) is anything


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


OWN, ONCE = "they have a batch sampler of their own, ", "their {} does not go through the data set once"


@pytest.mark.parametrize(
    ("loader", "problem"),
    [
        ([1, 2], "they are a list"),
        (DataLoader(Stream()), "their data set Stream is iterable-style"),
        (DataLoader(range(8), sampler=weighted()), "they have a sampler of their own, WeightedRandomSampler"),
        (DataLoader(range(8), sampler=[1, 2]), "they have a sampler of their own, list"),
        (DataLoader(range(8), batch_sampler=BatchSampler(SequentialSampler(range(8)), 2, False)), OWN + "BatchSampler"),
        (DataLoader(range(8), batch_sampler=[[1, 2]]), OWN + "list"),
        (DataLoader(range(8), sampler=RandomSampler(range(8), replacement=True)), ONCE.format("RandomSampler")),
        (DataLoader(range(8), sampler=RandomSampler(range(8), num_samples=5)), ONCE.format("RandomSampler")),
        (DataLoader(Subset(range(8), [0, 1, 2]), sampler=SequentialSampler(range(2))), ONCE.format("SequentialSampler")),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused(loader, problem):
    with pytest.raises(TypeError) as caught:
        for_this_rank(loader, 0, 2, seed=0)
    assert str(caught.value) == (
        f"the data cannot be divided among 2 processes: {problem}; allowed: a torch DataLoader of a map-style data set with "
        "shuffle=True or False. Give the DataLoader a DistributedSampler of your own"
    )
