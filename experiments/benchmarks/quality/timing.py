"""What has to be timed, on a quiet machine: before the cells the table, the targets and the hand-made networks; after them all networks."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.derive import build_network
from nni_proxyless.latency import DeviceEstimator
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.search.mobilenetv2_baseline import reference_networks

from .cell import BATCH, any_net, hand_made_path, profiler_of, run, space_of
from .grids import MOBILENETV2, ORIGINAL, TIMM, Grid
from .hand_made import hand_made


def in_turns(grid: Grid, nets: list[Architecture], repeats: int = 60) -> list[float]:
    """Milliseconds of networks, timed in turns in one run."""
    estimator = DeviceEstimator(device="cpu", threads=1, batch=BATCH, repeats=repeats, runtime=grid.runtime)
    return [m.median_ms for m in estimator.measure([(build_network(net), net.input_shape) for net in nets])]


def prepare(grid: Grid, folder: Path, short: bool) -> None:
    """Build the table, find the targets, and scale the hand-made networks to them; what is there stays."""
    table, targets = folder / "table.yaml", folder / "targets.json"
    if not table.exists():
        build_table(grid, table, short)
    if not targets.exists():
        write_text(targets, json.dumps(targets_of(grid, table), indent=1) + "\n")
    for width in grid.widths:
        for method in grid.methods:
            path = hand_made_path(folder, method, width)
            if method in (*MOBILENETV2, *TIMM, ORIGINAL) and not path.exists():
                scale_hand_made(grid, method, width).write(path)


def build_table(grid: Grid, path: Path, short: bool) -> None:
    arguments = [f"{name}={value}" for name, value in grid.space.items() if name != "name"]
    space = ["--space", grid.space["name"], *arguments, f"in_channels={grid.input_shape[0]}", "num_classes=10"]
    size = ["--resolution", str(grid.input_shape[1]), "--channels", str(grid.input_shape[0]), "--batch", str(BATCH)]
    few = ["--repeats", "15"] if short else []
    run(["latency", "build", *space, *size, "--threads", "1", "--runtime", grid.runtime, *few, "--output", str(path)])


def targets_of(grid: Grid, table: Path) -> dict[str, dict[str, float]]:
    """Width -> what MobileNetV2 takes, in milliseconds of the table: ``target_ms``, and today's speed of the machine by that of the table's day."""
    base = any_net(grid)
    profiler, space, sample = profiler_of(base, table), space_of(base), []
    for i in range(12):
        torch.manual_seed(i)
        choices = {
            label: mutable.values[int(torch.randint(len(mutable.values), ()))]
            for label, mutable in space.simplify().items()
        }
        sample.append(dataclasses.replace(base, choices=choices, network=space.timm_definition(choices)))
    references = reference_networks(base, grid.widths)
    ms = in_turns(grid, [*references, *sample])
    scale = statistics.median(
        measured / float(profiler.profile(net.choices))
        for measured, net in zip(ms[len(references) :], sample, strict=True)
    )
    return {
        str(width): {"target_ms": round(measured / scale, 6), "scale": scale}
        for width, measured in zip(grid.widths, ms, strict=False)
    }


def scale_hand_made(grid: Grid, method: str, width: float) -> Architecture:
    """Timed beside MobileNetV2 of that width, which has set the target."""
    (reference,) = reference_networks(any_net(grid), [width])

    def share_of(net: Architecture) -> float:
        of_target, ms = in_turns(grid, [reference, net])
        return ms / of_target

    return hand_made(grid, method, width, share_of)


def time_all(grid: Grid, cells: list[dict[str, Any]], folder: Path, rounds: int) -> None:
    """Note what each network takes, and by what MobileNetV2 of its target does, timed in turns: the median of some rounds."""
    references = reference_networks(any_net(grid), grid.widths)
    networks = [(network, cell["width"]) for cell in cells for network in cell["networks"]]
    names = [json.dumps([network["space"], network["choices"]], sort_keys=True) for network, _ in networks]
    different = {  # a hand-made network is the same for every seed
        name: Architecture.read(folder / network["architecture"])
        for name, (network, _) in zip(names, networks, strict=True)
    }
    torch.set_num_threads(1)
    turns = [in_turns(grid, [*references, *different.values()], 30) for _ in range(rounds)]
    for (network, width), name in zip(networks, names, strict=True):
        reference, mine = grid.widths.index(width), len(references) + list(different).index(name)
        network["measured_ms"] = statistics.median(ms[mine] for ms in turns)
        network["by_mobilenetv2"] = statistics.median(ms[mine] / ms[reference] for ms in turns)
