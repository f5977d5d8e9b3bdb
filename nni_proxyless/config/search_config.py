"""What ``search.yml`` and ``train.yml`` may hold: sections, keys, types, ranges, defaults."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from ..core.errors import did_you_mean
from ..core.user_path import expand_path

__all__ = [
    "AugmentationSection",
    "CostSection",
    "DataSection",
    "DistillationSection",
    "LatencySection",
    "NamedSection",
    "SearchConfig",
    "TrainConfig",
]


LARGEST_SEED = 2**32 - 1  # what Lightning and NumPy take


PathText = Annotated[str, AfterValidator(expand_path)]


class Section(BaseModel):
    """Keys and types are taken literally."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class NamedSection(Section):
    """A name in the registry, and the arguments of what it names."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """What goes to the named class or function."""
        return dict(self.model_extra or {})


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
    if value != "auto" and not (_is_number(value) and value >= 0):
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


# Of these it is known that timm has them, without its import, which takes seconds.
USUAL_OPTIMIZERS = (
    "sgd",
    "momentum",
    "adam",
    "adamw",
    "nadam",
    "nadamw",
    "rmsprop",
    "rmsproptf",
    "lamb",
    "lars",
    "lion",
)


def _timm_optimizer(name: str) -> str:
    if name in USUAL_OPTIMIZERS:
        return name
    from timm.optim import list_optimizers

    if name not in (known := list_optimizers()):
        raise ValueError(f"an optimizer of timm, such as sgd, adamw, lamb.{did_you_mean(name, known)}")
    return name


Optimizer = Annotated[str, AfterValidator(_timm_optimizer)]


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
    costs: list[CostSection] = []
    training: TrainingSection = TrainingSection()
    trainer: TrainerSection = TrainerSection()


SCHEDULERS = ("cosine", "tanh", "poly", "step", "multistep", "wsd", "rsqrt", "constant", "none")


def _timm_scheduler(name: str) -> str:
    """One that is a function of the step alone: timm's ``plateau`` is not, so a training could not go on with it."""
    if name not in SCHEDULERS:
        raise ValueError(f"a scheduler of timm: {', '.join(SCHEDULERS)}.{did_you_mean(name, SCHEDULERS)}")
    return name


def _weights(value: str) -> str:
    if value not in ("inherited", "scratch") and not value.endswith(".safetensors"):
        raise ValueError(
            f"inherited, scratch, or the path of a .safetensors file.{did_you_mean(value, ('inherited', 'scratch'))}"
        )
    return expand_path(value)


def _teacher(value: str) -> str:
    return expand_path(value) if value.endswith(".json") else value


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda", "mps"):
        import torch  # which takes seconds, and knows these

        try:
            torch.device(name)
        except RuntimeError as error:
            raise ValueError("auto, cpu, cuda, or another device of torch") from error
    return name


def _interval(value: Any) -> Any:
    if not (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1]):
        raise ValueError("two numbers greater than 0, the smaller one first, such as [0.08, 1.0]")
    return value


def _jitter(value: Any) -> Any:
    several = isinstance(value, list) and len(value) in (3, 4) and all(_is_number(v) and v >= 0 for v in value)
    if not several and not (_is_number(value) and value >= 0):
        raise ValueError(
            "a number of 0 or more, or a list of them: brightness, contrast, saturation and, if you like, hue"
        )
    return value


def _auto_augment(value: str | None) -> str | None:
    if value is not None:
        from timm.data import create_transform

        try:
            create_transform(32, is_training=True, auto_augment=value)
        except Exception as error:  # timm's parser: AssertionError, KeyError, ValueError, …
            raise ValueError("a policy of timm, such as rand-m9-mstd0.5, augmix-m3-w3, original, 3a") from error
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


Interval = Annotated[list[float], BeforeValidator(_interval)]


class AugmentationSection(Section):
    """What happens to training images, in the place of what their data set does; timm's ``create_transform``."""

    scale: Interval = [0.08, 1.0]
    ratio: Interval = [3 / 4, 4 / 3]
    hflip: float = Field(0.5, ge=0, le=1)
    vflip: float = Field(0.0, ge=0, le=1)
    color_jitter: Annotated[Any, BeforeValidator(_jitter)] = 0.4
    auto_augment: Annotated[str | None, AfterValidator(_auto_augment)] = None
    random_erasing: float = Field(0.0, ge=0, le=1)
    random_erasing_mode: Literal["const", "rand", "pixel"] = "const"
    interpolation: Literal["random", "bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"] = "bilinear"
    crop_pct: float | None = Field(None, gt=0, le=1)


class DistillationSection(Section):
    """A trained network whose answers are learnt beside the true classes."""

    teacher: Annotated[str, AfterValidator(_teacher)]
    weights: Annotated[str, AfterValidator(_weights)] | None = None
    temperature: float = Field(1.0, gt=0)
    weight: float = Field(0.5, gt=0, le=1)


class TrainConfig(Section):
    """The final training of a derived network. See ``experiments/train.yml`` and ``docs/training.md``."""

    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    output: PathText | None = None
    weights: Annotated[str, AfterValidator(_weights)] = "inherited"
    epochs: int = Field(60, ge=0)
    batch_size: int = Field(64, ge=2)
    workers: int = Field(0, ge=0)
    validation: float = Field(0.0, ge=0, lt=1)
    optimizer: Optimizer = "sgd"
    learning_rate: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(4e-5, ge=0)
    scheduler: Annotated[str, AfterValidator(_timm_scheduler)] = "cosine"
    warmup_epochs: int = Field(3, ge=0)
    warmup_learning_rate: float | None = Field(None, gt=0)
    min_learning_rate: float = Field(0.0, ge=0)
    decay_epochs: float | None = Field(None, gt=0)
    decay_rate: float | None = Field(None, gt=0)
    decay_milestones: list[int] | None = None
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    augmentation: AugmentationSection | None = None
    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    mixup_off_epoch: int | None = Field(None, ge=1)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    distillation: DistillationSection | None = None
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accumulate_grad_batches: int = Field(1, ge=1)
    gradient_clip_val: float | None = Field(None, gt=0)
    device: Annotated[str, AfterValidator(_device)] = "auto"
    threads: int | None = Field(None, ge=1)
    checkpoint_every: int = Field(200, ge=1)
