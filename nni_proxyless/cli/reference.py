"""``nni-proxyless reference``: the networks that a search has to beat."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.errors import UserError
from ..core.text_table import in_columns
from ..core.user_path import path_argument
from ..latency.digits import in_words

__all__ = ["add_reference_command"]

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)  # of the published MobileNetV2s


def add_reference_command(commands: Any) -> None:
    """Add ``reference`` to the commands of the parser."""
    reference = commands.add_parser(
        "reference", help="the networks that a search has to beat: MobileNetV2 at several widths, and random ones",
        description="Write networks picked by hand: around a model of timm that model, for images that are halved five times MobileNetV2, else "
        "MobileNetV2's block (3x3, expansion 6) in the skeleton of the network's own space; and random networks of that space under the same "
        "budget. "
        "Their weights are fresh; train them with nni-proxyless train … weights=scratch.",
    )  # fmt: skip
    reference.add_argument(
        "network", type=path_argument, metavar="architecture.json | RUN", help="of a search, or its folder"
    )
    reference.add_argument("--widths", type=float, nargs="*", default=WIDTHS, metavar="W",
                           help=f"channels are multiplied by; default: {' '.join(str(w) for w in WIDTHS)}; none: no such networks")  # fmt: skip
    reference.add_argument("--random", type=int, default=0, metavar="N",
                           help="also N random networks, which take 95 to 100 %% of the budget by the search's own table")  # fmt: skip
    reference.add_argument("--seed", type=int, default=0, metavar="S", help="of the random networks; default: 0")
    reference.add_argument("--budget-ms", type=float, metavar="B",
                           help="of the random networks, in the unit of the search; default: its target")  # fmt: skip
    reference.add_argument(
        "--output", type=path_argument, metavar="DIR", help="default: reference/ beside architecture.json"
    )
    reference.set_defaults(run=_reference)


def _reference(arguments: argparse.Namespace) -> int:
    for width in arguments.widths:
        if not 0 < width <= 10:
            raise UserError(f"--widths: {width} is not allowed here; allowed: more than 0, up to 10")
    if arguments.random < 0 or (arguments.random == 0 and not arguments.widths):
        allowed = "1 or more, where --widths names none" if not arguments.widths else "0 or more"
        raise UserError(f"--random: {arguments.random} is not allowed here; allowed: {allowed}")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed: {arguments.seed} is not allowed here; allowed: 0 to {2**32 - 1}")
    from ..models.architecture import Architecture
    from ..models.deviation import MARK, deviation_of, deviations_in_words, with_marks
    from ..models.record import unit_of

    path = arguments.network / "architecture.json" if arguments.network.is_dir() else arguments.network
    searched = Architecture.read(path)
    from ..search.mobilenetv2_baseline import measure_baselines, reference_networks, write_reference_networks
    from ..search.random_baseline import random_networks  # these take seconds

    networks = reference_networks(searched, sorted(set(arguments.widths))) if arguments.widths else []
    structure = networks[0].search["structure"] if networks else None
    if arguments.random:
        networks += random_networks(
            searched, path.parent, arguments.random, budget=arguments.budget_ms, seed=arguments.seed
        )
    beside = measure_baselines(searched, networks)
    paths = write_reference_networks(networks, arguments.output or path.parent / "reference")
    rows: list[tuple[str, ...]] = [("network", "MACs", "params", f"table {unit_of(searched.latency)}", "measured ms")]
    names = [*(file.parent.name for file in paths), "the searched network"]
    latencies = [*(network.latency for network in networks), beside or {**searched.latency, "measured_ms": None}]
    measured = with_marks([_ms(latency["measured_ms"]) for latency in latencies], map(deviation_of, latencies))
    rows += [
        (name, f"{network.macs / 1e6:.2f} M", f"{network.n_params / 1e3:.1f} k", _ms(latency.get("table_ms")), ms)
        for name, network, latency, ms in zip(names, [*networks, searched], latencies, measured, strict=True)
    ]
    print("\n".join(in_columns(rows)))
    if said := deviations_in_words(
        [(name, path.parent, latency) for name, latency in zip(names, latencies, strict=True)]
    ):
        print(f"{MARK} {said}")
    if structure is not None:
        print(f"structure: {structure}")
    for path in paths:
        print(f"architecture: {path}")
    return 0


def _ms(value: float | None) -> str:
    return "-" if value is None else in_words(value)
