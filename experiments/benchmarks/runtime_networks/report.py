"""The cross table of networks and runtimes: bars, table and picture, from the record alone."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common import record
from ..runtime_ranks.report import name_of
from ..specialization.report import n_different, own_by_other

Networks = Mapping[str, Mapping[str, Any]]


def own_by_fastest_other(networks: Networks, target: str) -> tuple[float, float, str]:
    """What the target's own network takes there by the fastest other one's; half the distance of quartiles over copies; whose that is."""
    own = networks[target]["measured"][target]
    found = [
        (*own_by_other(own, network["measured"][target]), name) for name, network in networks.items() if name != target
    ]
    return max(found)


def bars(networks: Networks) -> list[dict[str, Any]]:
    """All networks differ; and each is the fastest on its own target, by more than the scatter of copies."""
    found = []
    for one, other in itertools.combinations(networks, 2):
        different = n_different(networks[one]["choices"], networks[other]["choices"])
        found.append(
            record.bar(
                f"choices in which the networks for {name_of(one)} and {name_of(other)} differ", different, at_least=1
            )
        )
    for target in networks if len(networks) > 1 else ():
        ratio, noise, other = own_by_fastest_other(networks, target)
        name = f"own network in {name_of(target)}, timed, by the fastest other ({name_of(other)}'s), with the scatter of copies added"
        found.append(record.bar(name, ratio + noise, at_most=1.0, noise=2 * noise))
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    networks, score = result["networks"], result["score"]
    rows = []
    for name, network in networks.items():
        cells = []
        for target in networks:
            text = f"{statistics.median(network['measured'][target]):.3f} ({network['table'][target]:.3f})"
            cells.append(f"**{text}**" if name == target else text)
        rows.append(
            (
                f"for {name_of(name)}",
                *cells,
                f"{network['score']:.3f}",
                f"{network['loss']:.3f}",
                " ".join(network["choices"].values()),
            )
        )
    lines = [
        *record.head(result), "",
        f"Runtimes: {', '.join(f'{name_of(target)} ({version})' for target, version in result['runtimes'].items())}.", "",
        f"Score: the sum of what each candidate adds to the held-out cross entropy of a supernet, fitted to {score['judged']} random networks; "
        f"of networks left out of the fit it has a Spearman correlation of {score['spearman']:.2f} with their cross entropy ("
        f"standard deviation {score['loss_deviation']:.3f}). All networks have {score['least']:.3f} or more, as the best quarter of random ones; random "
        f"networks have {score['random'][0]:.3f} to {score['random'][2]:.3f}.", "",
        "Milliseconds, timed, and in brackets by the table; a network on its own target is bold:", "",
        *record.table(("network", *(f"on {name_of(target)}" for target in networks), "score", "supernet's cross entropy", "choices"), rows),
    ]  # fmt: skip
    if len(networks) > 1:
        told = [(name_of(target), *own_by_fastest_other(networks, target)) for target in networks]
        lines += ["", *record.table(
            ("target", "own network by the fastest other", "scatter of copies", "whose"),
            [(target, f"{ratio:.3f}", f"{noise:.3f}", name_of(other)) for target, ratio, noise, other in told],
        )]  # fmt: skip
    if rows := [
        _contended(name, network["contenders"]) for name, network in networks.items() if "contenders" in network
    ]:
        lines += ["", "Networks that may be the fastest on a target, as far as its table can tell, timed there before; the fastest is the target's:", "",
                  *record.table(("target", "networks", "apart by the table", "apart, timed", "the table's own by the fastest"), rows)]  # fmt: skip
    return [*lines, "", *record.bars_table(result["bars"])]


def _contended(target: str, contenders: Mapping[str, list[float]]) -> tuple[str, ...]:
    by_table, measured = contenders["table"], contenders["measured"]
    apart = [f"{max(ms) / min(ms) - 1:.1%}" for ms in (by_table, measured)]
    return name_of(target), str(len(measured)), *apart, f"{measured[0] / min(measured):.3f}"


def picture(result: dict[str, Any], path: Path) -> None:
    """What every network takes on every target, by the target's own network."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    networks = result["networks"]
    ms = {(n, t): statistics.median(network["measured"][t]) for n, network in networks.items() for t in networks}
    ratios = [[ms[n, t] / ms[t, t] for t in networks] for n in networks]
    figure = Figure(figsize=(1.6 + 1.1 * len(networks), 1.2 + 0.8 * len(networks)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(ratios, cmap="YlOrBr", vmin=0.9, vmax=1.5)
    for (i, n), (j, t) in itertools.product(enumerate(networks), enumerate(networks)):
        text = f"{ratios[i][j]:.2f}\n{ms[n, t]:.3g} ms"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, fontweight="bold" if i == j else None)
    axes.set_xticks(range(len(networks)), [f"on {name_of(t)}" for t in networks], fontsize=7, rotation=20)
    axes.set_yticks(range(len(networks)), [f"for {name_of(n)}" for n in networks], fontsize=7)
    save_picture(figure, path)
