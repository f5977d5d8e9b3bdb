"""Searches against what one gets without them, seed by seed, from the cells of a grid.

``n``: how many random networks a search is held against, as many as its compute trains. It is the CPU time of search, judging and final training
by that of one training of a random network, and mostly no whole number: between two numbers the expectation is interpolated, as if the
last network were trained in as many cases.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import optimize, stats

from ..common import record
from .grids import GROUPS, MOBILENETV2, ORIGINAL, TIMM, UNTAUGHT

BASELINES = ("random", *GROUPS, *MOBILENETV2, *TIMM, ORIGINAL, UNTAUGHT)
ALPHA = {"random": 0.05, ORIGINAL: 0.05, UNTAUGHT: 0.05}
OTHER_ALPHA = 0.01
WORTHWHILE = 0.005  # difference of accuracy for which the power of a comparison is given
POWER = 0.8  # with which the detectable difference is detected

Cell = Mapping[str, Any]


def expected_best(trained: Sequence[Mapping[str, float]], n: float) -> float:
    """Test accuracy of the one of n networks that is best on the held-out images, mean over all sets of n.

    Parameters
    ----------
    n
        From 1 to the number of networks.
    """
    below, share = int(n), n - int(n)

    def mean(n: int) -> float:
        return statistics.mean(best(some)["test_accuracy"] for some in itertools.combinations(trained, n))

    return mean(below) if share == 0 else (1 - share) * mean(below) + share * mean(below + 1)


def best(networks: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The one that is most accurate on the held-out images; test images have no part in it."""
    return max(networks, key=lambda network: network["held_out_accuracy"])


def mean_seconds(cells: Iterable[Cell]) -> float | None:
    """CPU time of a network of these cells; None where none of them ran at once."""
    known = [cell["seconds"] / len(cell["networks"]) for cell in cells if cell["seconds"] is not None]
    return statistics.mean(known) if known else None


def random_networks_by_compute(cells: Sequence[Cell]) -> dict[str, float]:
    """Method -> how many random networks the compute of its search, judging and final training trains.

    Methods without a search, and those of which no cell ran at once, are left out.
    """
    of_one = mean_seconds(cell for cell in cells if cell["method"] == "random")
    found = {}
    for method in searched_methods(cells):
        of_search = mean_seconds(cell for cell in cells if cell["method"] == method)
        if of_search is not None and of_one is not None:
            found[method] = of_search / of_one
    return found


def searched_methods(cells: Sequence[Cell]) -> list[str]:
    """In the order of their cells."""
    return [method for method in dict.fromkeys(cell["method"] for cell in cells) if method not in BASELINES]


def power(difference: float, deviation: float, n: int, alpha: float) -> float:
    """Probability that a two-sided paired t-test finds a difference to be significant, and of the right sign.

    Parameters
    ----------
    difference, deviation
        Mean and standard deviation of the differences of pairs, which are taken to be normal.
    n
        Pairs.
    """
    degrees = n - 1
    return float(stats.nct.sf(stats.t.isf(alpha / 2, degrees), degrees, difference / deviation * math.sqrt(n)))


def detectable(deviation: float, n: int, alpha: float) -> float:
    """The difference that such a test finds in 80 of 100 experiments."""
    unit = deviation / math.sqrt(n)
    high = unit
    while power(high, deviation, n, alpha) < POWER:
        high *= 2
    return float(optimize.brentq(lambda d: power(d, deviation, n, alpha) - POWER, 0, high))


def compared(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Of every searched method against every baseline, over the seeds and targets that both have.

    Returns
    -------
    list of dict
        ``difference`` of accuracy with ``standard_error``, ``p`` of a two-sided paired t-test, ``power`` of that test for a difference of half a
        point, and the ``detectable`` difference, both for the ``alpha`` of the comparison; None where there is one pair, or where all
        differences are the same. ``n`` of random networks: what the compute trains, or all that were drawn where that is more or unknown.
    """
    count, found = random_networks_by_compute(cells), []
    at = {(cell["method"], cell["width"], cell["seed"]): cell for cell in cells}
    drawn = min((len(cell["networks"]) for cell in cells if cell["method"] == "random"), default=0)
    for method, baseline in itertools.product(searched_methods(cells), BASELINES):
        n = min(max(1.0, count.get(method, drawn)), drawn) if baseline == "random" else None
        pairs = [
            (cell["networks"][0]["test_accuracy"], theirs)
            for (name, *where), cell in at.items()
            if name == method and (theirs := _accuracy(at, baseline, where, n)) is not None
        ]
        if pairs:
            alpha = ALPHA.get(baseline, OTHER_ALPHA)
            found.append({"method": method, "baseline": baseline, "n": n, "alpha": alpha, **_tested(pairs, alpha)})
    return found


def _accuracy(at: Mapping[tuple[Any, ...], Cell], baseline: str, where: Sequence[Any], n: float | None) -> float | None:
    """What a baseline has for one seed and target; None where a cell of it is missing."""
    cells = [at.get((method, *where)) for method in GROUPS.get(baseline, (baseline,))]
    networks = [network for cell in cells if cell is not None for network in cell["networks"]]
    if None in cells:
        return None
    return best(networks)["test_accuracy"] if n is None else expected_best(networks, n)


def _tested(pairs: Sequence[tuple[float, float]], alpha: float) -> dict[str, Any]:
    n, differences = len(pairs), [ours - theirs for ours, theirs in pairs]
    found: dict[str, Any] = dict.fromkeys(("standard_error", "p", "power", "detectable"))
    if n > 1 and (deviation := statistics.stdev(differences)) > 0:
        found = {
            "standard_error": deviation / math.sqrt(n), "p": float(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue),
            "power": power(WORTHWHILE, deviation, n, alpha), "detectable": detectable(deviation, n, alpha),
        }  # fmt: skip
    return {"pairs": n, "difference": statistics.mean(differences), **found}


def goals(comparisons: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A bar for each comparison of a search with random networks and with the best of each kind of hand-made ones.

    It is the lower end of the interval of confidence of the difference, in points: above 0 where the search is better with a p below alpha.
    """
    return [
        record.bar(
            f"{c['method']} against {c['baseline']}: lower end of the {100 * (1 - c['alpha']):.0f} % interval, points",
            100 * (c["difference"] - c["standard_error"] * float(stats.t.isf(c["alpha"] / 2, c["pairs"] - 1))), at_least=0.0,
        )
        for c in comparisons
        if c["baseline"] in ("random", *GROUPS, ORIGINAL) and c["p"] is not None
    ]  # fmt: skip
