"""NNI's own way to go on: a strategy's ``state_dict``, which names a checkpoint of Lightning's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from nni.nas.space import RawFormatModelSpace
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from pytorch_lightning.callbacks import ModelCheckpoint

from nni_proxyless.search.run import InProcessEngine

from .searches import QUIET, Noisy, Plain, Task


class Noted(Task):
    """With something of its own in the checkpoint."""

    count = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["count"] = self.count + 1

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.count = checkpoint["count"]


def search(folder: Path, epochs: int, strategy: Any, state: Any = None) -> Any:
    torch.manual_seed(0)
    kept = ModelCheckpoint(dirpath=folder, save_last=True)
    trainer = Trainer(**{**QUIET, "enable_checkpointing": True}, max_epochs=epochs, callbacks=[kept])
    data = [DataLoader(Noisy(32, seed), batch_size=8) for seed in (1, 2)]
    evaluator = Lightning(Noted(), trainer, train_dataloaders=data[0], val_dataloaders=data[1])
    strategy.initialize(RawFormatModelSpace(Plain(), evaluator), InProcessEngine())
    if state is not None:
        strategy.load_state_dict(state)
    strategy.run()
    return strategy


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("fix_gap", [1.0, 0.001])
def test_dsnas_goes_on_when_the_child_exists(fix_gap, tmp_path):
    """Its choices, its weights, its optimizer, the baseline; the candidates that have left stay away."""
    make = lambda: DSNAS(search_epochs=1, fix_gap=fix_gap)  # noqa: E731
    first = search(tmp_path, 3, make())
    before = first.oneshot_module
    again = search(tmp_path, 4, make(), first.state_dict()).oneshot_module
    assert again.export() == before.export()
    assert again.child_since == before.child_since == (1 if fix_gap == 1.0 else before.child_since)
    assert len(again.fixed) == len(again.searched)
    assert again.baseline.value == before.baseline.value
    assert again.training_module.state_dict().keys() == before.training_module.state_dict().keys()
    assert len(again.trainer.optimizers[0].state) == len(before.trainer.optimizers[0].state)
    assert again.training_module.count == 1
    moved = [
        not torch.equal(a, b) for a, b in zip(again.weights(), before.weights(), strict=True) if a.requires_grad
    ]  # fmt: skip
    assert any(moved), "and trains on"


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_baseline_of_reinforce_goes_on(tmp_path):
    """Nothing is left to train in the second search, so all is as the first has left it."""
    first = search(tmp_path, 2, ProxylessNAS(update="reinforce", arc_update_every=1))
    again = search(tmp_path, 2, ProxylessNAS(update="reinforce", arc_update_every=1), first.state_dict()).oneshot_module
    assert again.baseline.value == first.oneshot_module.baseline.value is not None
    assert torch.equal(again.gates[0].generator.get_state(), first.oneshot_module.gates[0].generator.get_state())
