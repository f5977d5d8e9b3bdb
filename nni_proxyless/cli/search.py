"""``nni-proxyless search``."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.user_path import path_argument
from .log import resume_hint, silence_libraries

__all__ = ["add_search_command"]


def add_search_command(commands: Any) -> None:
    """Add ``search`` to the command line."""
    search = commands.add_parser(
        "search", help="search a network; alone, or as the trialCommand of an NNI experiment",
        description="Search a network. Without a file: the embedded digits on this machine.",
    )  # fmt: skip
    search.add_argument(
        "items", nargs="*", metavar="search.yml | key=value", help="configuration file; overrides by dotted path"
    )
    search.add_argument(
        "--resume",
        type=path_argument,
        metavar="DIR",
        help="go on with the search in this folder, which was stopped or killed",
    )
    search.set_defaults(run=_search)


def _search(arguments: argparse.Namespace) -> int:
    from ..config.read import file_and_overrides, read_config
    from ..config.search_config import SearchConfig
    from ..config.shipped import shipped
    from ..search import nni_trial
    from ..search.run_folder import is_finished

    helped = nni_trial.shared_folder() if nni_trial.is_helper() else None
    if resumed := arguments.resume or helped:
        if arguments.resume and arguments.items:
            raise UserError(
                f"--resume goes on with the search as it was; not allowed beside it: {' '.join(arguments.items)}"
            )
        path, folder = resumed / "search.yml", resumed
        if not path.exists():
            raise UserError(f"--resume {resumed}: no search.yml there, so no search has begun in this folder")
        if arguments.resume and is_finished(folder):
            from ..models.architecture import Architecture
            from ..report.table import figures

            print(figures(Architecture.read(folder / "architecture.json"), folder))
            print(f"finished already: {folder / 'architecture.json'}")
            return 0
        config = read_config(SearchConfig, path, of_run=True)
    else:
        file, overrides = file_and_overrides(arguments.items)
        path = Path(file) if file else None
        config = read_config(SearchConfig, path or shipped("search.yml"), [*overrides, *nni_trial.parameters()])
        folder = nni_trial.output_folder(config.output, "search")
    from ..report.table import figures
    from ..search.run import run_search  # takes seconds, and a mistake is to be said at once

    silence_libraries()
    with resume_hint("search", folder, "search.yml") if not helped else nullcontext():
        result = run_search(config, folder, base=path.parent if path else Path(), report=nni_trial.intermediate)
    if result is None:
        return 0
    nni_trial.final(result.metrics)
    print(figures(result.architecture, folder))
    print(f"architecture: {folder / 'architecture.json'}")
    return 0
