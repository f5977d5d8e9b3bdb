"""EarlyExitEvolution: the front of error and costs, within bounds (Termritthikun et al., EAAI 104, 2021; arXiv:2108.06156).

A genome is a whole number per label of the space: which of its candidates is chosen. P is the population, of n genomes.

==============  ========================================================================================================
initialization  n random genomes, each drawn again until its network keeps every bound: early exit, before anything trains
offspring       n by binary tournament, uniform crossover and random reset, each made again until its network keeps every
                bound and was not asked for before
survival        of P and its offspring the best n, by rank of dominance and crowding distance (NSGA-II; Deb et al., 2002)
==============  ========================================================================================================

Objectives are the error, as the negative metric, and every cost; all are minimized. pymoo runs the evolution, by ask and tell. Where paper,
official code and this code differ: ``docs/methods/evolution.md``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from nni.mutable import Categorical, CategoricalMultiple, MutableAnnotation
from nni.nas.profiler import Profiler
from nni.nas.strategy import Strategy

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.core.nni_compat import ModelStatus
from nni_proxyless.core.plain_values import as_plain
from nni_proxyless.core.ranges import AtLeast, NotIdentity, UpTo, option_types, problems_of
from nni_proxyless.core.settings_diff import differences
from nni_proxyless.latency import BudgetError
from nni_proxyless.latency.choices import as_nni_has_it, check_values, input_sets

from .oneshot.identity import options_of

try:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.duplicate import DuplicateElimination
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.mutation import Mutation
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem
    from pymoo.core.sampling import Sampling
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.problems.static import StaticProblem
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
except ImportError as error:
    raise ImportError("EarlyExitEvolution needs pymoo, which is missing; install nni-proxyless[evolution]") from error

__all__ = ["BoundedSpace", "EarlyExitEvolution", "EarlyExitSampling", "Genome", "RandomReset", "Trial"]

_logger = logging.getLogger(__name__)

Genome = tuple[int, ...]
"""The index of the chosen candidate of each label, in the order of the labels."""


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


class BoundedSpace:
    """A space by its genomes, and the bounds on its networks, name -> (profiler, bound); ``least`` is what was seen of each cost.

    A ValueError says that there is nothing to choose, or which label has no finite number of candidates.
    """

    def __init__(self, space: Any, limits: Mapping[str, tuple[Profiler, float]]):
        mutables = {str(label): mutable for label, mutable in space.simplify().items()}
        self.constraints = [m for m in mutables.values() if isinstance(m, MutableAnnotation)]
        self.candidates = {
            label: _candidates_of(label, m) for label, m in mutables.items() if not isinstance(m, MutableAnnotation)
        }
        if not self.candidates:
            raise ValueError("the space has no choices; allowed: one or more")
        self.sizes = np.array([len(candidates) for candidates in self.candidates.values()])
        self.limits, self.least = limits, dict.fromkeys(limits, math.inf)

    def sample(self, genome: Genome) -> dict[str, Any]:
        """Label -> choice, as NNI has it."""
        chosen = zip(self.candidates.items(), genome, strict=True)
        return {label: as_nni_has_it(candidates[gene]) for (label, candidates), gene in chosen}

    def costs(self, sample: Mapping[str, Any]) -> dict[str, float]:
        """Name -> cost."""
        return {name: float(profiler.profile(dict(sample))) for name, (profiler, _) in self.limits.items()}

    def keeps(self, genome: Genome) -> bool:
        """Whether the network keeps every constraint of the space and every bound."""
        sample = self.sample(genome)
        if not all(constraint.contains(sample) for constraint in self.constraints):
            return False
        costs = self.costs(sample)
        self.least = {name: min(least, costs[name]) for name, least in self.least.items()}
        return all(costs[name] <= bound for name, (_, bound) in self.limits.items())


def _candidates_of(label: str, mutable: Any) -> tuple[Any, ...]:
    if isinstance(mutable, Categorical):
        check_values(label, mutable)
        return tuple(mutable.values)
    if isinstance(mutable, CategoricalMultiple):
        return tuple(input_sets(mutable))
    raise ValueError(f"choice '{label}' is a {type(mutable).__name__}; allowed: choices among finitely many")


# -- operators that pymoo lacks ----------------------------------------------------------------------------------------


class EarlyExitSampling(Sampling):
    """Different random genomes whose networks keep every bound, each as likely as any other such.

    Where ``max_draws`` genomes give no other network, those before it are all; where there are none, a BudgetError says how far the bounds are.
    ``n_draws`` genomes were drawn in all, ``n_over`` of them broke a bound or a constraint.
    """

    def __init__(self, space: BoundedSpace, max_draws: int):
        super().__init__()
        self.space, self.max_draws = space, max_draws
        self.n_draws = self.n_over = 0

    def _do(self, problem: Problem, n_samples: int, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
        found: dict[Genome, None] = {}
        while len(found) < n_samples and (genome := self._draw(found, random_state)) is not None:
            found[genome] = None
        if not found:
            limits, least = self.space.limits, self.space.least
            bounds = [f"{name} at most {bound:g}, least seen {least[name]:g}" for name, (_, bound) in limits.items()]
            raise BudgetError(
                f"limits: of {self.max_draws} random networks none keeps every bound ({'; '.join(bounds)}); allowed: bounds that networks of "
                "the space keep, all at once; more max_draws where few do"
            )
        if len(found) < n_samples:
            _logger.warning("population: %d networks, as %d random ones had no other", len(found), self.max_draws)
        return np.array(list(found))

    def _draw(self, known: Collection[Genome], chance: np.random.Generator) -> Genome | None:
        for _ in range(self.max_draws):
            genome = tuple(chance.integers(self.space.sizes).tolist())
            self.n_draws += 1
            if genome in known:
                continue
            if self.space.keeps(genome):
                return genome
            self.n_over += 1
        return None


class RandomReset(Mutation):
    """Each gene, with a probability, becomes another candidate of its label, all as likely."""

    def __init__(self, prob_of_gene: float):
        super().__init__()
        self.prob_of_gene = prob_of_gene

    def _do(self, problem: Problem, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
        sizes = problem.xu + 1
        others = np.where(sizes > 1, random_state.integers(1, np.maximum(sizes, 2), X.shape), 0)
        return np.where(random_state.random(X.shape) < self.prob_of_gene, (X + others) % sizes, X)


class _NewWithinBounds(DuplicateElimination):
    """Of offspring those that keep every bound, each once, and none that was asked for before."""

    def __init__(self, space: BoundedSpace, asked: Collection[Genome]):
        super().__init__()
        self.space, self.asked = space, asked

    def do(self, pop: Population, *others: Population, **kwargs: Any) -> Population:
        known = {genome for other in others for genome in _genomes(other)}
        left = []
        for i, genome in enumerate(_genomes(pop)):
            if genome not in known and genome not in self.asked and self.space.keeps(genome):
                known.add(genome)
                left.append(i)
        return pop[left]


def _genomes(population: Population) -> list[Genome]:
    return [tuple(int(gene) for gene in one.X) for one in population]


# -- the strategy ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False, repr=False)
class EarlyExitEvolution(Strategy):
    """The front of error and costs; no network that breaks a bound is trained, and none is trained twice.

    A multi-trial strategy of NNI, for any model space of choices among finitely many, and any evaluator: of its final metric, more is better. A
    trial that fails is left out, and not repeated.

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
        self._space: Any = None
        self._running: dict[Genome, Any] = {}
        self._trials: dict[Genome, Trial] = {}
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
        objectives = np.array([trial.objectives() for trial in trials])
        first = NonDominatedSorting().do(objectives, only_non_dominated_front=True)
        return sorted((trials[i] for i in first), key=Trial.objectives)

    def list_models(self, sort: bool = True, limit: int | None = None) -> Iterator[Any]:
        """The models of :meth:`front`; with ``sort=False`` all that the engine knows of, as NNI has it."""
        yield from () if sort else super().list_models(sort=False, limit=limit)
        for trial in self.front()[:limit] if sort else ():
            model = self.model_space.freeze(trial.sample)
            model.metrics.final = trial.metric
            model.status = ModelStatus.Trained
            yield model

    # -- a search ------------------------------------------------------------------------------------------------------

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        self._space = BoundedSpace(model_space, self.limits)
        self.sampling = EarlyExitSampling(self._space, self.max_draws)
        if self.state_file is not None and Path(self.state_file).exists():
            try:
                self.load_state_dict(json.loads(Path(self.state_file).read_text(encoding="utf-8")))
            except ValueError as error:
                raise ValueError(f"state_file '{self.state_file}': {error}") from error
        self._save()  # a file that cannot be written is told now, and not to the thread of an engine
        engine.register_model_event_callback("training_end", self._on_training_end)
        return model_space

    def _cleanup(self) -> None:
        self.engine.unregister_model_event_callback("training_end", self._on_training_end)

    def _run(self) -> None:
        asked: set[Genome] = set()
        algorithm = self._algorithm(asked)
        for generation in range(1, self.n_generations + 1):
            population = algorithm.ask()
            if population is None:
                _logger.info("generation %d: no other network within the bounds was found", generation)
                return
            genomes = _genomes(population)
            asked.update(genomes)
            if not self._train(genomes):
                _logger.info("generation %d: the engine takes no more trials", generation)
                return
            sound = [i for i, genome in enumerate(genomes) if self._trials[genome].metric is not None]
            if not sound and generation == 1:
                raise RuntimeError(f"all {len(genomes)} trials of the first generation have failed")
            objectives = np.array([self._trials[genomes[i]].objectives() for i in sound])
            Evaluator().eval(StaticProblem(algorithm.problem, F=objectives), population[sound])
            algorithm.tell(infills=population[sound])
            told = (generation, self.n_generations, len(sound), len(genomes), len(self.front()))
            _logger.info("generation %d of %d: %d of %d networks trained, %d on the front", *told)

    def _algorithm(self, asked: Collection[Genome]) -> NSGA2:
        n_labels = len(self._space.sizes)
        algorithm = NSGA2(
            pop_size=self.population_size,
            sampling=self.sampling,
            crossover=UniformCrossover(prob=self.crossover_prob),
            mutation=RandomReset(1 / n_labels if self.mutation_prob is None else self.mutation_prob),
            eliminate_duplicates=_NewWithinBounds(self._space, asked),
            output=None,
        )
        problem = Problem(n_var=n_labels, n_obj=1 + len(self.limits), xl=0, xu=self._space.sizes - 1, vtype=int)
        return algorithm.setup(problem, termination=NoTermination(), seed=self.seed)

    def _train(self, genomes: Sequence[Genome]) -> bool:
        """Train those that have no trial yet; whether the trials of all have ended."""
        for genome in [one for one in genomes if one not in self._trials]:  # others have one from before a stop
            if not self.wait_for_resource():
                break
            self._running[genome] = self.model_space.freeze(self._space.sample(genome))
            self.engine.submit_models(self._running[genome])
        if self._running:
            self.engine.wait_models(*self._running.values())
        self._running.clear()
        return all(genome in self._trials for genome in genomes)

    def _on_training_end(self, event: Any) -> None:
        """Keep a result, in whatever thread the engine calls; the model gets its status only after that."""
        genome = next((genome for genome, model in list(self._running.items()) if model is event.model), None)
        if genome is None or event.status == ModelStatus.Interrupted:
            return
        sample, metric = self._space.sample(genome), event.model.metric
        sound = metric is not None and math.isfinite(metric)
        self._trials[genome] = Trial(sample, metric if sound else None, self._space.costs(sample))
        self._save()

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
        candidates = as_plain(self._space.candidates) if self._space else None  # NNI asks even where there was no space
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
            sample = self._space.sample(genome)
            trials[genome] = Trial(sample, saved["metric"], self._space.costs(sample))
            if differing := differences(trials[genome].costs, saved["costs"], "in the state"):
                raise ValueError(f"the state is of other costs: {sample}: {'; '.join(differing)}")
        self._trials = trials
