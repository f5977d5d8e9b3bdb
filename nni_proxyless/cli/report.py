"""``nni-proxyless report``: a table, a web page and a CSV of what searches have found."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core.errors import UserError
from ..core.merit import ACCURACY
from ..core.user_path import path_argument, text_argument

if TYPE_CHECKING:
    from ..report.runs import Found

__all__ = ["add_report_command", "report"]

_logger = logging.getLogger(__name__)


def add_report_command(commands: Any) -> None:
    """Add ``report`` to the commands of the parser."""
    parser = commands.add_parser(
        "report", help="what searches have found: a table, a web page, a CSV",
        description="Print a table of the networks of experiments and folders, and write it with curves, pictures and comparisons "
        "as one HTML page that needs no network, with a CSV beside it. While trials run, nothing is timed. Fails if a trial "
        "has failed.",
    )  # fmt: skip
    parser.add_argument(
        "sources",
        nargs="*",
        type=text_argument,
        metavar="EXPERIMENT_ID | DIR",
        help="default: the experiment started last",
    )
    parser.add_argument("--html", type=path_argument, metavar="PAGE",
                        help="default: report.html in the folder of the first experiment or DIR")  # fmt: skip
    parser.add_argument("--train-best", nargs="?", const=None, default=False, type=path_argument, metavar="train.yml",
                        help="first train the network that the search says most of: the best accuracy, or other figure of merit")  # fmt: skip
    parser.add_argument("--front", type=path_argument, metavar="PICTURE",
                        help="draw accuracy, or another figure of merit, against latency, as .svg or .png, with a .csv beside it")  # fmt: skip
    parser.add_argument("--reference", type=path_argument, action="append", default=[], metavar="DIR",
                        help="further networks to compare with, such as nni-proxyless reference leaves; may be given again")  # fmt: skip
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    return report(
        arguments.sources, html=arguments.html, train_best=arguments.train_best, front=arguments.front, reference=arguments.reference
    )  # fmt: skip


def report(
    sources: Sequence[str], *, html: Path | None = None, train_best: Path | Literal[False] | None = False, front: Path | None = None,
    reference: Sequence[Path] = (),
) -> int:  # fmt: skip
    """The command itself; returns its exit code.

    Parameters
    ----------
    sources, html, front, reference
        As the command line has them.
    train_best
        The settings of the final training, None for those of the package, False for no training.
    """
    from ..models.draw import require_picture
    from ..report.pareto_front import write_front
    from ..report.rows import rows_of, table_near
    from ..report.runs import find
    from ..report.table import legend, table

    if front is not None:
        require_picture(front, "--front")
    if html is not None and html.suffix not in (".html", ".htm"):
        raise UserError(f"--html {html}: '{html.suffix}' is not allowed here; allowed: .html, .htm")
    found = find(sources, also=reference)
    failed = [f"trial {f.name}: {f.state}: {f.reason}; its files: {f.folder}" for f in found if f.failed]
    if train_best is not False and not failed:
        _train_best(found, train_best)
        found = find(sources, also=reference)  # one of them has a final training now
    # A measurement would disturb the trials, which measure too, and they it.
    timed = not any(f.state in ("RUNNING", "WAITING") for f in found)
    if timed:
        from ..models.compare_latency import measure_side_by_side  # with torch

        latencies = measure_side_by_side([f.architecture for f in found], [table_near(f.folder) for f in found])
    else:
        latencies = [{} if f.architecture is None else f.architecture.latency for f in found]
    rows = rows_of(found, latencies)
    if front is not None:
        write_front(found, [row.measured_ms for row in rows], front)
    path = html or _place(sources, found) / "report.html"
    _write(path, found, rows, timed)
    print(
        "\n".join([table(rows), "", legend(rows), "", *failed, f"page: {path}", f"figures: {path.with_suffix('.csv')}"])
    )
    return 1 if failed else 0


def _train_best(found: Sequence[Found], settings: Path | None) -> None:
    from ..report.merits import names_of

    done = [(f.search_merit, f) for f in found if f.search_merit is not None]
    if not done:
        raise UserError("report: no search has finished yet: nothing to train")
    merits = list(dict.fromkeys(f.merit for _, f in done))
    if len(merits) > 1:
        raise UserError(
            f"report: --train-best: the networks have different metrics ({names_of(merits)}), which do not compare; allowed: searches of one"
        )
    from ..config.read import read_config
    from ..config.train_config import TrainConfig
    from ..training.loop import train

    merit = merits[0]
    value, best = max(done, key=lambda item: merit.score(item[0]))
    config = read_config(TrainConfig, settings)
    _logger.info(
        "final training of %s of %d, that of %s (%s with the weights of the search): %d epochs",
        "the most accurate network" if merit == ACCURACY else f"the network of the best {merit.name}",
        len(done), best.name, merit.in_words(value), config.epochs,
    )  # fmt: skip
    result = train(config, best.folder / "architecture.json", best.folder / "final")
    _logger.info(
        "final training: %s %s on the test images; weights: %s",
        result.merit.name,
        result.merit.in_words(result.value),
        result.folder / "weights.safetensors",
    )


def _place(sources: Sequence[str], found: Sequence[Found]) -> Path:
    """The folder of the first source."""
    if sources and Path(sources[0]).is_dir():
        return Path(sources[0])
    experiment = found[0].experiment
    assert experiment is not None
    return experiment.folder


def _write(path: Path, found: Sequence[Found], rows: Sequence[Any], timed: bool) -> None:
    from ..core.atomic_files import write_text
    from ..report.page import page
    from ..report.rows import csv_text

    text = page(found, rows, timed=timed)
    try:
        write_text(path.with_suffix(".csv"), csv_text(rows))
        write_text(path, text)
    except OSError as error:
        raise UserError(f"--html {path}: cannot be written: {error.strerror}; name another place") from error
