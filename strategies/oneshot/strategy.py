"""A method as a strategy of NNI, whatever the method: arguments, supernet, data.

SampledStrategy           an NNI ``OneShotStrategy``: turns the model space into a supernet, the evaluator into a search
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from nni.nas.nn.pytorch import ModelSpace
from pytorch_lightning import LightningDataModule
from torch import nn

from nni_proxyless.core.nni_compat import ExpectationProfilerPenalty, OneShotStrategy, keep_modules_when_frozen

from ..ranges import problems_of_sampled
from ..supernet.gate import Gate
from ..supernet.layers import SampledInput, SampledLayer, SampledModule, SampledRepeat, choices_of
from .constraints import limits_of
from .data import ReplayableLoader, divided
from .identity import WITHOUT_EFFECT, identity_of_penalty, options_of
from .refusal import Original, SpaceError, refuse_cell, refuse_values, unchanged_if_refused
from .resume import StopAndGo

__all__ = ["SampledStrategy"]


class SampledStrategy(OneShotStrategy):
    """What ProxylessNAS and DSNAS have in common as strategies of NNI; see those for the arguments.

    Attributes
    ----------
    initial_spread
        Standard deviation of the initial logits.
    out_of_range
        Which of a strategy's options are, in words.
    needs_held_out_data
        Whether the evaluator's validation data train the architecture; if not, the search does not touch them.
    leaves_trained_network
        Whether the network that is left needs no further training.
    """

    initial_spread = 1e-3  # FACTS 1.6
    out_of_range = staticmethod(problems_of_sampled)
    needs_held_out_data = True
    leaves_trained_network = False

    def __init__(
        self,
        *,
        arc_learning_rate: float,
        warmup_epochs: int = 0,
        warmup_learning_rate: float | None = None,
        size_bias: float = 0.0,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        accumulate_grad_batches: int = 1,
        log_prob_every_n_step: int = 10,
        penalty: Any = None,
        checkpoint_dir: str | None = None,
        checkpoint_every: int | None = None,
        within_target: bool = True,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.arc_learning_rate = arc_learning_rate
        self.warmup_epochs = warmup_epochs
        self.warmup_learning_rate = warmup_learning_rate
        self.size_bias = size_bias
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.accumulate_grad_batches = accumulate_grad_batches
        self.log_prob_every_n_step = log_prob_every_n_step
        self.penalty = ExpectationProfilerPenalty(**penalty) if isinstance(penalty, dict) else penalty
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_every = checkpoint_every
        self.within_target = within_target
        self.seed = seed
        self._gates: dict[str, Gate] = {}
        self._training_data = self._held_out_data = ReplayableLoader(None)
        self._trainer_with_data_module: Any = None
        if problems := self.problems():
            raise ValueError("; ".join(problems))

    def problems(self) -> list[str]:
        """Every argument that is out of range, one sentence each."""
        return [*self.out_of_range(self), *([problem] if (problem := self.penalty_problem()) else [])]

    def penalty_problem(self) -> str | None:
        """What is wrong with the penalty, if anything."""
        if self.penalty is None or isinstance(self.penalty, ExpectationProfilerPenalty):
            return None
        return f"penalty is a {type(self.penalty).__name__}; allowed: LatencyPenalty, NNI's ExpectationProfilerPenalty, a dict"

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same search, besides space and data: plain values.

        All options but those that change nothing (:data:`.identity.WITHOUT_EFFECT`), a new one by itself.
        """
        options = options_of(self, SampledStrategy, but=WITHOUT_EFFECT | {"penalty"})
        return {**options, "penalty": identity_of_penalty(self.penalty)}

    def module_arguments(self) -> dict[str, Any]:
        """What every :class:`SampledOneShotModule` is built from."""
        if self.checkpoint_every is not None and self.checkpoint_dir is None:
            raise ValueError(f"checkpoint_every is {self.checkpoint_every}, but there is no checkpoint_dir to write to")
        return {
            "gates": list(self._gates.values()),
            "training_data": self._training_data,
            "held_out_data": self._held_out_data,
            "arc_learning_rate": self.arc_learning_rate,
            "warmup_epochs": self.warmup_epochs,
            "warmup_learning_rate": self.warmup_learning_rate,
            "size_bias": self.size_bias,
            "gradient_clip_val": self.gradient_clip_val,
            "gradient_clip_algorithm": self.gradient_clip_algorithm,
            "accumulate_grad_batches": self.accumulate_grad_batches,
            "log_prob_every_n_step": self.log_prob_every_n_step,
            "penalty": self.penalty,
            "seed": self.seed,
            "limits": limits_of(self.penalty) if self.within_target else (),
            "stop_and_go": None
            if self.checkpoint_dir is None
            else StopAndGo(
                self.checkpoint_dir, self.checkpoint_every, {"strategy": type(self).__name__, **self.identity()}
            ),
        }

    # -- the supernet ----------------------------------------------------------------------------------------------

    def default_mutation_hooks(self) -> list[Any]:
        # The last one refuses, by name, what no hook has taken.
        return [refuse_cell, SampledLayer.mutate, SampledInput.mutate, SampledRepeat.mutate, refuse_values]

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Make a supernet of a space, in place; a space that is refused stays as it was.

        Raises
        ------
        SpaceError
            There is a choice in it that is none of LayerChoice, InputChoice and Repeat; a ``TypeError``.
        ValueError
            There is no choice in it.
        """
        with unchanged_if_refused(model):
            try:
                return self._mutated(model)
            except SpaceError as error:
                raise SpaceError(f"{type(self).__name__} cannot search {type(model).__name__}: {error}") from None

    def _mutated(self, model: ModelSpace) -> ModelSpace:
        generator = torch.Generator().manual_seed(self.seed)
        self._gates = {}
        for label, mutable in sorted(model.simplify().items()):
            try:
                choices = choices_of(label, mutable)
            except TypeError as error:
                raise SpaceError(str(error)) from None
            alpha = torch.randn(len(choices), generator=generator) * self.initial_spread
            self._gates[label] = Gate(label, choices, alpha, generator)
        if not any(len(gate.choices) > 1 for gate in self._gates.values()):
            raise ValueError(f"{type(model).__name__} has no choice: nothing to search")
        self._replaced: dict[int, tuple[nn.Module, nn.Module]] = {}
        supernet = super().mutate_model(model)
        for parent in list(supernet.modules()):
            for name, child in parent._modules.items():
                # NNI goes through the children of a module once each, so a second name still holds the original.
                if id(child) in self._replaced:
                    setattr(parent, name, self._replaced[id(child)][1])
        self._replaced.clear()  # or candidates that the search lets go of would stay in memory
        taken = {label for module in supernet.modules() if isinstance(module, SampledModule) for label in module.gates}
        if left := sorted(set(self._gates) - taken):
            raise SpaceError(
                f"no LayerChoice, InputChoice or Repeat uses {', '.join(map(repr, left))}, which would stay untrained"
            )
        keep_modules_when_frozen(supernet)
        return supernet

    # Where evaluator, data or Trainer are refused before anything was trained, the space is put back too.

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        space = getattr(model_space, "model_space", None)
        if not isinstance(space, nn.Module):
            return super()._initialize(model_space, engine)  # which refuses it
        original = Original(space)
        try:
            mutated = super()._initialize(model_space, engine)
        except BaseException:
            original.restore()
            raise
        self.oneshot_module.original = original
        return mutated

    def _run(self) -> None:
        try:
            super()._run()
        except BaseException:
            if self.oneshot_module.original is not None:
                self.oneshot_module.original.restore()
            raise

    def run_hook(self, hook: Any, name: str, module: nn.Module, memo: dict[str, Any]) -> Any:
        memo.update(self._gates)
        replacement = hook(module, name, memo, {})
        if isinstance(replacement, SampledModule):
            self._replaced[id(module)] = module, replacement  # the original is kept, so that its id stays its own
        return replacement

    # -- the data --------------------------------------------------------------------------------------------------

    def mutate_evaluator(self, evaluator: Any) -> Any:
        self._training_data, self._held_out_data = ReplayableLoader(None), ReplayableLoader(None)
        self._trainer_with_data_module = None if evaluator.datamodule is None else evaluator.trainer
        if not self.needs_held_out_data and evaluator.datamodule is None and evaluator.val_dataloaders is None:
            evaluator = copy.copy(evaluator)
            evaluator.val_dataloaders = ()  # NNI asks for some, whoever needs them
        mutated = super().mutate_evaluator(evaluator)
        if evaluator.datamodule is not None:
            # Held-out data go to the search; to Lightning there are none, or it would warn that nothing validates.
            evaluator.datamodule.val_dataloader = functools.partial(
                LightningDataModule.val_dataloader, evaluator.datamodule
            )
        return mutated

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        training = train_dataloader_fn()
        held_out = val_dataloader_fn() if self.needs_held_out_data else None
        for what, loader in (("training", training), ("validation", held_out)):
            if isinstance(loader, (list, tuple, dict)):
                raise TypeError(f"the {what} data are a {type(loader).__name__} of loaders; allowed: one loader")
        # The held-out loader is not fused with the training loader, as NNI does: that would load a held-out batch for
        # every step, and make an epoch as long as the longer of the two.
        self._training_data.loader, self._held_out_data.loader = training, held_out
        if self._trainer_with_data_module is not None:
            for data in (self._training_data, self._held_out_data):
                if data.loader is None:
                    continue
                data.loader = divided(data.loader, self._trainer_with_data_module, self.seed)
        return self._training_data

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> None:
        return None
