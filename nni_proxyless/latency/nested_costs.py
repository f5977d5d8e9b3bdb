"""Costs that hang on several choices at once: what a network pays of them, and what is to be expected.

Symbols: F_t, the cost of term t; (l, C), a condition of it, that label l has one of the choices C; p_l(c), the probability of choice c.

    of a network    sum of F_t over the terms all of whose conditions hold
    expected        sum over t of F_t * product over its conditions of sum over c in C of p_l(c)

A space whose choices change shapes has thousands of terms, and NNI goes through all combinations of choices of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .choices import as_key
from .operation import Conditions

__all__ = ["NestedCosts"]


class NestedCosts:
    """Terms with conditions on two labels or more, or on a choice of inputs; each label once per term.

    Parameters
    ----------
    costs
        Conditions -> cost.
    choices
        Label -> all of its choices; of every label in a condition.
    """

    def __init__(self, costs: Mapping[Conditions, float], choices: Mapping[str, tuple[Any, ...]]):
        self._costs = dict(costs)
        alone = list(dict.fromkeys(condition for conditions in costs for condition in conditions))
        self._choices = {label: choices[label] for label, _ in alone}
        self._columns = [(label, choice) for label, of_label in self._choices.items() for choice in of_label]
        # A last row and a last column, of what is certain: terms have different numbers of conditions.
        holds = np.zeros((len(alone) + 1, len(self._columns) + 1))
        for i, (label, allowed) in enumerate(alone):
            holds[i, [j for j, (of, choice) in enumerate(self._columns) if of == label and choice in allowed]] = 1.0
        holds[-1, -1] = 1.0
        number = {condition: i for i, condition in enumerate(alone)}
        most = max(map(len, costs), default=0)
        rows = [[number[one] for one in term] + [len(alone)] * (most - len(term)) for term in costs]
        self._holds, self._factors = holds, np.array(rows, dtype=np.int64).reshape(len(costs), most).T
        self._ms = np.array(list(costs.values()), dtype=float)

    def __bool__(self) -> bool:
        return bool(self._costs)

    def of(self, sample: Mapping[str, Any]) -> Iterator[float]:
        """The costs of one architecture, label -> choice, term by term.

        Raises
        ------
        KeyError
            It lacks a label.
        ValueError
            It has a choice that is none of its label.
        """
        for label, allowed in self._choices.items():
            if label not in sample:
                raise KeyError(f"{label} is not in {dict(sample)}")
            if as_key(sample[label]) not in allowed:
                raise ValueError(f"choice {label!r} is {sample[label]!r}; allowed: {', '.join(map(repr, allowed))}")
        for conditions, ms in self._costs.items():
            if all(as_key(sample[label]) in allowed for label, allowed in conditions):
                yield ms

    def expected(self, probs: Mapping[str, Mapping[Any, Any]]) -> Any:
        """The expected cost of each term, choices drawn independently.

        Parameters
        ----------
        probs
            Label -> choice -> probability, scalar tensors or plain numbers.

        Returns
        -------
        Tensor or numpy.ndarray
            Shape (n_terms,), differentiable in the probabilities; an array where all of these are plain numbers.
        """
        given: list[Any] = [*(probs[label][choice] for label, choice in self._columns), 1.0]
        like = next((p for p in given if isinstance(p, Tensor)), None)
        if like is None:
            return self._product(self._holds @ np.array(given), self._ms, self._factors)
        p = torch.stack([p if isinstance(p, Tensor) else like.new_tensor(p) for p in given])
        holds, ms = (torch.from_numpy(values).to(p) for values in (self._holds, self._ms))
        return self._product(holds @ p, ms, torch.from_numpy(self._factors).to(p.device))

    @staticmethod
    def _product(of_condition: Any, ms: Any, factors: Any) -> Any:
        for rows in factors:
            ms = ms * of_condition[rows]
        return ms
