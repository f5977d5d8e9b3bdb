"""The networks of a final training: student and teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..config.train_config import DistillationSection, TrainConfig
from ..core.errors import UserError, did_you_mean
from ..core.module_modes import evaluating
from ..data.normalization import preprocessing
from ..models import timm_registry  # noqa: F401  (registers the models)
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.timm_model import load_weights
from ..search_spaces.tree_layout import is_tree

__all__ = ["student", "teacher"]


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
        network = _created("proxyless_derived", architecture=str(path), drop_rate=config.dropout, **rates)
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
        _load(network, path.parent / name, "weights")
    return network


def teacher(section: DistillationSection, folder: Path, network: Any, architecture: Architecture) -> nn.Module:
    """A trained network that knows the same classes, for evaluation only.

    Parameters
    ----------
    folder
        What paths are relative to.
    network
        Its student.

    Raises
    ------
    UserError
        There is no such network, it has no weights here, or it tells other classes apart.
    """
    if architecture.network is None:
        _describe(network, architecture)
    shape = {"num_classes": network.num_classes, "in_chans": network.in_chans}
    if section.teacher.endswith(".json"):
        path = folder / section.teacher
        found = _derived(path)
        if (found.num_classes, found.in_chans) != tuple(shape.values()):
            raise UserError(
                f"distillation.teacher: {path}: {found.num_classes} classes and {found.in_chans} channels; its student has "
                f"{network.num_classes} and {network.in_chans}"
            )
        _load(found, folder / section.weights if section.weights else path.parent / "weights.safetensors",
              "distillation.weights")  # fmt: skip
    elif section.weights is not None:
        found = _created(_known(section.teacher), **shape)
        _load(found, folder / section.weights, "distillation.weights")
    else:
        cfg = timm.get_pretrained_cfg(_known(section.teacher))
        if cfg is None or not cfg.has_weights or cfg.num_classes != network.num_classes:
            what = (
                f"tell {cfg.num_classes} classes apart, its student {network.num_classes}"
                if cfg and cfg.has_weights
                else "are none"
            )
            raise UserError(
                f"distillation.teacher: the weights that timm has for '{section.teacher}' {what}; give those of a teacher of "
                "these classes as distillation.weights"
            )
        found = _created(section.teacher, pretrained=True, **shape)
    if len(found.pretrained_cfg["mean"]) != network.in_chans:
        # timm's statistics are of three channels; a teacher of another number was trained on these images.
        found.pretrained_cfg.update({key: network.pretrained_cfg[key] for key in ("mean", "std")})
    found.requires_grad_(False)
    return found.eval()


def _derived(path: Path) -> Any:
    if not path.is_file() or (read := Architecture.read(path)).network is not None:
        # timm's side has words for what may be wrong with a path.
        return _created("proxyless_derived", architecture=str(path))
    network = build_network(read)
    _describe(network, read)
    return network


@torch.no_grad()
def _describe(network: Any, architecture: Architecture) -> None:
    """Say of a network that is no model of timm what timm's distillation asks of all: classes, channels, statistics."""
    shape = architecture.input_shape
    device = next(network.parameters()).device
    with evaluating(network):
        network.num_classes = network(torch.zeros(1, *shape, device=device)).shape[1]
    network.in_chans = shape[0]
    network.pretrained_cfg = preprocessing(architecture.data, shape)


def _created(name: str, **options: Any) -> Any:
    try:
        return timm.create_model(name, **options)
    except Exception as error:  # OSError: no connection to the weights; RuntimeError, TypeError, … of the model itself
        raise UserError(f"{name}: {error}") from error


def _known(name: str) -> str:
    if not timm.is_model(name):
        raise UserError(
            f"distillation.teacher: '{name}' is unknown; allowed: a model of timm, or the path of an architecture.json."
            f"{did_you_mean(name, timm.list_models())}"
        )
    return name


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


def _load(network: nn.Module, path: Path, key: str) -> None:
    try:
        network.load_state_dict(load_weights(path))
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise UserError(f"{key}: {path}: the weights of another network: {first[0].strip()}") from error


def _no_timm(key: str, architecture: Architecture) -> str:
    return f"{key}: the network of space '{architecture.space.get('name')}' is no model of timm and knows nothing of it"
