"""What each choice adds to the loss of a network: a ridge regression on one-hot choices, from networks that were judged.

    loss(network) = constant + sum over labels of score(choice) + rest

Of networks that were trained one by one, 81 to 93 % of the differences in accuracy are such a sum (computed from NAS-Bench-Macro). A verdict
of a supernet has an error of its own for every network; the fit averages over all networks that have a choice in common, and it speaks of
networks that were not judged. Few labels and some tens of networks: a regression takes milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..latency.choices import as_key

__all__ = ["AdditiveFit", "fit_additive"]

STRENGTHS = tuple(2.0**k for k in range(-1, 11))  # in networks: a choice that so many have is shrunk to half
FOLDS = 10
LEAST = 5  # networks of which a part can be left out


@dataclass(frozen=True)
class AdditiveFit:
    """A regression, and how good it is for networks that are left out of it.

    Attributes
    ----------
    scores
        Label -> choice -> what it adds to the loss; lower is better. 0 for a choice that no network has. A set of inputs is a tuple.
    constant
        The rest, the same for all networks.
    correlation, rank_correlation
        Cross-validated, Pearson's and Spearman's: of the losses of networks with what the fit to the others predicts. nan of fewer
        than 5 networks, and where all losses are equal.
    p_value
        How likely a correlation this large is where choices say nothing about the loss (one-sided); nan as above.
    strength
        Of the ridge, chosen by leaving each network out.
    """

    scores: dict[str, dict[Any, float]]
    constant: float
    correlation: float
    rank_correlation: float
    p_value: float
    strength: float

    def predict(self, sample: Mapping[str, Any]) -> float:
        """The loss of a network, by the sum."""
        return self.constant + math.fsum(of[as_key(sample[label])] for label, of in self.scores.items())

    @property
    def knows(self) -> bool:
        """Whether the correlation is above what chance gives, at 5 %."""
        return self.p_value < 0.05


def fit_additive(
    choices: Sequence[Mapping[str, Any]], values: Sequence[float], candidates: Mapping[str, Sequence[Any]]
) -> AdditiveFit:
    """Fit the losses of networks.

    Parameters
    ----------
    choices
        Of each network, label -> choice.
    values
        Its loss, finite.
    candidates
        Label -> all that may be chosen.

    Raises
    ------
    ValueError
        There is no network, not one value per network, a value is not finite, or a choice is none of the candidates.
    """
    if not choices or len(choices) != len(values):
        raise ValueError(
            f"values: {len(values)} for {len(choices)} networks; allowed: one for each, of 1 or more networks"
        )
    y = np.asarray(values, dtype=np.float64)
    if not np.isfinite(y).all():
        raise ValueError(f"values: {y[~np.isfinite(y)][0]} is among them; allowed: finite numbers")
    columns = {(label, as_key(choice)): i for i, (label, choice) in enumerate(_pairs(candidates))}
    x = np.zeros((len(y), len(columns)))
    for row, sample in zip(x, choices, strict=True):
        for label in candidates:
            try:
                row[columns[label, as_key(sample[label])]] = 1.0
            except KeyError:
                listed = ", ".join(map(repr, candidates[label]))
                raise ValueError(f"choices: label {label!r}: {sample.get(label)!r}; allowed: {listed}") from None
    weights, constant, strength, left_out = _fitted(x, y)
    scores: dict[str, dict[Any, float]] = {str(label): {} for label in candidates}
    for (label, choice), i in columns.items():
        scores[label][choice] = float(weights[i])
    return AdditiveFit(scores, constant, *_agreement(left_out, y), strength)


def _pairs(candidates: Mapping[str, Sequence[Any]]) -> list[tuple[str, Any]]:
    return [(label, choice) for label, of in candidates.items() for choice in of]


def _fitted(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, float, np.ndarray | None]:
    """Coefficients, intercept, strength; and what is predicted of each network without it, None of too few."""
    from sklearn.linear_model import RidgeCV  # here: it takes a second
    from sklearn.model_selection import KFold, cross_val_predict

    if len(y) < LEAST or np.ptp(y) == 0:
        return np.zeros(x.shape[1]), float(y.mean()), STRENGTHS[-1], None
    model = RidgeCV(
        alphas=STRENGTHS
    )  # by leaving one out, in closed form; in each fold anew, or the worth would be too good
    folds = KFold(min(FOLDS, len(y)), shuffle=True, random_state=0)
    left_out = cross_val_predict(model, x, y, cv=folds)
    model.fit(x, y)
    return model.coef_, float(model.intercept_), float(model.alpha_), left_out


def _agreement(left_out: np.ndarray | None, y: np.ndarray) -> tuple[float, float, float]:
    from scipy import stats

    if left_out is None or np.ptp(left_out) == 0:
        return math.nan, math.nan, math.nan
    r, p = stats.pearsonr(left_out, y, alternative="greater")
    return float(r), float(stats.spearmanr(left_out, y).statistic), float(p)
