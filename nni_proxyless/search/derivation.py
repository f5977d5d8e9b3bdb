"""Derive further networks from a finished search: the most probable one under a budget, the best by its supernet, or a front.

:class:`.finished_search.FinishedSearch` -> choices -> :class:`.finished_search.Derived` -> architecture.json, weights
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.atomic_files import write_csv
from ..core.errors import UserError
from ..core.progress import bar
from ..core.text_table import in_columns
from ..latency.digits import distinct_in_words, in_words
from ..latency.objectives.budget import fastest, slowest
from ..models.architecture import Architecture
from .finished_search import Derived, FinishedSearch, columns_of
from .judged_front import judge_front
from .selection import DEFAULT_METHOD
from .supernet_files import JUDGED
from .supernet_selection import judging_images, select_network
from .timed_choice import choose_timed, require_timing

__all__ = ["budget_folder", "derive_front", "derive_judged", "derive_under_budget", "front_table", "require_free"]


def derive_under_budget(
    run: Path, budget: float, folder: Path, *, at_least: float | None = None, n_timed: int | None = None
) -> Architecture:
    """Take the most probable network under a budget out of a finished search and write it to ``folder``.

    With ``at_least``, one that costs at least so much, if there is one; see :meth:`FinishedSearch.best`. With ``n_timed``, the most probable
    network that is within the budget as timed, of so many that may be the most probable one (:mod:`.timed_choice`); all of them go to ``timed.csv``.

    Raises
    ------
    UserError
        No such search, no such network, nothing that times, or the folder holds something else.
    """
    if math.isnan(budget):
        raise UserError("--budget-ms: nan; allowed: a number")
    require_free(folder)
    search = FinishedSearch.read(run)
    if n_timed is None:
        derived = search.derive(search.best(budget, at_least), budget, measured=True)
        derived.write(folder)
        return derived.architecture
    require_timing(search, n_timed)
    timed = choose_timed(search, search.contenders(n_timed, budget, at_least), budget)
    derived = search.derive(timed.choices, budget, measured=True, timed=timed.record())
    derived.write(folder)
    timed.write(folder)
    return derived.architecture


def derive_judged(
    run: Path, budget: float, folder: Path, n: int, *, method: str = DEFAULT_METHOD, at_least: float | None = None,
    n_timed: int | None = None,
) -> Architecture:  # fmt: skip
    """Let the supernet of a finished search judge n networks under a budget, and write the one that is selected to ``folder``.

    All verdicts go to ``judged.csv``. The most probable network is judged among the n.

    Parameters
    ----------
    at_least
        What each drawn network costs at least; None: 95 % of the budget, or less where no network costs so much.
    n_timed
        How many of the best by the verdicts are timed: the best of them that is within the budget as timed is left. None: none, the best is.

    Raises
    ------
    UserError
        n is less than 2, there are no trained weights to judge with, no network is within the budget; or as
        :func:`derive_under_budget`.
    """
    if math.isnan(budget):
        raise UserError("--budget-ms: nan; allowed: a number")
    if n < 2:
        raise UserError(f"--judge: {n} is not allowed here; allowed: 2 or more networks")
    require_free(folder)
    search = FinishedSearch.read(run)
    _require_weights(search, run)
    if n_timed is not None:
        require_timing(search, n_timed)
    selected = select_network(
        search.space, search.profiler, judging_images(search.parts), n=n, seed=search.parts.config.seed, budget=budget,
        at_least=at_least, method=method, first=[search.best(budget, at_least)], known=search.known, supernet=search.supernet,
    )  # fmt: skip
    timed, said = None, {}
    if n_timed is not None:
        timed = choose_timed(search, [verdict.choices for verdict in selected.selection.ranked[:n_timed]], budget)
        selected, said = selected.without_first(timed.within[0]), {"timed": timed.record()}
    derived = search.derive(selected.choices, budget, measured=True, selection=selected.record(), **said)
    derived.write(folder)
    selected.write(folder / JUDGED, search.probs, search.training)
    if timed is not None:
        timed.write(folder)
    return derived.architecture


def derive_front(run: Path, n: int, folder: Path, n_judged: int | None = None) -> list[Derived]:
    """A network for each of n budgets, evenly from the fastest to the slowest network; duplicates are one.

    ``folder`` gets ``front.csv``, ``front.png`` and, in a folder per network, its architecture and weights.

    Parameters
    ----------
    n_judged
        So many networks are judged by the supernet, which says what is the best within each budget (:mod:`.judged_front`); all verdicts go to
        ``judged.csv``. None: it is the most probable one.

    Raises
    ------
    UserError
        As :func:`derive_under_budget` and :func:`derive_judged`; or n is less than 2.
    """
    if n < 2:
        raise UserError(f"--front: {n} is not allowed here; allowed: 2 or more networks")
    if n_judged is not None and n_judged < 2:
        raise UserError(f"--judge: {n_judged} is not allowed here; allowed: 2 or more networks")
    require_free(folder)
    search = FinishedSearch.read(run)
    low, high = fastest(search.profiler)[1], slowest(search.profiler)[1]
    budgets = [low + (high - low) * i / (n - 1) for i in range(n - 1)] + [max(low, high)]
    chosen: list[tuple[float, dict[str, Any], dict[str, Any]]]  # budget, choices, what says how they were chosen
    if n_judged is None:
        chosen = [(budget, sample, {}) for budget, sample in _most_probable(search, budgets)]
    else:
        _require_weights(search, run)
        selected = judge_front(search, budgets, n_judged)
        chosen = [(budget, one.choices, {"selection": one.record()}) for budget, one in selected]
    found = []
    with bar(len(chosen), "front", "network") as done:
        for budget, sample, said in chosen:
            found.append(search.derive(sample, budget, measured=False, **said))
            done.update()
    names = distinct_in_words([derived.architecture.latency["table_ms"] for derived in found])
    for name, derived in zip(names, found, strict=True):
        derived.write(folder / name)
    if n_judged is None:
        (folder / JUDGED).unlink(missing_ok=True)
    else:
        one = selected[-1][1]
        one.write(folder / JUDGED, search.probs, search.training, [other.choices for _, other in selected])
    write_csv(folder / "front.csv", columns_of(found[0].architecture.merit), (derived.row for derived in found))
    _plot(found, search.profiler.unit, folder / "front.png")
    return found


def _most_probable(search: FinishedSearch, budgets: Sequence[float]) -> list[tuple[float, dict[str, Any]]]:
    """Of each budget, but where it is that of the budget before."""
    found: list[tuple[float, dict[str, Any]]] = []
    with bar(len(budgets), "front", "budget") as done:
        for budget in budgets:
            sample = search.best(budget, at_least=-math.inf)
            # A network that was within the last budget already ties with that one.
            if not found or search.profiler.profile(sample) > found[-1][0]:
                found.append((budget, sample))
            done.update()
    return found


def _require_weights(search: FinishedSearch, run: Path) -> None:
    if not search.inherits:
        raise UserError(
            f"--judge: {run} has no weights of a supernet to judge with; allowed: after a search that keeps all candidates, as with "
            "strategy 'proxyless'"
        )


def front_table(found: Sequence[Derived]) -> str:
    """One row per network."""
    merit = found[0].architecture.merit
    rows = [("budget", f"table {found[0].row[-1]}", "log p", "MACs", "params", merit.name)]
    for derived in found:
        budget, ms, log_p, macs, n_params, worth, _ = derived.row
        rows.append((in_words(budget), in_words(ms), f"{log_p:.3f}", f"{macs / 1e6:.2f} M", f"{n_params / 1e3:.1f} k",
                     merit.in_words(worth)))  # fmt: skip
    return "\n".join(in_columns(rows))


def budget_folder(budget: float) -> str:
    """``budget-3.000``, with all digits that the budget has."""
    return f"budget-{budget:.3f}" if float(f"{budget:.3f}") == budget else f"budget-{budget!r}"


def require_free(folder: Path) -> None:
    """Refuse a path that is not a folder, or a folder with results that ``derive`` has not written."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--output {folder}: '{there}' is a file; name another folder")
    for name in ("search.yml", "train.yml", "history.jsonl"):
        if (folder / name).exists():
            raise UserError(
                f"--output {folder}: holds the results of a search or a training ({name}); name another folder"
            )
    path = folder / "architecture.json"
    if path.exists() and "derived_from" not in Architecture.read(path).search:
        raise UserError(
            f"--output {folder}: holds an architecture.json that derive has not written; name another folder"
        )


def _plot(found: Sequence[Derived], unit: str, path: Path) -> None:
    from matplotlib.figure import Figure  # no window, and no state outside this function

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([derived.row[1] for derived in found], [derived.row[5] for derived in found], marker="o")
    axes.set_xlabel(f"latency, {unit}")
    axes.set_ylabel(f"validation {found[0].architecture.merit.name}")
    figure.savefig(path)
