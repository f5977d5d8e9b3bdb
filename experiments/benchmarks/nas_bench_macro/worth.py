"""What verdicts and found networks are worth, by the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from nni_proxyless.search.additive_fit import fit_additive

from .space import CHOICES, LABELS, sample_of
from .table import Table, Window

CANDIDATES = dict.fromkeys(LABELS, CHOICES)
HOW = ("by_probabilities", "by_supernet")


def agreement(score: Sequence[float] | np.ndarray, accuracy: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Pearson's r and Kendall's tau of a score, the higher the better, with the truth; 0 where all are scored alike."""
    if np.ptp(score) == 0 or np.ptp(accuracy) == 0:
        return {"r": 0.0, "tau": 0.0}
    return {
        "r": float(stats.pearsonr(score, accuracy).statistic),
        "tau": float(stats.kendalltau(score, accuracy).statistic),
    }


def worth(verdicts: Mapping[str, Sequence[Any]], table: Table, window: Window) -> dict[str, Any]:
    """How well verdicts on networks of a window agree with the table: log-loss, accuracy, and what a sum over choices makes of log-loss.

    Parameters
    ----------
    verdicts
        ``names``, ``log_loss``, ``accuracy`` and, of a search, ``log_probability`` and ``training_loss`` of networks.

    Returns
    -------
    dict
        ``log_loss``, ``accuracy``, ``probabilities``: over the networks that were judged; ``smoothed``: of the fitted sums, over all of the window;
        ``cross_validated``: the correlation that the fit itself tells, without the table; ``training``: of what choices added to
        the losses of trained paths; ``mixture``: of verdicts smoothed by the fit and the latter, which vary alike, as in selection by a mixture.
    """
    truth = table.accuracy[[table.index(name) for name in verdicts["names"]]]
    log_loss, accuracy = (np.asarray(verdicts[key], dtype=float) for key in ("log_loss", "accuracy"))
    fit = fit_additive([sample_of(name) for name in verdicts["names"]], log_loss.tolist(), CANDIDATES)
    smoothed = [-fit.predict(sample_of(name)) for name in table.names(window.indices)]
    mean = -(log_loss + [fit.predict(sample_of(name)) for name in verdicts["names"]]) / 2
    others = {
        "probabilities": np.asarray(verdicts.get("log_probability", ()), dtype=float),
        "training": -np.asarray(verdicts.get("training_loss", ()), dtype=float),
    }
    others = {name: said for name, said in others.items() if len(said) and np.ptp(said) > 0}
    if "training" in others:
        others["mixture"] = stats.zscore(mean) + stats.zscore(others["training"])
    told = {name: agreement(said, truth) for name, said in others.items()}
    return {
        **told,
        "log_loss": agreement(-log_loss, truth), "accuracy": agreement(accuracy, truth), "smoothed": agreement(smoothed, window.accuracy),
        "cross_validated": {"r": fit.correlation, "tau": fit.rank_correlation}, "networks": len(truth),
    }  # fmt: skip


def summary(table: Table, budgets: Sequence[float], cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What random networks of each budget are worth, and the mean over seeds of what was found and of how well verdicts agree."""
    windows = {f"{share:g}": table.window(share) for share in budgets}
    return {
        "chance": {share: window.chance() | {"noise": table.noise(window)} for share, window in windows.items()},
        "found": found_by_searches(cells),
        "recipes": told_by_supernets(cells),
    }


def found_by_searches(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per method, budget and way to choose."""
    rows = []
    for method, budget, mine in _by_name_and_budget(cells, "search"):
        for how in HOW:
            networks = [of[how] for _, of in mine]
            known = [network["seconds"] for network in networks if network["seconds"] is not None]
            seconds = statistics.mean(known) if known else None
            rows.append({
                "method": method, "budget": float(budget), "how": how, **means(networks), "seconds": seconds,
                "worth": _mean_worth([of["worth"] for _, of in mine]),
            })  # fmt: skip
    return rows


def told_by_supernets(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per recipe and budget."""
    rows = []
    for recipe, budget, mine in _by_name_and_budget(cells, "supernet"):
        selected = {
            method: means([of["selected"][method] for _, of in mine]) | {
                "judged": statistics.mean(of["selected"][method]["judged"] for _, of in mine),
            }
            for method in mine[0][1]["selected"] if method != "seconds"
        }  # fmt: skip
        rows.append({
            "recipe": recipe, "budget": float(budget), "seeds": len(mine), **_mean_worth([of["worth"] for _, of in mine]),
            "selected": selected, "training_seconds": statistics.mean(one["training"]["seconds"] for one, _ in mine),
            "seconds_per_network": statistics.mean(
                of["verdicts"]["seconds"] / len(of["verdicts"]["names"]) for _, of in mine
            ),
        })  # fmt: skip
    return rows


def _by_name_and_budget(
    cells: Sequence[Mapping[str, Any]], kind: str
) -> list[tuple[str, str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]]]:
    """Name, budget and, of each seed, the cell and what it found at this budget."""
    groups: dict[tuple[str, str], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for one in cells:
        if one["kind"] == kind:
            for budget, of in one["budgets"].items():
                groups.setdefault((one["name"], budget), []).append((one, of))
    return [(name, budget, mine) for (name, budget), mine in groups.items()]


def _mean_worth(told: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Over seeds, of each kind of verdict."""
    kinds = [kind for kind in told[0] if kind != "networks" and all(kind in t for t in told)]
    return {kind: {key: statistics.mean(t[kind][key] for t in told) for key in ("r", "tau")} for kind in kinds}


def means(networks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of networks by their standing: mean and standard error of accuracy, mean regret and rank."""
    accuracy = [network["accuracy"] for network in networks]
    error = statistics.stdev(accuracy) / len(accuracy) ** 0.5 if len(accuracy) > 1 else None
    return {
        "accuracy": statistics.mean(accuracy), "standard_error": error, "accuracies": accuracy,
        "regret": statistics.mean(network["regret"] for network in networks),
        "rank": statistics.mean(network["rank"] for network in networks), "of": networks[0]["of"],
    }  # fmt: skip
