"""What makes two searches the same search: every option of a strategy that is not marked otherwise, and what its
penalty weighs.

Only the search that wrote a checkpoint resumes from it. An option counts by being a field of the strategy, or
an argument of the constructor that a subclass has written; ``NotIdentity`` in its type says that it does not.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Collection
from typing import Any, get_args

from nni.nas.profiler import ExpressionProfiler

from nni_proxyless.core.nni_compat import ProfilerPenalty
from nni_proxyless.core.plain_values import as_plain
from nni_proxyless.core.ranges import NotIdentity, option_types
from nni_proxyless.latency import LatencyPenalty, LatencyReward
from nni_proxyless.latency.objectives.penalty_sum import Penalties

__all__ = ["identity_of_penalty", "options_of", "without_modules"]


def options_of(configured: Any, root: type, but: Collection[str] = ()) -> dict[str, Any]:
    """Name -> value of all options of an object, those of its base classes included, as plain values.

    Parameters
    ----------
    configured
        Keeps every option as an attribute of the same name.
    root
        The last of its base classes whose options count.
    but
        Options that are left out.

    Raises
    ------
    TypeError
        It does not keep one of them; what it is could then not be told from another.
    """
    found: dict[str, Any] = {}
    for cls in type(configured).__mro__:
        if not issubclass(cls, root):
            continue
        for name in _option_names(cls):
            if name in but:
                continue
            if not hasattr(configured, name):
                raise TypeError(
                    f"{type(configured).__name__} does not keep its option {name!r}, so a search with another value could not be "
                    f"told from this one; allowed: self.{name} = {name} in its __init__"
                )
            found[name] = as_plain(getattr(configured, name), _name)
    return found


def _option_names(cls: type) -> list[str]:
    """The options that a class adds to its bases', of a dataclass all; without those marked ``NotIdentity``."""
    if "__dataclass_fields__" in vars(cls):
        return [n for n, t in option_types(cls).items() if not any(isinstance(m, NotIdentity) for m in get_args(t))]
    if "__init__" not in vars(cls):
        return []
    parameters = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def identity_of_penalty(penalty: Any) -> Any:
    """What a penalty is, as plain values: its kind, its options, and the costs that it goes by; None for none."""
    if penalty is None:
        return None
    named = {"kind": type(penalty).__name__}
    if isinstance(penalty, Penalties):
        return {**named, **{name: identity_of_penalty(one) for name, one in penalty.penalties.items()}}
    root = next(kind for kind in (LatencyReward, LatencyPenalty, ProfilerPenalty, object) if isinstance(penalty, kind))
    costs = "latency" if root is LatencyReward else "profiler"
    options = options_of(penalty, root, but=(costs, "model_space"))
    return {**named, **options, "costs": _costs(getattr(penalty, costs))}


def _costs(latency: Any) -> str:
    """What networks cost, as a digest of the formula; of a function of the user's own, its name."""
    if isinstance(latency, ExpressionProfiler):
        return hashlib.sha256(repr(latency.expression).encode()).hexdigest()[:16]
    return _name(latency)


def _name(value: Any) -> str:
    """The name of a class or function, of anything else that of its class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return str(without_modules(f"{named.__module__}.{named.__qualname__}"))


def without_modules(identity: Any) -> Any:
    """Plain values in which classes and functions of this package are named without their modules.

    They move from one version to the next, and older checkpoints say where they were.
    """
    if isinstance(identity, str):
        return re.sub(r"^nni_proxyless\.(?:[a-z0-9_]+\.)*", "nni_proxyless:", identity)
    if isinstance(identity, dict):
        return {key: without_modules(value) for key, value in identity.items()}
    if isinstance(identity, (list, tuple)):
        return [without_modules(value) for value in identity]
    return identity
