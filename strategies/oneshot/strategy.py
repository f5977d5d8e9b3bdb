"""A method as a strategy of NNI, whatever the method: options, supernet, data."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from nni.nas.nn.pytorch import ModelSpace
from pytorch_lightning import LightningDataModule, LightningModule
from torch import nn

from nni_proxyless.core.nni_compat import (
    BaseSuperNetModule,
    ExpectationProfilerPenalty,
    OneShotStrategy,
    keep_modules_when_frozen,
)
from nni_proxyless.core.ranges import AtLeast, Finite, GreaterThan, Needs, NotIdentity, option_types, problems_of

from ..supernet import nds
from ..supernet.cells import SampledCell
from ..supernet.gate import Gate
from ..supernet.layers import SampledInput, SampledLayer, SampledRepeat, choices_of
from ..supernet.values import GatedArguments, chooses_values, mutate_values
from .constraints import limits_of
from .data import ReplayableLoader, divided
from .identity import identity_of_penalty, options_of
from .module import SampledOneShotModule
from .refusal import (
    SpaceError,
    SpaceSnapshot,
    refuse_cell,
    refuse_edges,
    refuse_loose_ends,
    refuse_other_shapes,
    refuse_unknown,
    unchanged_if_refused,
    without_gate_gradient,
)
from .resume import CheckpointLoop

__all__ = ["SampledStrategy"]


@dataclass(kw_only=True, eq=False, repr=False)
class SampledStrategy(OneShotStrategy):
    """What ProxylessNAS and DSNAS have in common as strategies of NNI. A subclass adds options and names its module.

    An option is a field: written once, with the values it may have in its type (:mod:`nni_proxyless.core.ranges`). The
    constructor, its errors, what a checkpoint compares and what ``nni-proxyless check`` says follow from the fields;
    the Lightning module reads them from the strategy. A subclass may be a dataclass too, or write a constructor that
    passes its other arguments on.

    Parameters
    ----------
    arc_learning_rate
        Of Adam on the logits.
    warmup_epochs
        Epochs at the start that train weights only, on paths from nearly uniform probabilities.
    warmup_learning_rate
        Warm-up has a cosine schedule of its own, from here to 0; the evaluator's schedule begins with the search, and
        should be as long as the search alone. None: the evaluator's schedule from the start.
    size_bias
        Weights train on paths in which candidate j has a probability proportional to p_j s_j^size_bias, s_j being its
        number of weights. 0: p_j, as in the papers. 1 is for candidates that share their weights
        (:class:`~nni_proxyless.search_spaces.MobileNetV2Space`): a large one alone trains what it does not share, and
        drawn as often as the others it stays behind them and is judged too low. The architecture learns on paths drawn
        from p.
    gradient_clip_val, gradient_clip_algorithm
        Norm (or largest value, with ``'value'``) to which the gradient of the weights is clipped; None for no clipping.
        Lightning's Trainer refuses its own arguments of these names under manual optimization.
    accumulate_grad_batches
        Batches of one weight step, all on the same path.
    entropy_weight
        Adds the entropy of the choices to the loss of the architecture, in units of the loss, rising from 0 in the
        first epoch of the search to this weight in the last. It makes choices decide, and so brings the latency of the
        derived network to the expected one, in searches that are too short to decide by themselves. 0: as in the
        papers.
    penalty
        A :class:`~nni_proxyless.latency.LatencyPenalty`, any NNI ``ExpectationProfilerPenalty``, or the arguments of
        the latter as a dict. It gets live probabilities, so its gradient reaches alpha.
    within_target
        Whether the target of a ``LatencyPenalty``, or each of several, is a limit to the network that is left, and not
        only to the expected latency: it is the most probable network within the targets and, with ``weight='auto'``,
        near the one that is held, at 95 % of it or more where such networks are left, as
        :func:`~nni_proxyless.latency.best_under_budget` has it. False: of every choice its most probable candidate
        (papers), which together may cost more, or much less.
    seed
        Of the initial logits and of all sampling.
    log_prob_every_n_step
        How often all probabilities go to the logger, in batches.
    checkpoint_dir
        Folder for checkpoints: a search that is killed and started again with the same arguments goes on from the last
        one, and ends as if it had not been killed. None: no checkpoints.
    checkpoint_every
        Batches between two checkpoints; one at the end of every epoch is written anyway.
    mutation_hooks
        As for every one-shot strategy of NNI.

    Attributes
    ----------
    module_class
        The search as a Lightning module.
    initial_spread
        Standard deviation of the initial logits.
    needs_held_out_data
        Whether the evaluator's validation data train the architecture; if not, the search does not touch them.
    leaves_trained_network
        Whether the network that is left needs no further training.
    keeps_candidates
        Whether all candidates are left, trained on single paths, so that the supernet can judge networks in the end.

    Raises
    ------
    ValueError
        An option outside its range; the message names all such options.
    """

    arc_learning_rate: Annotated[float, GreaterThan(0)] = 1e-3
    warmup_epochs: Annotated[int, AtLeast(0)] = 0
    warmup_learning_rate: Annotated[float | None, GreaterThan(0), Needs("warmup_epochs")] = None
    size_bias: Annotated[float, AtLeast(0), Finite()] = 0.0
    gradient_clip_val: Annotated[float | None, GreaterThan(0)] = None
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    accumulate_grad_batches: Annotated[int, AtLeast(1)] = 1
    entropy_weight: Annotated[float, AtLeast(0)] = 0.0
    penalty: Any = None
    within_target: bool = True
    seed: int = 0
    log_prob_every_n_step: Annotated[int, AtLeast(1), NotIdentity()] = 10
    checkpoint_dir: Annotated[str | None, NotIdentity()] = None
    checkpoint_every: Annotated[int | None, AtLeast(1), NotIdentity()] = None
    mutation_hooks: Annotated[list[Any] | None, NotIdentity()] = None

    module_class: ClassVar[type[SampledOneShotModule]]
    initial_spread: ClassVar[float] = 1e-3  # ProxylessNAS, official code: docs/methods/proxyless.md
    needs_held_out_data: ClassVar[bool] = True
    leaves_trained_network: ClassVar[bool] = False
    keeps_candidates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__init__(self.mutation_hooks)
        if isinstance(self.penalty, dict):
            self.penalty = ExpectationProfilerPenalty(**self.penalty)
        self._gates: dict[str, Gate] = {}
        self._training_data = self._held_out_data = ReplayableLoader(None)
        self._trainer_with_data_module: Any = None
        if problems := self.problems():
            raise ValueError("; ".join(problems))

    def problems(self) -> list[str]:
        """Every option that is out of range, one sentence each."""
        problem = self.penalty_problem()
        return [*problems_of(option_types(type(self)), self), *([problem] if problem else [])]

    def penalty_problem(self) -> str | None:
        """What is wrong with the penalty, if anything."""
        if self.penalty is None or isinstance(self.penalty, ExpectationProfilerPenalty):
            return None
        return f"penalty is a {type(self.penalty).__name__}; allowed: LatencyPenalty, NNI's ExpectationProfilerPenalty, a dict"

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same search, besides space and data: plain values.

        All options but those marked ``NotIdentity``, a new one by itself.
        """
        options = options_of(self, SampledStrategy, but={"penalty"})
        return {**options, "penalty": identity_of_penalty(self.penalty)}

    def penalty_of_module(self) -> Any:
        """What the Lightning module adds to the loss."""
        return self.penalty

    def configure_oneshot_module(self, training_module: LightningModule) -> Any:
        checkpoint_loop = None
        if self.checkpoint_dir is not None:
            identity = {"strategy": type(self).__name__, **self.identity()}
            checkpoint_loop = CheckpointLoop(self.checkpoint_dir, self.checkpoint_every, identity)
        elif self.checkpoint_every is not None:
            raise ValueError(f"checkpoint_every is {self.checkpoint_every}, but there is no checkpoint_dir to write to")
        return self.module_class(
            training_module,
            options=self,
            gates=list(self._gates.values()),
            training_data=self._training_data,
            held_out_data=self._held_out_data,
            penalty=self.penalty_of_module(),
            limits=limits_of(self.penalty) if self.within_target else (),
            checkpoint_loop=checkpoint_loop,
        )

    # -- the supernet ----------------------------------------------------------------------------------------------

    def default_mutation_hooks(self) -> list[Any]:
        # The last one refuses, by name, what no hook has taken.
        return [
            refuse_cell, SampledCell.mutate, SampledLayer.mutate, SampledInput.mutate, SampledRepeat.mutate,
            nds.SampledStage.mutate, mutate_values, refuse_unknown,
        ]  # fmt: skip

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Make a supernet of a space, in place; a space that is refused stays as it was.

        Raises
        ------
        SpaceError
            There is a choice in it that no hook takes, or of which this strategy learns nothing; a ``TypeError``.
        ValueError
            There is no choice in it.
        """
        with unchanged_if_refused(model):
            try:
                return self._mutated(model)
            except TypeError as error:
                raise SpaceError(f"{type(self).__name__} cannot search {type(model).__name__}: {error}") from error

    def compares_candidates(self) -> bool:
        """Whether the gradient of a step goes to several candidates of a choice, whose outputs must then be of one shape."""
        return False

    def learns_from_gates(self) -> bool:
        """Whether logits learn from the gradients that gates get, which choices of values have none of."""
        return False

    def refuse(self, model: ModelSpace) -> None:
        """Refuse what can be seen of a space before it becomes a supernet, and before anything of it is measured.

        Raises
        ------
        SpaceError
            It cannot be searched; the message says what is in the way.
        """
        if self.compares_candidates():
            refuse_other_shapes(model)
        refuse_edges(model)
        refuse_loose_ends(model)

    def _mutated(self, model: ModelSpace) -> ModelSpace:
        self.refuse(model)
        generator = torch.Generator().manual_seed(self.seed)
        self._gates = {}
        for label, mutable in sorted(model.simplify().items()):
            choices = choices_of(label, mutable)
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
        taken = {
            label
            for module in supernet.modules()
            if isinstance(module, BaseSuperNetModule)
            for label in getattr(module, "gates", {})
        }
        if left := sorted(set(self._gates) - taken):
            raise SpaceError(f"no module uses {', '.join(map(repr, left))}, which would stay untrained")
        keep_modules_when_frozen(supernet)
        nds.complete(supernet)
        return supernet

    # Where evaluator, data or Trainer are refused before anything was trained, the space is put back too.

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        space = getattr(model_space, "model_space", None)
        if not isinstance(space, nn.Module):
            return super()._initialize(model_space, engine)  # which refuses it
        original = SpaceSnapshot(space)
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
        if id(module) in self._replaced:  # it stands in another module as well
            return self._replaced[id(module)][1]
        if memo.keys().isdisjoint(self._gates):  # NNI begins with an empty one; at every call it would be felt
            memo.update(self._gates)
        replacement = hook(module, name, memo, {"mixed_op_sampling": GatedArguments})
        if isinstance(replacement, BaseSuperNetModule):
            if self.learns_from_gates() and chooses_values(replacement):
                raise without_gate_gradient(module, name)
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
