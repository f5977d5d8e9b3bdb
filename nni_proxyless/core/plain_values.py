"""A choice in a file: JSON and YAML know neither tuples nor values of other types. Needs no NNI.

What is written so is found again among the values of its label, by :mod:`..latency.choices`.
"""

from __future__ import annotations

import numbers
import re
from typing import Any

__all__ = ["as_plain"]


def as_plain(choice: Any) -> Any:
    """A choice in plain types, for a file."""
    if choice is None or isinstance(choice, (bool, str)):
        return choice
    if isinstance(choice, numbers.Integral):
        return int(choice)
    if isinstance(choice, numbers.Real):
        return float(choice)
    if isinstance(choice, (list, tuple)):
        return [as_plain(item) for item in choice]
    if isinstance(choice, (set, frozenset)):
        return sorted((as_plain(item) for item in choice), key=repr)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(choice))  # an address would be another one in the next process
