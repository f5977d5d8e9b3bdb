"""The derived network: its architecture as a file, and as a model of timm.

``architecture.json`` holds all that is known of it: the space, the choice per label, the block definition of the timm
model, latencies expected, from the table and measured, MACs, parameters, seed and versions.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from safetensors.torch import load_file
from timm.models import EfficientNet
from timm.models._efficientnet_builder import decode_arch_def, resolve_act_layer
from torch import nn

from . import registry
from .errors import UserError
from .files import write_text
from .latency.macs import count_macs
from .latency.operation import Shape

__all__ = [
    "Architecture",
    "build_network",
    "count_macs",
    "count_parameters",
    "installed_versions",
    "load_weights",
    "to_timm",
]

FORMAT = "nni-proxyless architecture 1"


@dataclass(frozen=True)
class Architecture:
    """What a search leaves, in plain types.

    Attributes
    ----------
    space
        ``{'name': …, 'arguments': {…}}``, the model space it was found in.
    choices
        Label -> choice.
    input_shape
        Of one image, (channels, height, width).
    network
        The timm model's block definition; None for a space that has none, whose networks stay NNI modules.
    data
        ``{'name': …, 'arguments': {…}}``, the images it was searched on.
    latency
        Expected, table and measured milliseconds, and the conditions they hold under.
    macs, n_params
        Multiply-adds of convolutions and linear layers for one image; trainable parameters.
    search
        Strategy, seed, accuracy of the derived net with inherited weights.
    versions
        Package -> version of what ran.
    """

    space: dict[str, Any]
    choices: dict[str, Any]
    input_shape: Shape
    network: dict[str, Any] | None
    data: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    macs: int = 0
    n_params: int = 0
    search: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, path: str | Path) -> None:
        """Write ``architecture.json``, whole or not at all."""
        write_text(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Architecture:
        """Read ``architecture.json``.

        Raises
        ------
        UserError
            The file is missing, damaged or something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path}: not an architecture: {error}") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise UserError(f"{path}: not an architecture: 'format' is not {FORMAT!r}")
        try:
            return cls(**{**content, "input_shape": tuple(content["input_shape"])})
        except (TypeError, KeyError) as error:
            raise UserError(f"{path}: not an architecture: {error}") from error


def to_timm(architecture: Architecture, weights: dict[str, torch.Tensor] | None = None) -> EfficientNet:
    """The derived network as a plain timm ``EfficientNet``.

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
            f"space {architecture.space.get('name')!r} gives no timm block definition (a method timm_definition)"
        )
    definition = dict(architecture.network)
    stem_stride = definition.pop("stem_stride")
    model = EfficientNet(
        block_args=decode_arch_def(definition.pop("blocks")),
        norm_layer=functools.partial(nn.BatchNorm2d, eps=definition.pop("bn_eps")),
        act_layer=resolve_act_layer(definition),
        round_chs_fn=_as_given,
        **definition,
    )
    # timm's stem always has stride 2. With a 3x3 kernel the padding is 1 for either stride, so only the stride changes.
    model.conv_stem.stride = (stem_stride, stem_stride)
    for info in model.feature_info:
        info["reduction"] = info["reduction"] * stem_stride // 2
    if weights is not None:
        model.load_state_dict(weights)
    return model


def build_network(architecture: Architecture, weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """The derived network: a timm model where its space says which, else the module that the space freezes to."""
    if architecture.network is not None:
        return to_timm(architecture, weights)
    space = registry.load("nni_proxyless.search_spaces", architecture.space["name"])(**architecture.space["arguments"])
    assert isinstance(space, ModelSpace)
    network = space.freeze(architecture.choices)
    if weights is not None:
        network.load_state_dict(weights)
    return network


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


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def installed_versions() -> dict[str, str]:
    """Versions of what runs a search, for the record."""
    packages = ("nni-proxyless", "nni", "torch", "torchvision", "pytorch-lightning", "timm", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _as_given(channels: int) -> int:
    return channels
