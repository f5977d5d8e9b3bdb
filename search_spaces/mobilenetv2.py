"""The MobileNetV2-style space of ProxylessNAS (paper sec. 4.2), built of timm's own blocks.

Source: mit-han-lab/proxylessnas at bf58b5c, search/imagenet_arch_search.py:64-66.

    resize                    to another resolution, where one is asked for
    conv_stem, bn1            3x3 convolution
    blocks.0.0                the first block, always depthwise 3x3 without expansion
    blocks.{s}.{i}            stage s = 1 …, block i = 0 …: a choice labeled ``stage{s}.{i}``
    conv_head, bn2            feature mix, 1x1 convolution
    global_pool, classifier

A candidate ``k5e3`` is an inverted residual with a depthwise 5x5 kernel and expansion 3; ``skip`` leaves the block out; others: :mod:`.blocks`.
What decides shapes may be a choice as well: ``resolution``, ``stem.stride``, ``stem.width``, ``stage{s}.width``. Its candidates
(:class:`.Resize`, :class:`.Subsample`, :class:`.Narrow`) stand before and behind convolutions that all of them share.

All names are those of timm's ``EfficientNet``, and :meth:`MobileNetV2Space.timm_definition` says which ``EfficientNet``
a chosen architecture is: the weights go over by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal, cast

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from timm.layers import create_classifier, create_conv2d
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from timm.models._efficientnet_builder import efficientnet_init_weights
from torch import Tensor, nn

from nni_proxyless.core.resize import Resize
from nni_proxyless.core.scaled_linear import of_outputs
from nni_proxyless.latency.operation import Operation, Shape

from . import block_keys  # noqa: F401  (registers the keys of blocks in tables)
from .blocks import BN_EPS, SKIP, bare_convolutions, definition_of, inverted_residuals, make_block, norm_act, norm_layer
from .by_shape import operations_by_shape, parts_by_shape
from .layout import PRESETS, candidates_of, layout_of, problems_of_layout, shapes_of
from .narrow import Narrow, make_elastic, narrow_conv
from .shared_weights import align_candidates, share_weights
from .subsample import Subsample

__all__ = ["PRESETS", "MobileNetV2Space"]


class MobileNetV2Space(ModelSpace):
    """Every block chooses for itself among kernels, expansions, the paper's or more, and, where shapes agree, to be skipped.

    Parameters
    ----------
    preset
        ``'imagenet'``: the paper's space, 21 choices, 2.2e17 networks. ``'cifar'``: the same for 32x32 images.
        ``'small'``: 9 choices, for small images on a small machine. ``'open'``, for 32x32, and ``'open-imagenet'``: bare
        convolutions at the entries of stages, more depth, expansion 1 as well. All arguments that are None come from it.
    resolution
        Height and width in pixels to which the network resizes its images; None: they stay as they are. A list is a choice,
        ``resolution``, searched as ``widths``.
    stem_width, stem_stride
        Channels and stride of the first convolution. A list is a choice, ``stem.width`` or ``stem.stride``, searched as ``widths``.
    first_width
        Output channels of the fixed first block.
    widths, depths, strides
        One entry per stage: output channels, number of blocks, stride of the first block. A list of channels in the place of a
        number is a choice of the stage, ``stage1.width`` and so on: see :mod:`.narrow`. It is searched by DSNAS, or with
        ``update: reinforce``.
    feature_mix
        Channels of the last 1x1 convolution.
    num_classes, in_channels
        Outputs of the classifier, channels of the images.
    kernels, expansions
        What every searchable block may choose from; in the first three presets 3, 5, 7 and 3, 6.
    entry_kernels
        Of bare convolutions, with batch norm and activation, that a block which changes the shape may be instead.
    squeeze_excite
        Whether blocks have squeeze-and-excitation: ``[false]``, ``[true]``, or ``[false, true]`` for a choice of every block.
    activations
        Of searchable blocks, bare convolutions too, to choose from: ``relu6``, ``relu``, ``hard_swish``, ``swish``, ``mish``. The
        rest of the network has ReLU6.
    se_ratio
        Channels of squeeze-and-excitation by input channels of its block.
    skip
        Whether blocks whose input and output shapes agree may be left out.
    dropout
        Before the classifier.
    aligned_init
        Candidates of a choice start from the same weights as far as their shapes allow, see :func:`align_candidates`.
        False: each from a draw of its own, as in the official code.
    shared_weights
        Candidates of a choice train the same weights as far as their shapes allow, see :func:`share_weights`: every step
        trains all of them, so a search needs fewer. False: each has its own, as in the paper.

    Raises
    ------
    ValueError
        A wrong argument; the message names all of them and what is allowed.
    """

    def __init__(
        self,
        preset: Literal["imagenet", "cifar", "small", "open", "open-imagenet"] = "imagenet",
        *,
        resolution: int | Sequence[int] | None = None,
        stem_width: int | Sequence[int] | None = None,
        stem_stride: int | Sequence[int] | None = None,
        first_width: int | None = None,
        widths: Sequence[int | Sequence[int]] | None = None,
        depths: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        feature_mix: int | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
        kernels: Sequence[int] | None = None,
        expansions: Sequence[int] | None = None,
        entry_kernels: Sequence[int] | None = None,
        squeeze_excite: Sequence[bool] | None = None,
        activations: Sequence[str] | None = None,
        se_ratio: float = 0.25,
        skip: bool = True,
        dropout: float = 0.0,
        aligned_init: bool = True,
        shared_weights: bool = False,
    ):
        super().__init__()
        options = SimpleNamespace(
            preset=preset, resolution=resolution, stem_width=stem_width, stem_stride=stem_stride, first_width=first_width, widths=widths,
            depths=depths, strides=strides, feature_mix=feature_mix, num_classes=num_classes, in_channels=in_channels, kernels=kernels,
            expansions=expansions, entry_kernels=entry_kernels, squeeze_excite=squeeze_excite, activations=activations, se_ratio=se_ratio,
            dropout=dropout,
        )  # fmt: skip
        if problems := problems_of_layout(options):
            raise ValueError("; ".join(problems))
        layout, kinds = layout_of(options), candidates_of(options)
        self.layout: dict[str, Any] = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in layout.items()}
        self.shapes = shapes_of(layout, resolution)
        self.shapes_are_open = any(len(some) > 1 for some in self.shapes.values())
        self.kinds = {k: tuple(v) for k, v in kinds.items()}
        self.num_classes, self.in_channels, self.dropout = num_classes, in_channels, dropout
        self.se_ratio, self.shared_weights = se_ratio, shared_weights

        width, stride = max(self.shapes["stem.width"]), min(self.shapes["stem.stride"])
        self.resize = self._choice("resolution", Resize)
        if self.resize is None and resolution is not None:
            self.resize = Resize(*self.shapes["resolution"])
        self.conv_stem = create_conv2d(in_channels, width, 3, stride=stride)
        self.subsample = self._choice("stem.stride", lambda value: Subsample(value // stride))
        self.bn1 = norm_act(width, inplace=True)
        self.narrow = self._choice("stem.width", Narrow)

        first = DepthwiseSeparableConv(width, layout["first_width"], 3, act_layer=nn.ReLU6, norm_layer=norm_layer)
        stages = [nn.Sequential(first if self.narrow is None else make_elastic(first, se_ratio))]
        width = layout["first_width"]
        residuals = inverted_residuals(
            kinds["kernels"], kinds["expansions"], kinds["squeeze_excite"], kinds["activations"]
        )
        bare = bare_convolutions(kinds["entry_kernels"], kinds["activations"])
        varies = False  # whether the input of the next block has one of several widths
        for s, (depth, stage_stride) in enumerate(zip(layout["depths"], layout["strides"], strict=True), 1):
            blocks: list[nn.Module] = []
            label = f"stage{s}.width"
            for i in range(depth):
                stride, out = stage_stride if i == 0 else 1, max(self.shapes[label])
                same_shape = stride == 1 and width == out
                candidates: dict[str, nn.Module] = {}
                for name in residuals if same_shape else [*residuals, *bare]:
                    definition = definition_of(name, stride=stride, width=out, se_ratio=se_ratio)
                    block = make_block(cast(str, definition), width)
                    candidates[name] = make_elastic(block, se_ratio) if varies else block
                if skip and same_shape:
                    candidates[SKIP] = nn.Identity()
                blocks.append(LayerChoice(candidates, label=f"stage{s}.{i}"))
                if i == 0 and (narrow := self._choice(label, Narrow)) is not None:
                    blocks.append(narrow)
                width, varies = out, len(self.shapes[label]) > 1
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)

        self.conv_head = create_conv2d(width, layout["feature_mix"], 1)
        self.bn2 = norm_act(layout["feature_mix"], inplace=True)
        self.global_pool, self.classifier = create_classifier(layout["feature_mix"], num_classes, pool_type="avg")
        efficientnet_init_weights(self)
        if aligned_init:
            for alike in self._alike():
                align_candidates(alike)
        self._share_weights()

    # What the latency of the fixed part is made of, by the names of the published tables.
    fixed_operations = {  # noqa: RUF012  (a class attribute that nobody changes)
        "Conv": ("conv_stem", "bn1"),
        "Conv_1": ("conv_head", "bn2"),
        "Logits": ("global_pool", "classifier"),
    }

    @property
    def treats_images_alone(self) -> bool:
        """Nothing but batch norm sees more than one image, and no random number is drawn: :mod:`nni_proxyless.core.joined_batches`."""
        return self.dropout == 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, num_classes), of images of shape (batch, in_channels, height, width)."""
        x = x if self.resize is None else self.resize(x)
        x = self.conv_stem(x)
        x = self.bn1(x if self.subsample is None else self.subsample(x))
        x = self.blocks(x if self.narrow is None else self.narrow(x))
        narrows = self.shapes_are_open
        x = self.bn2(narrow_conv(self.conv_head, x, self.conv_head.out_channels) if narrows else self.conv_head(x))
        x = self.global_pool(x)
        x = nn.functional.dropout(x, self.dropout, self.training)
        return self.classifier(x)

    def _choice(self, label: str, candidate: Callable[[int], nn.Module]) -> LayerChoice | None:
        """A choice among the values of what decides shapes; None where there is one."""
        some = self.shapes[label]
        return LayerChoice({str(value): candidate(value) for value in some}, label=label) if len(some) > 1 else None

    def _alike(self) -> list[list[Any]]:
        """The inverted residuals of every choice, and the bare convolutions of it; a search may have let go of some."""
        choices: list[Any] = [module for module in self.modules() if isinstance(module, LayerChoice)]
        blocks = [[choice[name] for name in choice.names] for choice in choices]
        kinds = (InvertedResidual, ConvBnAct)
        found = [[block for block in of_one if isinstance(block, kind)] for of_one in blocks for kind in kinds]
        return [alike for alike in found if len(alike) > 1]

    def _share_weights(self) -> None:
        for alike in self._alike() if self.shared_weights else ():
            share_weights(alike)

    def _apply(self, fn: Any, recurse: bool = True) -> MobileNetV2Space:
        super()._apply(fn, recurse)  # to another device or format: every parameter has got memory of its own
        self._share_weights()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # of a copy, for which the same holds
        self._share_weights()

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The network of one architecture, sharing this space's weights, skipped blocks gone.

        Its ``state_dict`` has the names of the timm model that :meth:`timm_definition` describes.
        """
        self.validate(dict(sample))
        network: Any = copy.copy(self)
        # A shallow copy: NNI's own freeze would copy every candidate, several times over.
        network._modules = dict(self._modules)
        if self.shapes_are_open:
            parts = parts_by_shape(self, sample)
            stages = parts.pop("blocks")
            network._modules.update(parts)
            network.shapes_are_open = False
        else:
            stages = [
                [block[sample[block.label]] if isinstance(block, LayerChoice) else block for block in stage]
                for stage in cast(Any, self.blocks)
            ]
        kept = [[block for block in stage if type(block) is not nn.Identity] for stage in stages]
        network.blocks = nn.Sequential(*(nn.Sequential(*stage) for stage in kept if stage))
        return network

    def shape_in(self, sample: Mapping[str, Any], label: str) -> Any:
        """What a label of :attr:`shapes` is in the network of this architecture: a number, or None for the resolution of the images."""
        some = self.shapes[label]
        return some[0] if len(some) == 1 else int(sample[label])

    def definition_in(self, stage: int, i: int, candidate: str, width: int) -> str | None:
        """A candidate of a stage's block i, from 0 on, in timm's notation; None for a skip."""
        stride = self.layout["strides"][stage - 1] if i == 0 else 1
        return definition_of(candidate, stride=stride, width=width, se_ratio=self.se_ratio)

    def own_operations(self, input_shape: Shape) -> list[Operation] | None:
        """As :func:`~nni_proxyless.latency.trace_operations` gives them, where shapes are open; None: they are found by running the space."""
        return operations_by_shape(self, input_shape) if self.shapes_are_open else None

    def timm_definition(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Which timm ``EfficientNet`` the architecture is, in plain types; see :func:`nni_proxyless.derive.to_timm`."""
        stages = [[f"ds_r1_k3_s1_c{self.layout['first_width']}"]]
        for s, depth in enumerate(self.layout["depths"], 1):
            width = self.shape_in(sample, f"stage{s}.width")
            definitions = (self.definition_in(s, i, str(sample[f"stage{s}.{i}"]), width) for i in range(depth))
            if stage := [definition for definition in definitions if definition is not None]:
                stages.append(stage)
        resolution = self.shape_in(sample, "resolution")
        return {
            **of_outputs(self),
            **({} if resolution is None else {"resolution": resolution}),
            "blocks": stages,
            "stem_size": self.shape_in(sample, "stem.width"),
            "stem_stride": self.shape_in(sample, "stem.stride"),
            "num_features": self.layout["feature_mix"],
            "act_layer": "relu6",
            "bn_eps": BN_EPS,
            "num_classes": self.num_classes,
            "in_chans": self.in_channels,
            "drop_rate": self.dropout,
        }
