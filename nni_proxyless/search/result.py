"""Write the results of a search to its folder."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.atomic_files import write_text, write_weights
from ..data.accuracy import evaluate_merit
from ..data.image_parts import loader
from ..latency import DeviceEstimator
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.draw import draw_beside
from ..models.export.onnx_format import write_onnx_for_netron
from ..models.record import cost_figures, describe, latency_record, merit_figures, record
from ..models.space import make_space
from .build import SearchParts, strategy_can
from .costs import Cost
from .measured_network import measure_derived
from .monitor import DerivedNetworkMonitor
from .original import teaching_record
from .run_folder import history

__all__ = ["SearchResult", "found_finished", "save_result"]

_logger = logging.getLogger(__name__)

MORE = ("{}_int8", "test_{}", "test_{}_int8")  # figures of merit beside that of the last epoch


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Where a search has left its files, and its figures as they are reported to NNI."""

    folder: Path
    architecture: Architecture
    metrics: dict[str, float]


def found_finished(folder: Path, report: Callable[[dict[str, float]], None]) -> SearchResult:
    """Report the result of a finished search again: the process that ran it could not, or not completely."""
    _logger.info("finished already: %s", folder / "architecture.json")
    for metrics in history(folder):
        report(metrics)
    architecture = Architecture.read(folder / "architecture.json")
    names = [name.format(architecture.merit.name) for name in MORE]
    more = {name: architecture.search.get(name) for name in names}
    last = {**history(folder)[-1], **_of_selected(architecture)}
    return SearchResult(folder, architecture, _final(last, architecture.latency, more))


def _of_selected(architecture: Architecture) -> dict[str, float]:
    """Figures that the last epoch had of another network, if the supernet has selected one after it."""
    if "selection" not in architecture.search:
        return {}
    return {**merit_figures(architecture.merit, architecture.search), **cost_figures(architecture)}


def _final(last: Mapping[str, float], timed: Mapping[str, Any], merits: Mapping[str, float | None]) -> dict[str, float]:
    """The figures of the end: those of the last epoch, and what comes to them, if it is known."""
    more = {**{name: timed.get(name) for name in ("measured_ms", "measured_eager_ms")}, **merits}
    return {
        **{name: value for name, value in last.items() if name != "seconds"},
        **{name: value for name, value in more.items() if value is not None},
    }


def save_result(
    parts: SearchParts, monitor: DerivedNetworkMonitor, selection: Mapping[str, Any] | None = None
) -> SearchResult:
    """Write what the search has found to its folder."""
    assert monitor.last is not None
    assert monitor.network is not None
    config, folder, data, estimator, profiler = parts.config, parts.folder, parts.data, parts.estimator, parts.profiler
    described = describe(
        parts.space, monitor.sample, name=parts.space_name, arguments=parts.space_arguments, task=config.task.described,
        data={"name": config.data.name, "arguments": config.data.arguments, **data.normalization}, input_shape=data.shape,
    )  # fmt: skip
    weights = monitor.network.state_dict()
    network = build_network(described, {name: tensor.cpu() for name, tensor in weights.items()})
    timed: dict[str, Any] = {}
    if isinstance(estimator, DeviceEstimator):
        space = make_space(parts.space_name, parts.space_arguments)  # the search may have let go of candidates
        timed = measure_derived(profiler, estimator, network, data.shape, space, monitor.sample, folder)
    task, merit = data.task, data.task.merit
    merits = parts.in_int8(network, parts.judging_loaders[1])
    if trained := strategy_can("leaves_trained_network", config, default=False):
        test = loader(data.test, config.data.batch_size, workers=config.data.workers)
        merits[f"test_{merit.name}"] = evaluate_merit(network, test, task)
        merits |= parts.in_int8(network, test, "test_")
    metrics = _final(monitor.last, timed, merits)
    architecture = record(
        described,
        monitor.network,
        latency=latency_record(profiler, monitor.sample, target=parts.target, expected=metrics["expected_ms"], **timed),
        search={
            "strategy": config.strategy.name,
            "seed": config.seed,
            "epochs": config.training.epochs,
            "threads": torch.get_num_threads(),
            merit.name: monitor.worth,
            **merits,
            **merit.described(),
            **({"costs": _of_costs(monitor.costs, metrics)} if monitor.costs else {}),
            **({"selection": dict(selection)} if selection else {}),
            **teaching_record(config),
        },
    )
    write_weights(folder / "weights.safetensors", weights)
    if trained:
        of_test = {n.removeprefix("test_"): value for n, value in merits.items() if n.startswith("test_")}
        result = {**of_test, **merit.described(), "epochs": config.training.epochs, "weights": "searched",
                  "architecture": "architecture.json"}  # fmt: skip
        write_weights(folder / "final" / "weights.safetensors", weights)
        write_text(folder / "final" / "result.json", json.dumps(result, indent=2) + "\n")
    architecture.write(folder / "architecture.json")
    draw_beside(folder / "architecture.json")
    write_onnx_for_netron(network, data.shape, folder / "model.onnx")
    return SearchResult(folder, architecture, metrics)


def _of_costs(costs: Mapping[str, Cost], metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        name: {
            "unit": cost.profiler.unit, "target": cost.target, "expected": metrics[f"expected_{name}"],
            "derived": metrics[f"derived_{name}"],
        }
        for name, cost in costs.items()
    }  # fmt: skip
