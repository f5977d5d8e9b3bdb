"""``nni-proxyless report``: what searches have found."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..reporting.found import Found
from ..user_path import path_argument, text_argument

__all__ = ["add_report_command"]


def add_report_command(commands: Any) -> None:
    """Add ``report`` to the commands of the parser."""
    report = commands.add_parser(
        "report", help="what searches have found: a table, a web page, a CSV",
        description="Print a table of the nets of experiments and folders, and write it with curves, pictures and comparisons "
        "as one HTML page that needs no network, with a CSV beside it. While trials run, nothing is timed. Fails if a trial "
        "has failed.",
    )  # fmt: skip
    report.add_argument(
        "sources",
        nargs="*",
        type=text_argument,
        metavar="EXPERIMENT_ID | DIR",
        help="default: the experiment started last",
    )
    report.add_argument("--html", type=path_argument, metavar="PAGE",
                        help="default: report.html in the folder of the first experiment or DIR")  # fmt: skip
    report.add_argument("--train-best", nargs="?", const=None, default=False, type=path_argument, metavar="train.yml",
                        help="first train the network of the best search accuracy")  # fmt: skip
    report.add_argument("--front", type=path_argument, metavar="PICTURE",
                        help="draw accuracy against latency, as .svg or .png, with a .csv beside it")  # fmt: skip
    report.add_argument("--reference", type=path_argument, action="append", default=[], metavar="DIR",
                        help="further nets to compare with, such as nni-proxyless reference leaves; may be given again")  # fmt: skip
    report.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from ..pictures.front import write_front
    from ..pictures.nets import require_picture
    from ..reporting.found import find
    from ..reporting.rows import rows_of
    from ..reporting.side_by_side import measure_side_by_side
    from ..reporting.table import table

    if arguments.front is not None:
        require_picture(arguments.front, "--front")
    if arguments.html is not None and arguments.html.suffix not in (".html", ".htm"):
        raise UserError(f"--html {arguments.html}: '{arguments.html.suffix}' is not allowed here; allowed: .html, .htm")
    found = find(arguments.sources, also=arguments.reference)
    failed = [f"trial {f.name}: {f.state}: {f.reason}; its files: {f.folder}" for f in found if f.failed]
    if arguments.train_best is not False and not failed:
        _train_best(found, arguments.train_best)
    # A measurement would disturb the trials, which measure too, and they it.
    timed = not any(f.state in ("RUNNING", "WAITING") for f in found)
    if timed:
        measured = measure_side_by_side([f.architecture for f in found])
    else:
        measured = [None if f.architecture is None else f.architecture.latency.get("measured_ms") for f in found]
    rows = rows_of(found, measured)
    if arguments.front is not None:
        write_front(found, measured, arguments.front)
    path = arguments.html or _place(arguments.sources, found) / "report.html"
    _write(path, found, rows, timed)
    print("\n".join([table(rows), *failed, f"page: {path}", f"figures: {path.with_suffix('.csv')}"]))
    return 1 if failed else 0


def _train_best(found: Sequence[Found], settings: Path | None) -> None:
    done = [(f.architecture.search["accuracy"], f) for f in found
            if f.architecture is not None and "accuracy" in f.architecture.search]  # fmt: skip
    if not done:
        raise UserError("report: no search has finished yet: nothing to train")
    from ..config import TrainConfig  # here: training takes seconds to import, which a table need not wait
    from ..config_file import read_config
    from ..training.loop import train

    best = max(done, key=lambda item: item[0])[1]
    train(read_config(TrainConfig, settings), best.folder / "architecture.json", best.folder / "final")


def _place(sources: Sequence[str], found: Sequence[Found]) -> Path:
    """The folder of the first source."""
    if sources and Path(sources[0]).is_dir():
        return Path(sources[0])
    experiment = found[0].experiment
    assert experiment is not None
    return experiment.folder


def _write(path: Path, found: Sequence[Found], rows: Sequence[Any], timed: bool) -> None:
    from ..files import write_text
    from ..reporting.page import page
    from ..reporting.rows import csv_text

    text = page(found, rows, timed=timed)
    try:
        write_text(path.with_suffix(".csv"), csv_text(rows))
        write_text(path, text)
    except OSError as error:
        raise UserError(f"--html {path}: cannot be written: {error.strerror}; name another place") from error
