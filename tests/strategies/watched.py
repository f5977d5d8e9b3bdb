"""ProxylessNAS on a real fit of Lightning in float64, watched: what was before and after each architecture step.

:class:`Noting` is the search's own module; it calls the original and looks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule
from nni.nas.nn.pytorch import ModelSpace
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.proxyless import ProxylessModule
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from .searches import quiet_trainer
from .spaces import CLASSES, WIDTH, TwoChoices

BATCH = 8
STILL = 1e-12  # a learning rate that leaves everything where it is, but for rounding


class Sgd(torch.optim.SGD):
    """Notes what it is given at every step."""

    def step(self, closure=None):
        notes = self.__dict__.setdefault("notes", [])
        grads = [[p.grad.clone() for p in group["params"] if p.grad is not None] for group in self.param_groups]
        notes.append(
            {"lr": [group["lr"] for group in self.param_groups], "grads": [g for group in grads for g in group]}
        )
        return super().step(closure)


class Task(LightningModule):
    """Cross entropy; a loss of the test's own if it has one."""

    def __init__(self, learning_rate: float = 0.05, loss: Callable | None = None, **sgd: float):
        super().__init__()
        self.learning_rate, self.loss, self.sgd = learning_rate, loss, sgd

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self.model(x)) if self.loss else nn.functional.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> Any:
        return Sgd(self.model.parameters(), lr=self.learning_rate, **self.sgd)


@dataclass
class Step:
    """One architecture step."""

    when: tuple[int, int]
    batch: tuple[Tensor, Tensor]
    path: dict[str, int] = field(default_factory=dict)
    paths: list[dict[str, int]] = field(default_factory=list)
    probed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    grad: dict[str, Tensor | None] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    state: list[dict[str, Tensor]] = field(default_factory=list)
    kept: int = 0


def count_runs(model: nn.Module, labels: Sequence[str]) -> tuple[dict[str, int], list]:
    """How often each candidate has run since; the counter fills as it goes."""
    runs: dict[str, int] = {}
    handles = []
    for label in labels:
        layer = getattr(model, label, None)
        for name in layer.names if layer is not None else ():
            key = f"{label}.{name}"
            runs[key] = 0

            def count(*_, key=key) -> None:
                runs[key] += 1

            handles.append(layer[name].register_forward_hook(count))
    return runs, handles


class Noting(ProxylessModule):
    """The search's own module, watched. ``script`` holds the path of each step in turn; empty, paths are sampled."""

    def architecture_step(self, batch, batch_idx: int) -> None:
        step = Step((self.trainer.current_epoch, batch_idx), batch)

        def on_forward(*_) -> None:
            step.path = {gate.label: gate.current for gate in self.gates}
            step.probed = {gate.label: gate.probed for gate in self.gates}
            step.paths.append(step.path)

        step.runs, handles = count_runs(self.model, [gate.label for gate in self.gates])
        handles.append(self.model.register_forward_pre_hook(on_forward))
        step.before = self._logits()
        step.state.append(copy.deepcopy(self.training_module.state_dict()))
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.ndim > 1 and len(tensor) == len(batch[0]):  # of this batch, whatever the number of candidates
                kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            super().architecture_step(batch, batch_idx)
        for handle in handles:
            handle.remove()
        step.kept = len(kept)
        step.after = self._logits()
        step.grad = {g.label: None if g.alpha.grad is None else g.alpha.grad.clone() for g in self.gates}
        step.state.append(copy.deepcopy(self.training_module.state_dict()))
        self.__dict__.setdefault("steps", []).append(step)

    def _logits(self) -> dict[str, Tensor]:
        return {gate.label: gate.alpha.detach().clone() for gate in self.gates}


class Watched(ProxylessNAS):
    watched_class = Noting

    def configure_oneshot_module(self, training_module):
        module = super().configure_oneshot_module(training_module)
        module.__class__ = self.watched_class
        return module


def batches(n: int, seed: int = 0, size: int = BATCH) -> DataLoader:
    """n batches of noise, always the same and in the same order."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n * size, WIDTH, dtype=torch.float64, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(CLASSES, (n * size,), generator=generator)), batch_size=size)


def prepare(strategy: Any, space: ModelSpace, alphas: dict[str, list[float]] | None = None) -> ModelSpace:
    """Supernet in float64, with logits of the test's own."""
    space = strategy.mutate_model(space).double()
    for label, gate in strategy._gates.items():
        gate.double()
        gate.alpha.data += torch.randn(len(gate.choices), generator=torch.Generator().manual_seed(len(label)))
        if alphas and label in alphas:
            gate.alpha.data = torch.tensor(alphas[label], dtype=torch.float64)
    return space


def fit(
    strategy: Any,
    make: Callable[[], ModelSpace] = TwoChoices,
    *,
    task: LightningModule | None = None,
    n: int = 4,
    epochs: int = 1,
    train: Any = None,
    held_out: Any = None,
    alphas: dict[str, list[float]] | None = None,
    script: Sequence[list[dict[str, int]]] = (),
    callbacks: Sequence[Any] = (),
) -> Any:
    """Search for real: supernet, evaluator and Lightning's loop as NNI puts them together; the search's module."""
    torch.manual_seed(0)
    strategy.log_prob_every_n_step = 10_000
    space = prepare(strategy, make(), alphas)
    evaluator = strategy.mutate_evaluator(
        Lightning(
            task or Task(), quiet_trainer(max_epochs=epochs, callbacks=list(callbacks)),
            train_dataloaders=batches(n) if train is None else train,
            val_dataloaders=batches(3, seed=1) if held_out is None else held_out,
        )
    )  # fmt: skip
    evaluator.module.double()
    evaluator.module.script = list(script)
    evaluator.evaluate(space)
    return evaluator.module
