"""train.yml: how a derived network is trained to the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..core.errors import did_you_mean
from ..core.user_path import expand_path
from .sections import LARGEST_SEED, Optimizer, PathText, Section, is_number

__all__ = [
    "SCHEDULERS",
    "AugmentationSection",
    "DistillationSection",
    "Interval",
    "PipelineSection",
    "TrainConfig",
    "problems_of_training",
]

SCHEDULERS = ("cosine", "tanh", "poly", "step", "multistep", "wsd", "rsqrt", "constant", "none")


def _timm_scheduler(name: str) -> str:
    """A schedule that depends on the step alone: timm's ``plateau`` does not, so a training could not resume with it."""
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


def _as_section(value: Any) -> Any:
    """A section of distillation, from a share alone, or from nothing."""
    if value is None:
        return {}
    return {"weight": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


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
    """Augmentation by timm's ``create_transform``; replaces that of the data set."""

    scale: Interval = Field([0.08, 1.0], description="area of the crop, as a share of the image")
    ratio: Interval = Field([3 / 4, 4 / 3], description="aspect ratio of the crop")
    hflip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    vflip: float = Field(0.0, ge=0, le=1, description="probability of a vertical flip")
    color_jitter: Annotated[Any, BeforeValidator(_jitter)] = Field(
        0.4, description="a number, or a list: brightness, contrast, saturation and, optionally, hue"
    )
    auto_augment: Annotated[str | None, AfterValidator(_auto_augment)] = Field(
        None, description="a policy of timm, such as `rand-m9-mstd0.5`"
    )
    random_erasing: float = Field(0.0, ge=0, le=1, description="probability of erasing a rectangle")
    random_erasing_mode: Literal["const", "rand", "pixel"] = Field("const", description="what fills the rectangle")
    interpolation: Literal["random", "bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"] = Field(
        "bilinear", description="of the resizing"
    )
    crop_pct: float | None = Field(
        None, gt=0, le=1, description="in evaluation: side of the center crop by that of the image"
    )


class DistillationSection(Section):
    """A trained network whose outputs are a second target beside the true classes."""

    teacher: Annotated[str, AfterValidator(_teacher)] | None = Field(
        None,
        description="a model of timm, or the path of an `architecture.json`; none: the model that the network's space is made around",
    )
    weights: Annotated[str, AfterValidator(expand_path)] | None = Field(
        None,
        description="of the teacher; none: those of timm, those beside the architecture, or those that the search began with",
    )
    temperature: float = Field(1.0, gt=0, description="of both softmaxes")
    weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the teacher in the loss; 0: no teacher; 1, with `anneal: false`: the classes are ignored; none: 0.5 where there is a teacher, else 0",
    )

    anneal: bool = Field(True, description="the share falls linearly, to 0 behind the last epoch; false: it stays")

    @property
    def is_asked_for(self) -> bool:
        """Whether there has to be a teacher; else there is one if the space's original is there."""
        if self.weight is not None:
            return self.weight > 0
        return self.teacher is not None or self.weights is not None

    @property
    def share(self) -> float:
        """Of the teacher in the loss, where there is one."""
        return 0.5 if self.weight is None else self.weight


class PipelineSection(Section):
    """The network in stages, one in each process that torchrun starts; with more processes, replicas of that."""

    stages: int = Field(ge=2, description="divides the number of processes; with more processes than stages, replicas")
    micro_batches: int = Field(
        ge=1, description="of a batch, which batch norm normalizes one by one; divides `batch_size`"
    )
    schedule: Literal["gpipe", "1f1b"] = Field(
        "gpipe", description="`1f1b` holds activations of at most `stages` micro-batches at a time"
    )
    rematerialize: bool = Field(
        False, description="hold the input of a stage alone, and compute the rest again in the backward pass"
    )
    balance: Literal["time", "memory"] = Field(
        "time", description="what the stages take alike, as it was measured when the training began"
    )
    cut_before: list[str] | None = Field(
        None,
        description="the layers with which stage 2 and those after it begin, such as [blocks.3.0]; none: by `balance`",
    )


class TrainConfig(Section):
    """The final training of a derived network. See ``experiments/train.yml`` and ``docs/how-to/training.md``."""

    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="of the order, the augmentation, everything")
    output: PathText | None = Field(None, description="folder of the results; none: `final/` beside the architecture")
    weights: Annotated[str, AfterValidator(_weights)] = Field(
        "inherited",
        description="those of the search; `scratch`; or a `.safetensors` file, relative to the architecture's folder",
    )
    epochs: int = Field(60, ge=0, description="0: evaluate the weights on the test images, print, write nothing")
    batch_size: int = Field(64, ge=2, description="of each process; with `pipeline` of each replica")
    workers: int = Field(0, ge=0, description="loader processes of each process")
    validation: float = Field(
        0.0, ge=0, lt=1, description="share of the training images that judges the epochs; 0: the test images do"
    )
    optimizer: Optimizer = Field("sgd", description="any optimizer of timm; sgd has Nesterov's momentum")
    learning_rate: float = Field(0.05, gt=0, description="after the warm-up")
    momentum: float = Field(0.9, ge=0, lt=1, description="of optimizers that have one")
    weight_decay: float = Field(4e-5, ge=0, description="of weights")
    weight_decay_of: Literal["weights", "all"] = Field("weights", description="`all`: of biases and norms as well")
    scheduler: Annotated[str, AfterValidator(_timm_scheduler)] = Field(
        "cosine", description=f"timm's, over steps: {', '.join(SCHEDULERS)}"
    )
    warmup_epochs: int = Field(3, ge=0, description="part of `epochs`")
    warmup_learning_rate: float | None = Field(
        None, gt=0, description="at the first step; none: a tenth of `learning_rate`"
    )
    min_learning_rate: float = Field(0.0, ge=0, description="at the last step")
    decay_epochs: float | None = Field(None, gt=0, description="of step, wsd, rsqrt; none: timm's")
    decay_rate: float | None = Field(None, gt=0, description="of step, multistep, poly; none: timm's")
    decay_milestones: list[int] | None = Field(None, description="epochs, of multistep; none: timm's")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="in the loss")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the classifier")
    drop_path: float = Field(0.0, ge=0, lt=1, description="grows with depth up to this; timm's blocks only")
    path_drop: float = Field(
        0.0, ge=0, lt=1, description="of an edge of a tree, on average over blocks; `pyramid-tree` only"
    )
    cell_drop: float = Field(0.0, ge=0, lt=1, description="of the branch of a block, on average; `pyramid-tree` only")
    augmentation: AugmentationSection | None = Field(None, description="see below; none: the data set's own")
    cutout: int = Field(0, ge=0, description="side of a square of zeros in each training image; 0: none")
    mixup: float = Field(0.0, ge=0, description="alpha of timm's `Mixup`")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix")
    mixup_off_epoch: int | None = Field(None, ge=1, description="epochs after which images are no longer mixed")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="of the average of weights, with warm-up; 0: no average")
    distillation: Annotated[DistillationSection, BeforeValidator(_as_section)] = Field(
        DistillationSection(), description="see below; a number says `weight` alone"
    )
    pipeline: PipelineSection | None = Field(None, description="see below; none: the whole network in each process")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field("32-true", description="`16-mixed` on CUDA only")
    accumulate_grad_batches: int = Field(1, ge=1, description="batches per step")
    gradient_clip_val: float | None = Field(None, gt=0, description="largest norm of the gradient")
    device: Annotated[str, AfterValidator(_device)] = Field(
        "auto", description="CUDA if it is there, else the CPU; or any device of torch"
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of each process; none: a thread per core that the process may use"
    )
    checkpoint_every: int = Field(200, ge=1, description="batches; a checkpoint follows every epoch besides")


def problems_of_training(config: TrainConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """What does not fit together: where it stands, and what is wrong with it."""
    if (config.mixup or config.cutmix) and config.batch_size % 2:
        yield ("batch_size",), f"{config.batch_size} is odd; allowed with mixup and cutmix: an even number"
    taught = config.distillation
    if taught.teacher is not None and taught.weights is not None and not taught.weights.endswith(".safetensors"):
        yield (
            ("distillation", "weights"),
            f"{taught.weights!r} is not allowed beside a teacher; allowed: the path of a .safetensors file",
        )
    if config.pipeline is not None:
        yield from _problems_of_pipeline(config, config.pipeline)


def _problems_of_pipeline(config: TrainConfig, pipeline: PipelineSection) -> Iterator[tuple[tuple[str, ...], str]]:
    stages, micro_batches = pipeline.stages, pipeline.micro_batches
    if config.batch_size % micro_batches or config.batch_size // micro_batches < 2:
        yield (
            ("pipeline", "micro_batches"),
            f"{micro_batches} of batch_size {config.batch_size}; allowed: a divisor that leaves 2 images or more",
        )
    if pipeline.schedule == "1f1b" and micro_batches < stages:
        yield (
            ("pipeline", "schedule"),
            f"'1f1b' needs {stages} micro_batches for {stages} stages, there are {micro_batches}; allowed: gpipe, or more of them",
        )
    if pipeline.cut_before is not None and len(pipeline.cut_before) != stages - 1:
        yield (
            ("pipeline", "cut_before"),
            f"{len(pipeline.cut_before)} layers for {stages} stages; allowed: {stages - 1}, or none",
        )
    if config.accumulate_grad_batches > 1:
        yield (
            ("accumulate_grad_batches",),
            f"{config.accumulate_grad_batches}; allowed with pipeline, which takes the mean of all gradients that are there: 1, and more "
            "pipeline.micro_batches",
        )
    if config.distillation.is_asked_for:
        yield (
            ("distillation",),
            "its teacher needs the images, which the last stage does not see; allowed with pipeline: weight 0, or none said",
        )
    if config.precision == "16-mixed":
        yield ("precision",), "'16-mixed' scales all gradients alike; allowed with pipeline: 32-true, bf16-mixed"
