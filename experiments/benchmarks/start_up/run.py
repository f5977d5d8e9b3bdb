"""How long commands take that write two files, check one, or refuse: from the word to its answer.

    python -m experiments.benchmarks.start_up.run --output start_up.json
    python -m experiments.benchmarks.start_up.run --command /another/checkout/.venv/bin/nni-proxyless    # to compare with

Each is run five times in a folder of its own; the median counts, on a machine that does nothing else. The floor is the Python of the
same environment that does nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .. import ROOT
from ..common import record
from .report import bars, markdown

EXPERIMENTS = ROOT / "experiments"
# What is typed in a folder of its own, the shipped files by name, and the bar in seconds.
COMMANDS: dict[str, tuple[list[str], float]] = {
    "--version": (["--version"], 2),
    "--help": (["--help"], 2),
    "init": (["init", "new"], 2),
    "a refused key": (["search", "search.yml", "nonsense=1"], 2),
    "a refused argument": (["search", "search.yml", "strategy.nonsense=1"], 2),
    "no such file": (["search", "none.yml"], 2),
    **{
        f"check {name}": (["check", name], 4)
        for name in ("search.yml", "train.yml", "search_peers.yml", "proxyless.yml", "peers.yml")
    },
    "derive, no search there": (["derive", ".", "--budget-ms", "2"], 2),
    "report, nothing there": (["report", "."], 2),
    "train, no network there": (["train", "architecture.json"], 2),
}


def seconds(words: Sequence[str], repeats: int) -> list[float]:
    """Of so many runs."""
    took = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            subprocess.run(words, cwd=folder, capture_output=True, check=False)
            took.append(time.perf_counter() - began)
    return took


def typed(words: Sequence[str]) -> list[str]:
    """With the paths of shipped files."""
    return [
        str(EXPERIMENTS / word) if word.endswith(".yml") and (EXPERIMENTS / word).exists() else word for word in words
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(sys.executable).with_name("nni-proxyless")
    parser.add_argument("--short", action="store_true", help="three runs of each")
    parser.add_argument("--command", type=Path, help="the nni-proxyless to time (default: that of this Python)")
    parser.add_argument("--repeats", type=int, help="runs of each (default: 5)")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (3 if options.short else 5)
    command, options.command = options.command or here, None  # where it lies is nobody else's business
    began = time.perf_counter()
    floor = seconds([str(command.with_name("python")), "-c", "pass"], options.repeats)
    entries = [
        {"command": name, "bar": bar, "seconds": seconds([str(command), *typed(words)], options.repeats)}
        for name, (words, bar) in COMMANDS.items()
    ]
    result = {
        **record.provenance(__file__, options, time.perf_counter() - began), "bars": bars(entries), "floor": floor,
        "entries": entries,
    }  # fmt: skip
    return record.finish(result, options, markdown)


if __name__ == "__main__":
    sys.exit(main())
