"""The teacher of a final training: the model that the network's space is made around, or one that ``distillation.teacher`` names."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..config.train_config import DistillationSection, TrainConfig
from ..core.errors import UserError, did_you_mean
from ..core.module_modes import evaluating
from ..data.image_parts import ImageData
from ..data.normalization import preprocessing
from ..data.outputs import require_outputs
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.original import Original, sha256_of
from ..models.renormalizing import renormalizing
from ..search_spaces.timm_layout import PRETRAINED
from ..search_spaces.timm_network import problem_of_tag
from ..tasks import Classification
from .checkpoint import TrainingCheckpoint
from .distributed import Processes
from .networks import created, load

__all__ = ["Teaching", "named_teacher", "with_teacher"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teaching:
    """A teacher, or none, and what is said of it.

    Attributes
    ----------
    network
        In evaluation mode, without gradients, on its device; it takes the images of its student.
    described
        What ``result.json`` says, below ``distillation``: ``teacher``, ``weights``, ``share`` in the loss, ``temperature``, ``anneal``.
    sha256
        Of its weights, so that a training goes on with the same.
    """

    network: nn.Module | None = None
    described: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None


def with_teacher(
    config: TrainConfig, path: Path, architecture: Architecture, network: nn.Module, data: ImageData, folder: Path, processes: Processes
) -> tuple[TrainConfig, Teaching]:  # fmt: skip
    """The teacher of a training, and the configuration with what ``distillation`` leaves open filled in. Every process calls it.

    Where nothing is said of it, half of the loss is the space's original model's, if its weights are there and tell the classes of the images
    apart; else there is no teacher, and the log says why not. A training that goes on keeps what it began with.

    Parameters
    ----------
    path
        ``architecture.json``; what paths are relative to is its folder.
    network
        The student.
    folder
        Of the results, with the checkpoint.

    Raises
    ------
    UserError
        A teacher that is asked for, or that the training began with, is not there, or not for these classes.
    """
    checkpoint = TrainingCheckpoint(folder)
    section = _as_it_began(config.distillation, checkpoint)
    made, weights = None, section.weights
    if section.teacher is not None and section.share:
        made, name = named_teacher(section, path.parent, network, architecture), section.teacher
    elif section.share and isinstance(data.task, Classification):
        if weights not in (None, PRETRAINED):
            weights = os.path.abspath(path.parent / weights)
        original = Original.of(architecture, weights)
        made = _of_original(
            original, section, architecture, data, checkpoint, processes, piped=config.pipeline is not None
        )
        if original is not None:
            name, weights = original.model, original.weights
    if made is None:
        section = section.model_copy(update={"teacher": None, "weights": None, "weight": 0.0})
        return config.model_copy(update={"distillation": section}), Teaching()
    section = section.model_copy(update={"weight": section.share, "weights": weights})
    made = made.to(processes.device)
    require_outputs(made, data, f"distillation.teacher: {name}")
    said = {
        "teacher": name,
        "weights": weights,
        "share": section.share,
        "temperature": section.temperature,
        "anneal": section.anneal,
    }
    return config.model_copy(update={"distillation": section}), Teaching(made, {"distillation": said}, sha256_of(made))


def _as_it_began(section: DistillationSection, checkpoint: TrainingCheckpoint) -> DistillationSection:
    """What is said of the teacher; where nothing is, what was said or found when the unfinished training began."""
    if section.is_asked_for or section.weight is not None or not checkpoint.exists:
        return section
    began = checkpoint.read()["config"].get("distillation")
    if began is None:  # of an older version, which had no teacher by default
        return DistillationSection(weight=0.0)
    if began["teacher"] is not None:
        return section
    return DistillationSection.model_validate({**began, "temperature": section.temperature, "anneal": section.anneal})


def _of_original(
    original: Original | None, section: DistillationSection, architecture: Architecture, data: ImageData,
    checkpoint: TrainingCheckpoint, processes: Processes, *, piped: bool,
) -> nn.Module | None:  # fmt: skip
    """The original model, None where there is none and none is asked for; the log says which, or why not."""
    if original is None:
        if section.is_asked_for:
            raise UserError(
                f"distillation: the space {architecture.space.get('name')!r} of the network is not made around a model with weights; allowed: "
                "weight 0, or a teacher; of space timm also weights: FILE, those of the model"
            )
        return None
    made, problem = None, "in a pipeline the last stage, which has the loss, does not see the images"
    if not piped:
        with processes.first_alone():
            try:
                made, problem = original.teacher(data.num_classes, data.shape[0], data.statistics), ""
            except ValueError as error:
                problem = str(error)
    if problem and section.is_asked_for:
        began = ""
        if checkpoint.exists and (checkpoint.read()["config"].get("distillation") or {}).get("weight"):
            began = f". The training in {checkpoint.folder} began with it: give it back, or delete {checkpoint.place} to start over"
        raise UserError(
            f"distillation: {problem}; allowed: weight 0, or weights of {original.model} for these classes{began}"
        )
    n_made = int(processes.total(torch.tensor([made is not None], dtype=torch.float32, device=processes.device)))
    if n_made not in (0, processes.count):
        raise UserError(
            f"distillation: {original.in_words}: only {n_made} of {processes.count} processes can read it; allowed: a file that all can read, or weight 0"
        )
    if made is not None:
        if processes.is_first:
            _logger.info(
                "distillation: learns from %s, whose share of the loss is %g%s",
                original.in_words, section.share, ", and falls to 0" if section.anneal else "",
            )  # fmt: skip
    elif processes.is_first:
        _logger.warning("distillation: trained without a teacher: %s", problem)
    return made


def named_teacher(section: DistillationSection, folder: Path, network: Any, architecture: Architecture) -> nn.Module:
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
    assert section.teacher is not None
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
        load(found, folder / section.weights if section.weights else path.parent / "weights.safetensors",
              "distillation.weights")  # fmt: skip
    elif section.weights is not None:
        found = created(_known(section.teacher), **shape)
        load(found, folder / section.weights, "distillation.weights")
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
        found = created(section.teacher, pretrained=True, **shape)
    if len(found.pretrained_cfg["mean"]) != network.in_chans:
        # timm's statistics are of three channels; a teacher of another number was trained on these images.
        found.pretrained_cfg.update({key: network.pretrained_cfg[key] for key in ("mean", "std")})
    given, wanted = ([tuple(one.pretrained_cfg[key]) for key in ("mean", "std")] for one in (network, found))
    return renormalizing(found.requires_grad_(False), given, wanted).eval()


def _derived(path: Path) -> Any:
    if not path.is_file() or (read := Architecture.read(path)).network is not None:
        # timm's side has words for what may be wrong with a path.
        return created("proxyless_derived", architecture=str(path))
    network = build_network(read)
    _describe(network, read)
    return network


@torch.no_grad()
def _describe(network: Any, architecture: Architecture) -> None:
    """Say of a network that is no model of timm what a teacher and its student must say: classes, channels, statistics."""
    shape = architecture.input_shape
    device = next(network.parameters()).device
    with evaluating(network):
        network.num_classes = network(torch.zeros(1, *shape, device=device)).shape[1]
    network.in_chans = shape[0]
    network.pretrained_cfg = preprocessing(architecture.data, shape)


def _known(name: str) -> str:
    if not timm.is_model(name):
        raise UserError(
            f"distillation.teacher: '{name}' is unknown; allowed: a model of timm, or the path of an architecture.json."
            f"{did_you_mean(name, timm.list_models())}"
        )
    if problem := problem_of_tag(name):
        raise UserError(f"distillation.teacher: '{name}': {problem}")
    return name
