"""What Lightning allows in a module of one's own: it works in a search as well, or is refused by name before anything is trained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import IterableDataset

from .searches import Noisy, Plain, Task, searched

BATCHES, EPOCHS = 4, 2


class Own(Task):
    """Notes what it is asked for, and halves its learning rate at every step."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.seen.append("step")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.seen.append("batch")
        return batch

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None) -> None:  # fmt: skip
        self.seen.append(f"clip {gradient_clip_val}")


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([Noisy(4 * BATCHES, 1)[i] for i in range(4 * BATCHES)])


def search(module: Any, strategy: Any = None, **data: Any) -> tuple[Any, dict[str, Tensor]]:
    """The module of the search, and the weights before it."""
    torch.manual_seed(0)
    space = Plain()
    before = copy.deepcopy(space.state_dict())
    return searched(
        strategy or ProxylessNAS(arc_update_every=1), module, space, epochs=EPOCHS, **data
    ).oneshot_module, before


class Skips(Own):
    """Skips the same batches in every epoch."""

    def __init__(self, *which: int):
        super().__init__()
        self.which = which

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx in self.which else {"loss": super().training_step(batch, batch_idx)}


STRATEGIES: dict[str, Any] = {
    **{update: lambda update=update: ProxylessNAS(update=update, arc_update_every=1) for update in ("two-path", "full", "reinforce")},
    "loss": lambda: DSNAS(reward="loss"), "gradient": lambda: DSNAS(reward="gradient"),
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_can_be_skipped(strategy):
    """It moves nothing; the schedule goes on, as in Lightning. The last batch of an epoch is one that can be skipped too."""
    module, _ = search(task := Skips(1, 3), STRATEGIES[strategy]())
    assert task.seen.count("step") == (BATCHES - 2) * EPOCHS
    assert module.weight_optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 ** (BATCHES * EPOCHS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a schedule that goes on without a step
        module, before = search(Skips(*range(BATCHES)), STRATEGIES[strategy]())
    assert all(
        torch.equal(before[name], weight) for name, weight in module.model.state_dict().items() if name in before
    )


def test_of_accumulated_batches_one_can_be_skipped():
    """The weights step when two batches have come, or with those that have at the end of the epoch."""
    search(task := Skips(1), ProxylessNAS(arc_update_every=1, accumulate_grad_batches=2))
    assert task.seen.count("step") == 2 * EPOCHS
    search(task := Skips(2, 3), ProxylessNAS(arc_update_every=1, accumulate_grad_batches=3))
    assert task.seen.count("step") == EPOCHS


def test_hooks_of_the_module_are_called():
    """Before each step of the weights, and of the weights alone; for each batch, held-out ones too; its own clipping, always."""
    search(task := Own())
    assert task.seen.count("step") == task.seen.count("clip None") == BATCHES * EPOCHS
    assert task.seen.count("batch") == 2 * BATCHES * EPOCHS
    search(task := Own(), ProxylessNAS(arc_update_every=1, gradient_clip_val=0.5))
    assert task.seen.count("clip 0.5") == BATCHES * EPOCHS


def test_data_of_unknown_length():
    """An iterable-style data set, for the weights and for the architecture, is gone through once per epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        streams = [DataLoader(Stream(), batch_size=4) for _ in range(2)]
        search(task := Own(), train_dataloaders=streams[0], val_dataloaders=streams[1])
    assert task.seen.count("step") == BATCHES * EPOCHS


class Plateau(Own):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)}}  # fmt: skip


class Two(Own):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.parameters(), 0.2)]


class Closure(Own):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


class Manual(Own):
    automatic_optimization = False


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Plateau, "Plateau.configure_optimizers gives ReduceLROnPlateau, which waits for a metric that a search does not have"),
        (Two, "Two.configure_optimizers gives 2 optimizers; allowed: one"),
        (Closure, "Closure.configure_optimizers gives LBFGS, which tries a step several times; allowed: an optimizer that"),
        (Manual, "Manual has automatic_optimization False; allowed: True, a search makes the steps of the weights itself"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strategy", ["two-path", "loss"])
def test_what_a_search_cannot_do_is_refused_before_anything_is_trained(task, message, strategy):
    module = task()
    with pytest.raises(MisconfigurationException, match=f"^strategy: {message}"):
        search(module, STRATEGIES[strategy]())
    assert "step" not in module.seen


class Odd(Own):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"error": super().training_step(batch, batch_idx)}


def test_what_is_no_loss_is_refused_by_name():
    with pytest.raises(
        TypeError, match=r"Odd.training_step returns a dict of 'error'; allowed: a tensor, a dict with a"
    ):
        search(Odd())
    with pytest.raises(TypeError, match="the validation data are a list of loaders; allowed: one loader"):
        search(Own(), val_dataloaders=[DataLoader(Noisy(8, 1))])
