"""What :class:`.TimmSpace` is asked for, and what is allowed; but for the model itself nothing is imported for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["FAMILY", "PRETRAINED", "is_timm_network", "known_problems", "problems_of_options"]

FAMILY = "timm"
PRETRAINED = "pretrained"
LARGEST_KERNEL, LARGEST_SHARE = 31, 16


def is_timm_network(definition: Mapping[str, Any]) -> bool:
    """Whether a network's definition is that of a model of timm with other blocks, :mod:`.timm_network`."""
    return definition.get("family") == FAMILY


def problems_of_options(options: Any) -> list[str]:
    """Everything that is wrong with the arguments of the space but for the model itself, one sentence each."""
    problems = []
    if not isinstance(options.model, str) or not options.model:
        problems.append(f"model is {options.model!r}; allowed: the name of a model of timm")
    if options.weights is not None and (not isinstance(options.weights, str) or not options.weights):
        problems.append(f"weights is {options.weights!r}; allowed: a file, or {PRETRAINED!r}")
    if not _is_number(options.width) or not 0 < options.width <= 10:
        problems.append(f"width is {options.width!r}; allowed: more than 0, up to 10")
    elif options.width != 1 and options.weights is not None:
        problems.append(
            f"width is {options.width!r} beside weights, which are those of the model; allowed: 1, or no weights"
        )
    shares = (
        f"numbers greater than 0, up to {LARGEST_SHARE}",
        lambda value: _is_number(value) and 0 < value <= LARGEST_SHARE,
    )
    for name, allowed, is_one in (
        (
            "kernels",
            f"odd whole numbers up to {LARGEST_KERNEL}",
            lambda value: _is_whole(value, 1) and value % 2 == 1 and value <= LARGEST_KERNEL,
        ),
        ("expansions", *shares),
        ("widths", *shares),
        ("squeeze_excite", "true, false", lambda value: isinstance(value, bool)),
    ):
        values = getattr(options, name)
        if name == "squeeze_excite" and values is None:
            continue
        if not _is_list(values) or not all(map(is_one, values)) or any(v in values[:i] for i, v in enumerate(values)):
            problems.append(f"{name} is {values!r}; allowed: a list of different ones out of {allowed}")
    problems += [
        f"{name} is {getattr(options, name)!r}; allowed: true, false"
        for name in ("skip", "shared_weights")
        if not isinstance(getattr(options, name), bool)
    ]
    if not _is_whole(options.extra_depth, 0):
        problems.append(f"extra_depth is {options.extra_depth!r}; allowed: whole numbers of 0 or more")
    if options.stem_stride is not None and (not _is_whole(options.stem_stride, 1) or options.stem_stride > 2):
        problems.append(f"stem_stride is {options.stem_stride!r}; allowed: 1, 2, or none, the model's")
    for name in ("num_classes", "in_channels"):
        if not _is_whole(getattr(options, name), 1):
            problems.append(f"{name} is {getattr(options, name)!r}; allowed: whole numbers of 1 or more")
    if not _is_number(options.dropout) or not 0 <= options.dropout < 1:
        problems.append(f"dropout is {options.dropout!r}; allowed: 0 up to, but not, 1")
    return problems


def known_problems(options: Any) -> list[str]:
    """What the space would say against its arguments, but for the classes and the channels, which its images say. Weights that would be fetched
    are not, for a check."""
    if problems := problems_of_options(options):
        return problems
    from .timm_network import problems_of_file, problems_of_name  # here: it takes seconds

    problems = problems_of_name(options.model, options.weights)
    if problems or options.weights in (None, PRETRAINED):
        return problems
    return problems_of_file(options.model, options.weights)


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, (str, bytes))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
