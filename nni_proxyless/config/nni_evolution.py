"""An experiment that evolves: what its tuner is given, and what its trials train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UserError, shown
from .read import problems_of_arguments, read_config
from .search_config import SearchConfig
from .train_config import TrainConfig

__all__ = ["GROUP", "STRATEGY", "TUNER", "is_search_file", "problems_of_tuner", "require_evolvable"]

TUNER = "nni_proxyless.search.evolution_tuner.EvolutionTuner"
GROUP, STRATEGY = "nni_proxyless.multi_trial_strategies", "early-exit-evolution"
SEARCH = "search"
FILLED_IN = ("limits", "state_file")  # by the tuner


def is_search_file(network: Path | None) -> bool:
    """Whether what is to be trained is a ``search.yml``: a network of its space, which the parameters of a trial choose."""
    return network is not None and network.suffix in (".yml", ".yaml")


def require_evolvable(config: TrainConfig, where: str) -> None:
    """Refuse a training that cannot judge a network for an evolution.

    Raises
    ------
    UserError
        With every problem, one a line, each after ``where``.
    """
    problems = []
    if not config.validation:
        problems.append(
            "validation: 0 is not allowed in an evolution, which would select by the test images; allowed: greater than 0"
        )
    if config.weights != "scratch":
        problems.append(
            f"weights: {shown(config.weights)} is not allowed in an evolution, whose networks are new; allowed: scratch"
        )
    if problems:
        raise UserError("\n".join(f"{where}: {problem}" for problem in problems))


def problems_of_tuner(arguments: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """What is wrong with the ``classArgs`` of the tuner, and with the ``search.yml`` that they name, relative to ``folder``."""
    name = arguments.get(SEARCH)
    if not isinstance(name, str) or not (folder / name).is_file():
        said = "is missing" if name is None else f"{shown(name)} is not allowed here"
        yield f"{SEARCH}: {said}; allowed: a search.yml in {folder}, the trialCodeDirectory"
    else:
        try:
            read_config(SearchConfig, folder / name)
        except UserError as error:
            yield from str(error).splitlines()
    options = {key: value for key, value in arguments.items() if key != SEARCH}
    yield from problems_of_arguments(GROUP, STRATEGY, options, FILLED_IN)
