"""The ``searchSpace`` of an NNI experiment: what is wrong with it, and the parameters that trials get out of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..core.errors import did_you_mean, shown
from ..core.nni_compat import common_search_space_types, deformat_parameters, format_search_space, validate_search_space
from .read import unknown_key

__all__ = ["combinations", "space_problem", "spec_in_words"]

MOST_COMBINATIONS = 64  # are tried all; of a larger space each value by itself


def space_problem(name: str, spec: Any) -> str | None:
    """What NNI would say against a parameter, or would not and stumble over."""
    if not isinstance(spec, Mapping) or "_type" not in spec or "_value" not in spec:
        return f"{shown(spec)} is not allowed here; allowed: a section with _type and _value"
    for key in spec:
        if key not in ("_type", "_value"):
            return unknown_key(key, ["_type", "_value"])
    kind, values = spec["_type"], spec["_value"]
    if kind not in common_search_space_types:
        return (
            f"_type: {shown(kind)} is not allowed here; allowed: {', '.join(common_search_space_types)}."
            f"{did_you_mean(kind, common_search_space_types)}"
        )
    if not isinstance(values, list) or not values:
        return f"_value: {shown(values)} is not allowed here; allowed: a list of at least one value"
    if kind == "choice":
        return None  # what a trial makes of each value, is seen there
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        return f"_value: {shown(values)} is not allowed here; allowed: numbers (to NNI 1e-3 is text, 1.0e-3 a number)"
    try:
        validate_search_space({name: spec}, raise_exception=True)
    except ValueError as error:  # search space "x" (uniform) must have high > low : {…}
        return f"{shown(values)}: {str(error).partition(f'({kind}) ')[2].partition(' : ')[0] or error}"
    return None


def combinations(space: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Parameters as trials get them: every combination of the values, of a large space each value by itself; of a range its ends."""
    if not space:
        yield {}
        return
    specs = format_search_space(space)
    options = {key: _options(spec) for key, spec in specs.items() if not spec.is_nested()}
    if math.prod(len(values) for values in options.values()) <= MOST_COMBINATIONS:
        chosen: Iterable[Mapping[Any, Any]] = (
            dict(zip(options, v, strict=True)) for v in itertools.product(*options.values())
        )
    else:
        start = {key: values[0] for key, values in options.items()}
        chosen = ({**start, key: value} for key, values in options.items() for value in values)
    for values in chosen:
        yield deformat_parameters(dict(values), specs)


def _options(spec: Any) -> Sequence[float]:
    if spec.categorical:
        return range(spec.size) if spec.type == "choice" else sorted({0, spec.size - 1})
    return (spec.mu,) if spec.normal_distributed else (spec.low, spec.high)


def spec_in_words(spec: Mapping[str, Any]) -> str:
    """The values of a parameter."""
    values = ", ".join(map(str, spec["_value"]))
    return values if spec["_type"] == "choice" else f"{spec['_type']} {values}"
