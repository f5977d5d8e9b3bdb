"""The derived network as a timm model, from its definition and weights. Needs no NNI.

A definition is what the ``timm_definition`` of a space gives. Of ``MobileNetV2Space`` it is a block definition: ``blocks`` in timm's
notation, ``stem_stride``, ``bn_eps``, ``resolution`` where the network resizes its images, and further arguments of timm's
``EfficientNet``. Those of ``PyramidTreeSpace``, arguments of our :class:`.PyramidTreeNet`, and of ``TimmSpace``, blocks in the place of those of
a model of timm, have an entry ``family``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from timm.models._efficientnet_builder import decode_arch_def, resolve_act_layer, resolve_bn_args
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from torch import nn

from ..core.errors import UserError
from ..core.resize import ResizingConv2d
from ..core.scaled_linear import OUTPUT, scale_outputs
from ..search_spaces.timm_layout import is_timm_network
from ..search_spaces.timm_network import build_timm_network
from ..search_spaces.tree_layout import is_tree
from ..search_spaces.tree_network import PyramidTreeNet, build_pyramid_tree
from .architecture import Architecture

__all__ = [
    "build_efficientnet",
    "build_model",
    "feature_levels",
    "load_weights",
    "required",
    "to_timm",
    "total_stride",
]

NO_LIMIT = 2**16

Network = TypeVar("Network", EfficientNet, EfficientNetFeatures)


def required(definition: Mapping[str, Any]) -> tuple[str, ...]:
    """The entries of a definition that have no defaults."""
    if is_tree(definition):
        return "trees", "depths", "stem_width", "final_width"
    if is_timm_network(definition):
        return "model", "blocks", "made_from", "stem_stride", "num_classes", "in_chans"
    return "blocks", "stem_stride", "bn_eps"


def to_timm(
    architecture: Architecture, weights: dict[str, torch.Tensor] | None = None
) -> EfficientNet | PyramidTreeNet:
    """The derived network as a model of timm: a plain ``EfficientNet`` or ``MobileNetV3``, or a :class:`.PyramidTreeNet`.

    Parameters
    ----------
    architecture
        One with a block definition.
    weights
        A ``state_dict`` under timm's names, such as that of the frozen space; None for fresh weights.

    Raises
    ------
    ValueError
        The architecture's space gives no timm block definition.
    """
    if architecture.network is None:
        raise ValueError(
            f"space {architecture.space.get('name')!r} gives no timm block definition (a method timm_definition), so its networks "
            "are no models of timm; use nni_proxyless.derive.build_network"
        )
    model = build_model(architecture.network)
    if weights is not None:
        model.load_state_dict(weights)
    return model


def build_model(definition: Mapping[str, Any]) -> EfficientNet | PyramidTreeNet:
    """The network of a definition, with fresh weights."""
    if is_tree(definition):
        return build_pyramid_tree(definition)
    if is_timm_network(definition):
        return build_timm_network(definition)
    return build_efficientnet(EfficientNet, definition)


def build_efficientnet(cls: type[Network], definition: Mapping[str, Any], **overrides: Any) -> Network:
    """A timm model of a block definition, with fresh weights.

    Parameters
    ----------
    cls
        ``EfficientNet``, or ``EfficientNetFeatures`` for the maps without the head.
    definition
        Not changed.
    overrides
        Arguments of ``cls`` that take the place of the definition's; also ``bn_eps``, ``bn_momentum``. ``output_stride``
        is that of the network; without it every block has the stride that its definition says.
    """
    options = {**definition, **overrides}
    stem_stride, resolution = options.pop("stem_stride"), options.pop("resolution", None)
    scale = options.pop(OUTPUT, None)
    if cls is EfficientNetFeatures:
        options = {k: v for k, v in options.items() if k not in ("num_classes", "num_features")}
    # timm's builder takes the stem's stride to be 2, and makes dilations of strides beyond its limit, which is 32 by
    # default: a stem with stride 1 and five blocks with stride 2 would lose the last one.
    limit = options.pop("output_stride", None)
    bn = resolve_bn_args(options)
    model = cls(
        block_args=decode_arch_def(options.pop("blocks")),
        norm_layer=options.pop("norm_layer", None) or functools.partial(nn.BatchNorm2d, **bn),
        act_layer=resolve_act_layer(options),
        round_chs_fn=_as_given,
        output_stride=NO_LIMIT if limit is None else limit * 2 // stem_stride,
        **options,
    )
    # timm's stem always has stride 2. With a 3x3 kernel the padding is 1 for either stride, so only the stride changes.
    model.conv_stem.stride = (stem_stride, stem_stride)
    if resolution is not None:
        model.conv_stem = ResizingConv2d.of(model.conv_stem, resolution)
    scale_outputs(model, scale)
    for level in range(len(model.feature_info)):
        info = model.feature_info[level]
        info["reduction"] = info["reduction"] * stem_stride // 2
    return model


def feature_levels(definition: Mapping[str, Any]) -> int:
    """How many maps timm takes out of the network: the one before each reduction, and the last."""
    return 1 + sum(stride > 1 for stride in _stage_strides(definition))


def total_stride(definition: Mapping[str, Any]) -> int:
    """By how much the last map is smaller than the image, or than what it is resized to."""
    product = 1 if is_tree(definition) else definition["stem_stride"]
    for stride in _stage_strides(definition):
        product *= stride
    return product


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises
    ------
    UserError
        The file is missing or damaged.
    """
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"{path}: no readable weights: {error}") from error


def _stage_strides(definition: Mapping[str, Any]) -> list[int]:
    """Of the first block of each stage: only that one has a stride."""
    if is_tree(definition):
        return [1, *[2] * (len(definition["depths"]) - 1)]
    return [stage[0]["stride"] for stage in decode_arch_def(definition["blocks"])]


def _as_given(channels: int) -> int:
    return channels
