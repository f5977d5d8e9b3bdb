"""What an evolution under ``nnictl`` searches, by its ``search.yml``: the space, the bounds, and the record of one of its networks.

The tuner draws networks from it, and each trial makes of its parameters the network that it trains. Neither measures anything: a latency
comes from a table that is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nni.nas.nn.pytorch import ModelSpace

from ..config.nni_evolution import STRATEGY
from ..config.read import read_config
from ..config.search_config import CostSection, LatencySection, SearchConfig
from ..core.errors import UserError
from ..data.image_parts import ImageData
from ..latency import LatencyProfiler
from ..latency.choices import read_back
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.record import describe, latency_record, record
from .build import images_of, searchable_space
from .latency_table import latency_range, make_estimator, profiler_without_measuring, target_in_ms
from .original import original_of

__all__ = ["LATENCY", "EvolvedSpace"]

LATENCY = "latency"


@dataclass(frozen=True)
class EvolvedSpace:
    """The space of a ``search.yml``, for its images, and what its networks may cost.

    Attributes
    ----------
    name, arguments
        That the space is made with, classes and channels of the images included.
    limits
        Name -> (profiler, bound): ``latency`` and then the ``costs``; a target is an upper bound, and ``math.inf`` where there is none.
    """

    config: SearchConfig
    data: ImageData
    name: str
    arguments: dict[str, Any]
    space: ModelSpace
    limits: dict[str, tuple[LatencyProfiler, float]]

    @classmethod
    def read(cls, path: Path) -> EvolvedSpace:
        """Read the file, its images, and its tables.

        Raises
        ------
        UserError
            The file is wrong, images and space do not fit together, or latencies would have to be measured.
        """
        config = read_config(SearchConfig, path)
        data = images_of(config)
        name, arguments, space = searchable_space(config, data)
        sections: dict[str, tuple[str, LatencySection | CostSection, float | str | None]]
        sections = {LATENCY: (LATENCY, config.latency, config.latency.target_ms)}
        for i, cost in enumerate(config.costs):
            if cost.label == LATENCY:
                raise UserError(f"{path}: costs.{i}.name: {LATENCY!r} is the name of the latency; allowed: another")
            sections[cost.label] = (f"costs.{i}", cost, cost.target)
        limits = {}
        for name, (where, section, target) in sections.items():
            table = path.parent / section.table if section.table else None
            profiler = profiler_without_measuring(
                space, data.shape, make_estimator(section.estimator), table, f"{path}: {where}"
            )
            if profiler is None:
                raise UserError(
                    f"{path}: {where}.table: {section.table or 'none is named'}: not there, and an evolution measures nothing; allowed: a "
                    "table that nni-proxyless latency build has written, or an estimator that counts, such as macs"
                )
            bound = target_in_ms(target, latency_range(profiler)[1])
            limits[name] = (profiler, math.inf if bound is None else bound)
        return cls(config, data, name, arguments, space, limits)

    def record(self, choices: Mapping[str, Any]) -> Architecture:
        """The network of these choices, label -> plain value, with what it costs and fresh weights.

        Raises
        ------
        UserError
            They are no network of the space.
        """
        mutables = self.space.simplify()
        sample = {label: read_back(choice, mutables.get(label)) for label, choice in choices.items()}
        if (problem := self.space.check_contains(sample)) is not None:
            raise UserError(f"NNI's parameters are no network of the space {self.config.space.name}: {problem}")
        described = describe(
            self.space, sample, name=self.name, arguments=self.arguments, input_shape=self.data.shape,
            task=self.config.task.described,
            data={"name": self.config.data.name, "arguments": self.config.data.arguments, **self.data.normalization},
        )  # fmt: skip
        profiler, bound = self.limits[LATENCY]
        original = original_of(self.config)
        return record(
            described, build_network(described),
            latency=latency_record(profiler, sample, target=bound if math.isfinite(bound) else None),
            search={
                "strategy": STRATEGY, "weights": "fresh", "costs": self._costs(sample),
                **({} if original is None else original.described()),
            },
        )  # fmt: skip

    def _costs(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {"unit": profiler.unit, "target": bound, "derived": float(profiler.profile(dict(sample)))}
            for name, (profiler, bound) in self.limits.items()
            if name != LATENCY
        }
