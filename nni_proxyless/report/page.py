"""The report as one HTML page, which needs no network, no script and no file beside it.

found and rows -> what the page says -> page.html (a template) and page.css -> text

The template escapes everything but pictures, which escape their own text: names, reasons and parameters come from files
and may hold anything.
"""

from __future__ import annotations

import datetime
import importlib.resources
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..core.errors import UserError
from ..core.merit import ACCURACY, Merit
from ..core.streams import in_letters
from ..latency.digits import in_words
from ..models.block_diagram import diagram_of_architecture
from ..models.deviation import MARK
from ..models.draw import draw_networks
from . import number_format
from .comparison import SEARCHED, Mean, SameTraining, compare, drift, same_budgets
from .inline_svg import inline_svg
from .learning_curves import charts_of
from .merits import common_merit, merits_of, names_of
from .pareto_front import alike, draw_front, points_of
from .rows import Row, deviations_of, runtimes_of
from .runs import Found
from .svg_charts import Point, scatter_chart

__all__ = ["page"]

SECTIONS = (
    ("summary", "Summary"), ("trials", "Trials"), ("front", "{} against latency"), ("comparison", "Against random networks and MobileNetV2"),
    ("latency", "Predicted against measured"), ("networks", "One by one"),
)  # fmt: skip


def page(found: Sequence[Found], rows: Sequence[Row], *, timed: bool) -> str:
    """The page.

    Parameters
    ----------
    found, rows
        The same networks and trials in the same order.
    timed
        Whether those that could be were timed side by side for it.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        {name: getattr(number_format, name) for name in ("amount", "count", "duration", "figure", "given", "merit_figure")},
        mean_merit=_mean_merit, difference=_difference, named_figure=_named_figure,
    )  # fmt: skip
    merits = merits_of(rows)
    anchors = {row.name: f"t{i}" for i, row in enumerate(rows, start=1)}
    searched = [(f, row) for f, row in zip(found, rows, strict=True) if row.kind in SEARCHED]
    page = environment.from_string(_file("page.html")).render(
        style=Markup(_file("page.css").rstrip()),
        sections=[(anchor, words.format(_named(merits))) for anchor, words in SECTIONS],
        front_head=f"{_named(merits)} against latency",
        lower_is_better=names_of(merit for merit in merits if not merit.higher_is_better),
        merit_of_trials=_short([row for _, row in searched]),
        several_metrics=common_merit([row for _, row in searched]) is None,
        trials=[_trial(f, row, anchors[row.name]) for f, row in searched],
        calibrated=any(row.calibrated is not None for _, row in searched),
        **_head(found, rows),
        **_summary([row for _, row in searched], anchors),
        **_front(found, rows),
        **_comparison(found, rows),
        **_latency(rows, anchors),
        deviations=deviations_of([row for _, row in searched]),
        mark=MARK,
        timing=_timing(rows, timed),
        footer=f"nni-proxyless {__version__}, Python {platform.python_version()}, {datetime.datetime.now():%Y-%m-%d %H:%M}. "
        "The same figures with all their digits are in the CSV beside this page.",
    )  # fmt: skip
    return in_letters(page)


def _head(found: Sequence[Found], rows: Sequence[Row]) -> dict[str, Any]:
    experiments = {f.experiment.id: f.experiment for f in found if f.experiment is not None}
    names = [str(e.config.get("experimentName") or f"experiment {e.id}") for e in experiments.values()]
    alone = [f for f in found if f.experiment is None]
    parts = [f"NNI experiment {e.id}, {'running' if e.running else 'stopped'}" for e in experiments.values()]
    if alone:
        parts.append(f"{len(alone)} {'networks' if len(alone) > 1 else 'network'} of folders")
    return {"title": ", ".join(names) or "What searches have found", "origin": "; ".join(parts),
            "trials_head": "Trials and networks" if alone else "Trials"}  # fmt: skip


# -- sections ------------------------------------------------------------------------------------------------------------


def _summary(rows: Sequence[Row], anchors: Mapping[str, str]) -> dict[str, Any]:
    ended = [row for row in rows if row.state == "SUCCEEDED"]
    failed = [row for row in rows if row.reason]
    going = len(rows) - len(ended) - len(failed)
    counts = f"{len(ended)} of {len(rows)} trial{'s' if len(rows) != 1 else ''} succeeded"
    counts += f", {len(failed)} failed" if failed else ""
    counts += f", {going} not at an end" if going else ""
    without = [row for row in ended if row.target is None]
    among = [(f"for {number_format.amount(target, unit)}", own) for target, unit, own in same_budgets(ended)]
    among += [
        ("without a target", [row for row in without if row.merit == merit])
        for merit in dict.fromkeys(row.merit for row in without)
    ]
    several = len({row.merit for row in ended}) > 1
    best = []
    for words, own in among:
        row = max(own, key=lambda row: row.rank)
        best.append({"target": f"Best {row.metric} {words}" if several else f"Best {words}", "name": row.name, "anchor": anchors[row.name],
                     "words": _in_words(row)})  # fmt: skip
    return {"counts": f"{counts}.", "best": best}


def _front(found: Sequence[Found], rows: Sequence[Row]) -> dict[str, Any]:
    points, lacking = points_of(found, [row.measured_ms for row in rows])
    pictures = []
    for i, some in enumerate(alike(points)):
        timed_in = f", in {some[0].runtime}" if some[0].runtime else ""
        label = f"{_named([some[0].merit])} against measured milliseconds of {len(some)} networks{timed_in}"
        pictures.append(Markup(inline_svg(draw_front(some), f"front{i or ''}", label)))
    by_reason: dict[str, list[str]] = {}
    for f, lacks in lacking:
        by_reason.setdefault(lacks, []).append(f.name)
    merits = merits_of(rows)
    words = (
        {"good": "accurate", "figures": "accuracies", "a_figure": "an accuracy"} if merits == [ACCURACY]
        else {"good": "good", "figures": "figures of merit", "a_figure": f"a figure of merit ({names_of(merits)})"}
    )  # fmt: skip
    return {
        **words, "fronts": pictures, "several_fronts": len(pictures) > 1,
        "lacking": [f"{lacks}: {', '.join(names)}" for lacks, names in by_reason.items()],
    }  # fmt: skip


def _comparison(found: Sequence[Found], rows: Sequence[Row]) -> dict[str, Any]:
    compared = compare(found, rows)
    metrics = list(dict.fromkeys(same.merit for same in compared))
    today = drift(rows)
    trained = [row for row in rows if row.final_merit is not None]
    kinds = {row.kind for row in trained}
    if not kinds & {"random", "reference"}:
        why = "No random and no reference network has been trained."
    elif not kinds & set(SEARCHED):
        why = "Random and reference networks have been trained, and none of the searched ones."
    else:
        why = "No random or reference network has been trained as one of the searched ones: with the same settings, from the same weights."
    return {
        "comparison": compared,
        "compared_figure": _named(metrics, "The figure of merit"),
        "compared_metrics": names_of(metrics) if len(metrics) > 1 else "",
        "today": None if today is None else f"{today:.2f} times",
        "references": [row for row in trained if row.kind == "reference"] if compared else [],
        "why_no_comparison": why,
        "commands": _commands(found, rows),
        "remarks": _remarks(compared),
    }


def _remarks(compared: Sequence[SameTraining]) -> list[str]:
    """The comparison in a sentence each."""
    remarks = []
    pairs = [(same.merit, budget, group) for same in compared for budget in same.budgets for group in budget.groups]
    for merit, budget, group in pairs:
        if (above := group.above_random) is None:
            continue
        error = "" if above.error is None else f" ± {number_format.merit_error(above.error, merit)}"
        n, of_random = group.figure.n, above.value
        size = f"{100 * abs(of_random):.2f}{error} points" if merit.is_share else f"{abs(of_random):.3g}{error}"
        if merit == ACCURACY:
            how = f"{size} {'above' if of_random >= 0 else 'below'}"
        else:
            how = f"{size} {number_format.better_or_worse(of_random, merit)} in {merit.name} than"
        remarks.append(
            f"Trained alike, {group.what} for {number_format.amount(budget.target, budget.unit)} ({n} {'network' if n == 1 else 'networks'}) "
            f"is {how} random networks of that budget."
        )
    return remarks


def _commands(found: Sequence[Found], rows: Sequence[Row]) -> str:
    """The commands that make random networks for every budget and MobileNetV2 once, trained as the searched networks are."""
    searched = {row.name: f.folder.resolve() for f, row in zip(found, rows, strict=True)
                if row.kind == "search" and row.state == "SUCCEEDED"}  # fmt: skip
    place = next(iter({folder.parent for folder in searched.values()}), None)
    if any(folder.parent != place for folder in searched.values()):
        place = None
    runs = {name: shlex.quote(folder.name if place else str(folder)) for name, folder in searched.items()}
    of_budget = [runs[own[0].name] for _, _, own in same_budgets([row for row in rows if row.name in runs])] or ["RUN"]
    networks = [f"{run}/architecture.json" for run in runs.values() or ["RUN"]]
    networks += [f"{run}/reference/*/architecture.json" for run in of_budget]
    experiments = sorted({f.experiment.id for f in found if f.experiment is not None})
    sources = [
        *experiments,
        *([f"--reference {run}/reference" for run in of_budget] if experiments else runs.values() or ["RUN"]),
    ]
    return "\n".join(
        [
            *([f"cd {shlex.quote(str(place))}"] if place is not None else []),
            *(f"nni-proxyless reference {run} --random 5{' --widths' if i else ''}" for i, run in enumerate(of_budget)),
            f"for network in {' '.join(networks)}; do",
            '    nni-proxyless train "$network" weights=scratch',
            "done",
            f"nni-proxyless report {' '.join(sources)}",
        ]
    )


def _latency(rows: Sequence[Row], anchors: Mapping[str, str]) -> dict[str, Any]:
    both = [
        (row, row.by_table, row.measured_ms) for row in rows if row.unit == "ms" and row.by_table and row.measured_ms
    ]
    if not both:
        return {"scatter": None, "random_in_scatter": False, "agreement": ""}
    points = [
        Point(measured, predicted, f"{row.name}: predicted {in_words(predicted)} ms, measured {in_words(measured)} ms",
              anchors[row.name] if row.kind in SEARCHED else "latency", "random" if row.kind == "random" else "first")
        for row, predicted, measured in both
    ]  # fmt: skip
    label = f"Predicted against measured milliseconds of {len(both)} networks"
    picture = Markup(scatter_chart(points, label, "measured, ms", "predicted, ms"))
    return {
        "scatter": picture,
        "random_in_scatter": any(row.kind == "random" for row, *_ in both),
        "agreement": _agreement([(predicted, measured) for _, predicted, measured in both], drift(rows)),
    }


def _agreement(both: Sequence[tuple[float, float]], common: float | None) -> str:
    """Of predicted and measured milliseconds; the drift that all measured ones share is shown apart."""
    off = [measured / predicted - 1 for predicted, measured in both]
    furthest = max(off, key=abs)
    if len(both) == 1 or common is None:
        return f"It takes {_longer(furthest)}."
    apart = max(abs(measured / (predicted * common) - 1) for predicted, measured in both)
    return (
        f"On average the {len(both)} networks take {_longer(sum(off) / len(off))}; furthest off is one that takes {_longer(furthest)}. "
        f"All measured ones divided by {common:.2f}, as for a machine whose speed has changed since the table was measured, none is more "
        f"than {100 * apart:.1f} % off."
    )


# -- one by one ----------------------------------------------------------------------------------------------------------


def _trial(f: Found, row: Row, anchor: str) -> dict[str, Any]:
    picture, reason = _drawn(f, anchor)
    return {
        "row": row, "anchor": anchor, "state": _state(f), "figures": _figures(f, row), "picture": picture, "no_picture": reason,
        "charts": [{"name": c.name, "lines": c.keys, "svg": Markup(c.svg)} for c in charts_of(f, row.unit)],
    }  # fmt: skip


def _state(f: Found) -> str:
    done = len(f.history)
    if f.state in ("RUNNING", "UNFINISHED") and done:
        return f"{f.state}, epoch {done}" + (f" of {f.epochs}" if f.epochs else "")
    return f.state


def _figures(f: Found, row: Row) -> list[tuple[str, str]]:
    figures = [
        ("strategy", row.what), ("seed", number_format.given(row.seed)), ("target", number_format.amount(row.target, row.unit)),
        ("expected", number_format.amount(row.expected, row.unit)), ("predicted", number_format.amount(row.predicted, row.unit)),
        ("calibrated", number_format.amount(row.calibrated, row.unit)), ("measured", number_format.amount(row.measured_ms, "ms") + ("" if row.deviation is None else f", {row.deviation.brief}")),
        ("measured in", row.runtime or ""), ("eager torch", number_format.amount(row.measured_eager_ms, "ms")),
        *((name.format(row.metric), number_format.merit_figure(value, row.merit)) for name, value in (
            ("search {}", row.search_merit), ("final {}", row.final_merit),
            ("search {}, int8", row.search_merit_int8), ("final {}, int8", row.final_merit_int8),
        )),
        ("multiply-adds", number_format.count(row.macs)), ("parameters", number_format.count(row.n_params)),
        ("took", number_format.duration(row.seconds)),
    ]  # fmt: skip
    asked = {} if f.trial is None else f.trial.parameters
    return [(name, value) for name, value in figures if value not in ("", number_format.UNKNOWN)] + [
        (name, number_format.given(value)) for name, value in asked.items()
    ]


def _drawn(f: Found, anchor: str) -> tuple[Markup | None, str]:
    """The picture of the network, or why there is none."""
    if f.architecture is None:
        return None, "" if f.failed else "It has no network yet."
    if f.architecture.network is None:
        return (
            None,
            f"The space {f.architecture.space.get('name')!r} gives no block definition, so the network has no picture.",
        )
    try:
        diagram = diagram_of_architecture(f.folder / "architecture.json")
    except UserError as error:
        return None, str(error)
    return Markup(inline_svg(draw_networks([diagram]), anchor, f"The network of {f.name}: {diagram.figures}")), ""


# -- words ---------------------------------------------------------------------------------------------------------------


def _in_words(row: Row) -> str:
    words = [f" ({row.what}{'' if row.seed is None else f', seed {row.seed}'})"]
    of, right = ("of", " right") if row.merit == ACCURACY else ("on", "")
    if row.final_merit is not None:
        words.append(f"{_named_figure(row)} {of} the test images{right} after the final training")
    elif row.search_merit is not None:
        words.append(f"{_named_figure(row)} {of} the validation part{right} with the weights of the search")
    if row.measured_ms is not None:
        deviation = row.deviation
        words.append(
            f"{in_words(row.measured_ms)} ms measured" + ("" if deviation is None else f" ({deviation.brief})")
        )
    if row.by_table is not None:
        words.append(f"{in_words(row.by_table)} {row.unit} predicted")
    return ", ".join(words)


def _short(rows: Sequence[Row]) -> str:
    """What stands over columns of these rows: the name of their metric, or ``merit`` where there are several."""
    merit = common_merit(rows)
    return "merit" if merit is None else merit.name


def _named(merits: Sequence[Merit], several: str = "Figures of merit") -> str:
    """At the beginning of a heading or a sentence."""
    if len(merits) != 1:
        return several
    return "Accuracy" if merits[0] == ACCURACY else merits[0].name


def _named_figure(row: Row) -> str:
    """``91.20 %`` of an accuracy, ``mae 3.012``: of the final training, else of the search."""
    figure = number_format.merit_figure(row.search_merit if row.final_merit is None else row.final_merit, row.merit)
    return figure if row.merit == ACCURACY else f"{row.metric} {figure}"


def _mean_merit(mean: Mean, merit: Merit) -> str:
    error = "" if mean.error is None else f" ± {number_format.merit_error(mean.error, merit)}"
    return number_format.merit_figure(mean.value, merit) + error


def _difference(mean: Mean | None, merit: Merit) -> str:
    return number_format.UNKNOWN if mean is None else number_format.merit_difference(mean.value, mean.error, merit)


def _longer(share: float) -> str:
    if share >= 1:
        return f"{1 + share:.1f} times as long as predicted"
    return f"{100 * abs(share):.1f} % {'longer' if share >= 0 else 'less'} than predicted"


def _timing(rows: Sequence[Row], timed: bool) -> str:
    if all(row.measured_ms is None for row in rows):
        return ""
    said = runtimes_of(rows)
    runtimes = (
        f" in {said[0]}"
        if len(said) == 1
        else f" in {', '.join(said[:-1])} and {said[-1]}, which do not compare"
        if said
        else ""
    )
    if not timed:
        return f"Milliseconds were measured{runtimes} at the end of each search: while trials run, nothing is timed beside them."
    return f"Milliseconds were measured{runtimes} for this page, in turns, where this is the machine of the search; else at its end."


def _file(name: str) -> str:
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")
