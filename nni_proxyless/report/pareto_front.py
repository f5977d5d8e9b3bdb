"""Figure of merit against latency of several networks: the Pareto front, and the reference networks beside it.

Networks of different metrics do not compare, nor do milliseconds of different runtimes: each pair of both has a front and a picture of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.atomic_files import write_csv
from ..core.errors import UserError
from ..core.merit import ACCURACY, Merit
from ..models.draw import save_picture
from ..models.record import runtime_of_record
from .merits import names_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .runs import Found

__all__ = ["Point", "alike", "draw_front", "on_front", "points_of", "write_front"]

_logger = logging.getLogger(__name__)

SEARCHED, REFERENCE, RANDOM = "#a8480f", "#3b6ea5", "#6b6b6b"
INT8 = "int8"
COLUMNS = ("name", "kind", "ms", "in", "{}", "{}_is", "on_front", "macs", "n_params")  # with the name of the metric


@dataclass(frozen=True)
class Point:
    """One network in the picture.

    Attributes
    ----------
    ms
        Measured milliseconds.
    value
        Figure of merit: of the trained network on the test images where ``final`` is set, else of the network with inherited weights on
        the validation part; in int8 where that was timed.
    width, structure
        Multiplier of a reference network, and what it is one of; None and empty for another one.
    random
        Whether it is a random network.
    merit
        What ``value`` is.
    runtime
        What it was timed in, :func:`..models.record.runtime_of_record`; empty where that is not known.
    """

    name: str
    ms: float
    value: float
    final: bool
    width: float | None = None
    structure: str = ""
    macs: int = 0
    n_params: int = 0
    random: bool = False
    merit: Merit = ACCURACY
    runtime: str = ""

    @property
    def score(self) -> float:
        """The value as a number of which more is better."""
        return self.merit.score(self.value)

    @property
    def searched(self) -> bool:
        return self.width is None and not self.random


def on_front(points: Sequence[Point]) -> list[bool]:
    """Which networks are not dominated: no other one is as fast and as good, and better in one of the two.

    Of equally fast ones the best is on the front, of equally good ones the fastest; equals in both are on it together. Figures of merit
    of final trainings and of searches are different things and make a front each, and so do different metrics and runtimes.
    """
    return [
        not any(
            (q.merit, q.runtime, q.final) == (p.merit, p.runtime, p.final)
            and q.ms <= p.ms
            and q.score >= p.score
            and (q.ms, q.score) != (p.ms, p.score)
            for q in points
        )
        for p in points
    ]


def points_of(
    found: Sequence[Found], measured_ms: Sequence[float | None]
) -> tuple[list[Point], list[tuple[Found, str]]]:  # fmt: skip
    """The networks that have both a measured latency and a figure of merit; and those that have not, with what they lack."""
    points, lacking = [], []
    for f, ms in zip(found, measured_ms, strict=True):
        a = f.architecture
        if a is None:
            continue
        in_int8 = (a.latency.get("measured_conditions") or {}).get("precision") == INT8
        final = f.final_merit_int8 if in_int8 else f.final_merit
        # What weights reach that nobody has trained says nothing of a network.
        inherited = None if a.search.get("weights") == "fresh" else f.search_merit_int8 if in_int8 else f.search_merit
        value = inherited if f.final_merit is None else final
        if ms is None or value is None:
            lacks = f"no {f.merit.name}{' in int8, in which it was timed' if in_int8 and f.final_merit is not None else ''}, train it"
            lacking.append((f, "no measured latency" if ms is None else lacks))
            continue
        points.append(
            Point(
                f.name, ms, value, final is not None, a.search.get("width"), a.search.get("structure", ""), a.macs,
                a.n_params, f.kind == "random", f.merit, runtime_of_record(a.latency) or "",
            )
        )  # fmt: skip
    return points, lacking


def alike(points: Sequence[Point]) -> list[list[Point]]:
    """A list for each metric and runtime, the longest first: what goes into one picture."""
    kinds = dict.fromkeys((p.merit, p.runtime) for p in points)
    return sorted(([p for p in points if (p.merit, p.runtime) == kind] for kind in kinds), key=len, reverse=True)


def write_front(found: Sequence[Found], measured_ms: Sequence[float | None], path: Path) -> None:
    """Draw the front, and write what is drawn as a table beside it, ``.csv``.

    Of networks with several metrics or runtimes it is that of the metric and the runtime which most of them have.

    Raises
    ------
    UserError
        No network can be drawn.
    """
    points, lacking = points_of(found, measured_ms)
    for f, lacks in lacking:
        _logger.warning("%s: not in the picture of the front: %s", f.folder, lacks)
    if not points:
        raise UserError(
            f"--front: none of the networks has both a measured latency and {_merits_in_words(found)}; allowed: searches whose estimator is the "
            "device, and reference networks after nni-proxyless train"
        )
    points, *others = alike(points)
    merit, runtime = points[0].merit, points[0].runtime
    for p in (p for some in others for p in some):
        its, other = (p.merit.name, merit.name) if p.merit != merit else (f"milliseconds in {p.runtime or 'an unknown runtime'}", f"those in {runtime or 'an unknown one'}")  # fmt: skip
        does = "does" if p.merit != merit else "do"
        _logger.warning("%s: not in the picture of the front: its %s %s not compare with %s", p.name, its, does, other)
    save_picture(draw_front(points), path)
    searched = [p for p in points if p.searched]
    best = {id(p) for p, wins in zip(searched, on_front(searched), strict=True) if wins}
    rows = (
        (p.name, _kind(p), p.ms, p.runtime, p.value, _where_measured(p.final), int(id(p) in best), p.macs, p.n_params)
        for p in points
    )
    write_csv(path.with_suffix(".csv"), [column.format(merit.name) for column in COLUMNS], rows)


def draw_front(points: Sequence[Point]) -> Figure:
    """Searched networks with their front, random networks, and reference networks as a line with their widths; all of one metric and runtime.

    Filled markers: after the final training; hollow ones: of the search. Where only one of them is there, the axis says which.
    """
    from matplotlib.figure import Figure

    merit = points[0].merit
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(20, 1))
    kinds = sorted({p.final for p in points}, reverse=True)
    for final in kinds:
        said = f", {_short_where(final)}" if len(kinds) > 1 else ""
        searched = [p for p in points if p.final == final and p.searched]
        random = [p for p in points if p.final == final and p.random]
        best = sorted({(p.ms, p.value) for p, wins in zip(searched, on_front(searched), strict=True) if wins})
        others = [p for p in searched if (p.ms, p.value) not in best]
        if others:
            axes.plot([p.ms for p in others], [p.value for p in others], "o", color=SEARCHED, alpha=0.45, markersize=5,
                      label=f"searched{said}", markerfacecolor=SEARCHED if final else "white")  # fmt: skip
        if random:
            axes.plot([p.ms for p in random], [p.value for p in random], "D", color=RANDOM, markersize=4,
                      label=f"random{said}", markerfacecolor=RANDOM if final else "white")  # fmt: skip
        if best:
            axes.plot([x for x, _ in best], [y for _, y in best], "o-", color=SEARCHED, markersize=8, linewidth=2,
                      label=f"front of the searched networks{said}",
                      markerfacecolor=SEARCHED if final else "white")  # fmt: skip
        for structure in sorted({p.structure for p in points if p.width is not None}):
            line = sorted(
                (p for p in points if p.final == final and p.structure == structure and p.width), key=_by_width
            )
            if line:
                axes.plot([p.ms for p in line], [p.value for p in line], "s--", color=REFERENCE, markersize=6,
                          linewidth=1.5, label=f"{structure}, by width{said}",
                          markerfacecolor=REFERENCE if final else "white")  # fmt: skip
            for i, p in enumerate(line):  # above and below by turns: neighbors may be close
                axes.annotate(f"{p.width}", (p.ms, p.value), xytext=(5, 4 - 8 * (i % 2)), textcoords="offset points",
                              ha="left", va="top" if i % 2 else "bottom", fontsize=8, color=REFERENCE)  # fmt: skip
    axes.set_xlabel(f"measured latency, ms{f' in {points[0].runtime}' if points[0].runtime else ''}")
    axes.set_ylabel(_axis_label(merit, kinds))
    if merit.is_share:
        axes.yaxis.set_major_formatter(_percent)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.08, 0.12)
    if merit.is_share:
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))
    # Room of its own for the legend: its lines are long, and inside they would hide networks.
    below.axis("off")
    handles, labels = axes.get_legend_handles_labels()
    inches = 0.18 * len(labels)
    figure.set_size_inches(6.4, 4.2 + inches)
    axes.get_subplotspec().get_gridspec().set_height_ratios((4.2, inches))
    below.legend(handles, labels, fontsize=8, loc="upper left", borderaxespad=0, borderpad=0, frameon=False)
    return figure


def _kind(point: Point) -> str:
    return "searched" if point.searched else "random" if point.random else f"reference, width {point.width}"


def _axis_label(merit: Merit, kinds: Sequence[bool]) -> str:
    """On two lines but for an accuracy: names of metrics may be long."""
    where = "see the markers" if len(kinds) > 1 else _where_measured(kinds[0])
    if merit == ACCURACY:
        return f"accuracy, {where}" if len(kinds) > 1 else f"accuracy {where}"
    return f"{merit.name}{'' if merit.higher_is_better else ', lower is better'}\n{where}"


def _merits_in_words(found: Sequence[Found]) -> str:
    merits = list(dict.fromkeys(f.merit for f in found if f.architecture is not None))
    return "an accuracy" if merits in ([], [ACCURACY]) else f"a figure of merit ({names_of(merits)})"


def _where_measured(final: bool) -> str:
    return "on the test images, after final training" if final else "on the validation part, weights of the search"


def _short_where(final: bool) -> str:
    return "after final training (test images)" if final else "in the search (validation part)"


def _percent(value: float, position: float | None = None) -> str:
    return f"{100 * value:.4g} %"


def _by_width(point: Point) -> float:
    return point.width or 0.0
