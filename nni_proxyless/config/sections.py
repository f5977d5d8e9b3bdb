"""Types that the sections of both configuration files share."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from ..core.errors import did_you_mean
from ..core.user_path import expand_path

__all__ = ["LARGEST_SEED", "USUAL_OPTIMIZERS", "NamedSection", "Optimizer", "PathText", "Section", "is_number"]

LARGEST_SEED = 2**32 - 1  # what Lightning and NumPy take


PathText = Annotated[str, AfterValidator(expand_path)]


class Section(BaseModel):
    """Keys and types are taken literally."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class NamedSection(Section):
    """A name in the registry, and the arguments of what it names."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the named class or function."""
        return dict(self.model_extra or {})

    @property
    def described(self) -> dict[str, Any]:
        """``{'name': …, 'arguments': {…}}``, as ``architecture.json`` has it."""
        return {"name": self.name, "arguments": self.arguments}


# Of these it is known that timm has them, without its import, which takes seconds.
USUAL_OPTIMIZERS = (
    "sgd",
    "momentum",
    "adam",
    "adamw",
    "nadam",
    "nadamw",
    "rmsprop",
    "rmsproptf",
    "lamb",
    "lars",
    "lion",
)


def timm_optimizer(name: str) -> str:
    if name in USUAL_OPTIMIZERS:
        return name
    from timm.optim import list_optimizers

    if name not in (known := list_optimizers()):
        raise ValueError(f"an optimizer of timm, such as sgd, adamw, lamb.{did_you_mean(name, known)}")
    return name


Optimizer = Annotated[str, AfterValidator(timm_optimizer)]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
