"""What makes two searches the same search: every option of a strategy that is not marked otherwise, and what its penalty weighs.

A checkpoint is gone on from by the search that has written it, and by no other. An option counts by being an argument of the
constructor; which ones do not count is said once, in :data:`WITHOUT_EFFECT`.
"""

from __future__ import annotations

import hashlib
import inspect
import numbers
from collections.abc import Collection
from typing import Any

from nni.nas.profiler import ExpressionProfiler

from nni_proxyless.core.nni_compat import ProfilerPenalty
from nni_proxyless.latency import LatencyPenalty, LatencyReward
from nni_proxyless.latency.objectives.penalty_sum import Penalties

__all__ = ["WITHOUT_EFFECT", "identity_of_penalty", "options_of"]

WITHOUT_EFFECT = frozenset({"log_prob_every_n_step", "checkpoint_dir", "checkpoint_every"})
"""Options that change nothing in what a search finds."""


def options_of(configured: Any, root: type, but: Collection[str] = ()) -> dict[str, Any]:
    """Name -> value of all arguments of an object's constructor, those of its base classes included, as plain values.

    Parameters
    ----------
    configured
        Keeps every argument as an attribute of the same name.
    root
        The last of its base classes whose arguments count.
    but
        Arguments that are left out.

    Raises
    ------
    TypeError
        It does not keep one of them; what it is could then not be told from another.
    """
    found: dict[str, Any] = {}
    for cls in type(configured).__mro__:
        if "__init__" not in vars(cls) or not issubclass(cls, root):
            continue
        for name, parameter in list(inspect.signature(vars(cls)["__init__"]).parameters.items())[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in but:
                continue
            if not hasattr(configured, name):
                raise TypeError(
                    f"{type(configured).__name__} does not keep its option {name!r}, so a search with another value could not be "
                    f"told from this one; allowed: self.{name} = {name} in its __init__"
                )
            found[name] = _plain(getattr(configured, name))
    return found


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
    named = latency if hasattr(latency, "__qualname__") else type(latency)
    return f"{named.__module__}.{named.__qualname__}"


def _plain(value: Any) -> Any:
    """A value that a checkpoint can hold; of an object of any other kind, its kind."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
