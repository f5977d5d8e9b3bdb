"""The costs of a search beside its latency: the ``costs`` of ``search.yml`` as profilers, targets and terms of the loss."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nni.nas.nn.pytorch import ModelSpace

from ..config.search_config import CostSection
from ..core.errors import UserError
from ..latency import LatencyPenalty, LatencyProfiler
from ..latency.objectives.penalty_sum import Penalties
from ..latency.operation import Shape
from .latency_table import latency_range, make_estimator, make_profiler, target_in_ms

__all__ = ["Cost", "join", "make_costs"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """One cost: its profiler, its target, and its term of the loss."""

    profiler: LatencyProfiler
    target: float
    penalty: LatencyPenalty

    def figures(
        self, name: str, sample: Mapping[str, Any], probs: Mapping[str, Mapping[Any, float]]
    ) -> dict[str, float]:
        """Figures of one epoch in the cost's unit: expected over the current probabilities, and of the network that would be derived now."""
        return {
            f"expected_{name}": float(self.profiler.expectation(probs)),
            f"derived_{name}": float(self.profiler.profile(dict(sample))),
        }


def make_costs(
    sections: Sequence[CostSection], space: ModelSpace, input_shape: Shape, base: Path, folder: Path
) -> dict[str, Cost]:
    """Name -> cost, in the order of the file.

    Parameters
    ----------
    base, folder
        What a relative ``table`` is relative to; where the search keeps the tables that it works with,
        ``latencies.<name>.yaml``.

    Raises
    ------
    UserError
        A target is out of reach, a table does not fit, or arguments of a term do not go together.
    """
    costs = {}
    for i, section in enumerate(sections):
        where, name = f"costs.{i}", section.label
        estimator = make_estimator(section.estimator)
        table = base / section.table if section.table else None
        try:
            profiler = make_profiler(space, input_shape, estimator, table, folder / f"latencies.{name}.yaml")
        except UserError as error:
            raise UserError(str(error).replace("latency.", f"{where}.", 1)) from error
        lowest, highest = latency_range(profiler)
        target = target_in_ms(section.target, highest)
        assert target is not None
        if target <= lowest:
            raise UserError(
                f"{where}.target: {target:.6g} {profiler.unit} is out of reach: the networks of this space have {lowest:.6g} "
                f"to {highest:.6g} of {name}"
            )
        _logger.info("%s: %.6g to %.6g %s, target %.6g", name, lowest, highest, profiler.unit, target)
        try:
            penalty = LatencyPenalty(profiler, target, section.weight, form=section.form, nonlinear=section.nonlinear)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        costs[name] = Cost(profiler, target, penalty)
    return costs


def join(latency: LatencyPenalty | None, costs: Mapping[str, Cost]) -> LatencyPenalty | Penalties | None:
    """Join the terms of latency and other costs into one penalty."""
    if not costs:
        return latency
    first = {} if latency is None else {"ms": latency}
    return Penalties({**first, **{name: cost.penalty for name, cost in costs.items()}})
