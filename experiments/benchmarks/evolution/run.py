"""At equal numbers of trained networks, is a bounded evolution worth more than draws, than one without bounds, than NNI's own, than a regression?

    python -m experiments.benchmarks.evolution.run --output evolution.json

Five methods search NAS-Bench-Macro, whose 6,561 networks were all trained, under bounds on multiply-adds (:mod:`.searches`). The short form has a table that is made up.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nni_proxyless.core.errors import UserError
from nni_proxyless.core.progress import bar

from ..common import record
from ..common.options import read_options
from ..nas_bench_macro.table import Table, add_table_option, table_of
from .report import markdown, picture, share_table
from .searches import DRAWS, EARLY_EXIT, REGULARIZED, SELECTION, UNBOUNDED, Method, best, hypervolume, search

METHODS = {
    EARLY_EXIT: Method(EARLY_EXIT, 10),
    UNBOUNDED: Method(UNBOUNDED, 10),
    DRAWS: Method(DRAWS),
    REGULARIZED: Method(REGULARIZED, 10, 0.05),
    SELECTION: Method(SELECTION, 20, drawn=0.2),
}
# What ``--choose`` compares, on seeds of its own.
CANDIDATES = {
    **{f"{kind}, {n}": Method(kind, n) for kind in (EARLY_EXIT, UNBOUNDED) for n in (10, 20, 40)},
    **{f"{REGULARIZED}, {n}, {rate}": Method(REGULARIZED, n, rate) for n in (10, 20, 50) for rate in (0.05, 0.125)},
    **{f"{SELECTION}, {drawn}": Method(SELECTION, 20, drawn=drawn) for drawn in (0.2, 0.5, 0.8)},
}


@dataclass(frozen=True)
class Setting:
    """Bounds as shares of the largest network, numbers of networks at which is looked, seeds."""

    bounds: tuple[float, ...] = (0.3, 0.5, 0.7)
    networks: tuple[int, ...] = (50, 100, 200)
    seeds: tuple[int, ...] = tuple(range(20))


FULL, SHORT = Setting(), Setting((0.5,), (20, 40), (0, 1))
CHOOSING = Setting((0.3, 0.5), (100,), tuple(range(1000, 1008)))


def searches(methods: Mapping[str, Method], table: Table, setting: Setting) -> Iterable[dict[str, Any]]:
    """Every method with every bound and seed: what it is worth, after so many networks."""
    largest = float(table.macs.max()) / 1e6
    work = list(itertools.product(methods, setting.bounds, setting.seeds))
    with bar(len(work), "searches", "search") as done:
        for name, share, seed in work:
            found = search(methods[name], table, share * largest, max(setting.networks), seed)
            rows = [found["judged"][:n] for n in setting.networks]
            yield {
                "method": name, "bound": share, "seed": seed, "trained": len(found["judged"]),
                "hypervolume": [hypervolume(table, some, share * largest) for some in rows],
                "whole_hypervolume": [hypervolume(table, some, largest) for some in rows],
                "best": [best(table, some, share * largest) for some in rows],
                **{key: found[key] for key in ("drawn", "over") if key in found},
            }  # fmt: skip
            done.update()


def space_of(table: Table, setting: Setting) -> dict[str, dict[str, float]]:
    """Of each bound: how many networks are within, and the best of them."""
    within = {f"{share:g}": table.macs <= share * table.macs.max() for share in setting.bounds}
    return {
        share: {"within": int(of.sum()), "share": float(of.mean()), "best": float(table.accuracy[of].max())}
        for share, of in within.items()
    }


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_table_option(parser)
    parser.add_argument(
        "--choose", action="store_true", help="compare settings, on other seeds than those of the record, and end"
    )
    return read_options(parser, arguments, short="a made-up table, two seeds: shows that everything runs")


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    logging.getLogger("nni.nas").setLevel(logging.ERROR)  # a line for every network that a filter holds back
    try:
        table = table_of(options.short, options.table)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if options.choose:
        setting = SHORT if options.short else CHOOSING
        print("\n".join(share_table(list(searches(CANDIDATES, table, setting)), setting.bounds, setting.networks)))
        return 0
    setting, began = SHORT if options.short else FULL, time.perf_counter()
    found = list(searches(METHODS, table, setting))
    shown = argparse.Namespace(short=options.short)
    result = record.provenance(__file__, shown, time.perf_counter() - began) | {
        "threads": 1, "bars": [], "setting": asdict(setting), "methods": {name: asdict(of) for name, of in METHODS.items()},
        "bounds": space_of(table, setting), "searches": found,
        "saved": {f"{b:g}": _saved([s for s in found if s["method"] == DRAWS and s["bound"] == b]) for b in setting.bounds},
    }  # fmt: skip
    return record.finish(result, options, markdown, picture)


def _saved(draws: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of random networks that early exit has not trained, over seeds."""
    shares = [one["over"] / one["drawn"] for one in draws]
    return {"mean": statistics.mean(shares), "standard_error": statistics.stdev(shares) / len(shares) ** 0.5}


if __name__ == "__main__":
    sys.exit(main())
