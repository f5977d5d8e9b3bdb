"""Tests that a one-shot strategy of your own inherits. Needs pytest, which the package itself does not.

from nni_proxyless.testing import StrategyContract

class TestMine(StrategyContract):
    def make_strategy(self, checkpoint_dir):
        return MyStrategy(seed=0, checkpoint_dir=checkpoint_dir)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import nni
import numpy as np
import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from pytorch_lightning import Callback
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..core.nni_compat import OneShotStrategy

__all__ = ["StrategyContract"]

FEATURES, CLASSES, BATCH, BATCHES = 6, 3, 8, 6


class StrategyContract:
    """What every one-shot strategy does. Inherit in a class whose name begins with ``Test``, and say how to make one.

    A search of a tiny space takes a fraction of a second; each test makes one or two.

    Attributes
    ----------
    epochs
        Of a search.
    has_checkpoint
        Whether a strategy with a ``checkpoint_dir`` goes on with a search that was stopped.
    trains_one_path
        Whether a step of the weights trains one candidate of every choice. False for a mixture of all of them.
    """

    epochs = 3
    has_checkpoint = True
    trains_one_path = True

    def make_strategy(self, checkpoint_dir: str | None) -> OneShotStrategy:
        """A new strategy, always of the same arguments and seed.

        Parameters
        ----------
        checkpoint_dir
            Where it keeps checkpoints, and goes on from them; None for a search without. Only a class with ``has_checkpoint`` gets one.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method make_strategy(checkpoint_dir)")

    def make_space(self) -> ModelSpace:
        """A new space that the strategy searches, of images of shape (6,) in 3 classes."""
        return TinySpace()

    def make_refused_space(self) -> ModelSpace:
        """A new space that the strategy cannot search."""
        return RefusedSpace()

    def search(
        self,
        *callbacks: Callback,
        checkpoint_dir: str | None = None,
        watch: Callable[[ModelSpace], Callback] | None = None,
    ) -> Any:
        """Search the space with the same seeds as always; returns NNI's module of the search, trained."""
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        strategy = self.make_strategy(checkpoint_dir)
        space = self.make_space()
        if watch is not None:
            callbacks = (*callbacks, watch(space))
        space = strategy.mutate_model(space)
        trainer = Trainer(
            max_epochs=self.epochs, accelerator="cpu", callbacks=list(callbacks), logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        given = Lightning(_Task(), trainer, train_dataloaders=_images(1, BATCHES), val_dataloaders=_images(2, BATCHES))
        evaluator = strategy.mutate_evaluator(given)
        evaluator.evaluate(space)
        return evaluator.module

    def test_it_is_a_strategy_of_nni(self) -> None:
        assert isinstance(self.make_strategy(None), OneShotStrategy), "make_strategy() gives no OneShotStrategy of NNI"

    def test_a_search_ends_with_a_network_of_the_space(self) -> None:
        """Its choices freeze a fresh space to a network that runs, and its probabilities sum to 1."""
        module = self.search()
        sample, space = module.export(), self.make_space()
        labels = set(space.simplify())
        assert set(sample) == labels, f"the network has choices for {sorted(sample)}; allowed: {sorted(labels)}"
        logits = space.freeze(sample)(torch.randn(4, FEATURES))
        assert logits.shape == (4, CLASSES), f"the network gives {tuple(logits.shape)}; allowed: (4, {CLASSES})"
        for label, probs in module.export_probs().items():
            total = sum(map(float, probs.values()))
            assert abs(total - 1) < 1e-4, f"the probabilities of '{label}' sum to {total}; allowed: 1"
        weights = list(module.model.parameters())
        assert all(bool(w.isfinite().all()) for w in weights), "there are weights that are no numbers"

    def test_it_exports_the_same_twice(self) -> None:
        """Asked again, and by another search with the same seed: choices and weights."""
        module, again = self.search(), self.search()
        first = module.export()
        assert module.export() == first, "asked again, it exports another network"
        assert again.export() == first, "with the same seed, another search exports another network"
        _require_same_weights(again, module, "with the same seed, another search")

    def test_a_search_that_was_stopped_goes_on_to_the_bit(self, tmp_path: Any) -> None:
        """Stopped within an epoch and started again with the same arguments, it ends as if it had never been stopped."""
        if not self.has_checkpoint:
            pytest.skip(f"{type(self).__name__}.has_checkpoint is False")
        folder = str(tmp_path / "checkpoints")
        whole = self.search()
        with pytest.raises(_Stopped):
            self.search(_StopAfter(BATCHES + 2), checkpoint_dir=folder)
        counted = _StopAfter(None)
        resumed = self.search(counted, checkpoint_dir=folder)
        assert counted.first_epoch > 0, "it has begun again, from the first epoch"
        assert resumed.export() == whole.export(), "it ends with another network"
        _require_same_weights(resumed, whole, "the search that was stopped")

    def test_what_it_cannot_search_is_refused_and_left_as_it_was(self) -> None:
        """By an error that names the class of the space; every module and weight stays the same object."""
        space = self.make_refused_space()
        before = _objects(space)
        with pytest.raises((TypeError, ValueError, MisconfigurationException), match=type(space).__name__):
            self.make_strategy(None).mutate_model(space)
        assert _objects(space) == before, "the space that was refused has changed"

    def test_weights_off_the_path_stay_as_they_are(self) -> None:
        """In a batch at most one candidate of a choice gets other weights, and it is one that has run."""
        if not self.trains_one_path:
            pytest.skip(f"{type(self).__name__}.trains_one_path is False")
        watched: list[_Watch] = []

        def watch(space: ModelSpace) -> Callback:
            watched.append(_Watch(space))
            return watched[0]

        self.search(watch=watch)
        assert watched[0].n_moved > 0, "no candidate has been trained"
        assert not watched[0].problems, "; ".join(watched[0].problems[:3])


def _candidates() -> dict[str, nn.Module]:
    return {
        "narrow": nn.Sequential(nn.Linear(FEATURES, 2), nn.Linear(2, FEATURES)),
        "linear": nn.Linear(FEATURES, FEATURES),
        "skip": nn.Identity(),
    }


class TinySpace(ModelSpace):
    """Two layers and a depth to choose."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice(_candidates(), label="first")
        self.deep = Repeat(lambda i: nn.Linear(FEATURES, FEATURES), (1, 2), label="depth")
        self.last = LayerChoice(_candidates(), label="last")
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(torch.relu(self.deep(torch.relu(self.first(x))))))


class RefusedSpace(TinySpace):
    """With a choice of any number between two."""

    def __init__(self) -> None:
        super().__init__()
        self.add_mutable(nni.uniform("rate", 0.0, 1.0))


class _Task(LightningModule):
    """With momentum and decay, which would move weights that have a gradient of zero."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)


def _images(seed: int, batches: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH * batches, FEATURES, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :CLASSES].argmax(dim=1)), batch_size=BATCH, shuffle=True)


class _Stopped(Exception):
    """In the place of a kill."""


class _StopAfter(Callback):
    """Stops a search after so many batches; None: does not."""

    def __init__(self, batches: int | None):
        self.batches, self.done, self.first_epoch = batches, 0, -1

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        if self.first_epoch < 0:
            self.first_epoch = trainer.current_epoch
        self.done += 1
        if self.done == self.batches:
            raise _Stopped


class _Watch(Callback):
    """Compares the weights of all candidates before and after every batch."""

    def __init__(self, space: ModelSpace):
        self.candidates = {
            str(layer.label): {str(name): layer[name] for name in layer.names}
            for layer in space.modules()
            if isinstance(layer, LayerChoice)
        }
        self.ran: set[nn.Module] = set()
        self.before: dict[nn.Module, list[Tensor]] = {}
        self.problems: list[str] = []
        self.n_moved = 0
        for candidate in self._all():
            candidate.register_forward_hook(lambda module, inputs, output: self.ran.add(module))

    def _all(self) -> list[nn.Module]:
        return [candidate for of_layer in self.candidates.values() for candidate in of_layer.values()]

    def on_train_batch_start(self, *arguments: Any) -> None:
        self.ran.clear()
        self.before = {c: [p.detach().clone() for p in c.parameters()] for c in self._all()}

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        where = f"in epoch {trainer.current_epoch}, batch {batch_idx}"
        for label, candidates in self.candidates.items():
            moved = [
                name
                for name, candidate in candidates.items()
                if any(
                    not torch.equal(p, old)
                    for p, old in zip(candidate.parameters(), self.before[candidate], strict=True)
                )
            ]
            self.n_moved += len(moved)
            if len(moved) > 1:
                self.problems.append(
                    f"{where}, {', '.join(moved)} of '{label}' have other weights; allowed: one of them"
                )
            if idle := [name for name in moved if candidates[name] not in self.ran]:
                self.problems.append(f"{where}, {', '.join(idle)} of '{label}' has other weights and has not run")


def _objects(space: nn.Module) -> list[tuple[str, int]]:
    return [
        *((name, id(module)) for name, module in space.named_modules()),
        *((name, id(weight)) for name, weight in space.named_parameters()),
    ]


def _require_same_weights(module: Any, expected: Any, what: str) -> None:
    ours, theirs = module.model.state_dict(), expected.model.state_dict()
    assert ours.keys() == theirs.keys(), f"{what} has other weights"
    different = [name for name, weight in ours.items() if not torch.equal(weight, theirs[name])]
    assert not different, f"{what} has other values of {', '.join(different[:3])}"
