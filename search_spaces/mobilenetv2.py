"""The MobileNetV2-style space of ProxylessNAS (paper sec. 4.2), built of timm's own blocks.

Source: mit-han-lab/proxylessnas at bf58b5c, search/imagenet_arch_search.py:64-66.

    conv_stem, bn1            3x3 convolution
    blocks.0.0                the first block, always depthwise 3x3 without expansion
    blocks.{s}.{i}            stage s = 1 …, block i = 0 …: a choice labeled ``stage{s}.{i}``
    conv_head, bn2            feature mix, 1x1 convolution
    global_pool, classifier

A candidate ``k5e3`` is an inverted residual with a depthwise 5x5 kernel and expansion 3; ``skip`` leaves the block out.
All names are those of timm's ``EfficientNet``, and :meth:`MobileNetV2Space.timm_definition` says which ``EfficientNet``
a chosen architecture is: the weights go over by name.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal, cast

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from timm.layers import create_classifier, create_conv2d, get_norm_act_layer
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from timm.models._efficientnet_builder import efficientnet_init_weights
from torch import Tensor, nn

from nni_proxyless.latency.operation import Shape, describe, other_names, shape_text

from .layout import PRESETS, layout_of, problems_of_layout
from .shared_weights import align_candidates, share_weights

__all__ = ["PRESETS", "MobileNetV2Space"]

BN_EPS = 1e-3  # of the official search code, search/imagenet_arch_search.py


class MobileNetV2Space(ModelSpace):
    """Every block chooses for itself among kernels 3, 5, 7, expansions 3, 6 and, where shapes agree, to be skipped.

    Parameters
    ----------
    preset
        ``'imagenet'``: the paper's space, 21 choices, 2.2e17 networks. ``'cifar'``: the same for 32x32 images.
        ``'small'``: 9 choices, for small images on a small machine. The next seven arguments override it.
    stem_width, stem_stride
        Channels and stride of the first convolution.
    first_width
        Output channels of the fixed first block.
    widths, depths, strides
        One entry per stage: output channels, number of blocks, stride of the first block.
    feature_mix
        Channels of the last 1x1 convolution.
    num_classes, in_channels
        Outputs of the classifier, channels of the images.
    kernels, expansions
        What every searchable block may choose from.
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
        preset: Literal["imagenet", "cifar", "small"] = "imagenet",
        *,
        stem_width: int | None = None,
        stem_stride: int | None = None,
        first_width: int | None = None,
        widths: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        feature_mix: int | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (3, 6),
        skip: bool = True,
        dropout: float = 0.0,
        aligned_init: bool = True,
        shared_weights: bool = False,
    ):
        super().__init__()
        options = SimpleNamespace(
            preset=preset, stem_width=stem_width, stem_stride=stem_stride, first_width=first_width, widths=widths, depths=depths,
            strides=strides, feature_mix=feature_mix, num_classes=num_classes, in_channels=in_channels, kernels=kernels,
            expansions=expansions, dropout=dropout,
        )  # fmt: skip
        if problems := problems_of_layout(options):
            raise ValueError("; ".join(problems))
        layout = layout_of(options)
        self.layout = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in layout.items()}
        self.num_classes, self.in_channels, self.dropout = num_classes, in_channels, dropout
        self.shared_weights = shared_weights

        norm_layer = functools.partial(nn.BatchNorm2d, eps=BN_EPS)
        norm_act = get_norm_act_layer(norm_layer, nn.ReLU6)
        block = functools.partial(InvertedResidual, act_layer=nn.ReLU6, norm_layer=norm_layer)

        width = layout["stem_width"]
        self.conv_stem = create_conv2d(in_channels, width, 3, stride=layout["stem_stride"])
        self.bn1 = norm_act(width, inplace=True)

        first = DepthwiseSeparableConv(width, layout["first_width"], 3, act_layer=nn.ReLU6, norm_layer=norm_layer)
        stages = [nn.Sequential(first)]
        width = layout["first_width"]
        for s, (out, depth, stage_stride) in enumerate(
            zip(layout["widths"], layout["depths"], layout["strides"], strict=True), 1
        ):
            blocks = []
            for i in range(depth):
                stride = stage_stride if i == 0 else 1
                candidates: dict[str, nn.Module] = {
                    f"k{k}e{e}": block(width, out, dw_kernel_size=k, stride=stride, exp_ratio=e)
                    for k in kernels for e in expansions
                }  # fmt: skip
                if skip and stride == 1 and width == out:
                    candidates["skip"] = nn.Identity()
                blocks.append(LayerChoice(candidates, label=f"stage{s}.{i}"))
                width = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)

        self.conv_head = create_conv2d(width, layout["feature_mix"], 1)
        self.bn2 = norm_act(layout["feature_mix"], inplace=True)
        self.global_pool, self.classifier = create_classifier(layout["feature_mix"], num_classes, pool_type="avg")
        efficientnet_init_weights(self)
        if aligned_init:
            for residuals in self._candidates():
                align_candidates(residuals)
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
        x = self.bn1(self.conv_stem(x))
        x = self.blocks(x)
        x = self.bn2(self.conv_head(x))
        x = self.global_pool(x)
        x = nn.functional.dropout(x, self.dropout, self.training)
        return self.classifier(x)

    def _candidates(self) -> list[list[InvertedResidual]]:
        """The inverted residuals of every choice; a search may have let go of some."""
        choices: list[Any] = [module for module in self.modules() if isinstance(module, LayerChoice)]
        blocks = [[choice[name] for name in choice.names] for choice in choices]
        return [[block for block in of_one if isinstance(block, InvertedResidual)] for of_one in blocks]

    def _share_weights(self) -> None:
        for candidates in self._candidates() if self.shared_weights else ():
            if len(candidates) > 1:
                share_weights(candidates)

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
        stages: list[list[nn.Module]] = [
            [block[sample[block.label]] if isinstance(block, LayerChoice) else block for block in stage]
            for stage in cast(Any, self.blocks)
        ]
        kept = [[block for block in stage if type(block) is not nn.Identity] for stage in stages]
        network.blocks = nn.Sequential(*(nn.Sequential(*stage) for stage in kept if stage))
        return network

    def timm_definition(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Which timm ``EfficientNet`` the architecture is, in plain types; see :func:`nni_proxyless.derive.to_timm`."""
        stages = [[f"ds_r1_k3_s1_c{self.layout['first_width']}"]]
        for s, (out, depth, stage_stride) in enumerate(
            zip(self.layout["widths"], self.layout["depths"], self.layout["strides"], strict=True), 1
        ):
            stage = []
            for i in range(depth):
                choice = re.fullmatch(r"k(\d+)e(\d+)", sample[f"stage{s}.{i}"])
                if choice is not None:
                    stage.append(f"ir_r1_k{choice[1]}_s{stage_stride if i == 0 else 1}_e{choice[2]}_c{out}")
            if stage:
                stages.append(stage)
        return {
            "blocks": stages,
            "stem_size": self.layout["stem_width"],
            "stem_stride": self.layout["stem_stride"],
            "num_features": self.layout["feature_mix"],
            "act_layer": "relu6",
            "bn_eps": BN_EPS,
            "num_classes": self.num_classes,
            "in_chans": self.in_channels,
            "drop_rate": self.dropout,
        }


@describe.register
def _(module: InvertedResidual, input_shape: Shape, output_shape: Shape) -> str:
    expand = module.conv_pw.out_channels / module.conv_pw.in_channels
    return _expanded_conv(module, input_shape, output_shape, expand)


@other_names.register
def _(module: InvertedResidual, input_shape: Shape, output_shape: Shape) -> tuple[tuple[str, ...], ...]:
    key = _expanded_conv(module, input_shape, output_shape, module.conv_pw.out_channels)
    return ((f"{key}-se:0-hs:0",),)


@other_names.register
def _(module: DepthwiseSeparableConv, input_shape: Shape, output_shape: Shape) -> tuple[tuple[str, ...], ...]:
    key = _expanded_conv(module, input_shape, output_shape, input_shape[0])
    return ((f"{key}-se:0-hs:0",),)


@describe.register
def _(module: DepthwiseSeparableConv, input_shape: Shape, output_shape: Shape) -> str:
    return _expanded_conv(module, input_shape, output_shape, 1)


def _expanded_conv(module: Any, input_shape: Shape, output_shape: Shape, expand: float) -> str:
    """The key of a block in the published ProxylessNAS tables.

    Those of once-for-all go on with squeeze-and-excitation and the activation, and ``expand`` is a number of channels there.
    """
    kernel, stride = module.conv_dw.kernel_size[0], module.conv_dw.stride[0]
    return (
        f"expanded_conv-input:{shape_text(input_shape)}-output:{shape_text(output_shape)}"
        f"-expand:{expand:g}-kernel:{kernel}-stride:{stride}-idskip:{int(module.has_skip)}"
    )
