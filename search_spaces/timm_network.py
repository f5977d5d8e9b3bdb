"""A model of timm's EfficientNet family with blocks of other sizes, from its definition. Needs no NNI.

A definition has an entry ``family``, the ``model`` of timm that it comes from, ``blocks`` per stage in timm's notation, and ``made_from``, per
stage the number of the model's block that each of them is cut out of; behind the last of the stage, further ones are copies of that.
All else is the model's: head, activations, squeeze-and-excitation, padding. ``depths``, ``stem_size``, ``num_features`` and ``pools_first`` are for pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import make_divisible
from timm.models import load_state_dict
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, efficientnet_init_weights
from timm.models._manipulate import adapt_input_conv
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from nni_proxyless.core.errors import did_you_mean
from nni_proxyless.core.scaled_linear import OUTPUT, scale_outputs
from nni_proxyless.core.user_path import user_path

from .timm_blocks import BlockSize, ends_in_zero, problem_of_block, resized, scale_block, size_of
from .timm_layout import PRETRAINED
from .timm_streams import with_channels
from .timm_widths import set_widths

__all__ = [
    "build_timm_network",
    "family",
    "further_block",
    "make_model",
    "model_on_meta",
    "problem_of_model",
    "problem_of_tag",
    "problems_of_file",
    "problems_of_name",
    "scale_channels",
    "set_stem_stride",
    "squeeze_of",
]

_FILES = ("efficientnet", "mobilenetv3", "hardcorenas")  # of timm, in which the family's models are defined
CLASSIFIER = ("classifier.weight", "classifier.bias")
_OURS = (
    OUTPUT,
    "family",
    "model",
    "blocks",
    "made_from",
    "depths",
    "stem_stride",
    "stem_size",
    "num_features",
    "pools_first",
)


def family() -> list[str]:
    """Names of timm's models of the family, whether a space can be made of them or not."""
    return sorted({name for file in _FILES for name in timm.list_models(module=file)})


def model_on_meta(name: str) -> nn.Module:
    """A model without memory for its weights, to be looked at."""
    with torch.device("meta"):
        return timm.create_model(name)


def problem_of_model(model: nn.Module) -> str | None:
    """Which block keeps a model from becoming a space, in words; None: there is none."""
    if not isinstance(model, (EfficientNet, MobileNetV3)):
        return f"is a {type(model).__name__}; allowed: models of timm's EfficientNet family"
    stages: Any = model.blocks
    for s, stage in enumerate(stages):
        for i, block in enumerate(stage):
            if problem := problem_of_block(block):
                return f"blocks.{s}.{i}: {problem}"
    return None


def problem_of_tag(name: str) -> str | None:
    """What is wrong with the tag behind the name of a model, ``model.tag``, which says of which training weights are; None: nothing."""
    model, _, tag = name.partition(".")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # of a tag that is unknown
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{model}.*")]
        return f"timm has no weights '{tag}' of {model}; allowed: {', '.join(tags) or 'no tag'}"
    return None


def problems_of_name(name: str, weights: str | Path | None = None) -> list[str]:
    """What is wrong with a model of this name, one sentence each; nothing is fetched."""
    names = timm.list_models()
    if name.partition(".")[0] not in names:
        return [f"model is {name!r}; allowed: a model of timm.{did_you_mean(name, names)}"]
    if problem := problem_of_tag(name):
        return [f"model is {name!r}: {problem}"]
    if problem := problem_of_model(model_on_meta(name)):
        return [f"model is {name!r}, of which no space can be made: {problem}. Which can: nni-proxyless init --list"]
    cfg = timm.get_pretrained_cfg(name)
    if weights == PRETRAINED and (cfg is None or not cfg.has_weights):
        return [f"weights is {PRETRAINED!r}, of which timm has none for {name}; allowed: a file, or none"]
    return []


def make_model(
    name: str, weights: str | Path | None = None, *, num_classes: int, in_chans: int, width: float = 1.0, **options: Any
) -> EfficientNet:
    """A model of timm, whose blocks are all of kinds that can be resized.

    Parameters
    ----------
    weights
        ``'pretrained'``: those that timm has for it. A path: a ``state_dict``, as safetensors or as a file that torch reads with
        ``weights_only``. A classifier for other classes is left out, a first convolution for three channels is adapted, as timm does.
        None: fresh ones.
    width
        By which channels are multiplied, :func:`scale_channels`; another one than 1 without weights only.
    options
        Of the model.

    Raises
    ------
    ValueError
        timm has no such model or no weights of it, a block is of another kind, the file is not there or holds weights of another network.
    """
    if problems := problems_of_name(name, weights):
        raise ValueError("; ".join(problems))
    pretrained = weights == PRETRAINED
    try:
        model: Any = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **options
        )
    except Exception as error:  # no connection to the weights, or of the model itself
        raise ValueError(f"model is {name!r}: {_first_line(error)}") from error
    if width != 1:
        scale_channels(model, width)
    if weights is not None and not pretrained:
        _load(model, user_path(str(weights), "weights"), in_chans)
    return model


def build_timm_network(definition: Mapping[str, Any], **overrides: Any) -> EfficientNet:
    """The network of a definition, with fresh weights.

    Parameters
    ----------
    definition
        As :meth:`.TimmSpace.timm_definition` gives it. Not changed.
    overrides
        Arguments of timm's model that take the place of the definition's.

    Raises
    ------
    ValueError
        As :func:`make_model`; or the definition names a block that the model does not have.
    """
    options = {name: value for name, value in {**definition, **overrides}.items() if name not in _OURS}
    model: Any = make_model(definition["model"], **options)
    set_stem_stride(model, definition.get("stem_stride"))
    like = squeeze_of(model)
    stages: list[nn.Module] = []
    decoded = decode_arch_def(definition["blocks"])
    if len(decoded) != len(model.blocks) or len(definition["made_from"]) != len(decoded):
        raise ValueError(
            f"blocks has {len(decoded)} stages; allowed: {len(model.blocks)}, those of {definition['model']}"
        )
    set_widths(model, [stage[0]["out_chs"] for stage in decoded])
    for stage, wanted, places in zip(model.blocks, decoded, definition["made_from"], strict=True):
        blocks = [_made(stage, place, arguments, like) for arguments, place in zip(wanted, places, strict=True)]
        stages.append(nn.Sequential(*blocks))
    model.blocks = nn.Sequential(*stages)
    efficientnet_init_weights(model)
    scale_outputs(model, definition.get(OUTPUT))
    return model


@torch.no_grad()
def scale_channels(model: Any, width: float) -> None:
    """Multiply the channels of a model, as MobileNetV2's width multiplier does (Sandler et al. 2018, sec. 3.3); its weights are drawn anew.

    Channels are multiples of 8, at least nine tenths of what they were to be. What a ``MobileNetV3`` gives its classifier stays as wide, what an
    ``EfficientNet`` does gets wider but not narrower. Where timm has a model at several widths, these are mostly its networks, but for the channels
    of squeeze-and-excitation, which it rounds in several ways; of some, such as MobileNetV3-small and MobileNetV4, it keeps the stem as it is.
    """

    def channels(n: int) -> int:
        return make_divisible(n * width)

    pools_first = isinstance(model, MobileNetV3)  # and its convolution of the head comes behind that
    has_head = isinstance(model.conv_head, nn.Conv2d)
    wide = channels(model.conv_head.in_channels if has_head else model.num_features)
    features = model.head_hidden_size if pools_first else max(model.head_hidden_size, channels(model.head_hidden_size))
    features = features if has_head else wide
    for stage in model.blocks:
        for block in stage:
            scale_block(block, channels)
    with_channels(model.conv_stem, channels(model.conv_stem.out_channels))
    with_channels(model.bn1, channels(model.bn1.num_features))
    if has_head:
        with_channels(model.conv_head, features, wide)
    for name in ("bn2", "norm_head"):
        if isinstance(norm := getattr(model, name, None), nn.BatchNorm2d):
            with_channels(norm, features)
    model.num_features, model.head_hidden_size = (wide, features) if pools_first else (features, features)
    model.classifier = nn.Linear(features, model.classifier.out_features)
    for level in range(len(model.feature_info)):
        model.feature_info[level]["num_chs"] = channels(model.feature_info[level]["num_chs"])
    efficientnet_init_weights(model)


def set_stem_stride(model: Any, stride: int | None) -> None:
    """Give the first convolution another stride; what timm says of reductions follows. None: its own."""
    conv = model.conv_stem
    if stride is None or conv.stride == (stride, stride):
        return
    before = conv.stride[0]
    conv.stride = (stride, stride)
    for level in range(len(model.feature_info)):
        info = model.feature_info[level]
        info["reduction"] = info["reduction"] * stride // before


def squeeze_of(model: nn.Module) -> SqueezeExcite | None:
    """The first squeeze-and-excitation of a model: what new ones are like."""
    return next((module for module in model.modules() if isinstance(module, SqueezeExcite)), None)


def further_block(stage: Sequence[nn.Module] | nn.Sequential) -> nn.Module | None:
    """A block behind the last one of a stage, of its size, which gives what it is given; None: the last is no residual, so there is none."""
    last = stage[-1]
    size = size_of(last)
    if not size.adds_input:
        return None
    block = resized(last, size)
    parts: Any = block.modules()
    for module in parts:
        if module is not block and hasattr(module, "reset_parameters"):
            module.reset_parameters()
    ends_in_zero(block)
    return block


def _made(stage: Any, place: int, arguments: Mapping[str, Any], like: SqueezeExcite | None) -> nn.Module:
    """A block of timm's arguments."""
    block = stage[place] if place < len(stage) else further_block(stage)
    if block is None:
        raise ValueError(f"made_from has {place} for a stage of {len(stage)} blocks, the last of which is no residual")
    return resized(block, _size(size_of(block), arguments), like)


def _size(own: BlockSize, arguments: Mapping[str, Any]) -> BlockSize:
    """A block's size with what timm's arguments say of it."""
    of_kind = {"er": "exp_kernel_size", "cn": "kernel_size", "uir": "dw_kernel_size_mid"}
    kernel = arguments.get(of_kind.get(own.kind, "dw_kernel_size"), 0)
    return dataclasses.replace(
        own, kernel=kernel, first=arguments.get("dw_kernel_size_start", 0),
        expanded=round(arguments["exp_ratio"] * own.channels) if own.is_expanded else own.expanded,
        squeezed=round((arguments.get("se_ratio") or 0) * own.channels),
    )  # fmt: skip


def problems_of_file(name: str, weights: str) -> list[str]:
    """What is wrong with a file of weights for a model of this name, whatever the classes and the channels of the images are."""
    with torch.device("meta"):
        own: dict[str, torch.Tensor] = timm.create_model(name).state_dict()
    try:
        found = _read(user_path(weights, "weights"))
        stem, ours = found.get("conv_stem.weight"), own["conv_stem.weight"]
        if (
            stem is not None
            and stem.dim() == ours.dim()
            and stem.shape[2:] == ours.shape[2:]
            and len(stem) == len(ours)
        ):
            own["conv_stem.weight"] = stem
        _require_same(found | {key: own[key] for key in CLASSIFIER}, own, weights)
    except ValueError as error:
        return [str(error)]
    return []


@torch.no_grad()
def _load(model: Any, path: Path, in_chans: int) -> None:
    """Weights of a file; all of them are looked at before one is taken."""
    weights, own = _read(path), model.state_dict()
    stem = weights.get("conv_stem.weight")
    if stem is not None and stem.dim() == 4 and stem.shape[1] == 3 != in_chans:
        weights["conv_stem.weight"] = adapt_input_conv(in_chans, stem)
    if any(name not in weights or weights[name].shape != own[name].shape for name in CLASSIFIER):
        weights.update({name: own[name] for name in CLASSIFIER})  # for other classes: it begins anew
    _require_same(weights, own, str(path))
    model.load_state_dict(weights)


def _read(path: Path) -> dict[str, torch.Tensor]:
    said = f"weights is {str(path)!r}"
    if not path.is_file():
        raise ValueError(f"{said}: no such file; allowed: a file, or {PRETRAINED!r}")
    try:
        weights = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        raise ValueError(f"{said}: no readable weights: {_first_line(error)}") from error
    if not weights or not all(isinstance(one, torch.Tensor) for one in weights.values()):
        raise ValueError(
            f"{said}: no readable weights; allowed: a state_dict of tensors, as torch or safetensors write it"
        )
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{said}: {broken[0]} holds infinities or what is no number; allowed: finite weights")
    return weights


def _require_same(weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], path: str) -> None:
    """Refuse weights of other names or shapes than the model's own."""
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is too many" for name in weights if name not in own]
    wrong += [
        f"{name} is {_size_of(weights[name])}, the model has {_size_of(tensor)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"weights is {path!r}: those of another network: {wrong[0]}{more}")


def _size_of(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
