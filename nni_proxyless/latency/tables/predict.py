"""Predict the milliseconds of operations that were not measured from those that were.

Symbols:

==========  ===========================================================================================
i           an operation that was measured
t_i         its milliseconds
x_ij        feature j of it, see :func:`features`
w_j         milliseconds per unit of feature j, 0 or more
==========  ===========================================================================================

The prediction is sum_j w_j x_j, and w minimizes the squared relative error, sum_i ((sum_j w_j x_ij - t_i) / t_i)^2,
over w >= 0 (Lawson and Hanson, "Solving Least Squares Problems", 1974, ch. 23). No work makes an operation quicker, so a
negative w_j would only be noise of the fit, and could predict less than nothing for an operation outside the measured range.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ..estimators.device import Measurement
from ..estimators.macs import MacsEstimator
from ..layers import layer_calls
from ..operation import Operation

__all__ = ["CrossValidation", "Prediction", "features", "fit", "predict_missing"]

ROWS_PER_FEATURE = 2  # with fewer, a part that is left out takes whole features with it
FOLDS = 10


@dataclass(frozen=True)
class CrossValidation:
    """How far predictions are from measurements that the fit has not seen, relative to the measurement.

    Attributes
    ----------
    rows
        Operations that were measured, each left out once.
    folds
        Parts that the rows were divided into.
    mean, median, p95, worst
        Of |predicted - measured| / measured; 0.05 is 5 %.
    worst_key
        Where the worst is.
    """

    rows: int
    folds: int
    mean: float
    median: float
    p95: float
    worst: float
    worst_key: str

    def __str__(self) -> str:
        return (
            f"{self.rows} operations, {self.folds} folds: relative error {self.mean:.1%} on average, "
            f"{self.median:.1%} median, {self.worst:.1%} at worst ('{self.worst_key}')"
        )


@dataclass(frozen=True)
class Prediction:
    """A fit: what each feature costs.

    Attributes
    ----------
    coefficients
        Feature -> milliseconds per unit, 0 or more. A feature that no measured operation had is not in it.
    error
        What the fit is worth.
    """

    coefficients: Mapping[str, float]
    error: CrossValidation

    def predict(self, operation: Operation) -> float:
        """Milliseconds of an operation, 0 or more.

        Raises
        ------
        KeyError
            It does something that no measured operation did; the message names the key and the feature.
        """
        found = features(operation)
        if unseen := [name for name, value in found.items() if value and name not in self.coefficients]:
            raise KeyError(
                f"prediction: '{operation.key}' has {', '.join(unseen)}, and no measured operation has; "
                f"measured ones have {', '.join(self.coefficients)}"
            )
        return float(sum(weight * found[name] for name, weight in self.coefficients.items()))


def features(operation: Operation) -> dict[str, float]:
    """The features of an operation, on one sample, on which its time may depend.

    =========================  =====================================================================================
    ``operation``              1: what every operation costs, however small
    ``dense_macs``             millions of multiply-adds of linear layers and of convolutions of one group
    ``grouped_macs``           the same of convolutions of several groups, depthwise ones above all: few units are busy
    ``grouped_macs_x_kernel``  these times the side of the kernel, since a larger kernel reuses less of what is in a cache
    ``strided_outputs``        millions of elements that convolutions of several groups with a stride above 1 give
    ``activation_mbytes``      megabytes that go into and come out of all layers, 4 bytes a number
    ``weight_mbytes``          megabytes of their weights: read once, in order, and so cheaper than activations
    =========================  =====================================================================================

    Returns
    -------
    dict
        The same names, in the same order, for every operation.

    Raises
    ------
    ValueError
        The operation does not run on its input shape.
    """
    names = (
        "dense_macs",
        "grouped_macs",
        "grouped_macs_x_kernel",
        "strided_outputs",
        "activation_mbytes",
        "weight_mbytes",
    )
    found = dict.fromkeys(names, 0.0)
    calls = layer_calls(operation)
    for call in calls:
        found["activation_mbytes"] += 4e-6 * (call.n_inputs + call.n_outputs)
        found["weight_mbytes"] += 4e-6 * call.n_weights
        layer: Any = call.layer
        if getattr(layer, "groups", 1) == 1 or not call.macs:
            found["dense_macs"] += call.macs / 1e6
            continue
        found["grouped_macs"] += call.macs / 1e6
        found["grouped_macs_x_kernel"] += call.macs / 1e6 * max(layer.kernel_size)
        if max(layer.stride) > 1:
            found["strided_outputs"] += call.n_outputs / 1e6
    # Attention, recurrent layers and what a module computes by itself: products of matrices, but no linear layers.
    found["dense_macs"] += max(0.0, MacsEstimator().estimate(operation) - sum(call.macs for call in calls) / 1e6)
    return {"operation": 1.0, **found}


def fit(operations: Sequence[Operation], ms: Sequence[float], *, folds: int = FOLDS) -> Prediction:
    """Fit milliseconds per feature, and cross-validate the fit.

    Parameters
    ----------
    operations
        What was measured, each key once.
    ms
        Its milliseconds, in the same order, greater than 0.
    folds
        Parts to leave out in turn, of rows in the order of their keys: row i is in part i modulo ``folds``, so that the
        same rows always give the same error. As many as rows: leave one out.

    Raises
    ------
    ValueError
        Too few rows; a number of milliseconds that is not greater than 0 and finite; a key that stands there twice. The
        message says how many rows are needed.
    """
    if len(operations) != len(ms):
        raise ValueError(f"prediction: {len(operations)} operations, but {len(ms)} times; allowed: one time each")
    keys = [operation.key for operation in operations]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"prediction: '{twice[0]}' stands there {keys.count(twice[0])} times; allowed: once")
    for key, value in zip(keys, ms, strict=True):
        if not 0 < value < float("inf"):
            raise ValueError(f"prediction: '{key}' takes {value} ms; allowed: greater than 0")

    order = sorted(range(len(keys)), key=lambda i: keys[i])
    rows = [features(operations[i]) for i in order]
    names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    needed = ROWS_PER_FEATURE * max(1, len(names))
    if len(rows) < needed:
        raise ValueError(
            f"prediction: {len(rows)} measured operations; needed: at least {needed}, twice as many as they have features "
            f"({', '.join(names) or 'none yet'})"
        )
    if not 2 <= folds <= len(rows):
        raise ValueError(f"prediction: folds is {folds}; allowed: 2 to {len(rows)}, the number of measured operations")

    x = np.array([[row[name] for name in names] for row in rows])
    t = np.array([float(ms[i]) for i in order])
    part = np.arange(len(t)) % folds
    left_out = np.empty_like(t)
    for i in range(folds):
        left_out[part == i] = x[part == i] @ _solve(x[part != i], t[part != i])
    error = np.abs(left_out - t) / t
    worst = int(error.argmax())
    checked = CrossValidation(
        rows=len(t), folds=folds, mean=float(error.mean()), median=statistics.median(error.tolist()),
        p95=float(np.quantile(error, 0.95)), worst=float(error[worst]), worst_key=keys[order[worst]],
    )  # fmt: skip
    return Prediction(dict(zip(names, _solve(x, t).tolist(), strict=True)), checked)


def _solve(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """w >= 0 of the least relative squared error; columns of one length, so that units do not decide the rounding."""
    relative = x / t[:, None]
    length = np.linalg.norm(relative, axis=0)
    length[length == 0] = 1.0  # a feature that only the rows left out have
    return nnls(relative / length, np.ones_like(t))[0] / length


def predict_missing(
    rows: Mapping[str, Measurement], operations: Sequence[Operation]
) -> tuple[dict[str, Measurement], CrossValidation]:
    """Rows for those operations of a space that a table lacks, from those that it has.

    Parameters
    ----------
    rows
        Key -> measurement. Rows that were predicted themselves are not fitted on, nor are those of 0, which a fit to whole
        networks may have: the error is relative.
    operations
        All of the space, as :func:`~nni_proxyless.latency.trace_operations` gives them; equal keys are taken once. Rows of
        operations that are not among them are not used: without a module their features are not known.

    Returns
    -------
    tuple
        Key -> row, only of what was missing, with ``predicted=True``; its 95th percentile is the prediction and the 95th
        percentile of the cross-validated error, its count the number of rows that were fitted on. And the error.

    Raises
    ------
    ValueError
        Too few operations have a row.
    KeyError
        A missing operation does what none of the measured ones does.
    """
    found = {operation.key: operation for operation in operations}
    known = [key for key in found if key in rows and not rows[key].predicted and rows[key].median_ms > 0]
    prediction = fit([found[key] for key in known], [rows[key].median_ms for key in known], folds=_folds(len(known)))
    predicted = {}
    for key, operation in found.items():
        if key not in rows and not operation.in_constant:
            ms = prediction.predict(operation)
            predicted[key] = Measurement(ms, ms * (1 + prediction.error.p95), len(known), predicted=True)
    return predicted, prediction.error


def _folds(rows: int) -> int:
    return max(2, min(FOLDS, rows))
