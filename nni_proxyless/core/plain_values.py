"""Values in a file: JSON and YAML know neither tuples nor values of other types. Needs no NNI.

A choice that is written so is found again among the values of its label, by :mod:`..latency.choices`.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable
from typing import Any

__all__ = ["as_plain"]


def _shown(value: Any) -> str:
    """As it shows itself, without its address, which would be another one in the next process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def as_plain(value: Any, other: Callable[[Any], Any] = _shown) -> Any:
    """A value in types that JSON and YAML know: None, bool, str, int, float, lists and dicts.

    Parameters
    ----------
    other
        What stands in the place of an object of any other type.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [as_plain(item, other) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((as_plain(item, other) for item in value), key=repr)
    if isinstance(value, dict):
        return {str(key): as_plain(item, other) for key, item in value.items()}
    return other(value)
