"""What was found as text: a table of all nets, and the figures of one."""

from __future__ import annotations

from collections.abc import Sequence

from ..architecture import Architecture
from .found import Found

__all__ = ["figures", "table"]


def figures(architecture: Architecture) -> str:
    """The figures of one derived network, a line each."""
    latency = architecture.latency

    unit = latency.get("unit", "ms")

    def ms(name: str) -> str:
        return "-" if latency.get(name) is None else f"{latency[name]:.3f} {unit}"

    predicted, calibrated = (
        text if text == "-" else f"{text} {unit}" for text in _predicted_and_calibrated(architecture)
    )

    return "\n".join(
        [
            f"choices:       {' '.join(f'{label}={choice}' for label, choice in architecture.choices.items())}",
            f"latency:       target {ms('target_ms')}, expected {ms('expected_ms')}; the net: predicted {predicted}, calibrated {calibrated}, measured {ms('measured_ms')}",
            f"multiply-adds: {architecture.macs / 1e6:.3f} M",
            f"parameters:    {architecture.n_params / 1e6:.3f} M",
            f"accuracy:      {architecture.search.get('accuracy', float('nan')):.4f} on the validation part, {_weights_of(architecture)}",
        ]
    )


def _predicted_and_calibrated(architecture: Architecture) -> tuple[str, str]:
    """Milliseconds: the sum of the rows, and what the table's calibration, if it has one, makes of it."""
    table = _number(architecture.latency.get("table_ms"), ".3f")
    if not architecture.latency.get("calibrated"):
        return table, "-"
    return _number(architecture.latency.get("predicted_ms"), ".3f"), table


def _weights_of(architecture: Architecture) -> str:
    if architecture.search.get("weights") == "fresh":
        return "fresh weights: train it from scratch"
    if "test_accuracy" not in architecture.search:
        return "weights of the supernet"
    return f"{architecture.search['test_accuracy']:.4f} on the test images, trained by the search itself"


def table(found: Sequence[Found], measured: Sequence[float | None]) -> str:
    """One row per search, with the milliseconds of :func:`measure_side_by_side`."""
    header = (
        "search",
        "state",
        "target ms",
        "predicted ms",
        "calibrated ms",
        "measured ms",
        "MACs",
        "params",
        "search acc",
        "final acc",
    )
    rows: list[tuple[str, ...]] = [header]
    for f, ms in zip(found, measured, strict=True):
        a = f.architecture
        if a is None:
            rows.append((f.name, f.state, *["-"] * 8))
            continue
        rows.append((
            f.name, f.state, _number(a.latency.get("target_ms"), ".3f"), *_predicted_and_calibrated(a), _number(ms, ".3f"),
            f"{a.macs / 1e6:.2f} M", f"{a.n_params / 1e3:.1f} k", _number(a.search.get("accuracy"), ".4f"), _number(f.final_accuracy, ".4f"),
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(width) if i > 1 else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
             for row in rows]  # fmt: skip
    return "\n".join([*lines, "", *(f"{f.name}: {f.folder}" for f in found)])


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
