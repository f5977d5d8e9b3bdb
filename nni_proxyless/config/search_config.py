"""What ``search.yml`` and ``train.yml`` may hold: sections, keys, types, ranges, defaults."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..latency.runtimes.default import TORCH, default_runtime
from .sections import LARGEST_SEED, NamedSection, Optimizer, PathText, Section, is_number

__all__ = ["CostSection", "DataSection", "LatencySection", "SearchConfig", "as_it_was_meant"]

TIMES = "device"  # the estimator that has a runtime
BEFORE_SELECTION = {"select": "probabilities", "judged": 32}  # what a search did that does not say


class SpaceSection(NamedSection):
    """Which model space."""

    name: str = Field("mobilenetv2", description="model space")


class TaskSection(NamedSection):
    """What is learned."""

    name: str = Field("classification", description="task")


class StrategySection(NamedSection):
    """Which strategy."""

    name: str = Field("proxyless", description="strategy")


class EstimatorSection(NamedSection):
    """Which source of latencies."""

    name: str = Field("device", description="source of latencies, or of another cost")

    @model_validator(mode="after")
    def _with_runtime(self) -> EstimatorSection:
        """Which runtime times, is written down: what a search has left says so, whatever the default is by then."""
        said = self.model_extra
        if self.name == TIMES and said is not None and said.get("runtime") is None:
            device = said.get("device", "cpu")
            said["runtime"] = default_runtime(device if isinstance(device, str) else "cpu")
        return self


class DataSection(NamedSection):
    """Which images, and how they are divided and loaded."""

    name: str = Field("digits", description="data set")
    batch_size: int = Field(64, ge=2, description="images per step")
    alphas: float = Field(0.2, gt=0, lt=1, description="share of the training images that trains the architecture")
    validation: float = Field(
        0.2, gt=0, lt=1, description="share that judges the derived network; the rest trains weights"
    )
    workers: int = Field(0, ge=0, description="loader processes; 0: the search loads images itself")


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


Weight = Annotated[
    float | Literal["auto"],
    BeforeValidator(_weight_of_cost),
    Field(description="weight in the loss; `auto`: lambda adapts until the expected cost is the target"),
]
Form = Annotated[
    Literal["add#linear", "add", "mul#log", "threshold"],
    Field(description="how the cost enters the loss; used with a fixed weight"),
]
Nonlinear = Annotated[
    Literal["linear", "positive", "absolute"],
    Field(description="`linear`: the cost moves to the target; `positive`: the target is an upper limit only"),
]
TABLE = "lookup table: read if it exists, else measured and written; relative to this file"


class LatencySection(Section):
    """Target of the latency, and where the milliseconds come from."""

    target_ms: float | str | None = Field(
        None,
        description="milliseconds, or a share such as `60%` of the slowest network of the space; none: accuracy alone",
    )
    weight: Weight = "auto"
    form: Form = "add#linear"
    nonlinear: Nonlinear = "linear"
    table: Annotated[PathText | None, Field(description=TABLE)] = None
    estimator: EstimatorSection = Field(EstimatorSection(), description="see below")

    @field_validator("target_ms", mode="before")
    @classmethod
    def _milliseconds(cls, value: Any) -> Any:
        return value if value is None else _positive_or_percent(value, "milliseconds", "the slowest network")


class CostSection(Section):
    """One more cost beside the latency, in the unit of its estimator."""

    estimator: EstimatorSection = Field(description="see `latency.estimator`")
    target: float | str = Field(
        description="a number in the unit of the estimator, or a share of the network that costs most"
    )
    weight: Weight = 1.0
    form: Form = "add#linear"
    nonlinear: Nonlinear = "linear"
    table: Annotated[PathText | None, Field(description=TABLE)] = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")] | None = Field(
        None, description="its name in results; none: the name of the estimator"
    )

    @field_validator("target", mode="before")
    @classmethod
    def _in_its_unit(cls, value: Any) -> Any:
        return _positive_or_percent(value, "a number", "the network that costs most")

    @property
    def label(self) -> str:
        """Its own name, else its estimator's; of ``package.module:Class`` the class."""
        return self.name or self.estimator.name.rpartition(":")[2]


class TrainingSection(Section):
    """How the weights of the supernet are trained."""

    epochs: int = Field(30, ge=1, description="epochs of the search, warm-up included")
    optimizer: Optimizer = Field("sgd", description="any optimizer of timm")
    learning_rate: float = Field(0.05, gt=0, description="of the weights; cosine schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="of optimizers that have one")
    weight_decay: float = Field(4e-5, ge=0, description="of the weights")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="in the loss of the weights")
    architecture_label_smoothing: float = Field(0.0, ge=0, lt=1, description="in the loss of the architecture")
    distillation: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the original model's answers in the loss of the weights, for space `timm` with weights that know the classes; it falls "
        "to 0 over the epochs; none: 0.5 where there is such a model, else 0",
    )
    calibration_images: int = Field(
        1024, ge=1, description="training images that batch-norm statistics are estimated on"
    )


class TrainerSection(Section):
    """The machine: arguments of Lightning's Trainer."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        "auto", description="as Lightning's Trainer takes it"
    )
    devices: int = Field(1, ge=1, description="processes of one search, by DDP")
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = Field(
        "32-true", description="arithmetic of the search; logits and gates stay float32"
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of each process; none: a thread per core that the process may use"
    )


class SearchSection(Section):
    """How the network is taken from the supernet at the end."""

    select: Literal["supernet", "probabilities"] = Field(
        "supernet",
        description="`supernet`: the best of networks that use the targets up, as the supernet judges them on held-out images, where the strategy is "
        "`proxyless` or `dsnas`, of others as `probabilities`; `probabilities`: the most probable network within the targets, which takes 95 to 100 % "
        "of a latency target that `weight: auto` holds, where such networks are left",
    )
    judged: int = Field(128, ge=2, description="networks that the supernet judges")


class SearchConfig(Section):
    """One search. See ``experiments/search.yml`` for a commented example.

    ``strategies`` holds arguments of several strategies by name; ``strategy.name`` selects its own, so one experiment can
    vary the strategy. Keys of ``strategy`` itself win. A resolved configuration has all of them in ``strategy``.
    """

    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="of every random stream of the search")
    output: PathText | None = Field(
        None, description="folder of the results; none: a new one below `runs/`, under NNI that of the trial"
    )
    space: SpaceSection = Field(SpaceSection(), description="which model space")
    data: DataSection = Field(DataSection(), description="which images")
    task: TaskSection = Field(TaskSection(), description="what is learned of them")
    strategy: StrategySection = Field(StrategySection(), description="which strategy")
    strategies: dict[str, dict[str, Any]] = Field(
        {}, exclude=True, description="name → arguments, where an experiment varies `strategy.name`"
    )
    latency: LatencySection = Field(LatencySection(), description="target and source of the latency")
    costs: list[CostSection] = Field([], description="further costs beside the latency")
    training: TrainingSection = Field(TrainingSection(), description="training of the supernet's weights")
    search: SearchSection = Field(SearchSection(), description="how the network is taken from the supernet")
    trainer: TrainerSection = Field(TrainerSection(), description="the machine")


def as_it_was_meant(content: dict[str, Any]) -> dict[str, Any]:
    """The content of the ``search.yml`` of a run folder: what it does not name is from before there was another default.

    No runtime: eager torch. No ``search``: the most probable network. No ``training.distillation``: no teacher.
    """

    def named(estimator: Any) -> Any:
        if isinstance(estimator, dict) and estimator.get("name", TIMES) == TIMES and estimator.get("runtime") is None:
            return {**estimator, "runtime": TORCH}
        return estimator

    def with_runtime(section: Any) -> Any:
        sound = isinstance(section, dict) and "estimator" in section
        return {**section, "estimator": named(section["estimator"])} if sound else section

    costs, training = content.get("costs"), content.get("training", {})
    return {
        "search": BEFORE_SELECTION, **content, "training": {"distillation": 0.0, **training} if isinstance(training, dict) else training, "latency": with_runtime(content.get("latency", {})),
        **({"costs": [with_runtime(cost) for cost in costs]} if isinstance(costs, list) else {}),
    }  # fmt: skip
