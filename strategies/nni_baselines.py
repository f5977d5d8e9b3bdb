"""NNI's own one-shot strategies, so that they can be compared with those here in the same harness.

:class:`DARTS`         ``nni-darts``: DARTS (Liu, Simonyan, Yang; ICLR 2019), of first order
:class:`GumbelDARTS`   ``nni-gumbel-darts``: the same on samples of the Gumbel softmax (FBNet, SNAS)
:class:`Proxyless`     ``nni-proxyless``: NNI's ProxylessNAS
:class:`RandomOneShot` ``nni-random``: a supernet of paths drawn at random (Guo et al., ECCV 2020); the network is random

Methods and classes are NNI's. What keeps NNI's from being compared, or from learning the latency, is changed:

- Their penalty gets probabilities as plain numbers, so that no gradient reaches the architecture. Here it gets live
  ones, the depths of a ``Repeat`` included.
- ``Proxyless`` exports a random network, ``GumbelDARTS`` exports noisy ones. Here a network is the most probable one, the same
  at every call, and probabilities are those of the plain softmax.
- Architecture steps count as training in ``train_loss``, and are made with the label smoothing of the weights. Here
  they are the evaluator's ``architecture_loss``, as with the strategies here.
- Logits reach their optimizer in the order of a set. Here in that of the modules.
- ``RandomOneShot`` draws from a generator without a seed. Here a seed gives the same paths and the same network.
- A layer of NNI's such as ``MutableConv2d`` loses its weights in the network that is derived. Here it keeps them.

They run in one process, and do not go on where they were stopped.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import nni.nas.strategy  # first: else NNI's circular imports leave nni.nas.strategy with broken strategies
import torch
from nni.mutable import CategoricalMultiple
from nni.nas.nn.pytorch import ModelSpace
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from nni_proxyless.core.nni_compat import (
    BaseOneShotLightningModule,
    DartsLightningModule,
    ExpectationProfilerPenalty,
    GumbelDartsLightningModule,
    LinearTemperatureScheduler,
    ProxylessMixedRepeat,
    RandomSamplingLightningModule,
    keep_modules_when_frozen,
)
from nni_proxyless.core.ranges import AtLeast, Falling, GreaterThan, parameter_types, problems_of
from nni_proxyless.latency import LatencyPenalty
from nni_proxyless.latency.choices import InputSet, as_nni_has_it
from nni_proxyless.latency.objectives.penalty import logits_of
from nni_proxyless.latency.objectives.penalty_sum import Penalties

from .oneshot.refusal import refuse_made_operations, refuse_other_shapes, unchanged_if_refused
from .refused import REFUSED
from .supernet.layers import choices_of

__all__ = ["DARTS", "REFUSED", "GumbelDARTS", "Proxyless", "RandomOneShot"]


class _Peer:
    """What they have in common as strategies; stands before NNI's class among the bases."""

    _choices: dict[str, list[Any]]
    _adds_up = True  # what the candidates of a choice give

    def refuse(self, model: ModelSpace) -> None:
        """Refuse what can be seen of a space before it becomes a supernet."""
        refuse_made_operations(model)
        if self._adds_up:
            refuse_other_shapes(model)

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        try:
            self._choices = {str(label): _choices_of(label, mutable) for label, mutable in model.simplify().items()}
            self.refuse(model)
            with unchanged_if_refused(model):
                supernet: ModelSpace = super().mutate_model(model)  # type: ignore[misc]  # NNI's
        except (TypeError, ValueError) as error:
            raise MisconfigurationException(
                f"strategy: NNI's {type(self).__name__} cannot search {type(model).__name__}: {error}"
            ) from error
        keep_modules_when_frozen(supernet)
        return supernet


def _choices_of(label: str, mutable: Any) -> list[Any]:
    """As :func:`.supernet.layers.choices_of`; where any number of inputs may be chosen, NNI's strategies choose one."""
    if isinstance(mutable, CategoricalMultiple) and mutable.n_chosen is None:
        return [InputSet((value,)) for value in mutable.values]
    return choices_of(label, mutable)


class _OneProcess(BaseOneShotLightningModule):
    """Refuses several, of which each would sample and step for itself."""

    def setup(self, stage: str | None = None) -> Any:
        if self.trainer.world_size > 1:
            raise MisconfigurationException(
                f"strategy: NNI's own strategies run in one process, this search has {self.trainer.world_size}; allowed: "
                "trainer.devices 1, or a strategy of nni_proxyless.strategies"
            )
        return super().setup(stage)


# -- DARTS and what NNI has made of it ---------------------------------------------------------------------------------


class _LivePenalty(ExpectationProfilerPenalty):
    """A penalty that is given live probabilities, whatever NNI's module hands over."""

    def __init__(self, penalty: ExpectationProfilerPenalty, probs: Callable[[], dict[str, dict[Any, Tensor]]]):
        super().__init__(penalty.profiler, penalty.baseline, penalty.scale)
        self.penalty, self.probs = penalty, probs

    def forward(self, loss: Tensor, sample: Any) -> tuple[Tensor, dict[str, Any]]:
        total, details = self.penalty(loss, self.probs())
        return total, {name: v.detach() if isinstance(v, Tensor) else v for name, v in details.items()}


class _Differentiable(_OneProcess):
    """The module of a search whose logits have a gradient; stands before NNI's class among the bases."""

    choices: dict[str, list[Any]]

    def begin(self, choices: dict[str, list[Any]]) -> Any:
        """Take over what NNI's constructor does not know; returns the module."""
        self.choices = choices
        if self.penalty is not None:
            self.penalty = _LivePenalty(self.penalty, self.live_probs)
        own = getattr(self.training_module, "architecture_loss", None)
        if own is not None:
            step = functools.partial(_by_turns, self.training_module.training_step, own)
            self.training_module.training_step = step
        return self

    penalty: Any

    def live_probs(self) -> dict[str, dict[Any, Tensor]]:
        """Label -> choice -> probability, by the plain softmax, with a gradient.

        NNI gives every input of an ``InputChoice`` a probability. Of a set of inputs it is here the product of theirs,
        normalized, so that the most probable set is that of the most probable inputs.
        """
        found = {}
        logits = logits_of(self.model)
        depths = {
            str(module.depth_choice.label): module
            for module in self.model.modules()
            if isinstance(module, ProxylessMixedRepeat)
        }
        for label, choices in self.choices.items():
            if label in depths:
                found[label] = _depth_probs(depths[label])
            elif label in logits:
                alpha = logits[label][0]
                if isinstance(choices[0], InputSet):
                    alpha = torch.stack([alpha[list(inputs)].sum() for inputs in choices])
                found[label] = dict(zip(choices, torch.softmax(alpha, -1).unbind(), strict=True))
        return found

    def export_probs(self) -> dict[str, dict[Any, float]]:
        """The same as plain numbers."""
        with torch.no_grad():
            live = self.live_probs()
            return {label: {choice: float(p) for choice, p in probs.items()} for label, probs in live.items()}

    def export(self) -> dict[str, Any]:
        """The most probable choice per label, the first of equal ones."""
        best = {label: max(probs, key=lambda c: probs[c]) for label, probs in self.export_probs().items()}
        return {label: as_nni_has_it(choice) for label, choice in best.items()}

    def arch_parameters(self) -> list[nn.Parameter]:
        """All logits, each once, in the order of the modules."""
        found = {
            id(parameter): parameter
            for module in self.supernet_modules()
            if hasattr(module, "arch_parameters")
            for parameter in module.arch_parameters()
        }
        return list(found.values())


def _by_turns(weights: Callable, architecture: Callable, batch: Any, batch_idx: int) -> Any:
    """NNI's DARTS calls ``training_step`` for both: even numbers for the architecture, odd ones for the weights."""
    return (weights if batch_idx % 2 else architecture)(batch, batch_idx)


def _depth_probs(repeat: ProxylessMixedRepeat) -> dict[Any, Tensor]:
    """Of the depths that NNI's Proxyless makes of one gate per block.

    The gates are drawn one by one, so they also make depths that the space does not have; NNI draws again then.
    """
    reached = repeat.export_probs({})[repeat.depth_choice.label]
    allowed = {depth: reached[depth] for depth in repeat.depth_choice.values}
    total = torch.stack(list(allowed.values())).sum()
    return {depth: p / total for depth, p in allowed.items()}


class _DartsModule(_Differentiable, DartsLightningModule):
    pass


class _GumbelDartsModule(_Differentiable, GumbelDartsLightningModule):
    pass


class DARTS(_Peer, nni.nas.strategy.DARTS):
    """NNI's ``DARTS``: a step on the mixture of all candidates for the weights, one for the architecture, by turns.

    Parameters
    ----------
    arc_learning_rate
        Of Adam on the logits, with NNI's betas and its weight decay of 1e-3.
    warmup_epochs
        Weights only.
    gradient_clip_val
        Norm of the gradient of the weights.
    log_prob_every_n_step
        Steps between two looks at the probabilities.
    penalty
        A :class:`~nni_proxyless.latency.LatencyPenalty`, several as :class:`~nni_proxyless.latency.Penalties`, or any
        ``ExpectationProfilerPenalty`` of NNI.

    Raises
    ------
    ValueError
        An argument out of range; or a penalty with ``form='threshold'``, for which a path must be sampled.
    """

    needs_held_out_data = True

    def __init__(
        self, *, arc_learning_rate: Annotated[float, GreaterThan(0)] = 3e-4, warmup_epochs: Annotated[int, AtLeast(0)] = 0,
        gradient_clip_val: Annotated[float | None, GreaterThan(0)] = None, log_prob_every_n_step: Annotated[int, AtLeast(1)] = 10,
        penalty: Any = None, mutation_hooks: list[Any] | None = None, model_space: Any = None, engine: Any = None,
    ):  # fmt: skip
        _require(
            DARTS, arc_learning_rate=arc_learning_rate, warmup_epochs=warmup_epochs, gradient_clip_val=gradient_clip_val,
            log_prob_every_n_step=log_prob_every_n_step,
        )  # fmt: skip
        if any(part.form == "threshold" for part in _parts(penalty)):
            raise ValueError(
                f"form 'threshold' needs the sampled path, which NNI's {type(self).__name__} does not say; use DSNAS"
            )
        super().__init__(
            arc_learning_rate=arc_learning_rate, warmup_epochs=warmup_epochs, gradient_clip_val=gradient_clip_val,
            log_prob_every_n_step=log_prob_every_n_step, penalty=penalty, mutation_hooks=mutation_hooks,
            model_space=model_space, engine=engine,
        )  # fmt: skip

    def configure_oneshot_module(self, training_module: Any) -> Any:
        return _DartsModule(training_module, **self._of_module()).begin(self._choices)

    def _of_module(self) -> dict[str, Any]:
        names = ("arc_learning_rate", "gradient_clip_val", "log_prob_every_n_step", "warmup_epochs", "penalty")
        return {name: getattr(self, name) for name in names}


class GumbelDARTS(DARTS, nni.nas.strategy.GumbelDARTS):
    """NNI's ``GumbelDARTS``: as :class:`DARTS`, with a mixture that is drawn anew for every step.

    Parameters
    ----------
    temperature
        Of the Gumbel softmax; or two, of the first and of the last epoch.
    kwargs
        As for :class:`DARTS`.

    Raises
    ------
    ValueError
        As for :class:`DARTS`.
    """

    def __init__(self, *, temperature: Annotated[Sequence[float] | float, Falling()] = (1.0, 0.33), **kwargs: Any):
        _require(GumbelDARTS, temperature=temperature)
        ends = list(temperature) if isinstance(temperature, Sequence) else [temperature, temperature]
        super().__init__(**kwargs)
        self.temperature = LinearTemperatureScheduler(float(ends[0]), float(ends[1]))

    def configure_oneshot_module(self, training_module: Any) -> Any:
        return _GumbelDartsModule(
            training_module, temperature_scheduler=self.temperature, **self._of_module()
        ).begin(self._choices)  # fmt: skip


class Proxyless(DARTS, nni.nas.strategy.Proxyless):
    """NNI's ``Proxyless``: weights step on one sampled path, the architecture on all candidates of every choice.

    Arguments as for :class:`DARTS`. The depth of a ``Repeat`` is made of one gate per block.
    """


# -- random ------------------------------------------------------------------------------------------------------------


class _RandomModule(_OneProcess, RandomSamplingLightningModule):
    """The module of a search that decides nothing."""

    choices: dict[str, list[Any]]
    _drawn: dict[str, Any] | None = None
    validation_step = LightningModule.validation_step  # NNI's would make Lightning ask for images to validate on

    def begin(self, choices: dict[str, list[Any]]) -> Any:
        """Take over what NNI's constructor does not know; returns the module."""
        self.choices = choices
        self._chance = random.Random(
            random.getrandbits(64)
        )  # by the seed of the search; NNI draws from a fresh generator
        return self

    def resample(self) -> dict[str, Any]:
        """Draw the path of the next step."""
        return self._repeat_until_valid(self._open_another)

    def _open_another(self) -> dict[str, Any]:
        sample = self._draw()
        for module in self.supernet_modules():
            module.resample(memo=sample)
        return sample

    def _draw(self) -> dict[str, Any]:
        """One choice per label, each as probable as the others."""
        return {label: as_nni_has_it(self._chance.choice(self.choices[label])) for label in sorted(self.choices)}

    def export(self) -> dict[str, Any]:
        """A random network, the same at every call."""
        if self._drawn is None:
            self._drawn = self._repeat_until_valid(self._draw)
        return self._drawn

    def export_probs(self) -> dict[str, dict[Any, float]]:
        """Every choice as probable as the others."""
        return {label: dict.fromkeys(choices, 1 / len(choices)) for label, choices in self.choices.items()}

    def _repeat_until_valid(self, func: Callable[[], Any]) -> Any:
        try:
            return super()._repeat_until_valid(func)
        except RuntimeError as error:
            raise MisconfigurationException(
                f"strategy: of {self._sampling_patience} random networks none was within the targets; allowed: larger targets"
            ) from error


class RandomOneShot(_Peer, nni.nas.strategy.RandomOneShot):
    """NNI's ``RandomOneShot``: weights step on a path drawn at random; the network is a random one.

    A search has to beat it. A target of a penalty is a hard limit: by NNI's own filter no network above it is
    trained or exported. The penalty's weight and form mean nothing.

    Parameters
    ----------
    penalty
        A :class:`~nni_proxyless.latency.LatencyPenalty`, or several as :class:`~nni_proxyless.latency.Penalties`.
    """

    needs_held_out_data = False
    _adds_up = False

    def __init__(self, *, penalty: Any = None, mutation_hooks: list[Any] | None = None):
        limits = [(part.profiler, part.target_ms) for part in _parts(penalty) if part.target_ms is not None]
        super().__init__(functools.partial(_within, limits) if limits else None, mutation_hooks=mutation_hooks)

    def configure_oneshot_module(self, training_module: Any) -> Any:
        return _RandomModule(training_module, self.filter).begin(self._choices)

    def mutate_evaluator(self, evaluator: Any) -> Any:
        if evaluator.datamodule is None:
            evaluator = copy.copy(evaluator)
            evaluator.val_dataloaders = ()  # NNI asks for some, and would go through them for nothing
        return super().mutate_evaluator(evaluator)

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> None:
        return None


def _within(limits: Sequence[tuple[Any, float]], sample: dict[str, Any]) -> bool:
    return all(float(profiler.profile(sample)) <= target for profiler, target in limits)


def _parts(penalty: Any) -> list[LatencyPenalty]:
    """The single penalties of one; none of NNI's own, which say nothing about themselves."""
    if isinstance(penalty, Penalties):
        return list(penalty.penalties.values())
    return [penalty] if isinstance(penalty, LatencyPenalty) else []


def _require(cls: type, **options: Any) -> None:
    """NNI would take any of them, and divide by zero or do nothing later."""
    declared = parameter_types(cls.__init__, include_extras=True)  # type: ignore[misc]
    if problems := problems_of({name: declared[name] for name in options}, SimpleNamespace(**options)):
        raise ValueError("; ".join(problems))
