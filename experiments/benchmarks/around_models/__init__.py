"""From a model that you have: networks found around ten models of timm, against each model scaled to the same latency."""

from pathlib import Path

PLACE = 1.1
RECORDS = [
    ("around_models.json", "Around ten models of timm", "bench_around_models.svg"),
    ("around_models_behind.json", "Around the two models of timm that were ahead: five seeds"),
]


def short(folder: Path) -> list[str]:
    """All that it makes lies beside its result."""
    return ["--folder", str(folder / "around_models")]
