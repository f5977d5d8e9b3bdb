"""A space whose networks answer in the units of their targets: the same as another one, its last linear layer a :class:`.ScaledLinear`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nni_proxyless.core.entry_point_names import load
from nni_proxyless.core.scaled_linear import OUTPUT, ScaledLinear

__all__ = ["regression_space"]


def regression_space(
    backbone: Mapping[str, Any], *, mean: Sequence[float], deviation: Sequence[float]
) -> ModelSpace:  # fmt: skip
    """Another space, whose networks answer with numbers of this mean and deviation.

    Parameters
    ----------
    backbone
        ``{'name': …, 'arguments': {…}}``, a space whose networks answer with a vector. Of one whose last layer is linear, that gets the scale;
        of another one nothing is changed, and its networks have to find the units by themselves.
    mean, deviation
        Of the targets, a number for each output.

    Raises
    ------
    ValueError
        Numbers that are none, a deviation that is not above 0, or as many as the space has no outputs.
    """
    if (
        len(mean) != len(deviation)
        or not all(map(math.isfinite, (*mean, *deviation)))
        or min(deviation, default=0) <= 0
    ):
        raise ValueError(
            f"mean is {list(mean)}, deviation {list(deviation)}; allowed: finite numbers, as many, deviations above 0"
        )
    space: Any = load("nni_proxyless.search_spaces", backbone["name"])(**backbone["arguments"])
    place: Any = getattr(space, "network", space)
    last = getattr(place, "classifier", None)
    if type(last) is nn.Linear:
        if last.out_features != len(mean):
            raise ValueError(
                f"mean has {len(mean)} numbers; allowed: {last.out_features}, as many as the space answers"
            )
        place.classifier = ScaledLinear.of(last, mean, deviation)
        setattr(space, OUTPUT, {"mean": list(mean), "deviation": list(deviation)})
    return space
