"""The model that a space is made around, as a teacher of the supernet (Hinton, Vinyals, Dean, arXiv:1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timm import get_pretrained_cfg
from timm.models import load_state_dict

from nni_proxyless.search_spaces.timm_layout import PRETRAINED
from nni_proxyless.search_spaces.timm_network import make_model, set_stem_stride

from ..config import registry
from ..config.search_config import SearchConfig
from ..core.errors import UserError
from ..core.user_path import user_path
from ..data.image_parts import ImageData
from ..tasks import Classification

if TYPE_CHECKING:
    from torch import nn

__all__ = ["teacher_of"]

AROUND_A_MODEL = "nni_proxyless.search_spaces:TimmSpace"


def teacher_of(config: SearchConfig, data: ImageData) -> nn.Module | None:
    """The original model with its weights, for evaluation only; None where ``training.distillation`` is 0.

    Raises
    ------
    UserError
        There is no original, it has no weights, or they tell other classes apart.
    """
    share = config.training.distillation
    if share == 0:
        return None
    said, given = f"training.distillation is {share}", config.space.arguments
    if not isinstance(data.task, Classification):
        raise UserError(f"{said}: the model's logits teach classes, and task '{config.task.name}' has none; allowed: 0")
    name = registry.value_of("nni_proxyless.search_spaces", config.space.name) or config.space.name
    if name != AROUND_A_MODEL or not given.get("weights"):
        raise UserError(f"{said}: there is no model to learn from; allowed: 0, or space: {{name: timm, weights: …}}")
    model, weights = given.get("model", "mobilenetv3_small_100"), given["weights"]
    try:
        known = _classes_of(model, weights)
    except (OSError, KeyError) as error:
        raise UserError(f"{said}: weights is {weights!r}: no such file, or none with a classifier: {error}") from error
    if known != data.num_classes:
        raise UserError(
            f"{said}: the weights of {model} tell {known} classes apart, the images have {data.num_classes}; allowed: 0, or weights of these "
            "classes"
        )
    options = {"num_classes": data.num_classes, "in_chans": data.shape[0], "width": given.get("width", 1.0)}
    teacher = make_model(model, weights, **options)
    set_stem_stride(teacher, given.get("stem_stride"))
    return teacher.requires_grad_(False).eval()


def _classes_of(model: str, weights: str) -> int:
    if weights == PRETRAINED:
        cfg = get_pretrained_cfg(model)
        return 0 if cfg is None else cfg.num_classes
    return len(load_state_dict(str(user_path(weights, "space.weights")), weights_only=True)["classifier.weight"])
