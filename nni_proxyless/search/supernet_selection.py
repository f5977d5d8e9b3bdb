"""Let the supernet select: it judges networks of the budget, drawn uniformly, and the best by :mod:`.selection` is taken.

Probabilities are of one choice each, and what they know at the end of a search is little. A supernet has every network of the space, and
judging one takes a second. Judged are images that train no weight: those that the architecture was learned from, which have
nothing to do with a network that is drawn uniformly. The images that validate stay apart, so the accuracy that is reported of the network
is one on images that have not chosen it.

weights of the supernet -> :func:`.uniform_draws.draw_networks` -> :func:`.judging.judge_networks` -> :class:`Selected`
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch.utils.data import Subset

from ..core.atomic_files import write_csv
from ..core.merit import ACCURACY, Merit
from ..core.progress import bar
from ..core.random_state import generators_kept
from ..data.image_parts import loader
from ..latency import BudgetError, LatencyProfiler, least_under_budget
from ..latency.choices import as_key
from ..latency.objectives.budget import log_probability
from ..latency.objectives.extremes import slowest
from ..latency.objectives.limits import Limit
from ..models.space import make_space
from ..tasks import Classification, Task
from .build import SearchParts, strategy_can
from .judging import CPU, Verdict, judge_networks
from .monitor import DerivedNetworkMonitor
from .selection import DEFAULT_METHOD, Sample, Selection, candidates_of, name_of, select
from .supernet_files import JUDGED
from .uniform_draws import CLOSE, draw_networks
from .witnesses import Scores, of_training, summed

__all__ = [
    "JudgingImages",
    "Selected",
    "evenly",
    "judging_images",
    "select_at_end",
    "select_network",
    "select_open",
    "training_of",
]

_logger = logging.getLogger(__name__)

# Images that judge all networks, and that statistics of batch norm are estimated on for it; more of them judge the last few. The verdicts of 512 and 256
# images have a correlation of 0.99 with those of 2,000 and 1,000, at a fourth of the time (48 networks of equal cost, Fashion-MNIST).
FEW, STATISTICS = 512, 256
DRAWS = 200  # networks that are looked at for each that is to be judged
SHARES = (1 - CLOSE, 0.9, 0.8, 0.6, 0.4, 0.2)  # of the budget; the first of them that some network uses


class JudgingImages(NamedTuple):
    """Batches of (images, targets): for the statistics of batch norm, to judge all networks, and the last few; None: the same images. And the
    task by which they judge."""

    calibration: Any
    few: Any
    more: Any | None
    task: Task = Classification()


@dataclass(frozen=True)
class Selected:
    """What was selected, from what, and how long it took.

    Attributes
    ----------
    n_images
        That have judged all networks.
    seconds
        Of drawing, judging and selecting.
    unit
        Of the costs of verdicts.
    merit
        Which figure of merit they have.
    """

    selection: Selection
    n_images: int
    seconds: float
    unit: str
    merit: Merit = ACCURACY

    @property
    def choices(self) -> Sample:
        return self.selection.best.choices

    def without_first(self, n: int) -> Selected:
        """The same, if the best n networks were not to be had."""
        return dataclasses.replace(
            self, selection=dataclasses.replace(self.selection, ranked=self.selection.ranked[n:])
        )

    def record(self) -> dict[str, Any]:
        """For ``architecture.json``."""
        fit = self.selection.fit
        witnesses = {
            name: {"correlation": _or_none(witness.correlation), "weight": witness.weight}
            for name, witness in self.selection.witnesses.items()
        }
        return {
            "by": "supernet", "method": self.selection.method, "judged": len(self.selection.verdicts), "images": self.n_images,
            "log_loss": _or_none(self.selection.best.log_loss), "correlation": _or_none(fit.correlation), "p_value": _or_none(fit.p_value), "knows": fit.knows,
            "witnesses": witnesses, "seconds": self.seconds,
        }  # fmt: skip

    def write(
        self, path: Path, probs: Mapping[str, Mapping[Any, Any]] | None = None, training: Scores | None = None,
        others: Sequence[Sample] = (),
    ) -> None:  # fmt: skip
        """All verdicts as a CSV file, the least log-loss first: a row per network, a column per choice.

        Parameters
        ----------
        probs
            Label -> choice -> probability at the end of the search, for a column; None: none.
        training
            Label -> choice -> what it added to the losses of trained paths, for a column of sums; None or empty: none.
        others
            Networks that were selected of the same verdicts, for other budgets.
        """
        verdicts, fit = self.selection.verdicts, self.selection.fit
        selected = {name_of(sample) for sample in (self.choices, *others)}
        labels = sorted(verdicts[0].choices)
        named = [*(["log_probability"] if probs is not None else []), *(["training_loss"] if training else [])]
        header = ("log_loss", self.merit.name, "predicted_log_loss", *named, "table_ms", "unit", "selected", *labels)
        rows = (
            (
                verdict.log_loss, verdict.merit, fit.predict(verdict.choices),
                *(() if probs is None else (log_probability(probs, verdict.choices),)),
                *((summed(training, verdict.choices),) if training else ()), verdict.cost, self.unit,
                int(name_of(verdict.choices) in selected), *(verdict.choices[label] for label in labels),
            )
            for verdict in verdicts
        )  # fmt: skip
        write_csv(path, header, rows)


def judging_images(parts: SearchParts) -> JudgingImages:
    """The images of a search that judge networks; where the architecture was learned from none of its own, those that validate."""
    calibration, validation = parts.judging_loaders
    learned_apart = strategy_can("needs_held_out_data", parts.config, default=True)
    images: Any = parts.images.alphas if learned_apart else validation.dataset
    batches = functools.partial(loader, batch_size=parts.config.data.batch_size, workers=parts.config.data.workers)
    few = evenly(images, FEW)
    return JudgingImages(
        batches(evenly(calibration.dataset, STATISTICS)), batches(few), None if few is images else batches(images),
        parts.data.task,
    )  # fmt: skip


def evenly(images: Any, most: int) -> Any:
    """Evenly chosen ones of all images, which may be sorted by class: at most so many; all, where there are no more."""
    every = math.ceil(len(images) / most)
    return images if every <= 1 else Subset(images, range(0, len(images), every))


def select_network(
    space: ModelSpace,
    profiler: LatencyProfiler,
    images: JudgingImages,
    *,
    n: int,
    seed: int,
    budget: float = math.inf,
    also: Sequence[Limit] = (),
    at_least: float | None = None,
    method: str = DEFAULT_METHOD,
    first: Sequence[Sample] = (),
    made: Mapping[str, Any] | None = None,
    supernet: ModelSpace | None = None,
    known: Mapping[str, Scores] | None = None,
    device: torch.device = CPU,
) -> Selected:
    """Judge n networks of a supernet, drawn uniformly within limits, and select one.

    Parameters
    ----------
    space
        Says what may be chosen; with the weights of the supernet, unless ``supernet`` has them.
    profiler, budget, also
        What a network may cost at most, by ``profiler`` and by further (profiler, budget) pairs.
    at_least
        What each drawn network costs at least. None: 95 % of the budget, or of the slowest network, where that costs less; less where no network
        costs so much; nothing without a budget.
    first
        Networks that are judged among the n; those within the limits.
    made
        Label -> choice that the network has for good; None: nothing is chosen yet.
    supernet
        What a strategy has made of ``space``, with its weights.
    known
        What else is known of the choices, as :func:`.selection.select` takes it.
    device
        Where networks compute.

    Raises
    ------
    BudgetError
        No network is within the limits; the message names the fastest that can be reached.
    """
    began = time.perf_counter()
    made = made or {}
    candidates = {label: (as_key(made[label]),) if label in made else of for label, of in candidates_of(space).items()}
    profiler, also = profiler.decided(made), [(cost.decided(made), most) for cost, most in also]
    limits = [(profiler, budget), *also]
    within = [sample for sample in first if all(cost.profile(sample) <= most for cost, most in limits)]
    least, most, one = _band(limits, candidates)
    if at_least is None:
        at_least, budget = least, most
    within = within or [one]  # the draw may find none

    def draw(n: int, seed: int) -> list[Sample]:
        found = draw_networks(
            space, profiler, n, budget, seed, least=at_least, also=also, made=made, most_draws=DRAWS * n
        )
        if len(found) == n:
            return found
        # Where costs are no sum over labels, draws near the ends of a space find few: the best ones by random scores are at least various.
        chance, more = random.Random(seed), {name_of(sample): sample for sample in found}
        for _ in range(2 * n):
            scores = {label: {choice: chance.gauss(0, 1) for choice in of} for label, of in candidates.items()}
            sample = least_under_budget(scores, profiler, budget, also=also, at_least_ms=at_least)
            more.setdefault(name_of(sample), sample)
        return list(more.values())[:n]

    weights = space if supernet is None else supernet
    with bar(n, "judged", "network") as done:

        def judge(samples: list[Sample], batches: Any = images.few) -> list[Verdict]:
            done.total = max(done.total, done.n + len(samples))
            return judge_networks(
                weights, samples, images.calibration, batches, device, profiler, done.update, images.task
            )

        found = select(
            method, judge=judge, draw=draw, profiler=profiler, budget=budget, n=n, seed=seed, candidates=candidates, also=also,
            at_least=at_least, judge_again=None if images.more is None else functools.partial(judge, batches=images.more), first=within, known=known,
        )  # fmt: skip
    if len(found.verdicts) < n:
        _logger.warning("of networks within the limits %d were found to judge, not %d", len(found.verdicts), n)
    return Selected(
        found, len(images.few.dataset), time.perf_counter() - began, profiler.unit, images.task.merit
    )  # fmt: skip


def training_of(module: Any) -> Scores:
    """What each candidate has added to the losses of the paths that a search has trained; nothing of NNI's own strategies, which note none."""
    if not hasattr(module, "path_losses"):
        return {}
    paths, losses = module.path_losses.later_half()
    return of_training(paths, losses, {gate.label: gate.choices for gate in module.gates})


def select_at_end(parts: SearchParts, monitor: DerivedNetworkMonitor, module: Any) -> Selected | None:
    """At the end of a search: let the supernet select within the targets, make its network that of the monitor, and write ``judged.csv``.

    The most probable network is judged among the others.

    Parameters
    ----------
    module
        The search as a Lightning module, with all candidates.

    Returns
    -------
    Selected or None
        None where no network is within all targets: the network stays what it is.
    """
    selected = _within_targets(parts, module, {}, monitor.device)
    if selected is not None:
        monitor.last = {**(monitor.last or {}), **monitor.take(module, selected.choices)}
    return selected


def select_open(parts: SearchParts, module: Any, made: Mapping[str, Any]) -> tuple[Sample, dict[str, Any]] | None:
    """In a search: let the supernet select among the networks that have the choices which are made, and write ``judged.csv``.

    The random numbers of the search are left as they were.

    Parameters
    ----------
    module
        The search as a Lightning module, with the candidates that may be chosen.
    made
        Label -> choice.

    Returns
    -------
    tuple or None
        The network, and the record of its selection; None where no network is within all targets.
    """
    with generators_kept():
        selected = _within_targets(parts, module, made, module.device)
    return (
        None
        if selected is None
        else (selected.choices, {**selected.record(), "epoch": int(module.trainer.current_epoch)})
    )


def _within_targets(parts: SearchParts, module: Any, made: Mapping[str, Any], device: torch.device) -> Selected | None:
    config, target, training = parts.config, parts.target, training_of(module)
    probs = getattr(module, "export_searched_probs", module.export_probs)()
    try:
        selected = select_network(
            make_space(parts.space_name, parts.space_arguments), parts.profiler, judging_images(parts), n=config.search.judged,
            seed=config.seed, budget=math.inf if target is None else target,
            also=[(cost.profiler, cost.target) for cost in parts.costs.values()], first=[module.export()], made=made, supernet=module.model,
            known={"training": training}, device=device,
        )  # fmt: skip
    except BudgetError as error:
        _logger.warning("the supernet selects no network: %s", error)
        return None
    selected.write(parts.folder / JUDGED, probs, training)
    return selected


def _band(limits: Sequence[Limit], candidates: Mapping[str, Sequence[Any]]) -> tuple[float, float, Sample]:
    """What networks cost that use the budget up as far as they can, at least and at most; and one of them.

    The dearest network within a budget is a sum to be met to the last digit, over which a solver may take minutes; whether there is one
    in a band takes it milliseconds.
    """
    (profiler, budget), *also = limits
    anything = {label: dict.fromkeys(of, 0.0) for label, of in candidates.items()}
    if not math.isfinite(budget) or profiler.combine == "max":
        return -math.inf, budget, least_under_budget(anything, profiler, budget, also=also)
    most = min(budget, slowest(profiler)[1])
    for share in SHARES:
        sample = least_under_budget(anything, profiler, most, also=also, at_least_ms=share * most)
        if profiler.profile(sample) >= share * most:  # else there is none
            return share * most, most, sample
    return -math.inf, most, sample


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
