"""Which way to use noisy verdicts on networks finds the best one, per network that is judged?

    python -m experiments.benchmarks.selection.run --output selection.json

The methods of ``nni_proxyless/search/selection.py``, as ``derive --judge`` calls them, with the table of NAS-Bench-Macro and an error for the
judge (:mod:`.noisy_judge`): at three budgets, by judges of three correlations with the truth, with few and many networks, over many judges
each. What supernets find that were trained shows :mod:`..nas_bench_macro`. The short form has a table that is made up.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nni_proxyless.core.errors import UserError
from nni_proxyless.core.progress import bar
from nni_proxyless.search.selection import METHODS, select

from ..common import record
from ..common.options import read_options
from ..nas_bench_macro.cell import draw_of
from ..nas_bench_macro.space import macs_profiler
from ..nas_bench_macro.table import add_table_option, table_of
from .noisy_judge import MORE, NoisyJudge
from .report import markdown, picture


@dataclass(frozen=True)
class Setting:
    """What is compared: all combinations, each with so many judges."""

    budgets: tuple[float, ...] = (0.4, 0.5, 0.7)
    correlations: tuple[float, ...] = (0.3, 0.5, 0.7)
    networks: tuple[int, ...] = (16, 32, 64, 128)
    judges: int = 100

    def cells(self) -> list[tuple[float, float, int, str]]:
        return list(itertools.product(self.budgets, self.correlations, self.networks, METHODS))


SETTINGS = {"full": Setting(), "short": Setting((0.5,), (0.5,), (16,), judges=2)}


def cell(short: bool, path: Path | None, which: tuple[float, float, int, str]) -> dict[str, Any]:
    """One method with many judges of a correlation: mean and standard error of the accuracy that it finds."""
    table, (share, r, n, method) = table_of(short, path), which
    window, profiler = table.window(share), macs_profiler()
    accuracies, seen, told = [], [], []
    for seed in range(SETTINGS["short" if short else "full"].judges):
        judge = NoisyJudge(table, window, r, seed)
        selected = select(
            method, judge=judge, draw=draw_of(table, window), profiler=profiler, budget=window.high / 1e6, n=n, seed=seed,
            at_least=window.low / 1e6, judge_again=judge.again,
        )  # fmt: skip
        accuracies.append(float(table.accuracy[table.index(selected.best.choices)]))
        seen.append(judge.seen)
        told.append(selected.fit.correlation)
    return {
        "budget": share, "r": r, "networks": n, "method": method, "accuracy": statistics.mean(accuracies),
        "standard_error": statistics.stdev(accuracies) / len(accuracies) ** 0.5, "worst_tenth": sorted(accuracies)[len(accuracies) // 10],
        "judged": statistics.mean(seen), "cross_validated": statistics.mean(told),
    }  # fmt: skip


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_table_option(parser)
    return read_options(
        parser, arguments, short="a made-up table, two judges: shows that everything runs", processes="ways to select"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    began, setting = time.perf_counter(), SETTINGS["short" if options.short else "full"]
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # of the processes that are started
    try:
        table = table_of(options.short, options.table)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    cells, work = [], [(options.short, options.table, which) for which in setting.cells()]
    with bar(len(work), "methods", "cell") as done:
        if options.processes == 1:
            for one in work:
                cells.append(cell(*one))
                done.update()
        else:
            with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
                for found in [pool.apply_async(cell, one) for one in work]:
                    cells.append(found.get())
                    done.update()
    shown = argparse.Namespace(short=options.short)
    result = record.provenance(__file__, shown, time.perf_counter() - began) | {
        "threads": 1, "bars": [], "setting": asdict(setting), "again": MORE, "cells": cells,
        "chance": {f"{share:g}": table.window(share).chance() for share in setting.budgets},
    }  # fmt: skip
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
