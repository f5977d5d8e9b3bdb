"""How much networks of equal cost differ, by the noise of their trainings: what a search in a space could show at all."""

from pathlib import Path

PLACE = 0.5
RECORDS = [("gate.json", "Differences between networks of equal cost", "bench_gate.svg")]


def short(folder: Path) -> list[str]:
    """All that it makes lies beside its result."""
    return ["--folder", str(folder / "gate")]
