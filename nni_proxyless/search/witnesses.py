"""What else is known of the choices of a search, and how much it counts beside the verdicts of its supernet.

==============  =======================================================================================================
``training``    what each candidate added to the losses of the paths that weights were trained on: a regression, at no
                cost, since these losses were computed anyway
==============  =======================================================================================================

    loss(network) = verdict + sum over witnesses of weight * sum over labels of score(choice)

It speaks of the same networks from other batches: its errors differ in part, and the sum is closer to the truth than a verdict is. The probabilities of a
search are no witness: what they add is further from the truth than verdicts are (both: ``experiments/benchmarks/nas_bench_macro``). The weight is such that every witness varies as much as the verdicts do among the networks that were
judged. It is 0 where the two do not agree by more than chance: a witness that has learned nothing would add nothing but noise. What chance gives is
seen by shuffling its scores within every choice: networks that have choices in common are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..latency.choices import as_key
from .additive_fit import LEAST, fit_additive

__all__ = ["Scores", "Witness", "hear", "of_training", "summed"]

Scores = Mapping[str, Mapping[Any, float]]
"""Label -> choice -> a number; less is better. A set of inputs is a tuple."""

LEVEL = 0.05  # one-sided, of the agreement
SHUFFLES = 999
TREND = 3  # degree: of the losses of a training, which fall


@dataclass(frozen=True)
class Witness:
    """Scores of choices, and how much they count.

    Attributes
    ----------
    correlation, p_value
        Of its sums with the verdicts on networks, and in what share of 999 shuffles it was as large. nan of fewer than 5 networks, and where
        all are alike.
    weight
        Nats of loss to one of a sum; 0: it does not count.
    """

    scores: Scores = field(default_factory=dict)
    correlation: float = math.nan
    p_value: float = math.nan
    weight: float = 0.0

    def loss(self, sample: Mapping[str, Any]) -> float:
        """What it adds to the loss of a network."""
        return self.weight * summed(self.scores, sample) if self.weight else 0.0

    def added_to(self, scores: Scores) -> dict[str, dict[Any, float]]:
        """Scores of a loss, with what this one adds to them."""
        if not self.weight:
            return {label: dict(of) for label, of in scores.items()}
        return {
            label: {choice: score + self.weight * self.scores[label][choice] for choice, score in of.items()}
            for label, of in scores.items()
        }


def of_training(
    paths: Sequence[Mapping[str, Any]], losses: Sequence[float], candidates: Mapping[str, Sequence[Any]]
) -> Scores:
    """What each candidate adds to the losses of trained paths, in nats.

    Parameters
    ----------
    paths, losses
        Of steps, the oldest first: label -> choice, and the loss of a batch. The trend of losses is left out of account.
    candidates
        Label -> all that may be chosen.

    Returns
    -------
    Scores
        None at all where there are fewer than 10 steps with a finite loss.
    """
    y = np.asarray(losses, dtype=float)
    sound = np.flatnonzero(np.isfinite(y))
    if len(sound) < 2 * LEAST:
        return {}
    trend = np.polynomial.Polynomial.fit(sound, y[sound], TREND)
    return fit_additive([paths[i] for i in sound.tolist()], (y[sound] - trend(sound)).tolist(), candidates).scores


def hear(
    scores: Scores,
    samples: Sequence[Mapping[str, Any]],
    losses: Sequence[float],
    candidates: Mapping[str, Sequence[Any]],
) -> Witness:
    """Ask whether scores agree with verdicts, and so how much they count.

    Parameters
    ----------
    scores
        Without one of the candidates they do not count.
    samples, losses
        Networks, and the verdicts on them.
    candidates
        Label -> all that may be chosen.
    """
    if any(as_key(choice) not in scores.get(label, ()) for label, of in candidates.items() for choice in of):
        return Witness()
    scores = {label: scores[label] for label in candidates}
    loss = np.asarray(losses, dtype=float)
    sound = [sample for sample, finite in zip(samples, np.isfinite(loss), strict=True) if finite]
    loss = loss[np.isfinite(loss)]
    if len(loss) < LEAST or np.ptp(loss) == 0:
        return Witness(scores)
    said = _shuffled(scores, sound)
    if np.ptp(said[0]) == 0:
        return Witness(scores)
    r = _correlations(said, loss)
    p = float((r >= r[0]).mean())
    return Witness(scores, float(r[0]), p, float(loss.std() / said[0].std()) if p < LEVEL else 0.0)


def summed(scores: Scores, sample: Mapping[str, Any]) -> float:
    """Of the choices of a network."""
    return math.fsum(of[as_key(sample[label])] for label, of in scores.items())


def _shuffled(scores: Scores, samples: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Sums of networks, shape (1 + SHUFFLES, networks): as they are, then with the scores of each label among its choices at random."""
    chance, found = np.random.default_rng(0), np.zeros((1 + SHUFFLES, len(samples)))
    for label, of in scores.items():
        number = {choice: i for i, choice in enumerate(of)}
        chosen = [number[as_key(sample[label])] for sample in samples]
        values = np.tile(np.array(list(of.values())), (1 + SHUFFLES, 1))
        values[1:] = chance.permuted(values[1:], axis=1)
        found += values[:, chosen]
    return found


def _correlations(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson's, of every row with the values; 0 for a row whose numbers are all alike."""
    centered = rows - rows.mean(1, keepdims=True)
    deviation = np.linalg.norm(centered, axis=1) * np.linalg.norm(values - values.mean())
    return (centered @ (values - values.mean())) / np.where(deviation > 0, deviation, np.inf)
