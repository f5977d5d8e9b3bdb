"""Searches among trees of paths on CIFAR-10, as trials of NNI, against random trees of the same cost."""

from pathlib import Path

PLACE = 1.65
RECORDS = [("tree_searches.json", "Searches for trees of paths on CIFAR-10", "bench_tree_searches.svg")]


def short(folder: Path) -> list[str]:
    """All that it makes lies beside its result."""
    return ["--folder", str(folder / "tree_searches")]
