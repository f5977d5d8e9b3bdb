"""Do searches find networks that chance does not, in a space of which every network is known?

    python -m experiments.benchmarks.nas_bench_macro.run --folder nas_bench_macro --output nas_bench_macro.json

ProxylessNAS and DSNAS search the 6,561 networks of NAS-Bench-Macro on CIFAR-10, by multiply-adds, at shares of the largest network; what a
network is worth then says the table of its authors, and nothing is trained again. Beside the searches, supernets by several recipes: how
well their verdicts on random networks of a budget agree with the table, and what each way to use them finds. What the cells do says
:mod:`.cell`. The same command goes on where it was stopped.

Images and table: ../README.md#images-and-tables-of-others. The short form has noise for images and a table that is made up.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nni_proxyless.core.errors import UserError

from .. import ROOT
from ..common import record
from ..common.options import read_options
from ..common.planted import silence
from .cell import SETTINGS, Setting, cell, name_of_cell
from .report import markdown, picture
from .table import add_table_option, table_of
from .worth import summary


def one(name: str, path: Path | None, which: tuple[Any, ...], folder: Path) -> dict[str, Any]:
    """A cell in a process of its own."""
    os.chdir(ROOT)  # where the spaces and images are found that settings name
    torch.set_num_threads(1)
    silence()
    setting = SETTINGS[name]
    return cell(setting, table_of(name == "short", path, setting.width), which, folder)


def make_cells(
    name: str, path: Path | None, cells: list[tuple[Any, ...]], folder: Path, processes: int
) -> list[dict[str, Any]]:
    """All cells, so many at a time; what they have left."""
    if processes == 1:
        return [one(name, path, which, folder) for which in cells]
    found = []
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        waiting = [pool.apply_async(one, (name, path, which, folder)) for which in cells]
        for which, done in zip(cells, waiting, strict=True):
            found.append(done.get())
            print(f"{name_of_cell(*which)}: done", file=sys.stderr, flush=True)
    return found


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="methods and recipes (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="(default: 0 1 2; short: 0)")
    add_table_option(parser)
    options = read_options(
        parser, arguments, short="noise for images, a made-up table: shows that everything runs", folder="nas_bench_macro",
        processes="cells",
    )  # fmt: skip
    setting = SETTINGS["short" if options.short else "full"]
    names = [*setting.methods, *setting.recipes]
    if unknown := [name for name in options.only or () if name not in names]:
        parser.error(f"argument --only: {', '.join(unknown)}; allowed: {', '.join(names)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    name, folder = "short" if options.short else "full", options.folder.resolve()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # of the processes that are started
    logging.getLogger("nni_proxyless").setLevel(logging.WARNING)
    began = time.perf_counter()
    setting: Setting = dataclasses.replace(SETTINGS[name], seeds=tuple(options.seeds or SETTINGS[name].seeds))
    try:
        table = table_of(options.short, options.table, setting.width)
        wanted = [which for which in setting.cells() if not options.only or which[1] in options.only]
        cells = make_cells(name, options.table, wanted, folder, options.processes)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    shown = argparse.Namespace(short=options.short, only=options.only, seeds=options.seeds)
    result = record.provenance(__file__, shown, time.perf_counter() - began) | {
        "threads": 1, "bars": [], "setting": dataclasses.asdict(setting), "cells": cells, **summary(table, setting.budgets, cells),
    }  # fmt: skip
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
