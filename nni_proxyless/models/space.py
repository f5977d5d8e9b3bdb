"""The model space behind a name, checked: what a search begins with, and what a network without a block definition is frozen from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import registry
from ..core.errors import UserError

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

__all__ = ["make_searchable_space", "make_space"]


def make_space(name: str, arguments: Mapping[str, Any]) -> ModelSpace:
    """A new space, its weights drawn from the global generator.

    Raises
    ------
    ValueError
        There is nothing behind the name.
    UserError
        What is behind the name makes something else than a model space.
    """
    from nni.nas.nn.pytorch import ModelSpace  # here: it takes seconds, and a training of images does without

    space = registry.load("nni_proxyless.search_spaces", name)(**arguments)
    if not isinstance(space, ModelSpace):
        raise UserError(f"space: {name} gives a {type(space).__name__}; allowed: a ModelSpace of NNI")
    return space


def make_searchable_space(name: str, arguments: Mapping[str, Any]) -> ModelSpace:
    """:func:`make_space`, of a space with something to search in it.

    Raises
    ------
    UserError
        As :func:`make_space`; or there is nothing to choose, or a choice cannot be written down.
    """
    from ..latency.choices import check_values

    space = make_space(name, arguments)
    mutables = space.simplify()
    try:
        for label, mutable in mutables.items():
            check_values(label, mutable)
    except TypeError as error:
        raise UserError(f"space: {name}: {error}") from error
    if not any(len(getattr(mutable, "values", ())) > 1 for mutable in mutables.values()):
        raise UserError(
            f"space: {name} has no choice, so there is nothing to search; allowed: a ModelSpace with a LayerChoice, InputChoice "
            "or Repeat of two candidates or more"
        )
    return space
