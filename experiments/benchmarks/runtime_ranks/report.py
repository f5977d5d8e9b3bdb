"""How the latencies of the same networks agree between runtimes, and how that is told; from the record alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..common import record

EAGER, DRAWN = "torch", "onnxruntime"
EQUAL = 0.03  # milliseconds that differ by less are the same
NAMES = {
    "small-16": "`small`, 16x16", "small": "`small`, 32x32", "imagenet": "ImageNet space, 224x224", "tiny": "a tiny space, 16x16",
}  # fmt: skip
RUNTIMES = {
    "torch": "PyTorch eager", "torch-compile": "torch.compile", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "mnn": "MNN",
    "onnxruntime-int8": "ONNX Runtime, int8", "onnxruntime-batch-32": "ONNX Runtime, 32 images",
}  # fmt: skip


def name_of(runtime: str) -> str:
    return RUNTIMES.get(runtime, runtime)


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    return float(stats.spearmanr(one, other).statistic)


def correlations(runs: Sequence[Mapping[str, Any]], one: str, other: str) -> list[float]:
    """Of two runtimes, in every run; of a runtime with itself, between every two runs."""
    if one == other:
        return [spearman(a["ms"][one], b["ms"][one]) for a, b in itertools.combinations(runs, 2)]
    return [spearman(run["ms"][one], run["ms"][other]) for run in runs]


def spread_among_equal(equal: Sequence[float], other: Sequence[float]) -> tuple[float, float, float] | None:
    """Of pairs of networks that one runtime runs in the same time: how much longer the slower of the two takes in another.

    Returns
    -------
    tuple
        Median, 90th percentile and largest; None where no two networks take the same.
    """
    a, b = np.asarray(equal), np.asarray(other)
    i, j = np.triu_indices(len(a), 1)
    same = np.abs(a[i] / a[j] - 1) <= EQUAL
    if not same.any():
        return None
    ratios = np.maximum(b[i] / b[j], b[j] / b[i])[same]
    return float(np.median(ratios)), float(np.percentile(ratios, 90)), float(ratios.max())


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    lines = record.head(result)
    for space, runs in _spaces(result).items():
        names = list(runs[0]["ms"])
        rows = []
        for name in names:
            every = [ms for run in runs for ms in run["ms"][name]]
            cells = [", ".join(f"{value:.2f}" for value in correlations(runs, name, other)) for other in names]
            spreads = [spread_among_equal(run["ms"][EAGER], run["ms"][name]) for run in runs] if EAGER in names else []
            told = "; ".join(
                ", ".join(f"{value:.2f}" for value in found) for found in spreads if found and name != EAGER
            )
            rows.append((name_of(name), f"{min(every):.3g} to {max(every):.3g}", *cells, told))
        versions = ", ".join(dict.fromkeys(said for run in runs for said in run["runtimes"].values()))
        lines += [
            "",
            f"{NAMES[space]}, {runs[0]['networks']} networks, {len(runs)} time(s), {runs[0]['rounds']} rounds; {versions}:",
            "",
        ]
        lines += record.table(("", "ms", *map(name_of, names), "among networks equal in eager"), rows)
    return [
        *lines,
        "",
        "Spearman's correlation of latencies over the same networks, a figure for each time that all was prepared and timed; of a runtime with "
        "itself, between two times. Last column: of pairs of networks whose milliseconds in eager PyTorch differ by less than 3 %, the slower "
        "by the faster one: median, 90th percentile, largest.",
    ]  # fmt: skip


def _spaces(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {space: result["spaces"][space] for space in NAMES if result["spaces"].get(space)}


def picture(result: dict[str, Any], path: Path) -> None:
    """Every network by its milliseconds in two runtimes: ONNX Runtime over eager, and every other one over ONNX Runtime."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    spaces = _spaces(result)
    pairs = {space: _pairs(list(runs[0]["ms"])) for space, runs in spaces.items()}
    columns = max(map(len, pairs.values()), default=1)
    figure = Figure(figsize=(2.5 * columns, 2.7 * max(1, len(spaces))), layout="constrained")
    for axes_of_row, (space, runs) in zip(
        figure.subplots(max(1, len(spaces)), columns, squeeze=False), spaces.items(), strict=False
    ):
        for axes in axes_of_row[len(pairs[space]) :]:
            axes.set_axis_off()
        for axes, (one, other) in zip(axes_of_row, pairs[space], strict=False):
            axes.plot(runs[0]["ms"][one], runs[0]["ms"][other], "o", color="#3b6ea5", markersize=3)
            found = correlations(runs, one, other)
            axes.set_title(
                f"{NAMES[space].replace('`', '')}: {', '.join(f'{value:.2f}' for value in found)}", fontsize=8
            )
            axes.set_xlabel(f"{name_of(one)}, ms", fontsize=8)
            axes.set_ylabel(f"{name_of(other)}, ms", fontsize=8)
            axes.tick_params(labelsize=7)
    save_picture(figure, path)


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(EAGER, DRAWN) if name == EAGER else (DRAWN, name) for name in names if name != DRAWN and DRAWN in names]
