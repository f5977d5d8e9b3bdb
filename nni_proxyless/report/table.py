"""Results as text: a table of all networks, and the figures of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.label_parts import by_part
from ..core.merit import ACCURACY
from ..core.text_table import in_columns
from ..latency.digits import in_words
from ..models.architecture import Architecture
from ..models.deviation import MARK, deviation_of, with_marks
from ..models.record import runtime_of_record, unit_of
from .merits import common_merit, merits_of
from .rows import Row, deviations_of, predicted_and_calibrated, runtimes_of

__all__ = ["figures", "legend", "table"]

LEGEND = """\
target: what a search was asked to meet; predicted: what the network takes by the search's table; calibrated: that, corrected by whole networks
measured: the network timed{runtime}, on this machine where that can be; search {merit}: with the weights of the search, on its validation images
final {merit}: after the final training, on the test images, which no search has seen; -: not known"""

IN_A_LINE = 40  # choices at most
SAID_BY = {"training": "losses of the training"}


def legend(rows: Sequence[Row]) -> str:
    """What the columns of their table are, and the mark in it, if there is one."""
    runtimes, deviations = runtimes_of(rows), deviations_of(rows)
    columns = LEGEND.format(runtime=f" in {runtimes[0]}" if len(runtimes) == 1 else "", merit=_merit_in_short(rows))
    merits = merits_of(rows)
    if len(merits) > 1:
        columns += "\nmetric: what search merit and final merit are; those of different metrics do not compare"
    if lower := [merit.name for merit in merits if not merit.higher_is_better]:
        columns += f"\n{', '.join(lower)}: lower is better"
    return f"{columns}\n{MARK} {deviations}" if deviations else columns


def table(rows: Sequence[Row]) -> str:
    """One line per row, and where the files are. Where not all are of milliseconds, or of one runtime, a column says of what each is, and so it does
    where they have several figures of merit; those in int8 stand there if there are any. A measured number that is far from the table's has a mark."""
    all_ms = all(row.unit == "ms" for row in rows)
    of_one = len(runtimes_of(rows)) < 2
    of = " ms" if all_ms else ""
    measured = with_marks([_cost(row.measured_ms) for row in rows], [row.deviation for row in rows])
    of_one_metric, short = common_merit(rows) is not None, _merit_in_short(rows)
    columns = {
        f"search {short}": [row.search_merit for row in rows], "search int8": [row.search_merit_int8 for row in rows],
        f"final {short}": [row.final_merit for row in rows], "final int8": [row.final_merit_int8 for row in rows],
    }  # fmt: skip
    merits = {name: some for name, some in columns.items() if "int8" not in name or some.count(None) < len(rows)}
    cells: list[tuple[str, ...]] = [(
        "search", "state", f"target{of}", f"predicted{of}", f"calibrated{of}", *(() if all_ms else ("unit",)), "measured ms",
        *(() if of_one else ("in",)), "MACs", "params", *(() if of_one_metric else ("metric",)), *merits,
    )]  # fmt: skip
    for i, row in enumerate(rows):
        target = row.target if isinstance(row.target, str) else _cost(row.target)
        cells.append((
            row.name, row.state, target, _cost(row.predicted), _cost(row.calibrated), *(() if all_ms else (row.unit,)),
            measured[i], *(() if of_one else (row.runtime or "-",)),
            "-" if row.macs is None else f"{in_words(row.macs / 1e6, digits=2)} M", "-" if row.n_params is None else f"{row.n_params / 1e3:.1f} k",
            *(() if of_one_metric else (row.metric,)), *(row.merit.in_words(some[i]) for some in merits.values()),
        ))  # fmt: skip
    return "\n".join([*in_columns(cells, n_left=2), "", *(f"{row.name}: {row.folder}" for row in rows)])


def figures(architecture: Architecture, folder: Path) -> str:
    """The figures of one derived network, a line each; ``folder`` is that of the search, which keeps the table."""
    latency, merit = architecture.latency, architecture.merit
    value = architecture.search.get(merit.name, math.nan)
    unit = unit_of(latency)

    def with_unit(value: float | None) -> str:
        return "-" if value is None else f"{in_words(value)} {unit}"

    target, expected = (with_unit(latency.get(f"{name}_ms")) for name in ("target", "expected"))
    measured, eager = (latency.get(name) for name in ("measured_ms", "measured_eager_ms"))
    timed = (
        "-" if measured is None else f"{in_words(measured)} ms in {runtime_of_record(latency) or 'an unknown runtime'}"
    )
    if eager is not None and eager != measured:
        timed += f", {in_words(eager)} ms in eager torch"
    predicted, calibrated = map(with_unit, predicted_and_calibrated(latency))
    return "\n".join(
        [
            *_choices(architecture.choices),
            f"latency:       target {target}, expected {expected}; the network: predicted {predicted}, calibrated {calibrated}, measured {timed}",
            *_deviating(latency, folder),
            f"multiply-adds: {in_words(architecture.macs / 1e6)} M",
            f"parameters:    {in_words(architecture.n_params / 1e6)} M",
            f"{merit.name + ':':<14} {merit.in_words(value)} on the validation part{_in_int8(architecture)}, {_weights_of(architecture)}",
            *_selected(architecture),
            *_chosen_by_the_clock(architecture),
        ]
    )


def _choices(choices: Mapping[str, Any]) -> list[str]:
    """One line; of many, a line for each part of the network: what is chosen there, in the order of its labels."""
    parts = by_part(choices)
    if len(choices) <= IN_A_LINE or len(parts) == len(choices):
        return [f"choices:       {' '.join(f'{label}={choice}' for label, choice in choices.items())}"]
    longest = max(map(len, parts.values()))
    rows = [
        (part, *(str(choices[label]) for label in labels), *[""] * (longest - len(labels)))
        for part, labels in parts.items()
    ]
    lines = in_columns(rows, n_left=1 + longest)
    return [f"{'' if i else 'choices:':<14} {line}".rstrip() for i, line in enumerate(lines)]


def _deviating(latency: Mapping[str, Any], folder: Path) -> list[str]:
    deviation = deviation_of(latency)
    return [] if deviation is None else [f"measured:      {deviation.in_words(folder)}"]


def _selected(architecture: Architecture) -> list[str]:
    """Of what the network was selected, and whether that can be trusted; nothing where no supernet has selected it."""
    record = architecture.search.get("selection")
    if record is None:
        return []
    correlation = record["correlation"]
    if correlation is None:
        says = "they are too few, or too alike, to tell whether it knows which choices are better"
    elif record["knows"]:
        says = f"its verdicts follow from the choices with a cross-validated correlation of {correlation:.2f}"
    else:
        says = (
            "it does not know which choices are better: its verdicts follow from them no more than by chance "
            f"(cross-validated correlation {correlation:.2f})"
        )
    return [
        f"selected:      of {record['judged']} networks that the supernet judged on {record['images']} images; {says}{_asked(record)}"
    ]


def _chosen_by_the_clock(architecture: Architecture) -> list[str]:
    """Of how many timed networks it is the best that is within the budget; nothing where none was timed for it."""
    record = architecture.search.get("timed")
    if record is None:
        return []
    return [
        f"timed:         of {record['networks']} networks {record['within_budget']} are within the budget; the best of those"
    ]


def _asked(record: Mapping[str, Any]) -> str:
    """What else had a say, and how well it agrees with the verdicts."""
    asked = {name: of for name, of in record.get("witnesses", {}).items() if of["correlation"] is not None}
    heard = [f"{SAID_BY.get(name, name)} {of['correlation']:.2f}" for name, of in asked.items() if of["weight"]]
    not_heard = [f"{SAID_BY.get(name, name)} {of['correlation']:.2f}" for name, of in asked.items() if not of["weight"]]
    counts = f"; what counts as much, and how far it agrees with them: {', '.join(heard)}" if heard else ""
    return counts + (f"; what contradicts them, and does not count: {', '.join(not_heard)}" if not_heard else "")


def _in_int8(architecture: Architecture) -> str:
    merit = architecture.merit
    value = architecture.search.get(f"{merit.name}_int8")
    return "" if value is None else f", {merit.in_words(value)} in int8"


def _weights_of(architecture: Architecture) -> str:
    if architecture.search.get("weights") == "fresh":
        return "fresh weights: train it from scratch"
    merit = architecture.merit
    if (on_test := architecture.search.get(f"test_{merit.name}")) is None:
        return "weights of the supernet"
    return f"{merit.in_words(on_test)} on the test images, trained by the search itself"


def _merit_in_short(rows: Sequence[Row]) -> str:
    """What stands over the columns: ``acc``, the name of another figure of merit, or ``merit`` where there are several."""
    merit = common_merit(rows)
    return "merit" if merit is None else "acc" if merit == ACCURACY else merit.name


def _cost(value: float | None) -> str:
    return "-" if value is None else in_words(value)
