"""A short search that uses all the randomness there is, run in processes of their own: what the tests of resume kill."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.mutable import MutableExpression
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from nni.nas.profiler import ExpressionProfiler
from nni.nas.space import RawFormatModelSpace
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.dsnas import DSNASModule
from torch import Tensor, nn
from torch.utils.data import Dataset

from nni_proxyless.latency import LatencyPenalty
from nni_proxyless.search.run import InProcessEngine

FEATURES, CLASSES = 8, 4


def candidates() -> dict[str, nn.Module]:
    narrow = nn.Sequential(nn.Linear(FEATURES, 1, bias=False), nn.Linear(1, FEATURES))
    return {"narrow": narrow, "linear": nn.Linear(FEATURES, FEATURES), "skip": nn.Identity()}


class Space(ModelSpace):
    """Every kind of choice; batch norm, which has statistics, and dropout, which draws at random."""

    def __init__(self):
        super().__init__()
        self.one = LayerChoice(candidates(), label="one")
        self.repeat = Repeat(lambda i: LayerChoice(candidates(), label=f"repeated{i}"), (0, 3), label="depth")
        self.inputs = InputChoice(3, 2, label="inputs")
        self.norm, self.dropout, self.last = nn.BatchNorm1d(FEATURES), nn.Dropout(0.1), nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.one(x))
        return self.last(self.dropout(self.norm(self.inputs([x, a, self.repeat(a)]))))


class Plain(ModelSpace):
    """Without batch norm, dropout and a choice of inputs: here a batch and its halves give the same gradient."""

    def __init__(self):
        super().__init__()
        self.one = LayerChoice(candidates(), label="one")
        self.repeat = Repeat(lambda i: LayerChoice(candidates(), label=f"repeated{i}"), (0, 3), label="depth")
        self.last = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.repeat(torch.relu(self.one(x))))


class Cost(ExpressionProfiler):
    """Milliseconds of :class:`Space` by a table in the code."""

    def __init__(self, space: ModelSpace):
        mutables = space.simplify()
        costs = {"narrow": 1.0, "linear": 3.0, "skip": 0.0}
        self.expression = 2.0 + MutableExpression.switch_case(mutables["one"], costs) + mutables["depth"] * 1.0


class Noisy(Dataset):
    """Images that are augmented at random, from the global generator as torchvision's transforms do."""

    def __init__(self, n: int, seed: int, dtype: torch.dtype = torch.float32, noise: float = 0.1):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, FEATURES, generator=generator, dtype=dtype)
        self.y, self.noise = self.x[:, 1 : 1 + CLASSES].argmax(dim=1), noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.x[i]
        return x + self.noise * torch.randn_like(x) if self.noise else x, self.y[i]


class Task(LightningModule):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


QUIET = {
    "enable_progress_bar": False, "enable_checkpointing": False, "logger": False, "enable_model_summary": False, "accelerator": "cpu",
}  # fmt: skip


# NasExperiment leaves its log file open when it stops.
OF_EXPERIMENTS = [
    pytest.mark.filterwarnings("ignore:.*FileIO name=.*experiment.log:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file.*experiment.log:ResourceWarning"),
]


def quiet_trainer(**arguments: Any) -> Trainer:
    return Trainer(**QUIET, **arguments)


def searched(strategy: Any, task: Any, space: Any = None, *, epochs: int = 2, images: int = 16, **data: Any) -> Any:
    """The strategy after its search, in this process and without NNI's experiment, with batches of 4."""
    loaders = {
        f"{part}_dataloaders": DataLoader(Noisy(images, seed), batch_size=4)
        for seed, part in ((1, "train"), (2, "val"))
    }
    evaluator = Lightning(task, quiet_trainer(max_epochs=epochs), **{**loaders, **data})
    strategy(RawFormatModelSpace(Plain() if space is None else space, evaluator), InProcessEngine())
    return strategy


def killable(folder: str | None, result: str, options: dict[str, Any]) -> None:
    """One search with checkpoints in ``folder``; what it ends with goes to the file ``result``."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(3)
    space = Space()
    penalty = LatencyPenalty(Cost(space), 4.0, "auto") if options.get("update") != "reinforce" else None
    common = {"warmup_epochs": 1, "arc_learning_rate": 0.05, "penalty": penalty, "checkpoint_dir": folder}
    common["checkpoint_every"] = 3 if folder else None
    strategy: Any
    if options.pop("method", "proxyless") == "dsnas":
        strategy = DSNAS(**{"search_epochs": 2, "fix_gap": 0.15, **common, **options})
    else:
        strategy = ProxylessNAS(**{"update": "two-path", "arc_update_every": 2, **common, **options})
    space = strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(
        Lightning(
            Task(), quiet_trainer(max_epochs=4),
            train_dataloaders=DataLoader(Noisy(32 * 25, 1), batch_size=32, shuffle=True),
            val_dataloaders=DataLoader(Noisy(32 * 7, 2), batch_size=32, shuffle=True, generator=torch.Generator()),
        )
    )  # fmt: skip
    evaluator.evaluate(space)
    save(result, evaluator.module)


class Stopped(Exception):
    """In the place of a kill, at a certain batch."""


def stopped_after(batches: int, folder: str) -> None:
    """The DSNAS search of :func:`killable`, which ends without a word after so many batches."""
    done = 0
    step = DSNASModule.training_step

    def counted(self: DSNASModule, batch: Any, batch_idx: int) -> Any:
        nonlocal done
        if done == batches:
            raise Stopped
        done += 1
        return step(self, batch, batch_idx)

    DSNASModule.training_step = counted
    kept = torch.get_rng_state(), torch.get_num_threads()
    try:
        with warnings.catch_warnings(), contextlib.suppress(Stopped):
            killable(folder, "", {"method": "dsnas"})
    finally:
        DSNASModule.training_step = step
        torch.set_rng_state(kept[0])
        torch.set_num_threads(kept[1])


def save(path: str, module: Any, **more: Any) -> None:
    """Weights, statistics, logits, architecture: everything that a search ends with."""
    state = {
        "weights": module.training_module.state_dict(),
        "alphas": {gate.label: gate.alpha.detach() for gate in module.gates},
        "architecture": module.export(),
        "fixed": [gate.label for gate in module.fixed],
        "optimizers": [len(optimizer.state) for optimizer in module.trainer.optimizers],
        **more,
    }
    unfinished = Path(f"{path}.unfinished")
    torch.save(state, unfinished)
    unfinished.rename(path)


DISTRIBUTED = {
    **{update: ProxylessNAS(update=update, arc_update_every=2, arc_learning_rate=0.05, gradient_clip_val=0.5)
       for update in ("two-path", "full", "reinforce")},
    **{f"dsnas-{paths}-{reward}": DSNAS(search_epochs=1, fix_gap=1.0, arc_learning_rate=0.05, gradient_clip_val=0.5, paths=paths, reward=reward)
       for paths in ("shared", "per-process") for reward in ("loss", "gradient")},
}  # fmt: skip


def distributed(processes: int, batch_size: int, method: str, result: str) -> None:
    """The search on one process, or one of those that Lightning's DDP starts; every process writes what it saw."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(3)
    strategy: Any = DISTRIBUTED[method]
    space = strategy.mutate_model(Plain()).double()

    def data() -> DataLoader:
        return DataLoader(Noisy(256, 1, torch.float64, noise=0.0), batch_size=batch_size, shuffle=False)

    trainer = quiet_trainer(
        max_epochs=2, devices=processes, strategy="ddp" if processes > 1 else "auto", precision="64-true"
    )
    evaluator = strategy.mutate_evaluator(Lightning(Task(), trainer, train_dataloaders=data(), val_dataloaders=data()))
    module, seen, undivided = evaluator.module, [], []
    step = module.weight_step

    def noted(batch: Any, batch_idx: int) -> Any:
        done = step(batch, batch_idx)
        seen.append(([*module._path.values()], [gate.alpha.tolist() for gate in module.gates], batch[0].tolist()))
        undivided.append([p.tolist() for p in module.weights()])
        return done

    module.weight_step = noted
    evaluator.evaluate(space)
    save(f"{result}.{trainer.global_rank}", module, seen=seen, undivided=undivided)


def all_distributed(processes: int, batch_size: int, result: str) -> None:
    """All methods one after the other: starting takes longer than searching."""
    for method in DISTRIBUTED:
        distributed(processes, batch_size, method, f"{result}.{method}")
