"""The space of NAS-Bench-Macro (Su et al., CVPR 2021): 6,561 networks, each of which was trained three times by its authors.

Facts of its layers: xiusu/NAS-Bench-Macro at b1ee7c6, train/model.py. Multiply-adds and parameters of every network are those of its table
(``tests/benchmarks/test_nas_bench_macro.py``).

    stem        3x3 convolution, 32 channels, no stride
    8 places    in stages of 2, 3 and 3, widths 64, 128, 256; the first place of each stage halves the image
    head        1x1 convolution, 1280 channels, mean over the image, classifier

A place chooses among ``skip`` (digit 0 of the table), ``k3e3`` (1) and ``k5e6`` (2), inverted residuals of that kernel and expansion. A skip
at the entry of a stage is a bare 1x1 convolution with the stride, and batch norm: an entry too can do without a block there. Activations
are ReLU.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.search_spaces.shared_weights import align_candidates, share_weights
from timm.layers import BatchNormAct2d, create_classifier
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn

from nni_proxyless.latency import LatencyProfiler, MacsEstimator

STAGES, WIDTHS = (2, 3, 3), (64, 128, 256)
STEM_WIDTH, FEATURE_MIX, CLASSES = 32, 1280, 10
SHAPE = (3, 32, 32)
CHOICES = ("skip", "k3e3", "k5e6")  # by the digit of the table
KINDS = {"k3e3": (3, 3), "k5e6": (5, 6)}  # kernel, expansion
LABELS = tuple(f"stage{stage}.{i}" for stage, depth in enumerate(STAGES, 1) for i in range(depth))


class MacroSpace(ModelSpace):
    """A choice of three for each of eight places.

    Parameters
    ----------
    num_classes, in_channels
        Outputs of the classifier, channels of the images.
    width
        All channels are multiplied by it; 1 in the benchmark, less where it only has to run.
    aligned_init, shared_weights
        As in :class:`~nni_proxyless.search_spaces.MobileNetV2Space`; the benchmark's own networks say nothing of a supernet.
    """

    def __init__(
        self, *, num_classes: int = CLASSES, in_channels: int = 3, width: float = 1.0, aligned_init: bool = True,
        shared_weights: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.shared_weights = shared_weights
        stem, head, *widths = (
            max(8, round(width * channels / 8) * 8) for channels in (STEM_WIDTH, FEATURE_MIX, *WIDTHS)
        )
        self.stem = nn.Sequential(nn.Conv2d(in_channels, stem, 3, padding=1, bias=False), BatchNormAct2d(stem))
        stages, channels = [], stem
        block = functools.partial(InvertedResidual, act_layer=nn.ReLU)
        for stage, (depth, out) in enumerate(zip(STAGES, widths, strict=True), 1):
            places = []
            for i in range(depth):
                stride = 2 if i == 0 else 1
                skip = bare_convolution(channels, out, stride) if stride > 1 or channels != out else nn.Identity()
                candidates: dict[str, nn.Module] = {"skip": skip}
                for name, (kernel, expansion) in KINDS.items():
                    candidates[name] = block(channels, out, dw_kernel_size=kernel, stride=stride, exp_ratio=expansion)
                places.append(LayerChoice(candidates, label=f"stage{stage}.{i}"))
                channels = out
            stages.append(nn.Sequential(*places))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Conv2d(channels, head, 1, bias=False), BatchNormAct2d(head))
        self.global_pool, self.classifier = create_classifier(head, num_classes, pool_type="avg")
        if aligned_init:
            for blocks in self._blocks():
                align_candidates(blocks)
        self._share_weights()

    @property
    def treats_images_alone(self) -> bool:
        """Nothing but batch norm sees more than one image: :mod:`nni_proxyless.core.joined_batches`."""
        return True

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, num_classes), of images of shape (batch, in_channels, height, width)."""
        return self.classifier(self.global_pool(self.head(self.stages(self.stem(x)))))

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The network of one architecture, with the very weights of this space; NNI's own way copies every candidate."""
        self.validate(dict(sample))
        network: Any = copy.copy(self)
        network._modules = dict(self._modules)
        network.stages = nn.Sequential(*(
            nn.Sequential(*(place[sample[place.label]] if isinstance(place, LayerChoice) else place for place in stage))
            for stage in cast(Any, self.stages)
        ))  # fmt: skip
        return network

    def _blocks(self) -> Iterator[list[InvertedResidual]]:
        """The inverted residuals of every place; a search may have let go of some."""
        for place in self.modules():
            if isinstance(place, LayerChoice):
                candidates: list[Any] = [cast(Any, place)[name] for name in cast(Any, place).names]
                yield [candidate for candidate in candidates if isinstance(candidate, InvertedResidual)]

    def _share_weights(self) -> None:
        for blocks in self._blocks() if self.shared_weights else ():
            if len(blocks) > 1:
                share_weights(blocks)

    def _apply(self, fn: Any, recurse: bool = True) -> MacroSpace:
        super()._apply(fn, recurse)  # to another format: every parameter has got memory of its own
        self._share_weights()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # of a copy, for which the same holds
        self._share_weights()


def bare_convolution(channels: int, out: int, stride: int) -> nn.Module:
    """What stands at the entry of a stage without a block."""
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


# -- names and costs -------------------------------------------------------------------------------------------------------


def sample_of(digits: Iterable[Any]) -> dict[str, str]:
    """The architecture of a name of the table, such as ``02012100``, or of its digits."""
    return {label: CHOICES[int(digit)] for label, digit in zip(LABELS, digits, strict=True)}


def name_of(sample: Mapping[str, Any]) -> str:
    """The name of an architecture in the table."""
    return "".join(str(CHOICES.index(sample[label])) for label in LABELS)


def every_network() -> np.ndarray:
    """The digits of all networks, shape (6561, 8), in the order of their names."""
    return np.indices((len(CHOICES),) * len(LABELS), dtype=np.int8).reshape(len(LABELS), -1).T


@functools.cache
def macs_profiler(width: float = 1.0) -> LatencyProfiler:
    """Millions of multiply-adds of the networks of the space."""
    return LatencyProfiler(MacroSpace(width=width), MacsEstimator(), SHAPE)


def macs_of(digits: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Multiply-adds of networks, shape (n,), of their digits, shape (n, 8): exact, for no shape depends on a choice."""
    profiler = macs_profiler(width)
    per_choice = np.array([[profiler.candidate_ms[label][choice] for choice in CHOICES] for label in LABELS])
    whole = profiler.fixed_ms + per_choice[np.arange(len(LABELS)), digits].sum(1)
    return np.rint(1e6 * whole).astype(np.int64)


@functools.cache
def weights_of(width: float = 1.0) -> tuple[int, np.ndarray]:
    """Weights of what all networks share, and of every candidate, shape (8, 3)."""
    space = MacroSpace(width=width)
    places: dict[str, Any] = {str(m.label): m for m in space.modules() if isinstance(m, LayerChoice)}
    of_candidates = np.array([[_count(places[label][choice]) for choice in CHOICES] for label in LABELS])
    return _count(space) - int(of_candidates.sum()), of_candidates


def parameters_of(digits: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Trainable parameters of networks, as :func:`macs_of`."""
    fixed, of_candidates = weights_of(width)
    return fixed + of_candidates[np.arange(len(LABELS)), digits].sum(1)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
