"""The derived network: its architecture as a file, and as a model.

The file is :mod:`.architecture`, the model of timm :mod:`.timm_net`; both do without NNI. Here is what needs it.
"""

from __future__ import annotations

import importlib.metadata
import platform

import torch
from torch import nn

from . import registry
from .architecture import Architecture
from .latency.macs import count_macs
from .timm_net import load_weights, to_timm

__all__ = [
    "Architecture",
    "build_network",
    "count_macs",
    "count_parameters",
    "installed_versions",
    "load_weights",
    "to_timm",
]


def build_network(architecture: Architecture, weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """The derived network: a timm model where its space says which, else the module that the space freezes to."""
    if architecture.network is not None:
        return to_timm(architecture, weights)
    space = registry.load("nni_proxyless.search_spaces", architecture.space["name"])(**architecture.space["arguments"])
    network = space.freeze(architecture.choices)
    if weights is not None:
        network.load_state_dict(weights)
    return network


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def installed_versions(*more: str) -> dict[str, str]:
    """Versions of what runs a search, and of ``more`` packages, for the record."""
    packages = ("nni-proxyless", "nni", "torch", "torchvision", "pytorch-lightning", "timm", "numpy", *more)
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
