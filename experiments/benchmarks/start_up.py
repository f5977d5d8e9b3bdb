"""How long commands take that write two files, check one, or refuse: from the word to its answer.

    python experiments/benchmarks/start_up.py
    python experiments/benchmarks/start_up.py --command /another/checkout/.venv/bin/nni-proxyless    # to compare with

Each is run five times in a folder of its own; the median counts, on a machine that does nothing else. The floor is the Python of the
same environment that does nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPERIMENTS = Path(__file__).resolve().parents[1]
SEARCH, TRAIN, EXPERIMENT = (str(EXPERIMENTS / name) for name in ("search.yml", "train.yml", "proxyless.yml"))
# What is typed, and the bar in seconds.
COMMANDS: dict[str, tuple[list[str], float]] = {
    "--version": (["--version"], 2),
    "--help": (["--help"], 2),
    "init": (["init", "new"], 2),
    "a refused key": (["search", SEARCH, "nonsense=1"], 2),
    "a refused argument": (["search", SEARCH, "strategy.nonsense=1"], 2),
    "no such file": (["search", "none.yml"], 2),
    "check search.yml": (["check", SEARCH], 4),
    "check train.yml": (["check", TRAIN], 4),
    "check proxyless.yml": (["check", EXPERIMENT], 4),
    "derive, no search there": (["derive", ".", "--budget-ms", "2"], 2),
    "report, nothing there": (["report", "."], 2),
    "train, no network there": (["train", "architecture.json"], 2),
}


def seconds(words: list[str], repeats: int) -> float:
    """Median of so many runs."""
    took = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            subprocess.run(words, cwd=folder, capture_output=True, check=False)
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(sys.executable).with_name("nni-proxyless")
    parser.add_argument("--command", type=Path, default=here, help="the nni-proxyless to time (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, metavar="JSON")
    given = parser.parse_args()
    floor = seconds([str(given.command.with_name("python")), "-c", "pass"], given.repeats)
    print(f"{'python -c pass':26} {floor:6.2f} s")
    found, missed = {"floor": floor}, 0
    for name, (words, bar) in COMMANDS.items():
        found[name] = seconds([str(given.command), *words], given.repeats)
        missed += found[name] > bar
        print(f"{name:26} {found[name]:6.2f} s   bar {bar} s: {'missed' if found[name] > bar else 'met'}")
    if given.output is not None:
        given.output.write_text(
            json.dumps({"repeats": given.repeats, "seconds": found}, indent=1) + "\n", encoding="utf-8"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
