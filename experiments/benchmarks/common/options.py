"""The options that benchmarks share, spelled and explained alike."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nni_proxyless.core.user_path import path_argument


def read_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, *, short: str, folder: str | None = None,
    processes: str | None = None, output: str = "JSON file for the result",
) -> argparse.Namespace:  # fmt: skip
    """Read the command line of a benchmark: its own options, ``--short``, ``--output`` and ``--picture``.

    Parameters
    ----------
    parser
        Of the benchmark, with the options that it alone has.
    short
        What the short form does, for ``--help``.
    folder
        Default of ``--folder``; without it there is no such option.
    processes
        What ``--processes`` run, in the plural: two at a time, one in the short form; without it there is no such option.
    output
        What lies in the file of ``--output``, for ``--help``.
    """
    parser.add_argument("--short", action="store_true", help=short)
    if processes is not None:
        parser.add_argument(
            "--processes", type=int, help=f"{processes} at a time, one thread each (default: 2; short: 1)"
        )
    if folder is not None:
        parser.add_argument(
            "--folder", type=path_argument, default=Path(folder), help="of all that is made (default: %(default)s)"
        )
    parser.add_argument("--output", type=path_argument, help=output)
    parser.add_argument("--picture", type=path_argument, help="SVG or PNG file for the picture")
    options = parser.parse_args(arguments)
    if processes is not None:
        if options.processes is None:
            options.processes = 1 if options.short else 2
        if options.processes < 1:
            parser.error(f"argument --processes: {options.processes}; allowed: 1 or more")
    return options
