"""Which values an option may have, declared once, in its type.

    arc_update_every: Annotated[int, AtLeast(1)] = 5
    update: Literal["two-path", "full"] = "two-path"

A dataclass of options asks :func:`problems_of` in its constructor. Whoever checks a file of settings asks the same function, with types
that :mod:`.signatures` has read from the source: nothing heavy is imported for it.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

__all__ = [
    "AtLeast",
    "Falling",
    "Finite",
    "GreaterThan",
    "Needs",
    "NotIdentity",
    "UpTo",
    "option_types",
    "parameter_types",
    "problems_of",
]


@dataclass(frozen=True)
class AtLeast:
    bound: float

    def allows(self, value: Any) -> bool:
        return bool(value >= self.bound)

    def __str__(self) -> str:
        return f"{self.bound} or more"


@dataclass(frozen=True)
class GreaterThan:
    bound: float

    def allows(self, value: Any) -> bool:
        return bool(value > self.bound)

    def __str__(self) -> str:
        return f"greater than {self.bound}"


@dataclass(frozen=True)
class UpTo:
    bound: float
    reason: str = ""

    def allows(self, value: Any) -> bool:
        return bool(value <= self.bound)

    def __str__(self) -> str:
        return f"up to {self.bound}" + (f", {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Finite:
    def allows(self, value: Any) -> bool:
        return bool(math.isfinite(value))

    def __str__(self) -> str:
        return "finite"


@dataclass(frozen=True)
class Falling:
    def allows(self, value: Any) -> bool:
        ends = list(value) if isinstance(value, Sequence) else [value, value]
        return len(ends) == 2 and bool(ends[0] >= ends[1] > 0)

    def __str__(self) -> str:
        return "a number greater than 0, or two of them, the greater one first"


@dataclass(frozen=True)
class Needs:
    """The option has no effect unless another one is at least 1."""

    option: str


@dataclass(frozen=True)
class NotIdentity:
    """The option changes nothing in what a search finds, so a checkpoint made with another value of it is gone on from."""


def problems_of(types_of: Mapping[str, Any], options: Any) -> list[str]:
    """Return a sentence per option that is outside its range or set of values, in the order of the options.

    Parameters
    ----------
    types_of
        Option -> type, with what ``Annotated`` adds.
    options
        Has the options as attributes: the object itself, or anything else.
    """
    problems = []
    for name, declared in types_of.items():
        value = getattr(options, name)
        if get_origin(declared) is Literal:
            if value not in get_args(declared):
                problems.append(f"{name} is {value!r}; allowed: {', '.join(map(repr, get_args(declared)))}")
        elif get_origin(declared) is Annotated:
            kind, *marks = get_args(declared)
            optional = type(None) in get_args(kind)
            if value is None and optional:
                continue
            ranges = [mark for mark in marks if hasattr(mark, "allows")]
            if not all(_allows(one, value) for one in ranges):
                allowed = [*map(str, ranges), *(["or none"] if optional else [])]
                problems.append(f"{name} is {value}; allowed: {', '.join(allowed)}")
            for mark in marks:
                if isinstance(mark, Needs) and getattr(options, mark.option) == 0:
                    problems.append(f"{name} has no effect with {mark.option} 0; allowed: {mark.option} of 1 or more")
    return problems


def _allows(one: Any, value: Any) -> bool:
    try:
        return bool(one.allows(value))
    except TypeError:  # not a number
        return False


def parameter_types(function: Any, *, include_extras: bool = False) -> dict[str, Any]:
    """Parameter -> type as it is written; ``typing.get_type_hints`` of Python 3.10 wraps those with a default of None once more."""
    written = types.SimpleNamespace(__annotations__=inspect.get_annotations(function))
    return typing.get_type_hints(written, function.__globals__, include_extras=include_extras)


def option_types(cls: type, *, include_extras: bool = True) -> dict[str, Any]:
    """Field -> type of a dataclass, each resolved where it was written: a subclass need not import what its base class does."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__dataclass_fields__" not in vars(base):
            continue
        fields = {field.name for field in dataclasses.fields(base)}
        written = {name: text for name, text in inspect.get_annotations(base).items() if name in fields}
        home = vars(sys.modules[base.__module__])
        found |= typing.get_type_hints(
            types.SimpleNamespace(__annotations__=written), home, include_extras=include_extras
        )
    return found
