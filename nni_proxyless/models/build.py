"""Build the module of an architecture: a timm model (:mod:`.timm_model`), without NNI, or the module that its space freezes to, with NNI."""

from __future__ import annotations

import importlib.metadata
import platform

import torch
from torch import nn

from ..core.errors import UserError
from .architecture import Architecture
from .space import make_space
from .timm_model import to_timm

__all__ = ["build_network", "count_parameters", "installed_versions"]


def build_network(architecture: Architecture, weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """The derived network: a timm model where its space says which, else the module that the space freezes to.

    Parameters
    ----------
    architecture
        Without a block definition its space is imported by its name, and made with its arguments.
    weights
        A ``state_dict`` of that network; None for fresh weights.

    Raises
    ------
    UserError
        The space does not import here, or has changed so that it makes no such network.
    """
    if architecture.network is not None:
        return to_timm(architecture, weights)
    network = _frozen(architecture)
    if weights is not None:
        network.load_state_dict(weights)
    return network


def _frozen(architecture: Architecture) -> nn.Module:
    from ..core.freezing import freeze  # with it comes NNI
    from ..latency.choices import read_back

    try:
        space = make_space(architecture.space["name"], architecture.space["arguments"])
        mutables = space.simplify()
        return freeze(space, {label: read_back(c, mutables.get(label)) for label, c in architecture.choices.items()})
    except Exception as error:  # somebody else's code, perhaps not here, perhaps not what it was
        raise UserError(
            f"the space {architecture.space.get('name')!r} of the architecture makes no network: {error or type(error).__name__}. "
            "Its package must be installed as it was when the network was found, or its module lie in the current folder"
        ) from error


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def installed_versions(*more: str) -> dict[str, str]:
    """Versions of the packages that run a search, and of ``more`` packages."""
    packages = ("nni-proxyless", "nni", "torch", "torchvision", "pytorch-lightning", "timm", "numpy", *more)
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
