"""Names in a configuration -> classes: entry points, or ``package.module:Class`` for anything that can be imported.

A module may lie in the current folder: there the command looks last, as ``python -m`` looks first. So nothing that is
installed is shadowed, and a file beside ``search.yml`` needs no package.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
import typing
from importlib.metadata import entry_points
from typing import Any

from ..core.errors import did_you_mean
from ..core.ranges import option_types, parameter_types

__all__ = ["accepted_arguments", "argument_types", "load", "names", "value_of"]


def names(group: str) -> list[str]:
    """What is registered under an entry-point group, by this package and by others."""
    return sorted({entry.name for entry in entry_points(group=group)})


def value_of(group: str, name: str) -> str | None:
    """What a registered name stands for, as ``package.module:Class``; None for one that is not registered."""
    return next((entry.value for entry in entry_points(group=group) if entry.name == name), None)


def load(group: str, name: str) -> Any:
    """The object behind a name.

    Raises
    ------
    ValueError
        Unknown name, one that does not import, or one of something else than the group is for; the message says what is
        allowed.
    """
    if ":" in name:
        found = _imported(name)
    else:
        for entry in entry_points(group=group):
            if entry.name == name:
                break
        else:
            _refuse_by_name(group, name)
            allowed = names(group)
            raise ValueError(
                f"'{name}' is unknown; allowed: {', '.join(allowed)}, or package.module:Class.{did_you_mean(name, allowed)}"
            )
        try:
            found = entry.load()
        except Exception as error:  # somebody else's package
            raise ValueError(f"'{name}' does not import: entry point {entry.value}: {_error_text(error)}") from error
    if problem := _other_kind(group, found):
        raise ValueError(f"'{name}' {problem}")
    return found


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        more = ""
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            more = f"; allowed: a module that is installed, or one in the current folder, {here}"
        raise ValueError(f"'{name}' does not import: {_error_text(error)}{more}") from error
    except Exception as error:  # whatever stands in the user's file
        raise ValueError(f"'{name}' does not import: {_error_text(error)}") from error
    try:
        return getattr(imported, attribute)
    except AttributeError:
        own = [n for n, value in vars(imported).items() if callable(value) and not n.startswith("_")]
        raise ValueError(
            f"'{name}' does not import: module {module} has no '{attribute}'.{did_you_mean(attribute, own)}"
        ) from None


def _error_text(error: Exception) -> str:
    """What an error says, and where in the user's file: without a traceback nobody would know."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_python(frame.filename)]
    if not frames:
        return str(error)
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {type(error).__name__}: {error}"


def _of_python(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen ")


def _refuse_by_name(group: str, name: str) -> None:
    """Say why, for a name that is known and not to be had: ``GROUP.refused``, entry points to a dict name -> reason."""
    for entry in entry_points(group=f"{group}.refused"):
        if entry.name == name:
            raise ValueError(f"'{name}' is refused: {entry.load()[name]}")


def _other_kind(group: str, found: Any) -> str | None:
    """What a thing is in the place of what its group is for. Of functions that make one only the result can tell."""
    if not callable(found):
        return f"is a {type(found).__name__}; allowed: a class or a function"
    if not inspect.isclass(found):
        return None
    if group == "nni_proxyless.search_spaces":
        from nni.nas.nn.pytorch import ModelSpace  # takes seconds; and data sets come without NNI

        return None if issubclass(found, ModelSpace) else _must_inherit("nni.nas.nn.pytorch.ModelSpace")
    if group == "nni_proxyless.strategies":
        from ..core.nni_compat import OneShotStrategy

        return None if issubclass(found, OneShotStrategy) else _must_inherit("NNI's OneShotStrategy")
    if group == "nni_proxyless.estimators":
        from ..latency import LatencyEstimator

        return None if issubclass(found, LatencyEstimator) else _must_inherit("nni_proxyless.latency.LatencyEstimator")
    return None


def _must_inherit(base: str) -> str:
    return f"is of another kind; allowed: a class that inherits {base}"


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
    if inspect.isfunction(factory):
        return parameter_types(factory)
    if not inspect.isclass(factory):
        return typing.get_type_hints(factory)
    hints: dict[str, Any] = {}
    for base in reversed(factory.__mro__):
        init = base.__dict__.get("_init_wrapped") or base.__dict__.get("__init__")
        if inspect.isfunction(init):
            try:
                if "__dataclass_fields__" in vars(base):
                    hints |= option_types(base, include_extras=False)
                else:
                    hints |= parameter_types(inspect.unwrap(init))
            except Exception:  # somebody else's base class with names that do not resolve here; the constructor checks
                continue
    return hints
