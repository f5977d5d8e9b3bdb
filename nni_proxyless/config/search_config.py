"""What ``search.yml`` and ``train.yml`` may hold: sections, keys, types, ranges, defaults."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from .sections import LARGEST_SEED, NamedSection, Optimizer, PathText, Section, is_number

__all__ = ["CostSection", "DataSection", "LatencySection", "SearchConfig"]


class SpaceSection(NamedSection):
    """Which model space."""

    name: str = "mobilenetv2"


class StrategySection(NamedSection):
    """Which strategy."""

    name: str = "proxyless"


class EstimatorSection(NamedSection):
    """Which source of latencies."""

    name: str = "device"


class DataSection(NamedSection):
    """Which images, and how they are divided and loaded."""

    name: str = "digits"
    batch_size: int = Field(64, ge=2)
    alphas: float = Field(0.2, gt=0, lt=1)
    validation: float = Field(0.2, gt=0, lt=1)
    workers: int = Field(0, ge=0)


def _positive_or_percent(value: Any, unit: str, dearest: str) -> Any:
    if isinstance(value, str):
        share = re.fullmatch(r"(\d+(?:\.\d+)?)%", value)
        sound = share is not None and 0 < float(share[1]) <= 100
    else:
        sound = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
    if not sound:
        raise ValueError(f"{unit}, greater than 0, or a share of {dearest} such as 60%")
    return value


def _weight_of_cost(value: Any) -> Any:
    if value != "auto" and not (is_number(value) and value >= 0):
        raise ValueError("a number of 0 or more, or auto")
    return value


Weight = Annotated[float | Literal["auto"], BeforeValidator(_weight_of_cost)]


class LatencySection(Section):
    """What the network is to cost, and where the milliseconds come from."""

    target_ms: float | str | None = None
    weight: Weight = "auto"
    form: Literal["add#linear", "add", "mul#log", "threshold"] = "add#linear"
    nonlinear: Literal["linear", "positive", "absolute"] = "linear"
    table: PathText | None = None
    estimator: EstimatorSection = EstimatorSection()

    @field_validator("target_ms", mode="before")
    @classmethod
    def _milliseconds(cls, value: Any) -> Any:
        return value if value is None else _positive_or_percent(value, "milliseconds", "the slowest network")


class CostSection(Section):
    """One more cost beside the latency, in the unit of its estimator."""

    estimator: EstimatorSection
    target: float | str
    weight: Weight = 1.0
    form: Literal["add#linear", "add", "mul#log", "threshold"] = "add#linear"
    nonlinear: Literal["linear", "positive", "absolute"] = "linear"
    table: PathText | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")] | None = None

    @field_validator("target", mode="before")
    @classmethod
    def _in_its_unit(cls, value: Any) -> Any:
        return _positive_or_percent(value, "a number", "the network that costs most")

    @property
    def called(self) -> str:
        """Its own name, else its estimator's; of ``package.module:Class`` the class."""
        return self.name or self.estimator.name.rpartition(":")[2]


class TrainingSection(Section):
    """How the weights of the supernet are trained."""

    epochs: int = Field(30, ge=1)
    optimizer: Optimizer = "sgd"
    learning_rate: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(4e-5, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    architecture_label_smoothing: float = Field(0.0, ge=0, lt=1)
    calibration_images: int = Field(1024, ge=1)


class TrainerSection(Section):
    """The machine: what Lightning's Trainer is told."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int = Field(1, ge=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    threads: int | None = Field(None, ge=1)


class SearchConfig(Section):
    """One search. See ``experiments/search.yml`` for a commented example.

    ``strategies`` holds, by name, arguments of several strategies, of which ``strategy.name`` takes its own: so one
    experiment can search with each. What stands in ``strategy`` itself wins. In a resolved configuration all is there.
    """

    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    output: PathText | None = None
    space: SpaceSection = SpaceSection()
    data: DataSection = DataSection()
    strategy: StrategySection = StrategySection()
    strategies: dict[str, dict[str, Any]] = Field({}, exclude=True)
    latency: LatencySection = LatencySection()
    costs: list[CostSection] = Field([])
    training: TrainingSection = TrainingSection()
    trainer: TrainerSection = TrainerSection()
