"""What else is known of the choices of a search, and how much it counts beside the verdicts of its supernet.

==============  =======================================================================================================
``training``    what each candidate added to the losses of the paths that weights were trained on: a regression, at no
                cost, since these losses were computed anyway
==============  =======================================================================================================

    loss(network) = verdict + sum over witnesses of weight * sum over labels of score(choice)

It speaks of the same networks from other batches: its errors differ in part, and the sum is closer to the truth than a verdict is. The weight is such that
a witness varies as much as the verdicts do among the networks that were judged; it is 0 where the two contradict each other. The probabilities of a
search are no witness: what they add is further from the truth than verdicts are (all of it: ``experiments/benchmarks/nas_bench_macro``).
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

TREND = 3  # degree: of the losses of a training, which fall


@dataclass(frozen=True)
class Witness:
    """Scores of choices, and how much they count.

    Attributes
    ----------
    correlation
        Of its sums with the verdicts on networks. nan of fewer than 5 networks, and where all are alike.
    weight
        Nats of loss to one of a sum; 0: it does not count.
    """

    scores: Scores = field(default_factory=dict)
    correlation: float = math.nan
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
        None at all where there are fewer than 10 steps with a finite loss, and where the regression predicts the losses of steps that are left out of it
        no better than chance does.
    """
    y = np.asarray(losses, dtype=float)
    sound = np.flatnonzero(np.isfinite(y))
    if len(sound) < 2 * LEAST:
        return {}
    trend = np.polynomial.Polynomial.fit(sound, y[sound], TREND)
    fit = fit_additive([paths[i] for i in sound.tolist()], (y[sound] - trend(sound)).tolist(), candidates)
    return fit.scores if fit.knows else {}


def hear(
    scores: Scores,
    samples: Sequence[Mapping[str, Any]],
    losses: Sequence[float],
    candidates: Mapping[str, Sequence[Any]],
) -> Witness:
    """Hold scores against verdicts: how far they agree, and so how much they count.

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
    said = np.array([summed(scores, sample) for sample in sound])
    if np.ptp(said) == 0:
        return Witness(scores)
    r = float(np.corrcoef(said, loss)[0, 1])
    return Witness(scores, r, float(loss.std() / said.std()) if r > 0 else 0.0)


def summed(scores: Scores, sample: Mapping[str, Any]) -> float:
    """Of the choices of a network."""
    return math.fsum(of[as_key(sample[label])] for label, of in scores.items())
