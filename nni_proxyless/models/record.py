"""The record of a network in ``architecture.json``; every record is made here.

The keys under ``latency`` end in ``_ms``, whatever the unit is; ``unit`` stands beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.merit import ACCURACY, CLASSIFICATION, Merit
from .architecture import Architecture

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace
    from torch import nn

    from ..latency import LatencyProfiler

__all__ = [
    "cost_figures",
    "describe",
    "latency_record",
    "merit_figures",
    "note_measured",
    "record",
    "record_without_table",
    "runtime_of_record",
    "unit_of",
]


def describe(
    space: ModelSpace, choices: Mapping[str, Any], *, name: str, arguments: Mapping[str, Any],
    data: Mapping[str, Any], input_shape: tuple[int, ...], task: Mapping[str, Any] | None = None,
) -> Architecture:  # fmt: skip
    """The network of these choices, so that it can be built; :func:`record` adds its figures.

    Parameters
    ----------
    space
        It says which timm model the network is, if it is one.
    name, arguments
        What the space is made from again.
    data
        ``{'name': …, 'arguments': {…}}``, the images that the network is for, with their ``mean`` and ``std`` if they are given.
    task
        Likewise, what is learned of them; None: their classes.
    """
    definition: Any = getattr(space, "timm_definition", None)
    return Architecture(
        space={"name": name, "arguments": dict(arguments)},
        choices=dict(choices),
        input_shape=input_shape,
        network=None if definition is None else definition(choices),
        data=dict(data),
        task=dict(CLASSIFICATION if task is None else task),
    )


def record(
    described: Architecture, network: nn.Module, *, latency: Mapping[str, Any], search: Mapping[str, Any]
) -> Architecture:
    """The network with its figures: multiply-adds and parameters are counted, versions are those of what runs now.

    Parameters
    ----------
    network
        As it was derived, or built from ``described``.
    latency
        By :func:`latency_record`, or :func:`record_without_table`.
    search
        Where the network comes from, and what it is worth.
    """
    from ..latency.estimators.macs import count_macs  # here: a report reads records without torch
    from .build import count_parameters, installed_versions

    return dataclasses.replace(
        described, latency=dict(latency), macs=count_macs(network, described.input_shape),
        n_params=count_parameters(network), search=dict(search), versions=installed_versions(),
    )  # fmt: skip


def latency_record(
    profiler: LatencyProfiler, sample: Mapping[str, Any], *, target: float | None, expected: float | None = None,
    measured_ms: float | None = None, measured_scatter: float | None = None, measured_eager_ms: float | None = None,
    table_again_ms: float | None = None, measured_conditions: Mapping[str, object] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The record of a network of these choices.

    Parameters
    ----------
    profiler
        What the network costs, and in which unit.
    target
        Of the search, or the budget of a network that was derived or drawn; in the profiler's unit, as ``expected`` is.
    expected
        Over the probabilities at the end of the search; None for a network that no search has ended with.
    measured_ms, measured_eager_ms
        Timed: the network in the runtime of its search and, for the record, in eager torch; None where nothing was.
    measured_scatter
        Of ``measured_ms``, relative, as :class:`~nni_proxyless.latency.estimators.whole_networks.NetworkMeasurement` has it.
    table_again_ms
        What the table says, at the speed that networks of the table had beside this one; None where it has none.
    measured_conditions
        What the timing holds for, or would.
    """
    return {
        "target_ms": target,
        "expected_ms": expected,
        "predicted_ms": profiler.predicted_ms(sample),
        "table_ms": float(profiler.profile(dict(sample))),
        "calibrated": profiler.calibration is not None,
        "unit": profiler.unit,
        "conditions": dict(profiler.conditions),
        "measured_ms": measured_ms,
        "measured_scatter": measured_scatter,
        "measured_eager_ms": measured_eager_ms,
        "table_again_ms": table_again_ms,
        "measured_conditions": None if measured_conditions is None else dict(measured_conditions),
    }


def record_without_table(unit: str, measured_conditions: Mapping[str, object] | None) -> dict[str, Any]:
    """The record of a network without a table: its cost is unknown until it is timed; ``unit`` is that of the search."""
    unknown = dict.fromkeys(("target_ms", "expected_ms", "predicted_ms", "table_ms"))
    return {
        **unknown, "calibrated": False, "unit": unit, "conditions": {}, "measured_ms": None, "measured_scatter": None,
        "measured_eager_ms": None, "table_again_ms": None,
        "measured_conditions": None if measured_conditions is None else dict(measured_conditions),
    }  # fmt: skip


def note_measured(record: dict[str, Any], timed: Mapping[str, Any], searched_net_ms: float | None) -> None:
    """Into a record that is there: what the network took, timed in turns with the searched one, by a record of today."""
    if timed["measured_ms"] is None:
        record["measured_conditions"] = None
    else:
        timings = {name: timed[name] for name in ("measured_ms", "measured_scatter")}
        record.update(timings, searched_net_ms=searched_net_ms)


def cost_figures(architecture: Architecture) -> dict[str, float]:
    """What a network costs, under the names that NNI shows; ``derived_x`` for each further cost x of its search."""
    costs = architecture.search.get("costs", {})
    return {
        "table_ms": architecture.latency["table_ms"], "macs": float(architecture.macs), "n_params": float(architecture.n_params),
        **{f"derived_{name}": cost["derived"] for name, cost in costs.items()},
    }  # fmt: skip


def merit_figures(merit: Merit, figures: Mapping[str, Any]) -> dict[str, float]:
    """What NNI is told of a network that has its figure of merit under its name: ``default``, of which more is better, and what is no accuracy
    under its name as well."""
    value = figures[merit.name]
    return {"default": merit.score(value), **({} if merit == ACCURACY else {merit.name: value})}


def unit_of(record: Mapping[str, Any]) -> str:
    """Of all numbers of a record but the timed ones, which are milliseconds.

    ``derive`` has not always written a unit; what counts something else than milliseconds says so in its conditions as well.
    """
    return str(record.get("unit") or (record.get("conditions") or {}).get("unit", "ms"))


def runtime_of_record(record: Mapping[str, Any]) -> str | None:
    """What the network was timed in, for a person: ``onnxruntime 1.32.0``, with a precision other than float32 and a batch of several images;
    None if it was not timed."""
    said = record.get("measured_conditions") or {}
    if record.get("measured_ms") is None or "runtime" not in said:
        return None
    precision, batch = said.get("precision", "float32"), said.get("batch", 1)
    return ", ".join(
        [
            str(said["runtime"]),
            *([] if precision == "float32" else [str(precision)]),
            *([] if batch == 1 else [f"batch {batch}"]),
        ]
    )
