"""Reference networks, the baseline of a search: MobileNetV2 at several widths, for the same images and classes.

    a space around a model of timm         that model
    images halved five times (ImageNet)    MobileNetV2 itself (Sandler et al. 2018, table 2)
    any other space                        its own stem, stages, strides and depths with a 3x3 kernel and expansion 6 in every
                                           block: MobileNetV2's block in the space's skeleton, which is no published network

The width multiplier is MobileNetV2's: channels times it, rounded to multiples of 8, at least nine tenths of what they were to
be; the last layer gets wider but not narrower. A reference network is one of a space with a single network in it, so it is an
``architecture.json`` like any other; it has fresh weights. Random networks of the space itself: :mod:`.random_baseline`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.layers import make_divisible

from nni_proxyless.search_spaces import TimmSpace

from ..core.errors import UserError
from ..core.plain_values import as_plain
from ..models.architecture import Architecture
from ..models.build import build_network
from ..models.compare_latency import measure_side_by_side
from ..models.original import kept_original
from ..models.record import describe, note_measured, record, record_without_table, unit_of
from ..models.space import make_space

__all__ = [
    "MOBILENETV2",
    "measure_baselines",
    "reference_layout",
    "reference_networks",
    "scaled",
    "write_reference_networks",
]

_logger = logging.getLogger(__name__)

# Table 2, with t = 6 everywhere but in the first block.
MOBILENETV2: dict[str, Any] = {
    "stem_width": 32, "stem_stride": 2, "first_width": 16, "widths": (24, 32, 64, 96, 160, 320),
    "depths": (2, 3, 4, 3, 3, 1), "strides": (2, 2, 2, 1, 2, 1), "feature_mix": 1280,
}  # fmt: skip
IMAGENET_STRIDE = 32  # of MobileNetV2, from image to last map
CHOICE = "k3e6"  # its block
PLAIN: dict[str, Any] = {
    "entry_kernels": [],
    "squeeze_excite": [False],
    "activations": ["relu6"],
}  # and what it has not


def scaled(layout: Mapping[str, Any], width: float) -> dict[str, Any]:
    """A layout with its channels times ``width``; of what the space chooses, the widest and the smallest stride."""

    def channels(n: int) -> int:
        return make_divisible(n * width)

    return {
        **layout,
        "stem_width": channels(max(_several(layout["stem_width"]))),
        "stem_stride": min(_several(layout["stem_stride"])),
        "first_width": channels(layout["first_width"]),
        "widths": tuple(channels(max(_several(n))) for n in layout["widths"]),
        "feature_mix": max(layout["feature_mix"], channels(layout["feature_mix"])),
    }


def reference_layout(layout: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Whose channels are scaled, for a space with this layout, and its name in words."""
    of_stages = math.prod(layout["strides"])
    if IMAGENET_STRIDE in (stride * of_stages for stride in _several(layout["stem_stride"])):
        return dict(MOBILENETV2), "MobileNetV2"
    return dict(layout), "MobileNetV2's block in the skeleton of the space"


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def reference_networks(searched: Architecture, widths: Sequence[float]) -> list[Architecture]:
    """A reference network per width; not timed, with fresh weights.

    Raises
    ------
    UserError
        The network is of a space without stages to scale.
    """
    has_layout = searched.network is not None or "backbone" in searched.space["arguments"]
    space: Any = make_space(searched.space["name"], searched.space["arguments"]) if has_layout else None
    space = getattr(space, "backbone", space)
    layout = getattr(space, "layout", None)
    if isinstance(space, TimmSpace):
        return [_original(searched, space, width) for width in widths]
    if not isinstance(layout, Mapping):
        raise UserError(
            f"reference: the space {searched.space['name']!r} has no layout of stages whose widths could be scaled; allowed: "
            "mobilenetv2, spaces made of it, and timm. Of any space: --random N --widths"
        )
    base, structure = reference_layout(layout)
    opened = getattr(space, "kinds", {})
    closed = {name: value for name, value in PLAIN.items() if tuple(opened.get(name, value)) != tuple(value)}
    if len(resolutions := getattr(space, "shapes", {}).get("resolution", ())) > 1:
        closed["resolution"] = max(resolutions)
    return [_reference_network(searched, {**scaled(base, width), **closed}, width, structure) for width in widths]


def measure_baselines(searched: Architecture, networks: Sequence[Architecture]) -> dict[str, Any] | None:
    """Note the milliseconds of the networks, and return the record of the searched network as it was timed beside them.

    Where this is the machine and the runtime on which the searched network was timed, all are timed in turns in one run; else
    milliseconds stay unknown, and there is no such record.
    """
    beside, *timed = measure_side_by_side([searched, *networks])
    for network, of_network in zip(networks, timed, strict=True):
        note_measured(network.latency, of_network, beside.get("measured_ms"))
    return beside if networks and networks[0].latency["measured_ms"] is not None else None


def _original(searched: Architecture, space: Any, width: float) -> Architecture:
    """The model that a space is made around, at another width."""
    only: dict[str, Any] = {
        "kernels": [],
        "expansions": [],
        "squeeze_excite": None,
        "skip": False,
        "widths": [1],
        "extra_depth": 0,
    }
    return _of_space(searched, {**only, "width": width * space.width}, width, f"{space.model} of timm")


def _reference_network(searched: Architecture, layout: Mapping[str, Any], width: float, structure: str) -> Architecture:
    other = {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in layout.items()},
        "kernels": [3], "expansions": [6], "skip": False,
    }  # fmt: skip
    return _of_space(searched, other, width, structure)


def _of_space(searched: Architecture, other: Mapping[str, Any], width: float, structure: str) -> Architecture:
    """With other arguments; of a space around another one, those of that."""
    arguments, backbone = searched.space["arguments"], searched.space["arguments"].get("backbone")
    if backbone is None:
        arguments = {**arguments, **other}
    else:
        inner = {**backbone, "arguments": {**backbone["arguments"], **other}}
        arguments = {**arguments, "backbone": inner}
    space = make_space(searched.space["name"], arguments)
    choices = dict.fromkeys(space.simplify(), CHOICE)  # around a model of timm there are none
    described = describe(
        space, choices, name=searched.space["name"], arguments=arguments, data=searched.data,
        input_shape=searched.input_shape, task=searched.task,
    )  # fmt: skip
    return record(
        described, build_network(described),
        latency=record_without_table(unit_of(searched.latency), searched.latency.get("measured_conditions")),
        search={
            "strategy": "reference", "weights": "fresh", "width": width, "structure": structure, **kept_original(searched)
        },
    )  # fmt: skip


def write_reference_networks(networks: Sequence[Architecture], folder: Path) -> list[Path]:
    """Write ``width-…/architecture.json`` or, of a random network, ``random-SEED.NUMBER/architecture.json``; returns the paths.

    Raises
    ------
    UserError
        One of the folders holds another network, whose training would then pass for that of this one.
    """
    paths = [folder / _name(network) / "architecture.json" for network in networks]
    for path, network in zip(paths, networks, strict=True):
        if path.exists() and _made_from(Architecture.read(path)) != _made_from(network):
            raise UserError(f"--output {folder}: {path} is there and holds another network; name another folder")
    seen: dict[str, Path] = {}
    for path, network in zip(paths, networks, strict=True):
        is_width = "width" in network.search
        if is_width and (twin := seen.setdefault(_made_from(network), path)) != path:
            _logger.warning("%s: the same network as %s: widths are multiples of 8", path, twin)
        network.write(path)
    return paths


def _made_from(network: Architecture) -> str:
    """The same for the same networks, whether they have a definition or are of a space alone."""
    of_space = network.space, {label: as_plain(choice) for label, choice in network.choices.items()}
    return str(of_space if network.network is None else network.network)


def _name(network: Architecture) -> str:
    if "width" in network.search:
        return f"width-{network.search['width']}"
    return f"random-{network.search['seed']}.{network.search['number']}"
