"""Tests that an estimator, a runtime, a strategy or a mutation hook of your own inherits. They need pytest, which the package itself does not."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimator import EstimatorContract
    from .mutation_hook import MutationHookContract
    from .runtime import RuntimeContract
    from .strategy import StrategyContract

__all__ = ["EstimatorContract", "MutationHookContract", "RuntimeContract", "StrategyContract"]

_HOMES = {
    "EstimatorContract": ".estimator",
    "MutationHookContract": ".mutation_hook",
    "RuntimeContract": ".runtime",
    "StrategyContract": ".strategy",
}


def __getattr__(name: str) -> Any:
    """Import a contract when it is asked for: some import NNI, which takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
