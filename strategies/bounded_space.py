"""A model space as genomes, and the bounds that its networks keep; neither an algorithm nor a trial is known here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from nni.mutable import Categorical, CategoricalMultiple, MutableAnnotation
from nni.nas.profiler import Profiler

from nni_proxyless.latency.choices import as_nni_has_it, check_values, input_sets

__all__ = ["BoundedSpace", "Genome"]

Genome = tuple[int, ...]
"""The index of the chosen candidate of each label, in the order of the labels."""


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
