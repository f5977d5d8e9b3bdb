"""Tests that an estimator, a runtime or a strategy of your own inherits. They need pytest, which the package itself does not."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimator import EstimatorContract
    from .runtime import RuntimeContract
    from .strategy import StrategyContract

__all__ = ["EstimatorContract", "RuntimeContract", "StrategyContract"]

_HOMES = {"EstimatorContract": ".estimator", "RuntimeContract": ".runtime", "StrategyContract": ".strategy"}


def __getattr__(name: str) -> Any:
    """Import a contract when it is asked for: that of strategies imports NNI, which takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
