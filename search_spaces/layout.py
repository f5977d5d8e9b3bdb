"""Widths, depths, strides and candidates of :class:`.MobileNetV2Space`: presets, and what is allowed.

The space asks here in its constructor, and so does whoever checks a file of settings: nothing is imported for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nni_proxyless.core.errors import did_you_mean

from .presets import given_or_preset

__all__ = ["ACTIVATIONS", "PRESETS", "candidates_of", "layout_of", "problems_of_layout", "shapes_of"]

LAYOUT = ("stem_width", "stem_stride", "first_width", "widths", "depths", "strides", "feature_mix")

# What blocks choose from, where a preset says nothing else: the paper's.
CANDIDATES: dict[str, Any] = {
    "kernels": (3, 5, 7), "expansions": (3, 6), "entry_kernels": (), "squeeze_excite": (False,), "activations": ("relu6",),
}  # fmt: skip

ACTIVATIONS = {"relu6": "", "relu": "re", "hard_swish": "hs", "swish": "sw", "mish": "mi"}
"""Of timm -> at the end of a candidate's name, and in timm's block definitions; nothing for that of the rest of the network."""

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's ImageNet space, for 224x224.
    "imagenet": {
        "stem_width": 32, "stem_stride": 2, "first_width": 16, "widths": (24, 40, 80, 96, 192, 320),
        "depths": (4, 4, 4, 4, 4, 1), "strides": (2, 2, 2, 1, 2, 1), "feature_mix": 1280,
    },
    # The same widths and depths for 32x32: the first two reductions are left out, as is usual for CIFAR.
    "cifar": {
        "stem_width": 32, "stem_stride": 1, "first_width": 16, "widths": (24, 40, 80, 96, 192, 320),
        "depths": (4, 4, 4, 4, 4, 1), "strides": (1, 2, 2, 1, 2, 1), "feature_mix": 1280,
    },
    # For small images on a small machine: 9 choices, 6 of which may be skipped.
    "small": {
        "stem_width": 16, "stem_stride": 1, "first_width": 8, "widths": (16, 24, 40),
        "depths": (3, 3, 3), "strides": (2, 2, 1), "feature_mix": 128,
    },
    # For 32x32, three stages of doubling width as in NAS-Bench-Macro (Su et al., Prioritized Architecture Sampling, CVPR 2021): at equal multiply-adds its
    # networks differ by what stands at the entries of stages and by depth, so both are open, and blocks may be lighter.
    "open": {
        "stem_width": 16, "stem_stride": 1, "first_width": 16, "widths": (32, 64, 128),
        "depths": (3, 4, 4), "strides": (2, 2, 2), "feature_mix": 512,
        "kernels": (3, 5), "expansions": (1, 3, 6), "entry_kernels": (1, 3),
    },
    # The same for 224x224: the paper's widths, two blocks more in each of the middle stages.
    "open-imagenet": {
        "stem_width": 32, "stem_stride": 2, "first_width": 16, "widths": (24, 40, 80, 112, 192, 320),
        "depths": (4, 4, 6, 6, 6, 1), "strides": (2, 2, 2, 1, 2, 1), "feature_mix": 1280,
        "kernels": (3, 5, 7), "expansions": (1, 3, 6), "entry_kernels": (1, 3),
    },
}  # fmt: skip


def layout_of(options: Any) -> dict[str, Any]:
    """Widths, depths and strides of the preset, with what is given beside it."""
    return given_or_preset(options, PRESETS[options.preset], LAYOUT)


def shapes_of(layout: Mapping[str, Any], resolution: int | Sequence[int] | None) -> dict[str, tuple[Any, ...]]:
    """Label -> the values of what decides shapes: ``resolution``, ``stem.stride``, ``stem.width``, ``stage1.width`` and so on.

    It is a choice where there are several. A resolution of None is that of the images.
    """
    given = {"resolution": resolution, "stem.stride": layout["stem_stride"], "stem.width": layout["stem_width"]}
    widths = {f"stage{s}.width": width for s, width in enumerate(layout["widths"], 1)}
    return {label: _several(value) for label, value in {**given, **widths}.items()}


def candidates_of(options: Any) -> dict[str, Any]:
    """What blocks choose from, in the same way."""
    return given_or_preset(options, {**CANDIDATES, **PRESETS[options.preset]}, CANDIDATES)


def problems_of_layout(options: Any) -> list[str]:
    """Everything that is wrong with the arguments of the space, one sentence each."""
    problems: list[str] = []
    if options.preset not in PRESETS:
        return [f"preset is {options.preset!r}; allowed: {', '.join(PRESETS)}.{did_you_mean(options.preset, PRESETS)}"]
    layout = layout_of(options)

    def whole(name: str, value: Any, least: int = 1, multiple: int = 1) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < least or value % multiple:
            kind = f"multiples of {multiple}" if multiple > 1 else f"whole numbers of {least} or more"
            problems.append(f"{name} is {value!r}; allowed: {kind}")

    def each(name: str, value: Any, allowed: str) -> tuple[Any, ...]:
        """The values of a choice, or the only one."""
        if _is_list(value) and not (value and _different(value)):
            problems.append(f"{name} is {value!r}; allowed: {allowed}, or a list of different ones")
            return ()
        return _several(value)

    # Multiples of 8: timm rounds the expanded width to 8, and so do the paper's networks.
    for name in ("first_width", "feature_mix"):
        whole(name, layout[name], 8, 8)
    for one in each("stem_width", layout["stem_width"], "a multiple of 8"):
        whole("stem_width", one, 8, 8)
    for one in () if options.resolution is None else each("resolution", options.resolution, "a whole number"):
        whole("resolution", one)
    whole("num_classes", options.num_classes)
    whole("in_channels", options.in_channels)
    stages = {name: layout[name] for name in ("widths", "depths", "strides")}
    for name, values in stages.items():
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
            problems.append(f"{name} is {values!r}; allowed: a list with one entry per stage")
            continue
        for i, value in enumerate(values):
            if name == "widths":
                for one in each(f"widths[{i}]", value, "a multiple of 8"):
                    whole(f"widths[{i}]", one, 8, 8)
            elif name == "depths":
                whole(f"depths[{i}]", value)
    if not problems and len({len(v) for v in stages.values()}) > 1:
        problems.append(
            f"widths, depths and strides have {', '.join(str(len(v)) for v in stages.values())} entries; allowed: the same number, one per stage"
        )
    strides = layout["strides"] if isinstance(layout["strides"], (list, tuple)) else ()
    of_stem = each("stem_stride", layout["stem_stride"], "1, 2")
    for name, value in [*(("stem_stride", v) for v in of_stem), *((f"strides[{i}]", v) for i, v in enumerate(strides))]:
        if isinstance(value, bool) or not isinstance(value, int) or value not in (1, 2):
            problems.append(f"{name} is {value!r}; allowed: 1, 2")
    if not problems:
        problems += _problems_of_open_widths(layout)
    candidates = candidates_of(options)
    for name in ("kernels", "expansions", "entry_kernels"):
        values = candidates[name]
        if not _different(values) or (not values and name != "entry_kernels"):
            problems.append(f"{name} is {values!r}; allowed: a list of different whole numbers")
            continue
        for value in values:
            whole(name, value)
            if name != "expansions" and isinstance(value, int) and value % 2 == 0:
                problems.append(f"{name} holds {value}; allowed: odd numbers")
    for name, allowed in (("squeeze_excite", (False, True)), ("activations", tuple(ACTIVATIONS))):
        values = candidates[name]
        if (
            not _different(values)
            or not values
            or any(type(v) is not type(allowed[0]) or v not in allowed for v in values)
        ):
            words = ", ".join(str(one).lower() for one in allowed)
            problems.append(f"{name} is {values!r}; allowed: a list of different values out of {words}")
    if not _is_number(options.se_ratio) or not 0 < options.se_ratio <= 1:
        problems.append(f"se_ratio is {options.se_ratio!r}; allowed: greater than 0, up to 1")
    if not _is_number(options.dropout) or not 0 <= options.dropout < 1:
        problems.append(f"dropout is {options.dropout!r}; allowed: 0 up to, but not, 1")
    return problems


def _problems_of_open_widths(layout: Mapping[str, Any]) -> list[str]:
    """With stride 1 a block has a residual if the widths agree, so they must always, or never."""
    before: tuple[int, ...] = (layout["first_width"],)
    stages, problems = [_several(some) for some in layout["widths"]], []
    for i, (some, stride) in enumerate(zip(stages, layout["strides"], strict=True)):
        if stride == 1 and len({*some, *before}) > 1 and {*some} & {*before}:
            problems.append(
                f"widths[{i}] is {layout['widths'][i]!r}, behind {before} with stride 1; allowed: none in common, or one and the same"
            )
        before = some
    return problems


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if _is_list(value) else (value,)


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, (str, bytes))


def _different(values: Any) -> bool:
    """Whether it is a list without repetitions."""
    if not _is_list(values):
        return False
    return all(value not in values[:i] for i, value in enumerate(values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
