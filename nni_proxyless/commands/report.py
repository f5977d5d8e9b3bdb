"""``nni-proxyless report``: what searches have found."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import UserError

__all__ = ["add_report_command"]


def add_report_command(commands: Any) -> None:
    """Add ``report`` to the commands of the parser."""
    report = commands.add_parser("report", help="a table of the networks that searches have found",
                                 description="Print a table. Fails if a trial of the experiment has failed.")  # fmt: skip
    report.add_argument("source", nargs="?", metavar="EXPERIMENT_ID | DIR", help="default: the experiment started last")
    report.add_argument("--train-best", nargs="?", const=None, default=False, type=Path, metavar="train.yml",
                        help="first train the network of the best search accuracy")  # fmt: skip
    report.add_argument("--front", type=Path, metavar="PICTURE",
                        help="draw accuracy against latency, as .svg or .png, with a .csv beside it")  # fmt: skip
    report.add_argument("--reference", type=Path, metavar="DIR",
                        help="further nets for table and picture, such as nni-proxyless reference leaves")  # fmt: skip
    report.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from ..pictures.front import write_front
    from ..pictures.nets import require_picture
    from ..reporting.found import find, find_folders
    from ..reporting.side_by_side import measure_side_by_side
    from ..reporting.table import table

    source, front = arguments.source, arguments.front
    if front is not None:
        require_picture(front, "--front")
    found = find([source] if source else [])
    if arguments.reference is not None:
        there = {f.folder.resolve() for f in found}
        found += [f for f in find_folders(arguments.reference) if f.folder.resolve() not in there]
    failed = [f"trial {f.name}: {f.state}: {f.reason}; its files: {f.folder}" for f in found if f.failed]
    if arguments.train_best is not False and not failed:
        done = [(f.architecture.search["accuracy"], f) for f in found
                if f.architecture is not None and "accuracy" in f.architecture.search]  # fmt: skip
        if not done:
            raise UserError("report: no search has finished yet: nothing to train")
        from ..config import TrainConfig  # here: training takes seconds to import, which a table need not wait
        from ..config_file import read_config
        from ..training.loop import train

        best = max(done, key=lambda item: item[0])[1]
        config = read_config(TrainConfig, arguments.train_best or None)
        train(config, best.folder / "architecture.json", best.folder / "final")
    measured = measure_side_by_side([f.architecture for f in found])
    if front is not None:
        write_front(found, measured, front)
    print("\n".join([table(found, measured), *failed]))
    return 1 if failed else 0
