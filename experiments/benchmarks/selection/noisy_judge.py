"""A judge that is as good as it is told to be: the table of NAS-Bench-Macro with an error.

    verdict = r z + sqrt(1 - r^2) (sqrt(h) a + sqrt(1 - h - s) e + sqrt(s) i)

z is a network's accuracy, a an error that is a sum over its choices, e one of its own, i that of the images that judge; over the networks of
the window each has mean 0 and variance 1. So r is the correlation of verdict and truth there. With four times as many images i has half of
its deviation; a and e stay: a supernet whose large candidates have trained too little is wrong about all networks that have them, by however
many images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nni_proxyless.search.judging import Verdict

from ..nas_bench_macro.space import CHOICES, LABELS
from ..nas_bench_macro.table import Table, Window

LOSS, SPREAD = 1.0, 0.1  # log-loss of a mean network, and of one standard deviation
MORE = 4  # times the images, when it judges again


class NoisyJudge:
    """Verdicts on networks: log-loss, and an accuracy that says the same.

    Parameters
    ----------
    table, window
        Of all networks, and of those that r, h and s are told for.
    r
        Correlation of verdicts with the truth, 0 to 1.
    seed
        The only source of chance.
    additive, sampling
        h, s.

    Attributes
    ----------
    seen
        Times that a network was judged on as many images as usual: what judging has cost.
    """

    def __init__(
        self, table: Table, window: Window, r: float, seed: int, *, additive: float = 0.5, sampling: float = 0.05
    ):
        draw, n = np.random.default_rng((1, seed)), len(table.digits)  # networks are drawn by the seed itself
        of_choices = draw.normal(size=(len(LABELS), len(CHOICES)))[np.arange(len(LABELS)), table.digits].sum(1)
        truth, common, own, first, further = (
            standardized(values, window.indices) for values in (table.accuracy, of_choices, *draw.normal(size=(3, n)))
        )
        error, weight = np.sqrt(additive) * common + np.sqrt(1 - additive - sampling) * own, np.sqrt(1 - r**2)
        images = {1: first, MORE: first / MORE + np.sqrt(MORE - 1) / MORE * further}
        self.scores = {times: r * truth + weight * (error + np.sqrt(sampling) * i) for times, i in images.items()}
        self.table, self.seen = table, 0

    def __call__(self, samples: Sequence[Mapping[str, Any]], times: int = 1) -> list[Verdict]:
        rows = [self.table.index(sample) for sample in samples]
        self.seen += times * len(rows)
        told = zip(samples, self.scores[times][rows].tolist(), (self.table.macs[rows] / 1e6).tolist(), strict=True)
        return [
            Verdict(dict(sample), LOSS - SPREAD * score, 0.5 + SPREAD * score, cost) for sample, score, cost in told
        ]

    def again(self, samples: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """By more images."""
        return self(samples, MORE)


def standardized(values: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """With mean 0 and variance 1 over these of them."""
    some = values[indices]
    return (values - some.mean()) / some.std()
