"""Small charts of the epochs of a search or a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.merit import ACCURACY, Merit
from .runs import Found, read_history
from .svg_charts import Line, line_chart

__all__ = ["Chart", "charts_of"]


@dataclass(frozen=True)
class Key:
    """One line of a chart, as its caption explains it."""

    name: str
    style: str


@dataclass(frozen=True)
class Chart:
    """A chart with its name and the keys of its lines."""

    name: str
    keys: tuple[Key, ...]
    svg: str


def charts_of(f: Found, unit: str) -> list[Chart]:
    """Figure of merit, latency, entropy and loss, as far as they were noted; of a search with a final training that as well."""
    target = f.target if isinstance(f.target, (int, float)) else None
    name, keys, percent = _of_merit(f, f.merit)
    charts = [
        _chart(name, f.history, keys, f, percent=percent),
        _chart(f"Latency, {unit}", f.history, {"expected_ms": "expected", "table_ms": "derived network"}, f, level=target),
        _chart("Entropy, 1 is undecided", f.history, {"entropy": ""}, f),
        _chart("Loss in training", f.history, {"train_loss": ""}, f),
    ]  # fmt: skip
    if f.final_folder is not None and f.final_folder != f.folder:
        path = f.final_folder / "history.jsonl"
        history = read_history(path) if path.exists() else []
        charts.append(_chart(f"{name} in the final training", history, {f.merit.name: ""}, f, percent=percent))
    return [chart for chart in charts if chart is not None]


def _of_merit(f: Found, merit: Merit) -> tuple[str, dict[str, str], bool]:
    """Name of its chart, lines by their keys in a history, and whether it is read in percent."""
    if merit == ACCURACY:
        return (
            "Accuracy",
            {"default": "derived network", "accuracy": "network", "train_accuracy": "in training"},
            True,
        )
    network = "network" if f.kind == "training" else "derived network"
    return merit.name, {merit.name: network, f"train_{merit.name}": "in training"}, merit.is_share


def _chart(
    name: str, history: Sequence[Mapping[str, Any]], keys: Mapping[str, str], f: Found, *, level: float | None = None,
    percent: bool = False,
) -> Chart | None:  # fmt: skip
    columns = {key: [_number(epoch.get(key)) for epoch in history] for key in keys}
    known = [key for key, values in columns.items() if any(value is not None for value in values)][:2]
    if not known:
        return None
    lines = [Line(keys[key], columns[key], style) for key, style in zip(known, ("first", "second"), strict=False)]
    last = [f"{line.name or name} {line.values[-1]:.4g}" for line in lines if line.values[-1] is not None]
    label = f"{name} of {f.name} over {len(history)} epochs; at the end: {', '.join(last) or 'not known'}"
    shown = [Key(line.name, line.style) for line in lines if line.name]
    if level is not None:
        shown.append(Key("target", "level"))
    return Chart(name, tuple(shown), line_chart(lines, label, level=level, percent=percent))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
