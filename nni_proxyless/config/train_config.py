"""train.yml: how a derived network is trained to the end."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..core.errors import did_you_mean
from ..core.user_path import expand_path
from .sections import LARGEST_SEED, Optimizer, PathText, Section, is_number

__all__ = ["SCHEDULERS", "AugmentationSection", "DistillationSection", "Interval", "TrainConfig"]

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
    if not (isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and 0 < value[0] <= value[1]):
        raise ValueError("two numbers greater than 0, the smaller one first, such as [0.08, 1.0]")
    return value


def _jitter(value: Any) -> Any:
    several = isinstance(value, list) and len(value) in (3, 4) and all(is_number(v) and v >= 0 for v in value)
    if not several and not (is_number(value) and value >= 0):
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


Interval = Annotated[list[float], BeforeValidator(_interval)]


class AugmentationSection(Section):
    """What happens to training images, in the place of what their data set does; timm's ``create_transform``."""

    scale: Interval = Field([0.08, 1.0])
    ratio: Interval = Field([3 / 4, 4 / 3])
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
