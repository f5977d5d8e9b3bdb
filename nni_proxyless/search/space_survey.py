"""What a search has before it: how many networks, what they cost, whether the target can be met, and how long it will take.

Nothing is searched, written or measured for a table; a few steps of the supernet run, to time them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import random
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning

from nni_proxyless.search_spaces import TimmSpace
from nni_proxyless.strategies.supernet.layers import choices_of

from ..config.search_config import EstimatorSection, SearchConfig
from ..core.cpu_threads import use
from ..data.image_parts import ImageData, split
from ..latency import (
    BudgetError,
    DeviceEstimator,
    LatencyProfiler,
    MacsEstimator,
    Operation,
    ParametersEstimator,
    best_under_budget,
    trace_operations,
)
from ..latency.choices import as_nni_has_it
from ..latency.objectives.budget import fastest, slowest
from .build import SearchParts, images_of, searchable_space
from .latency_table import make_estimator, profiler_without_measuring, target_in_ms
from .original import with_share
from .search_time import SearchTime, time_search

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

__all__ = ["CostRange", "SpaceSurvey", "survey"]

_logger = logging.getLogger(__name__)

N_RANDOM = 200  # networks, for what is in the middle
CLOSE = (0.001, 0.01)  # shares of a target; looked for one after the other, since the last digit takes longest


@dataclass(frozen=True)
class CostRange:
    """What the networks of a space cost.

    Attributes
    ----------
    unit
        Of all numbers here.
    fastest, slowest
        The network that costs least, and the one that costs most; exact.
    middle
        The median of random networks, drawn uniformly.
    original
        What the model costs that the space is made around; None where there is none.
    target
        Of the search; None without.
    nearest
        What a network costs that is within all targets and close to this one: within 0.1 or 1 % where there is one, else as near as
        they come outside of 3 %. None without a target, of a cost that is a maximum, and where nothing is within the targets.
    problem
        Why no network is within them; None where one is.
    """

    unit: str
    fastest: float
    middle: float
    slowest: float
    original: float | None = None
    target: float | None = None
    nearest: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class SpaceSurvey:
    """All that is known before a search.

    Attributes
    ----------
    n_choices, n_networks
        Of the space; choices of one value are none.
    shape, num_classes, answers
        Of the images.
    costs
        ``latency``, by name those beside it, ``macs`` and ``parameters``; a cost whose table is not there is in ``missing`` instead.
    missing
        Name of a cost -> how its table is made.
    time
        None where it was not asked for, or several processes search.
    """

    space: str
    n_choices: int
    n_networks: int
    shape: tuple[int, ...]
    num_classes: int
    answers: str
    costs: Mapping[str, CostRange]
    missing: Mapping[str, str]
    time: SearchTime | None

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        found = dataclasses.asdict(self)
        if self.time is not None:
            found["time"]["seconds"] = self.time.seconds
        return found


def survey(config: SearchConfig, *, base: Path = Path(), timed: bool = True) -> SpaceSurvey:
    """Survey the space of a search.

    Parameters
    ----------
    config
        Checked already.
    base
        What a relative ``latency.table`` is relative to: the folder of the configuration file.
    timed
        Whether steps are run.

    Raises
    ------
    UserError
        Images, space, table and estimator do not fit together: the search would be refused as well.
    """
    pytorch_lightning.seed_everything(config.seed, workers=True, verbose=False)
    use(config.trainer.threads, config.trainer.devices)
    config, read = with_share(config, images_of)  # a teacher takes its time too
    data = images_of(config) if read is None else read
    images = split(data, alphas=config.data.alphas, validation=config.data.validation)
    space_name, arguments, space = searchable_space(config, data)
    choices = {label: choices_of(label, mutable) for label, mutable in sorted(space.simplify().items())}
    samples = _random_samples(choices, config.seed)
    operations = trace_operations(space, data.shape)
    priced, missing = _priced(config, space, data, (space_name, arguments), base, operations)
    original = space.original if isinstance(space, TimmSpace) else None
    costs = _ranges(config, priced, samples, original)
    macs, parameters = (
        LatencyProfiler(space, estimator, data.shape, operations=operations)
        for estimator in (MacsEstimator(), ParametersEstimator())
    )
    for name, profiler in (("macs", macs), ("parameters", parameters)):
        if profiler.unit not in {cost.unit for cost in costs.values()}:
            costs[name] = _range(profiler, samples, original)
    time = None
    if timed and config.trainer.devices == 1:
        estimator = make_estimator(config.latency.estimator)
        parts = SearchParts(
            config, Path(), base, data, images, space_name, arguments, space, estimator, priced.get("latency", macs)
        )
        middle = sorted(samples, key=macs.profile)[len(samples) // 2]
        time = time_search(parts, middle)
    return SpaceSurvey(
        config.space.name, sum(len(values) > 1 for values in choices.values()), math.prod(map(len, choices.values())),
        tuple(data.shape), data.num_classes, data.task.answers, costs, missing, time,
    )  # fmt: skip


def _priced(
    config: SearchConfig, space: ModelSpace, data: ImageData, made_from: tuple[str, Mapping[str, Any]], base: Path, operations: Sequence[Operation]
) -> tuple[dict[str, LatencyProfiler], dict[str, str]]:  # fmt: skip
    """The profilers of the costs that the file names, and how the tables that are missing are made."""
    found, missing = {}, {}
    sections = [("latency", "latency", config.latency)]
    sections += [(section.label, f"costs.{i}", section) for i, section in enumerate(config.costs)]  # type: ignore[misc]  # both have an estimator and a table
    for name, where, section in sections:
        estimator = make_estimator(section.estimator)
        path = base / section.table if section.table else None
        profiler = profiler_without_measuring(space, data.shape, estimator, path, where, operations=operations)
        if profiler is not None:
            found[name] = profiler
            continue
        assert isinstance(estimator, DeviceEstimator)
        table = path or Path("table.yaml")
        said = f"{path} is not there" if path else f"{where}.table names none"
        missing[name] = (
            f"no table: {said}, so it is not known what networks cost, nor whether the target can be met. The search measures it before it begins; or: {_command(section.estimator, data, made_from, table)}"
        )
    return found, missing


def _command(section: EstimatorSection, data: ImageData, made_from: tuple[str, Mapping[str, Any]], table: Path) -> str:
    """What measures a table."""
    channels, height, width = data.shape
    words = ["nni-proxyless", "latency", "build", "--space", made_from[0]]
    words += [f"{name}={_as_value(value)}" for name, value in made_from[1].items()]
    words += ["--channels", f"{channels}", "--resolution", f"{height}" if height == width else f"{height}x{width}"]
    said = section.arguments
    for name in ("runtime", "device", "threads", "batch", "precision"):
        if said.get(name) is not None:
            words += [f"--{name}", f"{said[name]}"]
    if options := said.get("options"):
        words += ["--runtime-option", *(f"{name}={_as_value(value)}" for name, value in options.items())]
    return shlex.join([*words, "--output", str(table)])


def _as_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _random_samples(choices: Mapping[str, Sequence[Any]], seed: int) -> list[dict[str, Any]]:
    """Networks drawn uniformly, as NNI has them."""
    draw = random.Random(seed)
    return [{label: as_nni_has_it(draw.choice(values)) for label, values in choices.items()} for _ in range(N_RANDOM)]


def _ranges(
    config: SearchConfig, priced: Mapping[str, LatencyProfiler], samples: Sequence[Mapping[str, Any]],
    original: Mapping[str, Any] | None,
) -> dict[str, CostRange]:  # fmt: skip
    """Of the costs that the file names, with their targets."""
    configured: dict[str, Any] = {"latency": config.latency.target_ms, **{c.label: c.target for c in config.costs}}
    ranges = {name: _range(profiler, samples, original) for name, profiler in priced.items()}
    targets = {name: target_in_ms(configured[name], found.slowest) for name, found in ranges.items()}
    limits = {name: (priced[name], target) for name, target in targets.items() if target is not None}
    for name, (profiler, target) in limits.items():
        nearest, problem = _near(profiler, target, [limit for other, limit in limits.items() if other != name])
        ranges[name] = dataclasses.replace(ranges[name], target=target, nearest=nearest, problem=problem)
    return ranges


def _range(
    profiler: LatencyProfiler, samples: Sequence[Mapping[str, Any]], original: Mapping[str, Any] | None
) -> CostRange:
    middle = statistics.median(float(profiler.profile(dict(sample))) for sample in samples)
    own = None if original is None else float(profiler.profile(dict(original)))
    return CostRange(profiler.unit, fastest(profiler)[1], middle, slowest(profiler)[1], own)


def _near(
    profiler: LatencyProfiler, target: float, others: Sequence[tuple[LatencyProfiler, float]]
) -> tuple[float | None, str | None]:
    """What the network nearest to a target costs, and why there is none."""
    probs = {
        label: dict.fromkeys(costs, 1 / len(costs))
        for one, _ in [(profiler, target), *others]
        for label, costs in one.candidate_ms.items()
    }
    try:
        if profiler.combine == "max":
            best_under_budget(probs, profiler, target, also=others)
            return None, None
        for share in CLOSE:
            least = (1 - share) * target
            found = best_under_budget(probs, profiler, target, near_ms=target, at_least_ms=least, also=others)
            cost = float(profiler.profile(found))
            if cost >= least:
                break
        return cost, None
    except BudgetError as error:
        return None, str(error)
