"""Names in a configuration -> classes: entry points, or ``package.module:Class`` for anything that can be imported."""

from __future__ import annotations

import importlib
import inspect
import typing
from importlib.metadata import entry_points
from typing import Any

from .errors import did_you_mean

__all__ = ["accepted_arguments", "argument_types", "load", "names"]


def names(group: str) -> list[str]:
    """What is registered under an entry-point group, by this package and by others."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """The object behind a name.

    Raises
    ------
    ValueError
        Unknown name, or one that does not import; the message says what is allowed.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"'{name}' does not import: {error}") from error
    for entry in entry_points(group=group):
        if entry.name == name:
            return entry.load()
    allowed = names(group)
    raise ValueError(
        f"'{name}' is unknown; allowed: {', '.join(allowed)}, or package.module:Class.{did_you_mean(name, allowed)}"
    )


def accepted_arguments(factory: Any) -> dict[str, inspect.Parameter]:
    """Parameters of a class or function, behind NNI's wrapping of ``ModelSpace.__init__``; base classes are followed
    through ``**kwargs``."""
    if not inspect.isclass(factory):
        return dict(inspect.signature(factory).parameters)
    found: dict[str, inspect.Parameter] = {}
    for base in factory.__mro__:
        init = base.__dict__.get("_init_wrapped") or base.__dict__.get("__init__")
        if not inspect.isfunction(init):
            continue
        init = inspect.unwrap(init)
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for parameter in parameters:
            found.setdefault(parameter.name, parameter)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return {n: p for n, p in found.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def argument_types(factory: Any) -> dict[str, Any]:
    """Annotations of these parameters, resolved; those that do not resolve are left out."""
    if not inspect.isclass(factory):
        return typing.get_type_hints(factory)
    hints: dict[str, Any] = {}
    for base in reversed(factory.__mro__):
        init = base.__dict__.get("_init_wrapped") or base.__dict__.get("__init__")
        if inspect.isfunction(init):
            try:
                hints |= typing.get_type_hints(inspect.unwrap(init))
            except Exception:  # somebody else's base class with names that do not resolve here; the constructor checks
                continue
    return hints
