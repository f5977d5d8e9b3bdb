"""Searches in a space of which every network was trained by others, and the supernets that they judge by."""

from pathlib import Path

PLACE = 1.6
RECORDS = [("nas_bench_macro.json", "Searches in NAS-Bench-Macro", "bench_nas_bench_macro.svg")]


def short(folder: Path) -> list[str]:
    """All that it makes lies beside its result."""
    return ["--folder", str(folder / "nas_bench_macro")]
