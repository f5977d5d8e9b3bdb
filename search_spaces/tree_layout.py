"""Depths, widths, edges and operations of :class:`.PyramidTreeSpace`: presets, and what is allowed.

The space asks here in its constructor, and so does whoever checks a file of settings: nothing is imported for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nni_proxyless.core.errors import did_you_mean

from .presets import given_or_preset

__all__ = [
    "BOTTLENECK",
    "EDGES",
    "FAMILY",
    "GROUPS",
    "OPERATIONS",
    "PRESETS",
    "is_tree",
    "kernel_of",
    "labels_of_blocks",
    "labels_of_edges",
    "operations_in",
    "problems_of_tree",
    "tree_layout_of",
    "widths_of",
]

FAMILY = "pyramid-tree"  # of a network's definition: its entry ``family``
BOTTLENECK = 4  # output channels of a block by its width
GROUPS = 2  # of its 3x3 convolution: as many halves have a tree each

EDGES = tuple(f"{half}.{edge}" for half in range(GROUPS) for edge in ("0", "0.0", "0.1", "1", "1.0", "1.1"))
"""Paths of the edges of a block, in order: ``1.0`` is branch 0 of half 1, ``1.0.1`` the second of the two edges after it."""

OPERATIONS = ("id", "avg3", "max3", "dw3", "dw5", "dw7", "dil3")
"""What the paper's edges choose from; see :mod:`.tree_operations`."""

LAYOUT = ("depths", "stem_width", "final_width")

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's CIFAR-10 space: 54 blocks, 648 choices, 7^648 networks.
    "paper": {"depths": (18, 18, 18), "stem_width": 16, "final_width": 100},
    # For two cores: 6 blocks, 72 choices.
    "small": {"depths": (2, 2, 2), "stem_width": 8, "final_width": 20},
}

_OPERATION = re.compile(r"id|(?:avg|max|dw|dil)(?P<kernel>[1-9]\d*)")


def tree_layout_of(options: Any) -> dict[str, Any]:
    """Depths and widths of the preset, with what is given beside it."""
    return given_or_preset(options, PRESETS[options.preset], LAYOUT)


def is_tree(definition: Mapping[str, Any]) -> bool:
    """Whether a network's definition is that of a :class:`.PyramidTreeNet`."""
    return definition.get("family") == FAMILY


def kernel_of(operation: str) -> int | None:
    """The side of an operation's kernel; None: there is no such operation, 1 for ``id``."""
    found = _OPERATION.fullmatch(operation)
    return None if found is None else int(found["kernel"] or 1)


def widths_of(depths: Sequence[int], stem_width: int, final_width: int) -> list[int]:
    """The width of every block, which grows evenly: PyramidNet's rule (Han, Kim, Kim; CVPR 2017), in multiples of :data:`GROUPS`."""
    n, added = sum(depths), final_width - stem_width
    return [GROUPS * (round(stem_width + added * i / n) // GROUPS) for i in range(1, n + 1)]


def labels_of_blocks(depths: Sequence[int]) -> list[str]:
    """``stage1.00`` and so on; in their order when sorted as texts."""
    digits = len(str(max(depths) - 1))
    return [f"stage{s}.{i:0{digits}}" for s, depth in enumerate(depths, 1) for i in range(depth)]


def labels_of_edges(depths: Sequence[int]) -> list[str]:
    """``stage1.00.half0.0`` and so on, of all blocks: the labels of the choices."""
    return [f"{block}.half{edge}" for block in labels_of_blocks(depths) for edge in EDGES]


def operations_in(definition: Mapping[str, Any]) -> dict[str, str]:
    """Label -> operation, of a network's definition.

    Raises
    ------
    ValueError
        It has another number of operations than its depths have edges, or one that is unknown.
    """
    labels, names = labels_of_edges(definition["depths"]), " ".join(definition["trees"]).split()
    if len(names) != len(labels):
        depths = ", ".join(map(str, definition["depths"]))
        raise ValueError(f"trees has {len(names)} operations; allowed with depths of {depths}: {len(labels)}")
    if unknown := next((name for name in names if not _is_operation(name)), None):
        raise ValueError(f"trees holds {unknown!r}; allowed: {_allowed()}")
    return dict(zip(labels, names, strict=True))


def problems_of_tree(options: Any) -> list[str]:
    """Everything that is wrong with the arguments of the space, one sentence each."""
    if options.preset not in PRESETS:
        return [f"preset is {options.preset!r}; allowed: {', '.join(PRESETS)}.{did_you_mean(options.preset, PRESETS)}"]
    layout = tree_layout_of(options)
    problems = _problems_of_numbers(options, layout)
    if not problems and layout["final_width"] < layout["stem_width"]:
        problems.append(
            f"final_width is {layout['final_width']}; allowed: {layout['stem_width']}, which is stem_width, or more"
        )
    operations = OPERATIONS if options.operations is None else options.operations
    if not _is_list(operations) or not operations or any(one in operations[:i] for i, one in enumerate(operations)):
        return [*problems, f"operations is {operations!r}; allowed: a list of different names, such as {_names()}"]
    problems += [f"operations holds {one!r}; allowed: {_allowed()}" for one in operations if not _is_operation(one)]
    return problems


def _problems_of_numbers(options: Any, layout: Mapping[str, Any]) -> list[str]:
    depths = layout["depths"]
    problems = []
    if not _is_list(depths) or not depths:
        problems.append(f"depths is {depths!r}; allowed: a list with one entry per stage")
    else:
        problems += [
            f"depths[{i}] is {depth!r}; allowed: whole numbers of 1 or more"
            for i, depth in enumerate(depths)
            if not _is_whole(depth, 1)
        ]
    for name in ("stem_width", "final_width"):
        if not _is_whole(layout[name], GROUPS) or layout[name] % GROUPS:
            problems.append(f"{name} is {layout[name]!r}; allowed: even numbers of {GROUPS} or more")
    for name in ("num_classes", "in_channels"):
        if not _is_whole(value := getattr(options, name), 1):
            problems.append(f"{name} is {value!r}; allowed: whole numbers of 1 or more")
    return problems


def _is_operation(name: Any) -> bool:
    kernel = kernel_of(name) if isinstance(name, str) else None
    return kernel is not None and (name == "id" or (kernel > 1 and kernel % 2 == 1))


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, (str, bytes))


def _names() -> str:
    return ", ".join(OPERATIONS)


def _allowed() -> str:
    return f"id, and avg, max, dw, dil with an odd kernel of 3 or more, such as {_names()}"
