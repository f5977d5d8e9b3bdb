"""Whether every runtime wants a network of its own."""

from pathlib import Path

PLACE = 4.5
RECORDS = [("runtime_networks.json", "Networks for different runtimes", "bench_runtime_networks.svg")]


def short(folder: Path) -> list[str]:
    """Its tables and its search lie beside its result."""
    return ["--folder", str(folder / "runtime_networks")]
