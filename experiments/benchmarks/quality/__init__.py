"""Networks of searches against random ones and those that are made by hand."""

import socket
from pathlib import Path

PLACE = 1
RECORDS = [
    ("quality.json", "Quality of what is found", "bench_quality.svg"),
    ("quality_cifar10.json", "Quality of what is found: CIFAR-10", "bench_quality_cifar10.svg"),
    ("quality_around.json", "Quality of what is found: around a model of timm", "bench_quality_around.svg"),
    ("quality_from.json", "Quality of what is found: from a trained model of timm", "bench_quality_from.svg"),
    ("quality_seeds_1_to_5.json", "Quality of what is found: seeds 1 to 5, 10,000 test images"),
    ("quality_expansions_3_6.json", "Quality of what is found: expansions 3 and 6, short trainings"),
]


def short(folder: Path) -> list[str]:
    """All that it makes goes below the folder of results; the usual port may be that of somebody's web UI."""
    with socket.socket() as any_free:
        any_free.bind(("127.0.0.1", 0))
        return ["--folder", str(folder / "quality"), "--port", str(any_free.getsockname()[1])]
