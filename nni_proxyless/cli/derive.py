"""``nni-proxyless derive``: take further networks from a finished search."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.user_path import path_argument

__all__ = ["add_derive_command"]


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
                      help="a network for each of N budgets, from the fastest network to the slowest")  # fmt: skip
    derive.add_argument("--at-least-ms", type=float, metavar="MS",
                        help="with --budget-ms: a network that costs at least this much, if there is one; 0: the most probable one, whatever it "
                        "costs (default: one near the budget, or near the target of the search if that is lower)")  # fmt: skip
    derive.add_argument("--judge", type=int, metavar="N",
                        help="with --budget-ms: of N probable networks near the budget, the one that is most accurate with the supernet's "
                        "weights, on the images that trained none of them; all of them in judged.csv")  # fmt: skip
    derive.add_argument("--output", type=path_argument, metavar="DIR",
                        help="default: RUN/budget-MS, or RUN/front")  # fmt: skip
    derive.set_defaults(run=_derive)


def _derive(arguments: argparse.Namespace) -> int:
    from ..search.supernet_files import require_finished

    require_finished(arguments.folder)  # before the imports, which take seconds
    from ..core.errors import UserError
    from ..report.table import figures
    from ..search.derivation import JUDGED, budget_folder, derive_front, derive_under_budget, front_table
    from ..search.supernet_ranking import derive_most_accurate

    if arguments.front is not None:
        for option in ("at_least_ms", "judge"):
            if getattr(arguments, option) is not None:
                raise UserError(f"--{option.replace('_', '-')}: not with --front; allowed: with --budget-ms")
        folder = arguments.output or arguments.folder / "front"
        print(front_table(derive_front(arguments.folder, arguments.front, folder)))
        print(f"front: {folder / 'front.csv'}")
        return 0
    folder = arguments.output or arguments.folder / budget_folder(arguments.budget_ms)
    given = (arguments.folder, arguments.budget_ms, folder)
    if arguments.judge is None:
        print(figures(derive_under_budget(*given, at_least=arguments.at_least_ms)))
    else:
        architecture, ranking = derive_most_accurate(*given, arguments.judge, at_least=arguments.at_least_ms)
        print(figures(architecture))
        n, best, worst = len(ranking.networks), ranking.networks[0].accuracy, ranking.networks[-1].accuracy
        print(
            f"judged:        {n} network{'s' * (n > 1)} on {ranking.n_images} images, accuracy {worst:.4f} to {best:.4f}: {folder / JUDGED}"
        )
    print(f"architecture: {folder / 'architecture.json'}")
    return 0
