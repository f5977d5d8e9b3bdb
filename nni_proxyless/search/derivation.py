"""Derive further networks from a finished search: the most probable one under a budget, with the supernet's weights.

search.yml, latencies.yaml, probabilities.json, supernet.safetensors -> choices -> network -> architecture.json, weights
"""

from __future__ import annotations

import copy
import csv
import functools
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nni.mutable import CategoricalMultiple
from nni.nas.nn.pytorch import ModelSpace

from ..config.read import read_config
from ..config.search_config import SearchConfig
from ..core.atomic_files import write_text, write_weights
from ..core.cpu_threads import use
from ..core.errors import UserError
from ..core.freezing import freeze
from ..core.nni_compat import keep_modules_when_frozen
from ..core.progress import bar
from ..core.text_table import in_columns
from ..latency import BudgetError, DeviceEstimator, LatencyProfiler, best_under_budget
from ..latency.choices import InputSet, as_nni_has_it, read_probs_back
from ..latency.digits import distinct_in_words, in_words
from ..latency.objectives.budget import fastest, log_probability, slowest
from ..latency.objectives.penalty import holds_target
from ..latency.value_tracing import is_open
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.draw import draw_beside
from ..models.record import describe, latency_record, record, unit_of
from ..models.space import make_space
from ..models.timm_model import load_weights
from .build import SearchParts, build
from .latency_table import measure_derived
from .monitor import judge
from .selection import DEFAULT_METHOD
from .supernet_files import (
    EVOLVED_FRONT,
    JUDGED,
    SUPERNET,
    Probabilities,
    read_probabilities,
    read_training_scores,
    require_finished,
    shapes_of,
)
from .supernet_selection import judging_images, select_network
from .witnesses import Scores

__all__ = [
    "Derived", "FinishedSearch", "budget_folder", "derive_front", "derive_judged", "derive_under_budget", "front_table", "require_free",
]  # fmt: skip

_logger = logging.getLogger(__name__)

COLUMNS = ("budget", "table_ms", "log_probability", "macs", "n_params", "accuracy", "unit")  # the last of the first two


@dataclass(frozen=True)
class FinishedSearch:
    """A finished search, read from its folder.

    Attributes
    ----------
    architecture
        Of the network that the search itself has left.
    parts
        What it was made of.
    supernet
        What networks are frozen from, with the trained weights where there are any, else with fresh ones: the space, or of cells and
        choices of values what the strategy makes of it.
    inherits
        Whether there are: a search with DSNAS lets go of all candidates but the chosen ones.
    probs
        Label -> choice -> probability at the end of the search.
    training
        Label -> choice -> what it added to the losses of trained paths; empty where the search did not note them.
    """

    parts: SearchParts
    architecture: Architecture
    supernet: ModelSpace
    inherits: bool
    probs: Probabilities
    training: Probabilities

    @property
    def folder(self) -> Path:
        return self.parts.folder

    @property
    def space(self) -> ModelSpace:
        return self.parts.space

    @property
    def profiler(self) -> LatencyProfiler:
        return self.parts.profiler

    @property
    def known(self) -> dict[str, Scores]:
        """What is known of the choices beside the supernet, as :func:`.selection.select` takes it."""
        return {"training": self.training}

    @functools.cached_property
    def input_labels(self) -> frozenset[str]:
        """Labels whose choice is a set of inputs."""
        return frozenset(label for label, m in self.space.simplify().items() if isinstance(m, CategoricalMultiple))

    @classmethod
    def read(cls, folder: Path) -> FinishedSearch:
        """Read the folder of a search.

        Raises
        ------
        UserError
            There is no search, it has not finished, a file is missing or does not fit, or its images are others now.
        """
        require_finished(folder)
        config = read_config(SearchConfig, folder / "search.yml", of_run=True)
        architecture = Architecture.read(folder / "architecture.json")
        stored = read_probabilities(folder)
        use(config.trainer.threads)
        torch.manual_seed(config.seed)  # of fresh weights
        parts = build(config, folder, finished=architecture)
        space = parts.space
        probs, training = (read_probs_back(of, space.simplify()) for of in (stored, read_training_scores(folder)))
        inherits, supernet = (folder / SUPERNET).exists(), space
        if inherits:
            state = load_weights(folder / SUPERNET)
            try:
                fits = {name: weight.shape for name, weight in state.items()} == shapes_of(space)
                if not fits or any(map(is_open, space.modules())):
                    supernet = parts.strategy.mutate_model(make_space(**architecture.space))
                supernet.load_state_dict(state)
            except (RuntimeError, TypeError) as error:
                raise UserError(f"{folder / SUPERNET}: does not fit the space of the search: {error}") from error
        else:
            _logger.warning(
                "%s has no %s: its strategy kept the chosen candidates only, so a derived network has fresh weights; train it "
                "from scratch", folder, SUPERNET,
            )  # fmt: skip
        supernet.to(memory_format=torch.channels_last)
        keep_modules_when_frozen(supernet)
        return cls(parts, architecture, supernet, inherits, probs, training)

    def best(self, budget: float, at_least: float | None = None) -> dict[str, Any]:
        """The choices of the most probable network under the budget.

        Of those that cost ``at_least`` so much, if there are any. Without it, if the search held a target, which its probabilities
        are about, near that, or near the budget, if that is lower: at 95 % of it or more, if there are such networks, and from 3 % below it on, each
        per cent weighs as much as a factor of e in probability (:mod:`..latency.objectives.nearness`).

        Raises
        ------
        UserError
            There is none; the message names the fastest that can be reached.
        """
        try:
            if at_least is None:
                sample = best_under_budget(self.probs, self.profiler, budget, near_ms=self.near(budget))
            else:
                sample = best_under_budget(self.probs, self.profiler, budget, at_least_ms=at_least)
        except BudgetError as error:
            raise UserError(str(error)) from error
        except ValueError as error:
            raise UserError(f"{self.folder}: {error}") from error
        return {label: self.choice(label, choice) for label, choice in sample.items()}

    def near(self, budget: float) -> float:
        """What networks of the search are near to: its target, or the budget, if that is lower; ``-inf`` if it held no target."""
        target, latency = self.architecture.latency.get("target_ms"), self.parts.config.latency
        if target is None or not holds_target(latency.weight, latency.nonlinear):
            return -math.inf
        return min(target, budget)

    def choice(self, label: str, choice: Any) -> Any:
        """A choice of the probabilities as one of a network."""
        if label in self.input_labels and not isinstance(choice, (list, InputSet)):
            # NNI's own strategies give a probability per input, not per set of inputs: the search's choice stays.
            return self.architecture.choices.get(label, choice)
        return as_nni_has_it(choice)

    def derive(self, sample: dict[str, Any], budget: float, *, measured: bool, **more: Any) -> Derived:
        """The network of these choices: statistics of batch norm estimated afresh, validated and, if asked for, timed; ``more`` is recorded."""
        network = copy.deepcopy(freeze(self.supernet, sample))
        accuracy = judge(network, *self.parts.judging_loaders, torch.device("cpu"))
        config, estimator = self.parts.config, self.parts.estimator
        shape = self.architecture.input_shape
        timed: dict[str, Any] = {}
        if measured and isinstance(estimator, DeviceEstimator):
            timed = measure_derived(self.profiler, estimator, network, shape, self.space, sample, self.folder)
        architecture = record(
            describe(
                self.space, sample, **self.architecture.space,
                data={**self.architecture.data, **self.parts.data.normalization}, input_shape=shape,
            ),
            network,
            latency=latency_record(self.profiler, sample, target=budget, **timed),
            search={
                "strategy": config.strategy.name, "seed": config.seed, "epochs": config.training.epochs,
                "accuracy": accuracy, **self.parts.in_int8(network, self.parts.judging_loaders[1]), "weights": "supernet" if self.inherits else "fresh",
                "derived_from": self.folder.name, "log_probability": log_probability(self.probs, sample), **more,
            },
        )  # fmt: skip
        weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        build_network(architecture, weights)  # what is written can be read back
        return Derived(budget, architecture, weights)


@dataclass(frozen=True)
class Derived:
    """One network under its budget, with its weights under the names of the network that is built from its file."""

    budget: float
    architecture: Architecture
    weights: dict[str, torch.Tensor]

    def write(self, folder: Path) -> None:
        """Write ``architecture.json``, ``weights.safetensors`` and the picture ``network.svg``."""
        write_weights(folder / "weights.safetensors", self.weights)
        self.architecture.write(folder / "architecture.json")
        draw_beside(folder / "architecture.json")

    @property
    def row(self) -> tuple[Any, ...]:
        """Its figures, in the order of :data:`COLUMNS`."""
        a = self.architecture
        return (
            self.budget, a.latency["table_ms"], a.search["log_probability"], a.macs, a.n_params, a.search["accuracy"],
            unit_of(a.latency),
        )  # fmt: skip


def derive_under_budget(run: Path, budget: float, folder: Path, *, at_least: float | None = None) -> Architecture:
    """Take the most probable network under a budget out of a finished search and write it to ``folder``.

    With ``at_least``, one that costs at least so much, if there is one; see :meth:`FinishedSearch.best`.

    Raises
    ------
    UserError
        No such search, no such network, or the folder holds something else.
    """
    if math.isnan(budget):
        raise UserError("--budget-ms: nan; allowed: a number")
    require_free(folder)
    search = FinishedSearch.read(run)
    derived = search.derive(search.best(budget, at_least), budget, measured=True)
    derived.write(folder)
    for name in (JUDGED, EVOLVED_FRONT):  # of another network
        (folder / name).unlink(missing_ok=True)
    return derived.architecture


def derive_judged(
    run: Path, budget: float, folder: Path, n: int, *, method: str = DEFAULT_METHOD, at_least: float | None = None
) -> Architecture:
    """Let the supernet of a finished search judge n networks under a budget, and write the one that is selected to ``folder``.

    All verdicts go to ``judged.csv``. The most probable network is judged among the n.

    Parameters
    ----------
    at_least
        What each drawn network costs at least; None: 95 % of the budget, or less where no network costs so much.

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
    if not search.inherits:
        raise UserError(
            f"--judge: {run} has no weights of a supernet to judge with; allowed: after a search that keeps all candidates, as with "
            "strategy 'proxyless'"
        )
    selected = select_network(
        search.space, search.profiler, judging_images(search.parts), n=n, seed=search.parts.config.seed, budget=budget,
        at_least=at_least, method=method, first=[search.best(budget, at_least)], known=search.known, supernet=search.supernet,
    )  # fmt: skip
    derived = search.derive(selected.choices, budget, measured=True, selection=selected.record())
    derived.write(folder)
    selected.write(folder / JUDGED, search.probs, search.training)
    (folder / EVOLVED_FRONT).unlink(missing_ok=True)  # of another selection
    return derived.architecture


def derive_front(run: Path, n: int, folder: Path) -> list[Derived]:
    """A network for each of n budgets, evenly from the fastest to the slowest network; duplicates are one.

    ``folder`` gets ``front.csv``, ``front.png`` and, in a folder per network, its architecture and weights.

    Raises
    ------
    UserError
        As :func:`derive_under_budget`; or n is less than 2.
    """
    if n < 2:
        raise UserError(f"--front: {n} is not allowed here; allowed: 2 or more networks")
    require_free(folder)
    search = FinishedSearch.read(run)
    low, high = fastest(search.profiler)[1], slowest(search.profiler)[1]
    budgets = [low + (high - low) * i / (n - 1) for i in range(n - 1)] + [max(low, high)]
    chosen: list[tuple[float, dict[str, Any]]] = []
    with bar(2 * n, "front", "step") as steps:
        for budget in budgets:
            sample = search.best(budget, at_least=-math.inf)
            # A network that was within the last budget already ties with that one.
            if not chosen or search.profiler.profile(sample) > chosen[-1][0]:
                chosen.append((budget, sample))
            steps.update()
        found = []
        for budget, sample in chosen:
            found.append(search.derive(sample, budget, measured=False))
            steps.update()
    names = distinct_in_words([derived.architecture.latency["table_ms"] for derived in found])
    for name, derived in zip(names, found, strict=True):
        derived.write(folder / name)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(derived.row for derived in found)
    write_text(folder / "front.csv", text.getvalue())
    _plot(found, search.profiler.unit, folder / "front.png")
    return found


def front_table(found: Sequence[Derived]) -> str:
    """One row per network."""
    rows = [("budget", f"table {found[0].row[-1]}", "log p", "MACs", "params", "accuracy")]
    for derived in found:
        budget, ms, log_p, macs, n_params, accuracy, _ = derived.row
        rows.append((in_words(budget), in_words(ms), f"{log_p:.3f}", f"{macs / 1e6:.2f} M", f"{n_params / 1e3:.1f} k",
                     f"{accuracy:.4f}"))  # fmt: skip
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
    axes.set_ylabel("validation accuracy")
    figure.savefig(path)
