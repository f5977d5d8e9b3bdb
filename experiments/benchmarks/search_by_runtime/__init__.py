"""Whether it pays to search by the milliseconds of the runtime that a network will run in."""

from pathlib import Path

PLACE = 1.5
RECORDS = [
    ("search_by_runtime.json", "Searches by the runtime of deployment", "bench_search_by_runtime.svg"),
    ("search_by_runtime_supernet.json", "Searches by the runtime of deployment, the supernet judges"),
]


def short(folder: Path) -> list[str]:
    """Its tables and searches lie beside its result."""
    return ["--folder", str(folder / "search_by_runtime")]
