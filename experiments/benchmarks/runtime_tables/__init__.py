"""Whether tables are true in every runtime, and how long they take to build."""

from pathlib import Path

PLACE = 10.5
FIRST = True
RECORDS = [("runtime_tables.json", "Tables of every runtime", "bench_runtime_tables.svg")]


def short(folder: Path) -> list[str]:
    """Its tables lie beside its result."""
    return ["--folder", str(folder / "runtime_tables")]
