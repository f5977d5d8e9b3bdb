"""Recipes for the final training that come with the package, found by their bare name."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from ..core.errors import UserError, did_you_mean

__all__ = ["find_recipe", "recipes"]

FOLDER = Path(str(importlib.resources.files("nni_proxyless.experiments") / "recipes"))


def recipes() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in FOLDER.glob("*.yml"))


def find_recipe(name: str) -> Path:
    """The file that a word of the command line means: a path, or the name of a recipe.

    Raises
    ------
    UserError
        Neither a file nor a recipe.
    """
    path = Path(name)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    if name not in (known := recipes()):
        raise UserError(
            f"'{name}' is neither a file nor a recipe; the recipes: {', '.join(known)}.{did_you_mean(name, known)}"
        )
    return FOLDER / f"{name}.yml"
