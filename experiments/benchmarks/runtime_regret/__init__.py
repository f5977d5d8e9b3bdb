"""What a search by another runtime's milliseconds costs, in a space of which every network was trained by others."""

from pathlib import Path

PLACE = 1.55
RECORDS = [
    ("runtime_regret.json", "Searches by two runtimes in NAS-Bench-Macro", "bench_runtime_regret.svg"),
    ("runtime_regret_again.json", "Searches by two runtimes in NAS-Bench-Macro: the same seeds on another machine"),
]


def short(folder: Path) -> list[str]:
    """All that it makes lies beside its result."""
    return ["--folder", str(folder / "runtime_regret")]
