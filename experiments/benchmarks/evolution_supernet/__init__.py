"""Evolution within a bound by the verdicts of a supernet, against draws, NNI's own evolution and a regression, where every network is known."""

from pathlib import Path

PLACE = 1.76
RECORDS = [
    ("evolution_supernet.json", "Evolution by a supernet's verdicts", "bench_evolution_supernet.svg"),
    ("evolution_supernet_again.json", "Evolution by a supernet's verdicts: the same seeds on another machine"),
]


def short(folder: Path) -> list[str]:
    """All that it makes lies beside its result."""
    return ["--folder", str(folder / "evolution_supernet")]
