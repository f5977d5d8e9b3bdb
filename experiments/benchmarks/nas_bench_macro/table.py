"""The table of NAS-Bench-Macro as the judge: what a network is worth among all of about its cost.

Accuracies are per cent of CIFAR-10's test images, the mean of three trainings; of each training its authors kept the best epoch. A *window*
is the networks that cost 95 to 100 % of a budget. Names count, as they do for whoever draws choices at random: where a place behind the
entry of a stage is skipped, the others move up, so that 6,561 names are 3,969 networks, and two names of one network have the same figures.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import comb

from nni_proxyless.core.errors import UserError
from nni_proxyless.core.user_path import path_argument, user_path

from .space import CHOICES, LABELS, every_network, macs_of, name_of, parameters_of

VARIABLE = "NNI_PROXYLESS_NAS_BENCH_MACRO"
SOURCE = "https://github.com/xiusu/NAS-Bench-Macro, nas-bench-macro_cifar10.json"
CLOSE = 0.05  # of a budget may be left over
PLACE_VALUES = len(CHOICES) ** np.arange(len(LABELS))[::-1]


@dataclass(frozen=True)
class Window:
    """The networks of about one cost.

    Attributes
    ----------
    low, high
        Multiply-adds.
    indices
        Of the networks, in the order of the table.
    accuracy
        Of these, per cent.
    """

    low: float
    high: float
    indices: np.ndarray
    accuracy: np.ndarray

    @property
    def maximum(self) -> float:
        return float(self.accuracy.max())

    def best_of(self, k: int) -> float:
        """Expected accuracy of the best of k different random networks, by their true accuracies: exact.

        Of n networks, the i-th from below is the best of a set of k in C(i - 1, k - 1) of the C(n, k) sets.
        """
        n = len(self.accuracy)
        if not 1 <= k <= n:
            raise ValueError(f"k is {k}; allowed: 1 to {n}, the networks of the window")
        return float((comb(np.arange(n), k - 1) * np.sort(self.accuracy)).sum() / comb(n, k))

    def regret(self, accuracy: float) -> float:
        """What the best network of the window has more, in points."""
        return self.maximum - accuracy

    def rank(self, accuracy: float) -> int:
        """1 for the best."""
        return 1 + int((self.accuracy > accuracy).sum())

    def chance(self) -> dict[str, float]:
        """What random networks of the window are worth."""
        return {
            "networks": len(self.accuracy), "mean": float(self.accuracy.mean()), "deviation": float(self.accuracy.std(ddof=1)),
            "best_of_2": self.best_of(2), "best_of_3": self.best_of(3), "maximum": self.maximum,
        }  # fmt: skip


@dataclass(frozen=True)
class Table:
    """All networks, in the order of their names.

    Attributes
    ----------
    digits
        Shape (6561, 8).
    trainings
        Accuracy of each training, shape (6561, 3), per cent.
    macs, n_params
        Shape (6561,).
    """

    digits: np.ndarray
    trainings: np.ndarray
    macs: np.ndarray
    n_params: np.ndarray

    @classmethod
    def read(cls, path: str | Path | None = None) -> Table:
        """The published file; None: the one that NNI_PROXYLESS_NAS_BENCH_MACRO names.

        Raises
        ------
        UserError
            There is no such file, or not every network is in it.
        """
        said = str(path) if path is not None else os.environ.get(VARIABLE, "")
        if not said:
            raise UserError(f"NAS-Bench-Macro: {VARIABLE} is not set; allowed: the path of the table, from {SOURCE}")
        file = user_path(said, VARIABLE if path is None else "--table")
        try:
            rows: Any = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"NAS-Bench-Macro: '{file}' cannot be read: {error}") from error
        digits = every_network()
        try:
            listed = [rows["".join(map(str, one))] for one in digits.tolist()]
            accuracies = np.array([row["test_acc"] for row in listed], dtype=float)
            macs, n_params = (np.array([row[key] for row in listed], dtype=np.int64) for key in ("flops", "params"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"NAS-Bench-Macro: '{file}' holds no table of all {len(digits)} networks ({error}); allowed: the file of {SOURCE}"
            ) from error
        return cls(digits, accuracies, macs, n_params)

    @classmethod
    def made_up(cls, seed: int = 0, width: float = 1.0) -> Table:
        """A table to try code with, of networks of a width: places add up, costs are true, nothing else is."""
        draw, digits = np.random.default_rng(seed), every_network()
        worth = draw.normal(size=(len(LABELS), len(CHOICES))).cumsum(1)
        mean = 85 + worth[np.arange(len(LABELS)), digits].sum(1) + draw.normal(scale=0.3, size=len(digits))
        macs, n_params = (count(digits, width) for count in (macs_of, parameters_of))
        return cls(digits, mean[:, None] + draw.normal(scale=0.2, size=(len(digits), 3)), macs, n_params)

    @property
    def accuracy(self) -> np.ndarray:
        """Mean of the trainings, shape (6561,)."""
        return self.trainings.mean(1)

    def index(self, network: str | Mapping[str, Any]) -> int:
        """Row of a network, given by its name or its choices."""
        name = network if isinstance(network, str) else name_of(network)
        return int(np.dot([int(digit) for digit in name], PLACE_VALUES))

    def names(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        return ["".join(map(str, self.digits[i])) for i in indices]

    def window(self, share: float, close: float = CLOSE) -> Window:
        """The networks that cost at most this share of the largest, and at least ``1 - close`` of that."""
        high = share * float(self.macs.max())
        return self.between((1 - close) * high, high)

    def between(self, low: float, high: float) -> Window:
        """Those of so many multiply-adds.

        Raises
        ------
        ValueError
            There are none.
        """
        indices = np.flatnonzero((low <= self.macs) & (self.macs <= high))
        if not len(indices):
            raise ValueError(
                f"no network has {low:.0f} to {high:.0f} multiply-adds; allowed: a part of {self.macs.min()} to {self.macs.max()}"
            )
        return Window(low, high, indices, self.accuracy[indices])

    def noise(self, window: Window) -> float:
        """Standard deviation of one training of a network of the window, in points."""
        return float(math.sqrt(self.trainings[window.indices].var(axis=1, ddof=1).mean()))

    def standing(self, network: str | Mapping[str, Any], window: Window) -> dict[str, Any]:
        """What a network is worth among those of the window; it may cost less than they do."""
        i = self.index(network)
        accuracy = float(self.accuracy[i])
        return {
            "name": self.names([i])[0], "macs": int(self.macs[i]), "accuracy": accuracy, "rank": window.rank(accuracy),
            "of": len(window.accuracy), "regret": window.regret(accuracy),
        }  # fmt: skip


# -- of benchmarks that ask it ---------------------------------------------------------------------------------------------


def add_table_option(parser: argparse.ArgumentParser) -> None:
    """``--table``, for :func:`table_of`."""
    parser.add_argument(
        "--table", type=path_argument, help=f"JSON file of the authors (default: what {VARIABLE} names)"
    )


def table_of(short: bool, path: Path | None, width: float = 1.0) -> Table:
    """What a benchmark asks: the published table, in the short form one that is made up for networks of this width."""
    return Table.made_up(width=width) if short else Table.read(path)
