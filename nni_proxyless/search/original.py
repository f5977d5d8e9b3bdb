"""The model that a space is made around, as a teacher of the supernet (Hinton, Vinyals, Dean, arXiv:1503.02531)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..config import registry
from ..config.search_config import SearchConfig
from ..core.errors import UserError
from ..data.image_parts import ImageData
from ..models.original import Original
from ..tasks import Classification
from ..tasks.distillation import DEFAULT_SHARE

if TYPE_CHECKING:
    from torch import nn

__all__ = ["original_of", "teacher_of", "teaching_record", "warn_of_statistics", "with_share"]

_logger = logging.getLogger(__name__)

AROUND_A_MODEL = "nni_proxyless.search_spaces:TimmSpace"


def original_of(config: SearchConfig) -> Original | None:
    """The model that the space is made around, if the search begins with its weights."""
    name = registry.value_of("nni_proxyless.search_spaces", config.space.name) or config.space.name
    return Original.of_space(config.space.arguments) if name == AROUND_A_MODEL else None


def with_share(
    config: SearchConfig, read_images: Callable[[SearchConfig], ImageData]
) -> tuple[SearchConfig, ImageData | None]:
    """The configuration with the share of the teacher, where ``training.distillation`` leaves it open: half where there is an original whose
    weights know the classes of the images, else none, and the log says why.

    Parameters
    ----------
    read_images
        Called where the share depends on them.

    Returns
    -------
    tuple of SearchConfig and ImageData or None
        The second where the images were read.
    """
    share, original, data = config.training.distillation, original_of(config), None
    if share is None:
        share = 0.0
        if original is not None:
            data = read_images(config)
            share, why_not = _default_share(original, data)
            if why_not:
                _logger.info("distillation: none: %s", why_not)
    training = config.training.model_copy(update={"distillation": share})
    return config.model_copy(update={"training": training}), data


def _default_share(original: Original, data: ImageData) -> tuple[float, str | None]:
    if not isinstance(data.task, Classification):
        return 0.0, None
    try:
        why_not = original.problem(data.num_classes)
    except ValueError:  # no such weights, which the space says of its argument
        return 0.0, None
    return (0.0, why_not) if why_not else (DEFAULT_SHARE, None)


def teacher_of(config: SearchConfig, data: ImageData) -> nn.Module | None:
    """The original model with its weights, for evaluation only; None where ``training.distillation`` is 0.

    Parameters
    ----------
    config
        As :func:`with_share` leaves it; where the share is open still, there is no teacher.

    Raises
    ------
    UserError
        There is no original, it has no weights, or they tell other classes apart.
    """
    share = config.training.distillation
    if not share:
        return None
    said = f"training.distillation is {share}"
    if not isinstance(data.task, Classification):
        raise UserError(f"{said}: the model's logits teach classes, and task '{config.task.name}' has none; allowed: 0")
    original = original_of(config)
    if original is None:
        raise UserError(f"{said}: there is no model to learn from; allowed: 0, or space: {{name: timm, weights: …}}")
    try:
        teacher = original.teacher(data.num_classes, data.shape[0], data.statistics)
    except ValueError as error:
        raise UserError(f"{said}: {error}; allowed: 0, or weights of these classes") from error
    _logger.info(
        "distillation: the supernet learns from %s, whose share of the loss is %g, and falls to 0",
        original.in_words,
        share,
    )
    return teacher


def warn_of_statistics(config: SearchConfig, data: ImageData) -> None:
    """Say it where the weights that the search begins with were trained on images normalized otherwise."""
    original = original_of(config)
    if original is not None and (problem := original.problem_of_statistics(data.statistics)):
        _logger.warning("space: %s; the search begins farther off than it could", problem)


def teaching_record(config: SearchConfig) -> dict[str, Any]:
    """Entries of the search's record: the original with the place of its weights, for the final training, and the share that it had."""
    original = original_of(config)
    if original is None:
        return {}
    return {**original.described(), "distillation": config.training.distillation or 0.0}
