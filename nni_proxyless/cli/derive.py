"""``nni-proxyless derive``: take further networks from a finished search."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.user_path import path_argument

__all__ = ["add_derive_command"]

SELECT = ("raw", "ridge", "mixture", "evolution")  # METHODS of ..search.selection, whose import takes seconds
EVOLVED = 400  # networks, 40 in each of ten generations
TIMED_NETWORKS = 8


def add_derive_command(commands: Any) -> None:
    """Add ``derive`` to the commands of the parser."""
    derive = commands.add_parser(
        "derive", help="take another network out of a finished search, without searching again",
        description="The most probable network of a finished search under a hard budget, or a front of such networks, "
        "with weights of the supernet.",
    )  # fmt: skip
    derive.add_argument("folder", type=path_argument, metavar="RUN", help="the folder that a search has left")
    what = derive.add_mutually_exclusive_group(required=True)
    what.add_argument("--budget-ms", type=float, metavar="MS",
                      help="what the network may cost at most, in the unit of the search's latencies")  # fmt: skip
    what.add_argument("--front", type=int, metavar="N",
                      help="a network for each of N budgets, from the fastest network to the slowest: the most probable ones, or with --judge the best by the supernet; one whose network is that of the budget before is left out")  # fmt: skip
    derive.add_argument("--at-least-ms", type=float, metavar="MS",
                        help="with --budget-ms: a network that costs at least this much, if there is one; 0: the most probable one, whatever it "
                        "costs (default: one near the budget, or near the target of the search if that is lower: 95 %% of it or more, where there are "
                        "such networks)")  # fmt: skip
    derive.add_argument("--judge", type=int, metavar="N",
                        help="let the supernet judge N networks by their log-loss on images that trained none of them, and select: with --budget-ms one of "
                        "networks that use the budget up, drawn uniformly; with --front one for each budget, by a regression on networks of all costs; all of "
                        "them in judged.csv")  # fmt: skip
    derive.add_argument("--select", choices=SELECT, metavar="METHOD",
                        help="with --judge: raw: the least log-loss; ridge: the least sum of what a regression on the judged networks says of each "
                        "choice, among all networks of the budget; mixture (default): the mean of both, and the losses of the search's training "
                        "where they do not contradict it, the best few on more images; "
                        "evolution: half of N are children of the best")  # fmt: skip
    derive.add_argument("--evolve", type=int, nargs="?", const=EVOLVED, metavar="N",
                        help="with --budget-ms: N networks within the budget (default: %(const)s), the first drawn at random, the others children of the best, "
                        "by log-loss and cost as the supernet and the table say; the front in evolved_front.csv, all in judged.csv, and of the front the "
                        "network of the least log-loss; needs the extra evolution")  # fmt: skip
    derive.add_argument("--time", type=int, nargs="?", const=TIMED_NETWORKS, metavar="N",
                        help="with --budget-ms: time N networks (default: %(const)s) in the runtime of the search, and leave the best of those that are within "
                        "the budget as timed: with --judge, of the best by the supernet; without it, of those that may be the most probable one, as far as "
                        "the table can tell; all of them in timed.csv")  # fmt: skip
    derive.add_argument("--output", type=path_argument, metavar="DIR",
                        help="default: RUN/budget-MS, or RUN/front")  # fmt: skip
    derive.set_defaults(run=_derive)


def _derive(arguments: argparse.Namespace) -> int:
    from ..search.supernet_files import JUDGED, TIMED, require_finished

    require_finished(arguments.folder)  # before the imports, which take seconds
    from ..core.errors import UserError
    from ..report.table import figures
    from ..search.derivation import budget_folder, derive_front, derive_judged, derive_under_budget, front_table

    if arguments.front is not None:
        for option in ("at_least_ms", "select", "evolve", "time"):
            if getattr(arguments, option) is not None:
                raise UserError(f"--{option.replace('_', '-')}: not with --front; allowed: with --budget-ms")
        folder = arguments.output or arguments.folder / "front"
        print(front_table(derive_front(arguments.folder, arguments.front, folder, arguments.judge)))
        if arguments.judge is not None:
            print(f"judged: {folder / JUDGED}")
        print(f"front: {folder / 'front.csv'}")
        return 0
    folder = arguments.output or arguments.folder / budget_folder(arguments.budget_ms)
    given = (arguments.folder, arguments.budget_ms, folder)
    if arguments.evolve is not None:
        return _evolve(arguments, folder)
    options: dict[str, Any] = {"at_least": arguments.at_least_ms, "n_timed": arguments.time}
    if arguments.judge is None:
        if arguments.select is not None:
            raise UserError("--select: not without --judge; allowed: with the number of networks to be judged")
        print(figures(derive_under_budget(*given, **options), arguments.folder))
    else:
        if arguments.select is not None:
            options["method"] = arguments.select
        print(figures(derive_judged(*given, arguments.judge, **options), arguments.folder))
        print(f"judged:        {folder / JUDGED}")
    if arguments.time is not None:
        print(f"timed:         {folder / TIMED}")
    print(f"architecture: {folder / 'architecture.json'}")
    return 0


def _evolve(arguments: argparse.Namespace, folder: Path) -> int:
    from ..core.errors import UserError
    from ..models.record import unit_of
    from ..report.table import figures
    from ..search.evolved_front import derive_evolved, evolved_table
    from ..search.supernet_files import EVOLVED_FRONT

    for option in ("at_least_ms", "judge", "select", "time"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option.replace('_', '-')}: not with --evolve; allowed: one of them")
    architecture, front = derive_evolved(arguments.folder, arguments.budget_ms, folder, arguments.evolve)
    print(evolved_table(front, unit_of(architecture.latency), architecture.merit))
    print(figures(architecture, arguments.folder))
    print(f"front:         {folder / EVOLVED_FRONT}")
    print(f"architecture: {folder / 'architecture.json'}")
    return 0
