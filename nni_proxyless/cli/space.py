"""``nni-proxyless space``: what a search has before it."""

from __future__ import annotations

import argparse
import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.text_table import in_columns
from ..core.user_path import path_argument
from ..latency.digits import in_words
from ..report.number_format import duration
from .log import silence_libraries

if TYPE_CHECKING:
    from ..search.search_time import SearchTime
    from ..search.space_survey import CostRange, SpaceSurvey

__all__ = ["add_space_command"]

COUNTED = ("macs", "parameters", "activations")  # whose units say what they are


def add_space_command(commands: Any) -> None:
    """Add ``space`` to the commands of the parser."""
    space = commands.add_parser(
        "space", help="what a search has before it: number of networks, what they cost, whether the target can be met, how long it takes",
        description="Print, before a search: how many networks its space has, what the fastest, a middle one and the slowest cost, whether the "
        "target can be met and how near, and how long the search will take. Without a file: the embedded digits. Nothing is searched or "
        "written; milliseconds come from the table, if it is there.",
    )  # fmt: skip
    space.add_argument(
        "items", nargs="*", metavar="search.yml | key=value", help="configuration file; overrides by dotted path"
    )
    space.add_argument(
        "--no-time", action="store_true", help="run no steps of the search, and leave out how long it takes"
    )
    space.add_argument("--json", type=path_argument, metavar="space.json", help="write all figures")
    space.set_defaults(run=_space)


def _space(arguments: argparse.Namespace) -> int:
    from ..config.read import file_and_overrides, read_config
    from ..config.search_config import SearchConfig
    from ..config.shipped import shipped

    file, overrides = file_and_overrides(arguments.items)
    path = Path(file) if file else None
    config = read_config(SearchConfig, path or shipped("search.yml"), overrides)
    from ..core.atomic_files import write_text
    from ..search.space_survey import survey  # takes seconds, and a mistake is to be said at once

    silence_libraries()
    found = survey(config, base=path.parent if path else Path(), timed=not arguments.no_time)
    print("\n".join(_lines(found)))
    if arguments.json:
        write_text(arguments.json, json.dumps(found.as_plain(), indent=1) + "\n")
    return 0


def _lines(found: SpaceSurvey) -> list[str]:
    has_original = any(cost.original is not None for cost in found.costs.values())
    lines = [
        f"space:    {found.space}, {found.n_choices} choices, {_many(found.n_networks)} networks",
        f"images:   {'x'.join(map(str, found.shape))}, {found.num_classes} {found.answers}",
        "",
        *in_columns(
            [
                ("cost", "fastest", "middle", "slowest", *(["the model"] if has_original else [])),
                *(_row(name, cost) for name, cost in found.costs.items()),
            ],
            n_left=1,
        ),
        "",
    ]
    lines += [f"{name + ':':<9} {said}" for name, said in found.missing.items()]
    lines += [f"target:   {_target(name, cost)}" for name, cost in found.costs.items() if cost.target is not None]
    if not any(cost.target is not None for cost in found.costs.values()) and not found.missing:
        lines.append("target:   none")
    if found.time is not None:
        lines += _of_time(found.time)
    return lines


def _many(n: int) -> str:
    return f"{n}" if n < 1e6 else f"{Decimal(n):.1e}".replace("e+", "e")  # there may be more than a float can say


def _row(name: str, cost: CostRange) -> tuple[str, ...]:
    said = cost.unit if name in COUNTED else f"{name}, {cost.unit}"
    values = (cost.fastest, cost.middle, cost.slowest, cost.original)
    return (said, *(in_words(value) for value in values if value is not None))


def _target(name: str, cost: CostRange) -> str:
    assert cost.target is not None
    said = f"{name} {in_words(cost.target)} {cost.unit}"
    if cost.problem is not None:
        return f"{said} cannot be met: {cost.problem}"
    if cost.nearest is None:
        return f"{said} can be met"
    share = cost.nearest / cost.target
    return f"{said} can be met: a network within all targets takes {in_words(cost.nearest)} {cost.unit}, {100 * share:.1f} % of it"


def _of_time(time: SearchTime) -> list[str]:
    parts = [
        f"{name} {stage.epochs} epochs of {time.batches} batches of {in_words(1000 * stage.seconds_per_batch, digits=1)} ms"
        for name, stage in time.stages.items()
    ]
    return [
        f"time:     about {duration(time.seconds)} on this machine, an estimate from {time.timed_batches} batches:",
        *(f"          {part}" for part in parts),
        f"          to judge a network in every epoch {time.seconds_per_judgment:.2f} s",
        *(
            [f"          to select by the supernet {time.seconds_of_selection:.0f} s"]
            if time.seconds_of_selection
            else []
        ),
    ]
