"""Models for timm's registry: importing this module makes ``timm.create_model`` know them. Needs no NNI.

    proxyless_derived      what a search left: architecture='path/to/architecture.json'
    proxyless_cpu          the authors' published networks, by structure, without weights
    proxyless_gpu
    proxyless_mobile
    proxyless_mobile_14
    proxyless_cifar

timm's ``train.py`` imports it by ``--device-modules nni_proxyless.timm_models``; for scripts without that option there is
:mod:`..timm_script`. All arguments of timm's EfficientNets work: num_classes, in_chans, drop_rate, drop_path_rate,
global_pool, features_only, out_indices, pretrained_cfg_overlay, … Networks of trees, proxyless_cifar and derived ones, have
path_drop_rate and cell_drop_rate in the place of drop_path_rate.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from timm.models._builder import pretrained_cfg_for_features
from timm.models._pretrained import PretrainedCfg
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from torch import Tensor, nn

from ..core.errors import UserError, did_you_mean
from ..data.normalization import IMAGENET, preprocessing
from ..search_spaces.timm_layout import is_timm_network
from ..search_spaces.timm_network import build_timm_network
from ..search_spaces.tree_layout import is_tree, operations_in
from ..search_spaces.tree_network import build_pyramid_tree
from .architecture import Architecture
from .published import CIFAR_STATISTICS, INPUT_SHAPES, NETWORKS
from .timm_model import build_efficientnet, feature_levels, required, total_stride

__all__ = [
    "proxyless_cifar",
    "proxyless_cpu",
    "proxyless_derived",
    "proxyless_gpu",
    "proxyless_mobile",
    "proxyless_mobile_14",
]

LAYERS: dict[str, Any] = {"first_conv": "conv_stem", "classifier": "classifier"}
HEAD = ("conv_head.", "bn2.", "classifier.")  # what a network of feature maps lacks

default_cfgs = generate_default_cfgs(
    {
        "proxyless_derived": PretrainedCfg(**LAYERS),  # a place holder: the file says the rest
        **{
            name: PretrainedCfg(
                input_size=(3, 224, 224), pool_size=(7, 7), interpolation="bilinear", mean=IMAGENET[0], std=IMAGENET[1],
                paper_ids="arXiv:1812.00332", **LAYERS,
            )
            for name in NETWORKS if name != "proxyless_cifar"
        },
        "proxyless_cifar": PretrainedCfg(
            input_size=INPUT_SHAPES["proxyless_cifar"], pool_size=(8, 8), num_classes=10, interpolation="bilinear", crop_pct=1.0,
            mean=CIFAR_STATISTICS[0], std=CIFAR_STATISTICS[1], paper_ids="arXiv:1812.00332", **LAYERS,
        ),
    }
)  # fmt: skip


@register_model
def proxyless_derived(
    pretrained: bool = False,
    *,
    architecture: str | Path | None = None,
    weights: str | Path = "weights.safetensors",
    pretrained_cfg: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """The network of an ``architecture.json``.

    Parameters
    ----------
    pretrained
        Load its weights. With other ``in_chans`` or ``num_classes`` they are adapted as timm does.
    architecture
        Path of the file.
    weights
        A file, relative to the architecture's folder: by default the weights that the search left, of the trained network
        ``final/weights.safetensors``.
    pretrained_cfg
        Entries that differ from the registered place holder take the place of what the file says;
        ``pretrained_cfg_overlay`` always does.
    kwargs
        As for timm's EfficientNets.

    Raises
    ------
    TypeError
        No architecture.
    FileNotFoundError
        A file is missing.
    RuntimeError
        A file is damaged, holds something else, or the weights are those of another network.
    ValueError
        ``features_only`` of a network that resizes its images: what timm says of reductions would not hold.
    """
    if architecture is None:
        raise TypeError("proxyless_derived: architecture is missing; allowed: the path of an architecture.json")
    path = Path(architecture)
    read, definition = _read(path)
    file = path.parent / weights
    if pretrained and not file.is_file() and "file" not in (kwargs.get("pretrained_cfg_overlay") or {}):
        _missing(file, "weights", "give another file by weights='…', or pretrained=False")
    stride, resolution = total_stride(definition), definition.get("resolution")
    sides = read.input_shape[1:] if resolution is None else (resolution, resolution)
    cfg = PretrainedCfg(
        file=str(file),
        architecture="proxyless_derived",
        input_size=read.input_shape,  # type: ignore[arg-type]  # three numbers: checked
        num_classes=definition.get("num_classes", 1000),
        pool_size=tuple(-(-side // stride) for side in sides),
        **preprocessing(read.data, read.input_shape),
        **LAYERS,
    )
    return _create("proxyless_derived", definition, pretrained, pretrained_cfg=_merged(cfg, pretrained_cfg), **kwargs)


@register_model
def proxyless_cpu(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ProxylessNAS-CPU, 4.36 M parameters, 439 M multiply-adds; fresh weights only."""
    return _create("proxyless_cpu", NETWORKS["proxyless_cpu"], pretrained, **kwargs)


@register_model
def proxyless_gpu(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ProxylessNAS-GPU, 7.12 M parameters, 465 M multiply-adds; fresh weights only."""
    return _create("proxyless_gpu", NETWORKS["proxyless_gpu"], pretrained, **kwargs)


@register_model
def proxyless_mobile(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ProxylessNAS-Mobile, 4.08 M parameters, 320 M multiply-adds; fresh weights only."""
    return _create("proxyless_mobile", NETWORKS["proxyless_mobile"], pretrained, **kwargs)


@register_model
def proxyless_mobile_14(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ProxylessNAS-Mobile of 1.4 times the width, 6.86 M parameters, 581 M multiply-adds; fresh weights only."""
    return _create("proxyless_mobile_14", NETWORKS["proxyless_mobile_14"], pretrained, **kwargs)


@register_model
def proxyless_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ProxylessNAS's network for CIFAR-10, 5.73 M parameters, 1,213 M multiply-adds; fresh weights only."""
    return _create("proxyless_cifar", NETWORKS["proxyless_cifar"], pretrained, **kwargs)


def _create(variant: str, definition: Mapping[str, Any], pretrained: bool, **kwargs: Any) -> nn.Module:
    """timm's own builder, on our block definition; which class gives the maps is decided as for timm's EfficientNets."""
    maps = kwargs.pop("features_only", False)
    if maps and (resolution := definition.get("resolution")) is not None:
        raise ValueError(
            f"{variant}: features_only: the network resizes its images to {resolution}x{resolution}, so its maps have no fixed reduction of what "
            "it is given; allowed: networks without a resolution of their own"
        )
    of_family = (
        build_pyramid_tree if is_tree(definition) else build_timm_network if is_timm_network(definition) else None
    )
    wrapped = maps and (of_family is not None or "feature_cfg" in kwargs or "feature_cls" in kwargs)
    bare = maps and not wrapped
    if wrapped:  # stages are one level below ``blocks``
        kwargs["feature_cfg"] = {"flatten_sequential": True, **kwargs.get("feature_cfg", {})}
    if maps and "out_indices" not in kwargs.get("feature_cfg", {}):
        kwargs.setdefault("out_indices", tuple(range(feature_levels(definition))))  # timm's default wants five
    cls: Any = EfficientNetFeatures if bare else EfficientNet
    build: Any = functools.partial(of_family or functools.partial(build_efficientnet, cls), definition)
    try:
        model: Any = build_model_with_cfg(
            build,
            variant,
            pretrained,
            features_only=wrapped,
            pretrained_strict=kwargs.pop("pretrained_strict", True) and not bare,
            pretrained_filter_fn=_checked,
            kwargs_filter=("num_classes", "num_features", "global_pool") if bare else None,  # type: ignore[arg-type]  # timm says one name, and takes several
            **kwargs,
        )
    except SafetensorError as error:
        raise RuntimeError(f"{variant}: no readable weights in {_source(kwargs)}: {error}") from error
    if bare:
        model.pretrained_cfg = model.default_cfg = pretrained_cfg_for_features(model.pretrained_cfg)
    return model


def _checked(weights: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The weights that the model takes; timm, which is not strict when it adapts a head, would take those of any network."""
    wanted = model.state_dict()
    adaptable = (f"{LAYERS['first_conv']}.", f"{LAYERS['classifier']}.")
    wrong = [f"'{name}' is missing" for name in wanted if name not in weights and not name.startswith(adaptable[1])]
    wrong += [f"'{name}' is too many" for name in sorted(weights) if name not in wanted and not name.startswith(HEAD)]
    wrong += [
        f"'{name}' is {_size(weights[name])}, the network has {_size(tensor)}"
        for name, tensor in wanted.items()
        if name in weights and tensor.shape != weights[name].shape and not name.startswith(adaptable)
    ]
    if wrong:
        file = model.pretrained_cfg.get("file")
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise RuntimeError(f"{file}: the weights of another network: {wrong[0]}{more}")
    return {name: tensor for name, tensor in weights.items() if name in wanted}


def _read(path: Path) -> tuple[Architecture, dict[str, Any]]:
    """The file and its block definition, checked as far as timm would stumble without saying where."""
    if not path.is_file():
        _missing(path, "architecture", "the path of an architecture.json")
    try:
        read = Architecture.read(path)
    except UserError as error:
        raise RuntimeError(str(error)) from error
    network = read.network
    if network is None:
        raise RuntimeError(
            f"{path}: network: the space {read.space.get('name')!r} gives no timm block definition (a method timm_definition); its "
            "networks come from nni_proxyless.derive.build_network"
        )
    shape = read.input_shape
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise RuntimeError(f"{path}: input_shape is {shape!r}; allowed: (channels, height, width)")
    lacking = [key for key in required(network) if key not in network]
    if lacking:
        raise RuntimeError(f"{path}: network: without {', '.join(map(repr, lacking))}; a search writes all of them")
    if is_tree(network):
        try:
            operations_in(network)
        except ValueError as error:
            raise RuntimeError(f"{path}: network.{error}") from error
    try:
        total_stride(network)
    except Exception as error:  # timm's parser: AssertionError, KeyError, ValueError, IndexError, …
        raise RuntimeError(f"{path}: network.blocks: timm does not understand them: {error!r}") from error
    return read, network


def _merged(cfg: PretrainedCfg, given: Any) -> PretrainedCfg:
    """timm's newer scripts look up the registered entries and hand them over as if a user had chosen them."""
    if not given:
        return cfg
    blank = resolve_pretrained_cfg("proxyless_derived").to_dict()
    asked = given if isinstance(given, dict) else resolve_pretrained_cfg("proxyless_derived", given).to_dict()
    return replace(cfg, **{key: value for key, value in asked.items() if key not in blank or value != blank[key]})


def _source(kwargs: Mapping[str, Any]) -> str:
    overlay = kwargs.get("pretrained_cfg_overlay") or {}
    return str(overlay.get("file") or getattr(kwargs.get("pretrained_cfg"), "file", None))


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _missing(path: Path, what: str, allowed: str) -> None:
    folder = path if path.is_dir() else path.parent
    names = [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    wanted = "architecture.json" if path.is_dir() else path.name
    kind = "a folder" if path.is_dir() else "no such file"
    raise FileNotFoundError(f"{path}: {kind}, so no {what}; allowed: {allowed}.{did_you_mean(wanted, names)}")
