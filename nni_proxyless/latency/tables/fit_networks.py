"""Rows of a table from whole networks: what each operation takes, fitted to what the networks took that run it.

It needs nothing but a number per network, so it holds for any runtime, with all that it does across operations. Symbols:

==========  ===========================================================================================
i           a network that was timed
t_i         its milliseconds
n_ik        how often it runs an operation of key k, of those that hang on a choice
x_kj        feature j of that operation, see :func:`.predict.features`, divided by the largest over all k; where a runtime has said
            what its nodes took, see ``profiled.py``, that is one more
w_k         milliseconds of the row of k, 0 or more
c           milliseconds of what all networks share, 0 or more
v_j         milliseconds per unit of feature j, 0 or more
s           mean of t_i / (1 + sum_k n_ik), the size of a row
r           strength of the ridge
==========  ===========================================================================================

w, c and v minimize

    sum_i ((c + sum_k n_ik w_k) / t_i - 1)^2  +  r sum_k ((w_k - sum_j v_j x_kj) / s)^2

The ridge draws a row not to 0 but to what its multiply-adds and bytes would cost, at a price per feature that is fitted along
with it (a Gaussian prior whose mean has parameters of its own; Lindley and Smith, J. R. Stat. Soc. B 34, 1972). So a row that occurs in
few networks is a sensible one, and few networks do: over networks not fitted on, 36 with features were as good as 150 without (mean
error 1.8 and 1.6 %; 36 without: 3.3 %; 36 rows, ``small`` at 32x32, ONNX Runtime). r is chosen by cross-validation. Both sums are
one problem of non-negative least squares (Lawson and Hanson, "Solving Least Squares Problems", 1974, ch. 23).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..operation import Operation

__all__ = ["NORMAL_P95", "NetworkFit", "fit_networks", "fitted_operations"]

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 10
NORMAL_P95 = 1.645  # standard errors above a median


@dataclass(frozen=True)
class NetworkFit:
    """What :func:`fit_networks` has found.

    Attributes
    ----------
    rows
        Key -> milliseconds and their standard error (jackknife over the folds).
    counts
        Key -> how many of the networks run it.
    constant_ms
        What all networks share, and its standard error.
    ridge
        Its strength, r.
    mean_error, worst_error
        Of |fitted - timed| / timed, each network left out once; 0.05 is 5 %. The noise of its timing is part of it.
    spearman
        Rank correlation of the same.
    """

    rows: Mapping[str, tuple[float, float]]
    counts: Mapping[str, int]
    constant_ms: tuple[float, float]
    ridge: float
    mean_error: float
    worst_error: float
    spearman: float


def fitted_operations(operations: Sequence[Operation]) -> dict[str, list[Operation]]:
    """By key, those operations of a space that get a row: what hangs on a choice and computes something."""
    found: dict[str, list[Operation]] = {}
    for op in operations:
        if op.conditions and not op.in_constant:
            found.setdefault(op.key, []).append(op)
    return found


def fit_networks(
    operations: Sequence[Operation], samples: Sequence[Mapping[str, Any]], ms: Sequence[float], *,
    profile: Mapping[str, float] | None = None, folds: int = FOLDS,
) -> NetworkFit:  # fmt: skip
    """Fit rows to the milliseconds of whole networks.

    Parameters
    ----------
    operations
        All of the space, as :func:`~nni_proxyless.latency.trace_operations` gives them.
    samples
        Architectures (label -> choice), so drawn that neighbors in the list have all candidates in turn.
    ms
        What each takes, greater than 0.
    profile
        Key -> what a runtime says that such an operation takes. Those that it does not say are judged by their features.
    folds
        Parts to leave out in turn; network i is in part i modulo ``folds``. Fewer networks are left out one by one.

    Raises
    ------
    ValueError
        Too few networks; a number of milliseconds that is not greater than 0 and finite, with its architecture.
    """
    folds = min(folds, len(samples))
    if folds < 2:
        raise ValueError(f"{len(samples)} networks to fit to, {folds} folds; allowed: 2 or more of each")
    for sample, value in zip(samples, ms, strict=True):
        if not 0 < value < float("inf"):
            raise ValueError(
                f"the network {dict(sample)} is said to take {value} ms; allowed: a finite number greater than 0"
            )
    from .predict import features  # as in _solve

    by_key = fitted_operations(operations)
    t = np.array(ms, dtype=float)
    n = np.array([[sum(op.runs_in(s) for op in ops) for ops in by_key.values()] for s in samples], dtype=float)
    x = np.array([list(features(ops[0]).values()) for ops in by_key.values()]) if by_key else np.zeros((0, 0))
    if profile and len(x):
        x = np.concatenate([x, _filled(np.array([profile.get(key, np.nan) for key in by_key]), x)[:, None]], 1)
    x = x[:, x.any(0)]
    x /= x.max(0, initial=0.0)

    part = np.arange(len(t)) % folds
    left_out = np.empty((len(RIDGES), len(t)))
    solved = np.empty((len(RIDGES), folds, 1 + len(by_key)))
    for r, ridge in enumerate(RIDGES):
        for i in range(folds):
            solved[r, i] = _solve(n[part != i], t[part != i], x, ridge)
            left_out[r, part == i] = solved[r, i, 0] + n[part == i] @ solved[r, i, 1:]
    # The strongest of those that err as little: what timings do not tell apart, features do.
    squared = ((left_out / t - 1) ** 2).mean(1)
    best = max(r for r in range(len(RIDGES)) if squared[r] <= squared.min() * (1 + 1e-9))
    found = _solve(n, t, x, RIDGES[best])
    error = np.sqrt((folds - 1) / folds * ((solved[best] - solved[best].mean(0)) ** 2).sum(0))
    relative = np.abs(left_out[best] / t - 1)
    return NetworkFit(
        rows={key: (float(found[1 + k]), float(error[1 + k])) for k, key in enumerate(by_key)},
        counts={key: int((n[:, k] > 0).sum()) for k, key in enumerate(by_key)},
        constant_ms=(float(found[0]), float(error[0])),
        ridge=RIDGES[best],
        mean_error=float(relative.mean()),
        worst_error=float(relative.max()),
        spearman=_spearman(left_out[best], t),
    )


def _solve(n: np.ndarray, t: np.ndarray, x: np.ndarray, ridge: float) -> np.ndarray:
    """c and w; see the head of this file."""
    from scipy.optimize import nnls  # here: it takes as long to import as NumPy, and a search with a table needs none

    networks, keys = n.shape
    size = float((t / (1 + n.sum(1))).mean())
    weight = np.sqrt(ridge) / size
    timed = np.concatenate([1 / t[:, None], n / t[:, None], np.zeros((networks, x.shape[1]))], 1)
    drawn = np.concatenate([np.zeros((keys, 1)), weight * np.eye(keys), -weight * x], 1)
    a = np.concatenate([timed, drawn])
    length = np.linalg.norm(a, axis=0)  # columns of one length, so that units do not decide the rounding
    length[length == 0] = 1.0
    wanted = np.concatenate([np.ones(networks), np.zeros(keys)])
    solution, _ = nnls(a / length, wanted, maxiter=50 * a.shape[1])
    return np.asarray(solution / length)[: 1 + keys]


def _filled(said: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The same, with what is missing from features."""
    from scipy.optimize import nnls  # as above

    known = ~np.isnan(said)
    price, _ = nnls(x[known], said[known])
    return np.where(known, said, x @ price)


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """0 where one of them has no ranks."""
    from scipy import stats  # as above

    return float(stats.spearmanr(one, other).statistic) if np.ptp(one) > 0 and np.ptp(other) > 0 else 0.0
