"""The network of a final training, with the weights that it begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..config.train_config import TrainConfig
from ..core.errors import UserError
from ..models import timm_registry  # noqa: F401  (registers the models)
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.timm_model import load_weights
from ..search_spaces.tree_layout import is_tree

__all__ = ["created", "load", "student"]


def student(config: TrainConfig, path: Path, architecture: Architecture) -> nn.Module:
    """The network that is trained, with the weights that it begins with; a model of timm where its space says which.

    Parameters
    ----------
    path
        ``architecture.json``; weights are relative to its folder.
    architecture
        What it holds.

    Raises
    ------
    UserError
        No such weights, or those of another network; or a setting that such a network does not know.
    """
    torch.manual_seed(config.seed)
    network: Any
    if architecture.network is not None:
        rates = _drop_rates(config, architecture)
        network = created("proxyless_derived", architecture=str(path), drop_rate=config.dropout, **rates)
    else:
        network = build_network(architecture)
        if config.dropout and not hasattr(network, "drop_rate"):
            raise UserError(
                f"{_no_timm('dropout', architecture)}; allowed: 0, or a space whose forward takes the rate from an attribute "
                "drop_rate"
            )
        for key in ("drop_path", "path_drop", "cell_drop"):
            if getattr(config, key):
                raise UserError(f"{_no_timm(key, architecture)}; allowed: 0")
        if hasattr(network, "drop_rate"):
            network.drop_rate = config.dropout
    if config.weights != "scratch":
        name = "weights.safetensors" if config.weights == "inherited" else config.weights
        load(network, path.parent / name, "weights")
    return network


def created(name: str, **options: Any) -> Any:
    try:
        return timm.create_model(name, **options)
    except Exception as error:  # OSError: no connection to the weights; RuntimeError, TypeError, … of the model itself
        raise UserError(f"{name}: {error}") from error


def _drop_rates(config: TrainConfig, architecture: Architecture) -> dict[str, float]:
    """What is left out in training, as the network's own arguments."""
    known, other = {"drop_path": "drop_path_rate"}, {"path_drop": "path_drop_rate", "cell_drop": "cell_drop_rate"}
    assert architecture.network is not None
    if is_tree(architecture.network):
        known, other = other, known
    for key in other:
        if getattr(config, key):
            raise UserError(
                f"{key}: the network of space '{architecture.space.get('name')}' knows nothing of it; allowed: 0; it has {', '.join(known)}"
            )
    return {argument: getattr(config, key) for key, argument in known.items()}


def load(network: nn.Module, path: Path, key: str) -> None:
    try:
        network.load_state_dict(load_weights(path))
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise UserError(f"{key}: {path}: the weights of another network: {first[0].strip()}") from error


def _no_timm(key: str, architecture: Architecture) -> str:
    return f"{key}: the network of space '{architecture.space.get('name')}' is no model of timm and knows nothing of it"
