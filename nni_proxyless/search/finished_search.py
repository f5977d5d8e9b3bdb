"""A finished search, read from its folder, and a network that is derived from it.

search.yml, latencies.yaml, probabilities.json, supernet.safetensors -> choices -> network -> :class:`Derived`
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nni.mutable import CategoricalMultiple
from nni.nas.nn.pytorch import ModelSpace

from ..config.read import read_config
from ..config.search_config import SearchConfig
from ..core.atomic_files import write_weights
from ..core.cpu_threads import use
from ..core.errors import UserError
from ..core.freezing import freeze
from ..core.merit import Merit
from ..core.nni_compat import keep_modules_when_frozen
from ..latency import BudgetError, DeviceEstimator, LatencyProfiler, best_under_budget
from ..latency.choices import InputSet, as_nni_has_it, read_probs_back
from ..latency.objectives.budget import log_probability
from ..latency.objectives.contenders import contenders
from ..latency.objectives.penalty import holds_target
from ..latency.value_tracing import is_open
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.draw import draw_beside
from ..models.original import kept_original
from ..models.record import describe, latency_record, record, unit_of
from ..models.space import make_space
from ..models.timm_model import load_weights
from .build import SearchParts, build
from .measured_network import measure_derived
from .monitor import judge
from .supernet_files import (
    EVOLVED_FRONT,
    JUDGED,
    SUPERNET,
    TIMED,
    Probabilities,
    read_probabilities,
    read_training_scores,
    require_finished,
    shapes_of,
)
from .witnesses import Scores

__all__ = ["Derived", "FinishedSearch", "columns_of"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedSearch:
    """A finished search, read from its folder.

    Attributes
    ----------
    architecture
        Of the network that the search itself has left.
    parts
        What it was made of.
    supernet
        What networks are frozen from, with the trained weights where there are any, else with fresh ones: the space, or of cells and
        choices of values what the strategy makes of it.
    inherits
        Whether there are: a search with DSNAS lets go of all candidates but the chosen ones.
    probs
        Label -> choice -> probability at the end of the search.
    training
        Label -> choice -> what it added to the losses of trained paths; empty where the search did not note them.
    """

    parts: SearchParts
    architecture: Architecture
    supernet: ModelSpace
    inherits: bool
    probs: Probabilities
    training: Probabilities

    @property
    def folder(self) -> Path:
        return self.parts.folder

    @property
    def space(self) -> ModelSpace:
        return self.parts.space

    @property
    def profiler(self) -> LatencyProfiler:
        return self.parts.profiler

    @property
    def known(self) -> dict[str, Scores]:
        """What is known of the choices beside the supernet, as :func:`.selection.select` takes it."""
        return {"training": self.training}

    @functools.cached_property
    def input_labels(self) -> frozenset[str]:
        """Labels whose choice is a set of inputs."""
        return frozenset(label for label, m in self.space.simplify().items() if isinstance(m, CategoricalMultiple))

    @classmethod
    def read(cls, folder: Path) -> FinishedSearch:
        """Read the folder of a search.

        Raises
        ------
        UserError
            There is no search, it has not finished, a file is missing or does not fit, or its images are others now.
        """
        require_finished(folder)
        config = read_config(SearchConfig, folder / "search.yml", of_run=True)
        architecture = Architecture.read(folder / "architecture.json")
        stored = read_probabilities(folder)
        use(config.trainer.threads)
        torch.manual_seed(config.seed)  # of fresh weights
        parts = build(config, folder, finished=architecture)
        space = parts.space
        probs, training = (read_probs_back(of, space.simplify()) for of in (stored, read_training_scores(folder)))
        inherits, supernet = (folder / SUPERNET).exists(), space
        if inherits:
            state = load_weights(folder / SUPERNET)
            try:
                fits = {name: weight.shape for name, weight in state.items()} == shapes_of(space)
                if not fits or any(map(is_open, space.modules())):
                    supernet = parts.strategy.mutate_model(make_space(**architecture.space))
                supernet.load_state_dict(state)
            except (RuntimeError, TypeError) as error:
                raise UserError(f"{folder / SUPERNET}: does not fit the space of the search: {error}") from error
        else:
            _logger.warning(
                "%s has no %s: its strategy kept the chosen candidates only, so a derived network has fresh weights; train it "
                "from scratch", folder, SUPERNET,
            )  # fmt: skip
        supernet.to(memory_format=torch.channels_last)
        keep_modules_when_frozen(supernet)
        return cls(parts, architecture, supernet, inherits, probs, training)

    def best(self, budget: float, at_least: float | None = None) -> dict[str, Any]:
        """The choices of the most probable network under the budget.

        Of those that cost ``at_least`` so much, if there are any. Without it, if the search held a target, which its probabilities
        are about, near that, or near the budget, if that is lower: at 95 % of it or more, if there are such networks, and from 3 % below it on, each
        per cent weighs as much as a factor of e in probability (:mod:`..latency.objectives.nearness`).

        Raises
        ------
        UserError
            There is none; the message names the fastest that can be reached.
        """
        with self._said():
            return self._best(self.profiler, budget, at_least)

    def contenders(self, n: int, budget: float, at_least: float | None = None) -> list[dict[str, Any]]:
        """Up to n networks, as :meth:`best`, each of which may be that one as far as the table can tell; the most probable first.

        Raises
        ------
        UserError
            As :meth:`best`.
        """
        with self._said():
            found = contenders(
                lambda profiler: self._best(profiler, budget, at_least), self.profiler, n, seed=self.parts.config.seed
            )
        return sorted(found, key=lambda sample: log_probability(self.probs, sample), reverse=True)

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except BudgetError as error:
            raise UserError(str(error)) from error
        except ValueError as error:
            raise UserError(f"{self.folder}: {error}") from error

    def _best(self, profiler: LatencyProfiler, budget: float, at_least: float | None) -> dict[str, Any]:
        near, least = (self.near(budget), -math.inf) if at_least is None else (-math.inf, at_least)
        sample = best_under_budget(self.probs, profiler, budget, near_ms=near, at_least_ms=least)
        return {label: self.choice(label, choice) for label, choice in sample.items()}

    def near(self, budget: float) -> float:
        """What networks of the search are near to: its target, or the budget, if that is lower; ``-inf`` if it held no target."""
        target, latency = self.architecture.latency.get("target_ms"), self.parts.config.latency
        if target is None or not holds_target(latency.weight, latency.nonlinear):
            return -math.inf
        return min(target, budget)

    def choice(self, label: str, choice: Any) -> Any:
        """A choice of the probabilities as one of a network."""
        if label in self.input_labels and not isinstance(choice, (list, InputSet)):
            # NNI's own strategies give a probability per input, not per set of inputs: the search's choice stays.
            return self.architecture.choices.get(label, choice)
        return as_nni_has_it(choice)

    def derive(self, sample: dict[str, Any], budget: float, *, measured: bool, **more: Any) -> Derived:
        """The network of these choices: statistics of batch norm estimated afresh, validated and, if asked for, timed; ``more`` is recorded."""
        network = copy.deepcopy(freeze(self.supernet, sample))
        task = self.parts.data.task
        worth = judge(network, *self.parts.judging_loaders, torch.device("cpu"), task)
        config, estimator = self.parts.config, self.parts.estimator
        shape = self.architecture.input_shape
        timed: dict[str, Any] = {}
        if measured and isinstance(estimator, DeviceEstimator):
            timed = measure_derived(self.profiler, estimator, network, shape, self.space, sample, self.folder)
        architecture = record(
            describe(
                self.space, sample, **self.architecture.space,
                data={**self.architecture.data, **self.parts.data.normalization}, input_shape=shape, task=self.parts.config.task.described,
            ),
            network,
            latency=latency_record(self.profiler, sample, target=budget, **timed),
            search={
                "strategy": config.strategy.name, "seed": config.seed, "epochs": config.training.epochs,
                task.merit.name: worth, **task.merit.described(), **self.parts.in_int8(network, self.parts.judging_loaders[1]), "weights": "supernet" if self.inherits else "fresh",
                "derived_from": self.folder.name, "log_probability": log_probability(self.probs, sample), **kept_original(self.architecture), **more,
            },
        )  # fmt: skip
        weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        build_network(architecture, weights)  # what is written can be read back
        return Derived(budget, architecture, weights)


@dataclass(frozen=True)
class Derived:
    """One network under its budget, with its weights under the names of the network that is built from its file."""

    budget: float
    architecture: Architecture
    weights: dict[str, torch.Tensor]

    def write(self, folder: Path) -> None:
        """Write ``architecture.json``, ``weights.safetensors`` and the picture ``network.svg``.

        What tells how another network in this folder was chosen goes.
        """
        for name in (JUDGED, EVOLVED_FRONT, TIMED):
            (folder / name).unlink(missing_ok=True)
        write_weights(folder / "weights.safetensors", self.weights)
        self.architecture.write(folder / "architecture.json")
        draw_beside(folder / "architecture.json")

    @property
    def row(self) -> tuple[Any, ...]:
        """Its figures, in the order of :func:`columns_of`."""
        a = self.architecture
        return (
            self.budget, a.latency["table_ms"], a.search["log_probability"], a.macs, a.n_params, a.search[a.merit.name],
            unit_of(a.latency),
        )  # fmt: skip


def columns_of(merit: Merit) -> tuple[str, ...]:
    """Names of the figures of a :attr:`Derived.row`; the unit is that of the first two."""
    return "budget", "table_ms", "log_probability", "macs", "n_params", merit.name, "unit"
