"""At equal numbers of a supernet's verdicts, is a bounded evolution worth more than draws, than NNI's own, than a regression?

    python -m experiments.benchmarks.evolution_supernet.run --folder nas_bench_macro --output evolution_supernet.json

Methods of :mod:`..evolution` search NAS-Bench-Macro within a bound on multiply-adds, as ``nni-proxyless derive --evolve`` does: a network is worth its
log-loss on held-out images of CIFAR-10, with the weights of a supernet that ProxylessNAS has trained (:mod:`..nas_bench_macro`, whose searches are
taken where they are). Each supernet is a seed. Two figures for each method: the hypervolume of log-loss and multiply-adds, as a share of
that of all networks that any method had judged; and what the method's front is worth by the table, in which all networks were trained.

The same command goes on where it was stopped: verdicts are kept as they come. The short form has noise for images and a table that is made up.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.core.errors import UserError
from nni_proxyless.search.finished_search import FinishedSearch
from nni_proxyless.search.judging import judge_networks
from nni_proxyless.search.supernet_selection import judging_images

from .. import ROOT
from ..common import record
from ..common.options import read_options
from ..common.planted import silence
from ..evolution.run import METHODS
from ..evolution.searches import UNBOUNDED, front, hypervolume, search
from ..nas_bench_macro import cell as macro
from ..nas_bench_macro.space import name_of
from ..nas_bench_macro.table import Table, add_table_option, table_of
from .report import markdown, picture

SUPERNETS = "two-path"
BOUNDED = {name: method for name, method in METHODS.items() if name != UNBOUNDED}


@dataclass(frozen=True)
class Setting:
    """What is compared.

    Attributes
    ----------
    searches
        Of ``nas_bench_macro``: the supernets; its seeds are those of all methods.
    bound
        A share of the largest network.
    networks
        Numbers of verdicts after which is looked.
    """

    searches: macro.Setting
    bound: float = 0.5
    networks: tuple[int, ...] = (25, 50, 100)


SETTINGS = {
    "full": Setting(dataclasses.replace(macro.SETTINGS["full"], seeds=(1, 2, 3))),
    "short": Setting(macro.SETTINGS["short"], networks=(12, 24)),
}


class Verdicts:
    """Log-losses of networks with the weights of a finished search; each network is judged once, and its verdict kept in a file.

    Attributes
    ----------
    known
        Name of a network -> log-loss, in nats.
    """

    def __init__(self, run: Path, kept: Path):
        self._search, self._kept = FinishedSearch.read(run), kept
        self._images = judging_images(self._search.parts)
        self.known: dict[str, float] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}

    def __call__(self, sample: Mapping[str, Any]) -> float:
        """What a network is worth: the less log-loss, the more."""
        name = name_of(sample)
        if name not in self.known:
            (verdict,) = judge_networks(self._search.supernet, [sample], self._images.calibration, self._images.few)
            self.known[name] = verdict.log_loss
            write_text(self._kept, json.dumps(self.known) + "\n")
        return -self.known[name]

    def errors(self, table: Table) -> np.ndarray:
        """Of every row of a table; nan where nobody asked."""
        found = np.full(len(table.macs), np.nan)
        for name, log_loss in self.known.items():
            found[table.index(name)] = log_loss
        return found


def of_supernet(setting: Setting, table: Table, seed: int, folder: Path) -> dict[str, Any]:
    """All methods with one supernet."""
    cell = folder / "cells" / macro.name_of_cell("search", SUPERNETS, None, seed)
    searched = macro.searched(setting.searches, SUPERNETS, None, seed, cell)
    verdicts, bound = Verdicts(cell / "search", cell / "verdicts.json"), setting.bound * float(table.macs.max()) / 1e6
    before, began, judged = len(verdicts.known), time.process_time(), {}
    for name, method in BOUNDED.items():
        judged[name] = search(method, table, bound, max(setting.networks), seed, worth=verdicts)["judged"]
        print(f"supernet {seed}, {name}: {len(verdicts.known)} networks judged so far", file=sys.stderr, flush=True)
    new = len(verdicts.known) - before
    return {
        "seed": seed, "search_seconds": searched["seconds"], "judged": len(verdicts.known),
        "seconds_a_verdict": (time.process_time() - began) / new if new else None,
        "correlation": _correlation(verdicts, table),
        "methods": {name: _worth(setting, table, rows, bound, verdicts) for name, rows in judged.items()},
    }  # fmt: skip


def _worth(setting: Setting, table: Table, rows: Sequence[int], bound: float, verdicts: Verdicts) -> dict[str, Any]:
    """After each number of verdicts: hypervolume by them, by the table, and accuracy of the network of the least log-loss."""
    error = verdicts.errors(table)
    first = [list(rows[:n]) for n in setting.networks]
    return {
        "hypervolume": [hypervolume(table, some, bound, error) for some in first],
        "true_hypervolume": [hypervolume(table, front(table, some, error), bound) for some in first],
        "best": [float(table.accuracy[min(some, key=lambda row: error[row])]) for some in first],
    }


def _correlation(verdicts: Verdicts, table: Table) -> float:
    """Of log-losses with errors by the table, over all networks judged."""
    known = verdicts.errors(table)
    rows = np.flatnonzero(~np.isnan(known))
    return float(np.corrcoef(known[rows], 100 - table.accuracy[rows])[0, 1])


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, help="(default: 1 2 3; short: 0)")
    add_table_option(parser)
    return read_options(
        parser,
        arguments,
        short="noise for images, a made-up table: shows that everything runs",
        folder="nas_bench_macro",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    folder, setting = options.folder.resolve(), SETTINGS["short" if options.short else "full"]
    seeds = tuple(options.seeds or setting.searches.seeds)
    setting = dataclasses.replace(setting, searches=dataclasses.replace(setting.searches, seeds=seeds))
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    os.chdir(ROOT)  # where the space and the images are found that settings name
    torch.set_num_threads(1)
    silence()
    logging.getLogger("nni.nas").setLevel(logging.ERROR)  # a line for every network that a filter holds back
    began = time.perf_counter()
    try:
        table = table_of(options.short, options.table)
        found = [of_supernet(setting, table, seed, folder) for seed in seeds]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    shown = argparse.Namespace(short=options.short, seeds=options.seeds)
    result = record.provenance(__file__, shown, time.perf_counter() - began) | {
        "threads": 1, "bars": [], "bound": setting.bound, "networks": list(setting.networks), "supernets": found,
    }  # fmt: skip
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
