"""EarlyExitEvolution: the front of error and costs, within bounds (Termritthikun et al., EAAI 104, 2021; arXiv:2108.06156).

A genome is a whole number per label of the space: which of its candidates is chosen. P is the population, of n genomes.

==============  ========================================================================================================
initialization  n random genomes, each drawn again until its network keeps every bound: early exit, before anything trains
offspring       n by binary tournament, uniform crossover and random reset, each made again until its network keeps every
                bound and was not asked for before
survival        of P and its offspring the best n, by rank of dominance and crowding distance (NSGA-II; Deb et al., 2002)
==============  ========================================================================================================

Objectives are the error, as the negative metric, and every cost; all are minimized. The table is :mod:`.nsga2` on a :mod:`.bounded_space`; this file
has its trials, the front, and the state. Where paper, official code and this code differ: ``docs/methods/evolution.md``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from nni.nas.profiler import Profiler
from nni.nas.strategy import Strategy

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.core.nni_compat import ModelStatus
from nni_proxyless.core.plain_values import as_plain
from nni_proxyless.core.ranges import AtLeast, NotIdentity, UpTo, option_types, problems_of
from nni_proxyless.core.settings_diff import differences

from .bounded_space import BoundedSpace, Genome
from .nsga2 import BoundedNSGA2, EarlyExitSampling, not_dominated
from .oneshot.identity import options_of

__all__ = ["EarlyExitEvolution", "Trial"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """A network that was trained: label -> choice; the metric, None where the trial has failed; name -> cost."""

    sample: dict[str, Any]
    metric: float | None
    costs: dict[str, float]

    def objectives(self) -> list[float]:
        """What is minimized: the error, and every cost."""
        assert self.metric is not None
        return [-self.metric, *self.costs.values()]


@dataclass(kw_only=True, eq=False, repr=False)
class EarlyExitEvolution(Strategy):
    """The front of error and costs; no network that breaks a bound is trained, and none is trained twice.

    A multi-trial strategy of NNI, for any model space of choices among finitely many, and any evaluator: of its final metric, more is better. A
    trial that fails is left out, and not repeated. Whoever runs trials without an engine of NNI calls :meth:`begin`, and then in turns
    :meth:`ask`, :meth:`record` for each network, and :meth:`tell`.

    Parameters
    ----------
    limits
        Name -> (profiler, bound): any profiler of NNI, and what it may say of a network at most; ``math.inf``: no bound. Each cost is an
        objective beside the error. Empty: the error alone.
    population_size
        n, where that many are found within the bounds.
    n_generations
        The first one included; the paper's are 30 of 40 networks each.
    crossover_prob
        Of two parents to be crossed, each label by a fair coin; else their offspring are mutated copies.
    mutation_prob
        Of each label of an offspring. None: 1 / the number of labels, so one on average.
    max_draws
        Random networks that are looked at for each one of the first generation.
    seed
        The only source of chance.
    state_file
        JSON file that holds the state after every trial; where it exists, the search goes on from it. None: no file.

    Attributes
    ----------
    space
        The space by its genomes, once a search has begun.
    sampling
        The draw of the first generation, which says what the early exit has saved.

    Raises
    ------
    ValueError
        An option out of its range; a choice that is not among finitely many; a ``state_file`` of another search.
    BudgetError
        No network that keeps every bound was found; the message has the least cost that was seen for each.
    RuntimeError
        All trials of the first generation have failed.
    """

    limits: Mapping[str, tuple[Profiler, float]]
    population_size: Annotated[int, AtLeast(2)] = 40
    n_generations: Annotated[int, AtLeast(1), NotIdentity()] = 30
    crossover_prob: Annotated[float, AtLeast(0), UpTo(1)] = 1.0
    mutation_prob: Annotated[float | None, AtLeast(0), UpTo(1)] = None
    max_draws: Annotated[int, AtLeast(1)] = 100_000
    seed: Annotated[int, AtLeast(0)] = 0
    state_file: Annotated[str | None, NotIdentity()] = None

    def __post_init__(self) -> None:
        super().__init__()
        self.space: Any = None
        self._running: dict[Genome, Any] = {}
        self._trials: dict[Genome, Trial] = {}
        self._asked: list[Genome] = []
        self._generation = 0
        problems = problems_of(option_types(type(self)), self)
        for name, (profiler, bound) in self.limits.items():
            if not hasattr(profiler, "profile") or not isinstance(bound, (int, float)) or math.isnan(bound):
                problems.append(
                    f"limits['{name}'] is {profiler!r}, {bound!r}; allowed: a profiler and a number, which may be math.inf"
                )
        if problems:
            raise ValueError("; ".join(problems))

    def trials(self) -> list[Trial]:
        """All networks that were trained, in the order in which they ended."""
        return list(self._trials.values())

    def front(self) -> list[Trial]:
        """Of all networks trained those that no other dominates, the best metric first."""
        trials = [trial for trial in self.trials() if trial.metric is not None]
        if not trials:
            return []
        first = not_dominated([trial.objectives() for trial in trials])
        return sorted((trials[i] for i in first), key=Trial.objectives)

    def list_models(self, sort: bool = True, limit: int | None = None) -> Iterator[Any]:
        """The models of :meth:`front`; with ``sort=False`` all that the engine knows of, as NNI has it."""
        yield from () if sort else super().list_models(sort=False, limit=limit)
        for trial in self.front()[:limit] if sort else ():
            model = self.model_space.freeze(trial.sample)
            model.metrics.final = trial.metric
            model.status = ModelStatus.Trained
            yield model

    # -- a search, by ask and tell -------------------------------------------------------------------------------------

    def begin(self, model_space: Any) -> None:
        """Begin a search of this space, or go on with the one in ``state_file``.

        Raises
        ------
        ValueError
            A choice is not among finitely many, or the state is of another search.
        """
        self.space = BoundedSpace(model_space, self.limits)
        self.sampling = EarlyExitSampling(self.space, self.max_draws)
        self._algorithm = BoundedNSGA2(
            self.space, self.sampling, population_size=self.population_size, crossover_prob=self.crossover_prob,
            mutation_prob=self.mutation_prob, seed=self.seed,
        )  # fmt: skip
        self._asked, self._generation = [], 0
        if self.state_file is not None and Path(self.state_file).exists():
            try:
                self.load_state_dict(json.loads(Path(self.state_file).read_text(encoding="utf-8")))
            except ValueError as error:
                raise ValueError(f"state_file '{self.state_file}': {error}") from error
        self._save()  # a file that cannot be written is told now, and not to the thread of an engine

    def ask(self) -> list[Genome]:
        """The networks of the next generation; none after the last one, or where no other within the bounds is found.

        Some may have a trial from before a stop: :meth:`has_trial`.

        Raises
        ------
        BudgetError
            Of the first generation no network keeps every bound.
        """
        if self._generation == self.n_generations:
            return []
        self._asked = self._algorithm.ask()
        self._generation += 1
        if self._generation == 1:
            drawn = (self.sampling.n_over, self.sampling.n_draws)
            _logger.info("early exit: %d of %d random networks break a bound, and are not trained", *drawn)
        if not self._asked:
            _logger.info("generation %d: no other network within the bounds was found", self._generation)
        return self._asked

    def has_trial(self, genome: Genome) -> bool:
        """Whether the trial of a network has ended."""
        return genome in self._trials

    def record(self, genome: Genome, metric: float | None) -> None:
        """Keep the result of a trial, and save the state. A trial with no metric, or none that is finite, has failed."""
        sample = self.space.sample(genome)
        sound = metric is not None and math.isfinite(metric)
        self._trials[genome] = Trial(sample, metric if sound else None, self.space.costs(sample))
        self._save()

    def tell(self) -> None:
        """Let the generation that was asked for last compete with its parents; the trials of all its networks have ended.

        Raises
        ------
        RuntimeError
            All trials of the first generation have failed.
        """
        trials = [self._trials[genome] for genome in self._asked]
        n_sound = sum(trial.metric is not None for trial in trials)
        if not n_sound and self._generation == 1:
            raise RuntimeError(f"all {len(trials)} trials of the first generation have failed")
        self._algorithm.tell([None if trial.metric is None else trial.objectives() for trial in trials])
        told = (self._generation, self.n_generations, n_sound, len(trials), len(self.front()))
        _logger.info("generation %d of %d: %d of %d networks have a metric, %d on the front", *told)

    # -- its trials, by NNI's engine -----------------------------------------------------------------------------------

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        self.begin(model_space)
        engine.register_model_event_callback("training_end", self._on_training_end)
        return model_space

    def _cleanup(self) -> None:
        self.engine.unregister_model_event_callback("training_end", self._on_training_end)

    def _run(self) -> None:
        while genomes := self.ask():
            if not self._train(genomes):
                _logger.info("generation %d: the engine takes no more trials", self._generation)
                return
            self.tell()

    def _train(self, genomes: Sequence[Genome]) -> bool:
        """Train those that have no trial yet; whether the trials of all have ended."""
        for genome in [one for one in genomes if not self.has_trial(one)]:
            if not self.wait_for_resource():
                break
            self._running[genome] = self.model_space.freeze(self.space.sample(genome))
            self.engine.submit_models(self._running[genome])
        if self._running:
            self.engine.wait_models(*self._running.values())
        self._running.clear()
        return all(self.has_trial(genome) for genome in genomes)

    def _on_training_end(self, event: Any) -> None:
        """Keep a result, in whatever thread the engine calls; the model gets its status only after that."""
        genome = next((genome for genome, model in list(self._running.items()) if model is event.model), None)
        if genome is None or event.status == ModelStatus.Interrupted:
            return
        self.record(genome, event.model.metric)

    # -- stop and go on ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.state_file is not None:
            write_text(self.state_file, json.dumps(self.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        """Options, candidates and ended trials, as plain values that JSON takes.

        A search is a function of these: one that goes on asks for the same networks again, and knows what came of them.
        """
        bounds = {name: bound for name, (_, bound) in self.limits.items()}
        options = {**options_of(self, EarlyExitEvolution, but={"limits"}), "limits": bounds}
        ended = list(self._trials.items())
        trials = [{"genome": list(genome), "metric": trial.metric, "costs": trial.costs} for genome, trial in ended]
        candidates = as_plain(self.space.candidates) if self.space else None  # NNI asks even where there was no space
        return {"options": options, "candidates": candidates, "trials": trials}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, after ``initialize``; trials that had not ended run again. ``n_generations`` may be another.

        Raises
        ------
        ValueError
            The state is of other options, another space, or other costs.
        """
        here, there = ({**state, "trials": None} for state in (self.state_dict(), state_dict))
        if differing := differences(here, there, "in the state"):
            raise ValueError(f"the state is of another search: {'; '.join(differing)}")
        trials = {}
        for saved in state_dict["trials"]:
            genome = tuple(saved["genome"])
            sample = self.space.sample(genome)
            trials[genome] = Trial(sample, saved["metric"], self.space.costs(sample))
            if differing := differences(trials[genome].costs, saved["costs"], "in the state"):
                raise ValueError(f"the state is of other costs: {sample}: {'; '.join(differing)}")
        self._trials = trials
