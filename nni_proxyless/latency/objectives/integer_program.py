"""Architectures as a mixed-integer linear program: the multiple-choice knapsack, nested choices included.

    x[label, choice]      0 or 1; one choice per label:  sum over choices of x[label, .] = 1
    y[P, label, choice]   the product of conditions P and of x[label, choice], for costs that depend on several labels:
                          y <= x[label, choice],  sum over choices of y[P, label, .] = product of P

Where all x are 0 or 1, every y can only be the product itself, so it need not be an integer, and costs may be minimized
as well as maximized. For conditions that form a tree, as those of nested choices do, this is as tight as linear rows get;
``z >= sum - (n - 1)``, one z per term, says the same of whole numbers, but lets two halves of x cost nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from ..operation import Conditions

if TYPE_CHECKING:
    from ..profiler import LatencyProfiler

__all__ = ["Expression", "Program"]

Expression = dict[int, float]
"""A linear expression: column of the program -> coefficient."""

OPTIMAL, INFEASIBLE = 0, 2  # of scipy's milp


class Program:
    """Finds the architecture that minimizes a linear expression, by HiGHS.

    Parameters
    ----------
    choices
        Label -> its choices. Their order, and that of the labels, is the order of columns.
    """

    def __init__(self, choices: Mapping[str, Sequence[Any]]):
        self.choices = {label: tuple(values) for label, values in choices.items()}
        self.column = {key: i for i, key in enumerate((lb, c) for lb, values in self.choices.items() for c in values)}
        self.n_binary = self.n_columns = len(self.column)
        self._unbounded: list[int] = []
        self._products: dict[tuple[Conditions, str], dict[Any, int]] = {}
        self._rows: list[tuple[Expression, float, float]] = []
        for label, values in self.choices.items():
            self.require({self.column[label, choice]: 1.0 for choice in values}, 1.0, 1.0)

    def require(self, expression: Expression, lower: float, upper: float) -> None:
        """Only architectures with ``lower <= expression <= upper`` from now on."""
        self._rows.append((expression, lower, upper))

    def slack(self) -> int:
        """A new column: any number of 0 or more, no integer."""
        self._unbounded.append(self.n_columns)
        self.n_columns += 1
        return self._unbounded[-1]

    def forbid(self, sample: Mapping[str, Any]) -> None:
        """All architectures but this one from now on."""
        expression = {self.column[label, sample[label]]: 1.0 for label in self.choices}
        self.require(expression, -np.inf, len(expression) - 1.0)

    def cost(self, profiler: LatencyProfiler) -> Expression:
        """The cost of a network without the profiler's fixed part, in the profiler's unit."""
        expression: Expression = {}
        for label, costs in profiler.candidate_ms.items():
            if label in self.choices:
                _add(expression, {self.column[label, choice]: ms for choice, ms in costs.items()}, 1.0)
        for conditions, ms in profiler.nested_ms.items():
            _add(expression, self.product(conditions), ms)
        return {column: ms for column, ms in expression.items() if ms != 0}

    def product(self, conditions: Conditions) -> Expression:
        """1 where all conditions hold, 0 where not."""
        *before, (label, allowed) = conditions
        if not before:
            return {self.column[label, choice]: 1.0 for choice in allowed}
        columns = self._product_columns(tuple(before), label)
        return {columns[choice]: 1.0 for choice in allowed}

    def _product_columns(self, conditions: Conditions, label: str) -> dict[Any, int]:
        if (conditions, label) not in self._products:
            columns = {choice: self.n_columns + i for i, choice in enumerate(self.choices[label])}
            self._products[conditions, label] = columns
            self.n_columns += len(columns)
            total = dict.fromkeys(columns.values(), 1.0)
            _add(total, self.product(conditions), -1.0)
            self.require(total, 0.0, 0.0)
            for choice, column in columns.items():
                self.require({column: 1.0, self.column[label, choice]: -1.0}, -np.inf, 0.0)
        return self._products[conditions, label]

    def minimize(self, objective: Expression, excluded: Iterable[int] = ()) -> dict[str, Any] | None:
        """An architecture of the least ``objective``, label -> choice; None if there is none. The same at every call.

        Parameters
        ----------
        objective
            HiGHS looks no further than 1e-6 of it (scipy leaves this absolute gap as it is) and keeps to rows within
            1e-6 of them: scale both, and check what comes back.
        excluded
            Columns of choices that must not be made.
        """
        costs = np.zeros(self.n_columns)
        for column, value in objective.items():
            costs[column] = value
        upper = np.ones(self.n_columns)
        upper[list(excluded)] = 0.0
        upper[self._unbounded] = np.inf
        integrality = np.zeros(self.n_columns)
        integrality[: self.n_binary] = 1
        entries = [(i, column, value) for i, (row, _, _) in enumerate(self._rows) for column, value in row.items()]
        rows, columns, values = zip(*entries, strict=True)
        places = (np.array(rows, np.int32), np.array(columns, np.int32))  # HiGHS counts in 32 bits
        matrix = csr_array((np.array(values), places), shape=(len(self._rows), self.n_columns))
        with _no_printing():
            found = milp(
                costs,
                integrality=integrality,
                bounds=Bounds(np.zeros(self.n_columns), upper),
                constraints=LinearConstraint(matrix, [row[1] for row in self._rows], [row[2] for row in self._rows]),
                # The presolve of HiGHS in scipy 1.15, the last one for Python 3.10, loses optima; without it nothing gets slower.
                options={"mip_rel_gap": 0.0, "presolve": False},
            )
        if found.status == INFEASIBLE:
            return None
        if found.status != OPTIMAL:
            raise RuntimeError(f"HiGHS found no solution: {found.message}")
        return {
            label: max(values, key=lambda choice: found.x[self.column[label, choice]])
            for label, values in self.choices.items()
        }


@contextlib.contextmanager
def _no_printing() -> Iterator[None]:
    """Silence the solver on standard output, which belongs to results.

    Where HiGHS mends a solution, the one in scipy 1.17 prints the name of its own function, whatever ``disp`` says.
    """
    flush: Any = getattr(ctypes.pythonapi, "fflush", None)  # C buffers what goes to a pipe
    try:
        sys.stdout.flush()
        if flush is not None:
            flush(None)
        kept = os.dup(1)
    except (OSError, ValueError, AttributeError):  # there is no standard output
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        if flush is not None:
            flush(None)
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


def _add(expression: Expression, other: Expression, factor: float) -> None:
    for column, value in other.items():
        expression[column] = expression.get(column, 0.0) + factor * value
