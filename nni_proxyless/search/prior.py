"""What the probabilities of a search say beside the verdicts of its supernet.

    loss(network) = verdict - weight * sum over labels of log p(choice)

Both speak of the same networks, but a probability was learned step by step from gradients on many paths and batches, and a verdict is of one network on
one set of images: their errors are others, and the sum of both is closer to the truth than either
(``experiments/benchmarks/nas_bench_macro``). The weight is such that both vary alike among the networks that were judged. It is 0 where they do not
agree by more than chance: probabilities that have learned nothing would add nothing but noise. What chance gives is seen by
shuffling the probabilities within every choice: networks that have choices in common are no independent witnesses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .additive_fit import LEAST, key

__all__ = ["Prior", "fit_prior"]

LEVEL = 0.05  # one-sided, of the agreement
SHUFFLES = 999
SMALLEST = 1e-6  # a probability below it counts as that: none is known to so many digits


@dataclass(frozen=True)
class Prior:
    """Probabilities, and how much they count.

    Attributes
    ----------
    log_probs
        Label -> choice -> natural logarithm of its probability. A set of inputs is a tuple.
    correlation, p_value
        Of log-probabilities of networks with their verdicts, positive where the more probable ones have the smaller loss; and in what share of
        999 shuffles it was as large. nan of fewer than 5 networks, and where all are alike.
    weight
        Nats of loss to a nat of log-probability; 0: they do not count.
    """

    log_probs: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)
    correlation: float = math.nan
    p_value: float = math.nan
    weight: float = 0.0

    def loss(self, sample: Mapping[str, Any]) -> float:
        """What the probabilities add to the loss of a network."""
        return -self.weight * _log_probability(self.log_probs, sample) if self.weight else 0.0

    def added_to(self, scores: Mapping[str, Mapping[Any, float]]) -> dict[str, dict[Any, float]]:
        """Label -> choice -> a score of a loss, with what the probabilities add to it."""
        if not self.weight:
            return {label: dict(of) for label, of in scores.items()}
        return {
            label: {choice: score - self.weight * self.log_probs[label][choice] for choice, score in of.items()}
            for label, of in scores.items()
        }


def fit_prior(
    probs: Mapping[str, Mapping[Any, Any]] | None,
    samples: Sequence[Mapping[str, Any]],
    losses: Sequence[float],
    candidates: Mapping[str, Sequence[Any]],
) -> Prior:
    """Ask whether probabilities agree with verdicts.

    Parameters
    ----------
    probs
        Label -> choice -> probability at the end of a search. None, or without one of the candidates, as NNI's own strategies have them for
        sets of inputs: they do not count.
    samples, losses
        Networks, and the verdicts on them.
    candidates
        Label -> all that may be chosen.
    """
    known = {label: {key(choice): float(p) for choice, p in of.items()} for label, of in (probs or {}).items()}
    if any(key(choice) not in known.get(label, ()) for label, of in candidates.items() for choice in of):
        return Prior()
    log_probs = {
        label: {choice: math.log(max(p, SMALLEST)) for choice, p in known[label].items()} for label in candidates
    }
    loss = np.asarray(losses, dtype=float)
    sound = [sample for sample, finite in zip(samples, np.isfinite(loss), strict=True) if finite]
    loss = loss[np.isfinite(loss)]
    if len(loss) < LEAST or np.ptp(loss) == 0:
        return Prior(log_probs)
    said = _shuffled(log_probs, sound)
    if np.ptp(said[0]) == 0:
        return Prior(log_probs)
    r = _correlations(said, -loss)
    p = float((r >= r[0]).mean())
    return Prior(log_probs, float(r[0]), p, float(loss.std() / said[0].std()) if p < LEVEL else 0.0)


def _shuffled(log_probs: Mapping[str, Mapping[Any, float]], samples: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Log-probabilities of networks, shape (1 + SHUFFLES, networks): as they are, then those of each label among its choices at random."""
    chance, found = np.random.default_rng(0), np.zeros((1 + SHUFFLES, len(samples)))
    for label, of in log_probs.items():
        number = {choice: i for i, choice in enumerate(of)}
        chosen = [number[key(sample[label])] for sample in samples]
        values = np.tile(np.array(list(of.values())), (1 + SHUFFLES, 1))
        values[1:] = chance.permuted(values[1:], axis=1)
        found += values[:, chosen]
    return found


def _correlations(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson's, of every row with the values; 0 for a row whose numbers are all alike."""
    centered = rows - rows.mean(1, keepdims=True)
    deviation = np.linalg.norm(centered, axis=1) * np.linalg.norm(values - values.mean())
    return (centered @ (values - values.mean())) / np.where(deviation > 0, deviation, np.inf)


def _log_probability(log_probs: Mapping[str, Mapping[Any, float]], sample: Mapping[str, Any]) -> float:
    return math.fsum(of[key(sample[label])] for label, of in log_probs.items())
