"""How a sampled supernet is trained inside NNI and Lightning, whatever the method that samples it.

SampledStrategy           an NNI ``OneShotStrategy``: turns the model space into a supernet, the evaluator into a search
  SampledOneShotModule    a Lightning module around the evaluator's: weight steps, and what an architecture step needs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import nni.nas.strategy  # noqa: F401  (first: else NNI's circular imports leave nni.nas.strategy with broken strategies)
import torch
from nni.mutable import Categorical
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy, no_default_hook
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from .supernet import Gate, SampledLayer

__all__ = ["SampledOneShotModule", "SampledStrategy"]


class SampledOneShotModule(BaseOneShotLightningModule):
    """Weight steps on single paths; everything that a method's architecture step is put together from.

    Parameters
    ----------
    training_module
        The evaluator's Lightning module, holding the supernet.
    gates
        One per label, in the order of labels: an optimizer's state is stored by position.
    held_out
        Gives the loader of the data that the architecture is trained on.
    """

    def __init__(
        self,
        training_module: LightningModule,
        *,
        gates: list[Gate],
        held_out: Callable[[], Any],
        arc_learning_rate: float,
        warmup_epochs: int,
        gradient_clip_val: float | None,
        log_prob_every_n_step: int,
        penalty: ExpectationProfilerPenalty | None,
    ):
        super().__init__(training_module)
        self.gates = list(gates)
        self.gate_modules = nn.ModuleList(gates)  # so that Lightning moves and saves them
        self.penalty = penalty
        self.arc_learning_rate = arc_learning_rate
        self.warmup_epochs = warmup_epochs
        self.gradient_clip_val = gradient_clip_val
        self.log_prob_every_n_step = log_prob_every_n_step
        self._held_out = held_out
        self._held_out_batches: Iterator[Any] | None = None

    # -- what a step is put together from ------------------------------------------------------------------------

    @property
    def searching(self) -> bool:
        """False during warm-up, when only weights train."""
        return self.trainer.current_epoch >= self.warmup_epochs

    def weights(self) -> list[nn.Parameter]:
        """Everything the supernet trains but the logits."""
        return list(self.training_module.parameters())

    def weight_step(self, batch: Any, batch_idx: int) -> Any:
        """One training step of one sampled path; candidates off the path have no gradient, so nothing moves them."""
        for gate in self.gates:
            gate.sample_path()
        result = self.training_module.training_step(batch, batch_idx)
        self.advance_optimization(_loss_of(result), batch_idx, self.gradient_clip_val)
        self.advance_lr_schedulers(batch_idx)
        self.reset_gates()
        return result

    def architecture_loss(self, batch: Any, batch_idx: int) -> Tensor:
        """Task loss of the sampled path, the module's own ``architecture_loss`` if it has one."""
        own = getattr(self.training_module, "architecture_loss", None)
        return _loss_of((own or self.training_module.training_step)(batch, batch_idx))

    def add_penalty(self, loss: Tensor, probs: dict[Gate, Tensor]) -> Tensor:
        """Add the expected cost under ``probs`` (live tensors of shape (N,)) and log what it came to."""
        if self.penalty is None:
            return loss
        loss, details = self.penalty(
            loss, {g.label: dict(zip(g.choices, p.unbind(), strict=True)) for g, p in probs.items()}
        )
        self.log_dict({f"penalty/{name}": torch.as_tensor(value).detach() for name, value in details.items()})
        return loss

    def next_held_out_batch(self) -> Any:
        """The next batch for the architecture, on this module's device; begins again when the data are through."""
        for _ in range(2):
            if self._held_out_batches is None:
                self._held_out_batches = iter(self._held_out())
            batch = next(self._held_out_batches, None)
            if batch is not None:
                # What Lightning's own loop does with a batch, in its order.
                batch = self.trainer.precision_plugin.convert_input(batch)
                batch = self._on_before_batch_transfer(batch)
                return self.trainer.strategy.batch_to_device(batch, self.device)
            self._held_out_batches = None
        raise ValueError("the evaluator's validation data, which the architecture is trained on, have no batch")

    def reset_gates(self) -> None:
        """Back to the most probable path, which is what anyone who calls the supernet between steps wants to see."""
        for gate in self.gates:
            gate.reset()

    def log_probs_now_and_then(self, batch_idx: int) -> None:
        if batch_idx % self.log_prob_every_n_step == 0:
            self.log_probs(self.export_probs())

    # -- the architecture ----------------------------------------------------------------------------------------

    def export(self) -> dict[str, Any]:
        """The most probable choice per label: the same at every call."""
        return {gate.label: gate.choices[gate.most_probable()] for gate in self.gates}

    def export_probs(self) -> dict[str, dict[Any, float]]:
        """Label -> choice -> probability, as plain numbers."""
        return {gate.label: dict(zip(gate.choices, gate.probs().tolist(), strict=True)) for gate in self.gates}

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        # beta1 must be 0 and weight decay off: a logit without gradient must not move (FACTS 1.3.6).
        return torch.optim.Adam([gate.alpha for gate in self.gates], lr=self.arc_learning_rate, betas=(0.0, 0.999))

    @property
    def architecture_optimizer(self) -> Any:
        return self.architecture_optimizers()


class SampledStrategy(OneShotStrategy):
    """What ProxylessNAS and DSNAS have in common as strategies of NNI; see those for the arguments."""

    def __init__(
        self,
        *,
        arc_learning_rate: float,
        warmup_epochs: int,
        gradient_clip_val: float | None,
        log_prob_every_n_step: int,
        penalty: ExpectationProfilerPenalty | dict | None,
        seed: int,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.arc_learning_rate = arc_learning_rate
        self.warmup_epochs = warmup_epochs
        self.gradient_clip_val = gradient_clip_val
        self.log_prob_every_n_step = log_prob_every_n_step
        self.penalty = ExpectationProfilerPenalty(**penalty) if isinstance(penalty, dict) else penalty
        self.seed = seed
        self._gates: dict[str, Gate] = {}
        self._held_out: Callable[[], Any] | None = None
        if problems := self.problems():
            raise ValueError("; ".join(problems))

    def problems(self) -> list[str]:
        """Every argument that is out of range, one sentence each."""
        problems = []
        if not self.arc_learning_rate > 0:
            problems.append(f"arc_learning_rate is {self.arc_learning_rate}; allowed: greater than 0")
        if self.warmup_epochs < 0:
            problems.append(f"warmup_epochs is {self.warmup_epochs}; allowed: 0 or more")
        if self.gradient_clip_val is not None and not self.gradient_clip_val > 0:
            problems.append(f"gradient_clip_val is {self.gradient_clip_val}; allowed: greater than 0, or none")
        if self.log_prob_every_n_step < 1:
            problems.append(f"log_prob_every_n_step is {self.log_prob_every_n_step}; allowed: 1 or more")
        if self.penalty is not None and not isinstance(self.penalty, ExpectationProfilerPenalty):
            problems.append(
                f"penalty is a {type(self.penalty).__name__}; allowed: LatencyPenalty, NNI's ExpectationProfilerPenalty, a dict"
            )
        return problems

    def module_arguments(self) -> dict[str, Any]:
        """What every :class:`SampledOneShotModule` is built from."""
        return {
            "gates": list(self._gates.values()),
            "held_out": self._held_out_data,
            "arc_learning_rate": self.arc_learning_rate,
            "warmup_epochs": self.warmup_epochs,
            "gradient_clip_val": self.gradient_clip_val,
            "log_prob_every_n_step": self.log_prob_every_n_step,
            "penalty": self.penalty,
        }

    # -- the supernet ----------------------------------------------------------------------------------------------

    def default_mutation_hooks(self) -> list[Any]:
        return [SampledLayer.mutate, no_default_hook]  # the last one refuses, by name, what no hook has taken

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        generator = torch.Generator().manual_seed(self.seed)
        self._gates = {}
        for label, mutable in sorted(model.simplify().items()):
            if type(mutable) is not Categorical:
                raise TypeError(
                    f"choice {label!r} is a {type(mutable).__name__}; {type(self).__name__} searches LayerChoice only"
                )
            alpha = torch.randn(len(mutable.values), generator=generator) * 1e-3  # FACTS 1.6
            self._gates[label] = Gate(label, mutable.values, alpha, generator)
        if not self._gates:
            raise ValueError(f"{type(model).__name__} has no choice: nothing to search")
        return super().mutate_model(model)

    def run_hook(self, hook: Any, name: str, module: nn.Module, memo: dict[str, Any]) -> Any:
        memo.update(self._gates)
        return hook(module, name, memo, {})

    # -- the data --------------------------------------------------------------------------------------------------

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        # The held-out loader is not fused with the training loader, as NNI does: that would load a held-out batch for
        # every step, and make an epoch as long as the longer of the two.
        self._held_out = val_dataloader_fn
        return train_dataloader_fn()

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> None:
        return None

    def _held_out_data(self) -> Any:
        assert self._held_out is not None, "asked for held-out data before the evaluator was set up"
        return self._held_out()


def _loss_of(result: Any) -> Tensor:
    """What Lightning's ``training_step`` may return: a loss, or a dict that holds one."""
    return result["loss"] if isinstance(result, dict) else result
