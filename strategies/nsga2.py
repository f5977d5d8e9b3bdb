"""NSGA-II (Deb et al., 2002) of pymoo, by ask and tell, on genomes within bounds; with the operators that pymoo lacks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from nni_proxyless.latency import BudgetError

from .bounded_space import BoundedSpace, Genome

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

__all__ = ["BoundedNSGA2", "EarlyExitSampling", "RandomReset", "not_dominated"]

_logger = logging.getLogger(__name__)


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


# -- ask and tell ------------------------------------------------------------------------------------------------------


class BoundedNSGA2:
    """Generations of genomes that keep every bound, each of which is asked for once.

    Parameters
    ----------
    sampling
        Of the first generation.
    population_size, crossover_prob, mutation_prob
        As :class:`.evolution.EarlyExitEvolution` has them.
    seed
        The only source of chance.
    """

    def __init__(
        self, space: BoundedSpace, sampling: EarlyExitSampling, *, population_size: int, crossover_prob: float,
        mutation_prob: float | None, seed: int,
    ):  # fmt: skip
        n_labels = len(space.sizes)
        self._asked: set[Genome] = set()
        self._population: Population | None = None
        algorithm = NSGA2(
            pop_size=population_size,
            sampling=sampling,
            crossover=UniformCrossover(prob=crossover_prob),
            mutation=RandomReset(1 / n_labels if mutation_prob is None else mutation_prob),
            eliminate_duplicates=_NewWithinBounds(space, self._asked),
            output=None,
        )
        self._problem = Problem(n_var=n_labels, n_obj=1 + len(space.limits), xl=0, xu=space.sizes - 1, vtype=int)
        self._algorithm = algorithm.setup(self._problem, termination=NoTermination(), seed=seed)

    def ask(self) -> list[Genome]:
        """The next generation; none where no other genome was found."""
        self._population = self._algorithm.ask()
        if self._population is None:
            return []
        genomes = _genomes(self._population)
        self._asked.update(genomes)
        return genomes

    def tell(self, objectives: Sequence[Sequence[float] | None]) -> None:
        """What is minimized of each genome of the last generation; one of None is left out."""
        assert self._population is not None
        sound = [i for i, found in enumerate(objectives) if found is not None]
        found = np.array([objectives[i] for i in sound])
        Evaluator().eval(StaticProblem(self._problem, F=found), self._population[sound])
        self._algorithm.tell(infills=self._population[sound])


def not_dominated(objectives: Sequence[Sequence[float]]) -> list[int]:
    """Which of these, all minimized, no other dominates."""
    first = NonDominatedSorting().do(np.array(objectives), only_non_dominated_front=True)
    return [int(i) for i in first]
