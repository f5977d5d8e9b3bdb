"""Names in a configuration -> classes, of the kind that their place in it wants; and the arguments that these take."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from ..core import entry_point_names
from ..core.entry_point_names import names, value_of
from ..core.ranges import option_types, parameter_types

__all__ = ["accepted_arguments", "argument_types", "load", "names", "value_of"]


def load(group: str, name: str) -> Any:
    """The object behind a name.

    Raises
    ------
    ValueError
        Unknown name, one that does not import, or one of something else than the group is for; the message says what is
        allowed.
    """
    found = entry_point_names.load(group, name)
    if problem := _other_kind(group, found):
        raise ValueError(f"'{name}' {problem}")
    return found


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
    if group == "nni_proxyless.multi_trial_strategies":
        from nni.nas.strategy import Strategy

        return None if issubclass(found, Strategy) else _must_inherit("nni.nas.strategy.Strategy")
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
