"""A network as a row of blocks, as the papers draw theirs, from its definition. Needs no NNI.

architecture.json, or the name of a published network -> NetworkDiagram -> :mod:`.draw`
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UserError, did_you_mean
from ..core.merit import Merit
from ..core.streams import in_letters
from ..latency.digits import in_words
from ..search_spaces.timm_layout import is_timm_network
from ..search_spaces.tree_layout import BOTTLENECK, is_tree, widths_of
from .architecture import Architecture
from .deviation import deviation_of
from .published import INPUT_SHAPES, NETWORKS, PLACES
from .record import unit_of

__all__ = [
    "Block",
    "NetworkDiagram",
    "Stage",
    "diagram_of_architecture",
    "diagram_of_definition",
    "diagram_of_published",
    "find_diagrams",
    "places_of",
]  # fmt: skip

NAMES = {
    "ir": "MB",
    "ds": "MB",
    "dsa": "MB",
    "er": "Fused",
    "uir": "UIB",
    "cn": "Conv",
}  # timm's block types, as the papers call them
ACTIVATIONS = {"ReLU": "RE", "Hardswish": "HS", "SiLU": "SW", "Mish": "MI"}  # other ones than that of the network
OUTPUTS = {
    "classification": "classes",
    "segmentation": "classes",
    "detection": "classes",
    "multi-label": "labels",
}  # by task
TIMM_DEFAULTS = {"stem_size": 32, "num_features": 1280, "num_classes": 1000, "in_chans": 3}


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes
    ----------
    label
        Such as ``'MB6 5x5'``, or ``'MB6 5x5 SE HS'`` with squeeze-and-excitation and another activation than the network's.
    channels
        Of its output; 0 for one that is left out.
    kernel, expansion
        None for what has none: stem, feature mix, classifier, a block that is left out, and one of trees.
    operations
        Of a block of trees, in the order of :data:`.EDGES`.
    """

    label: str
    channels: int
    kernel: int | None = None
    expansion: float | None = None
    operations: tuple[str, ...] = ()

    @property
    def skipped(self) -> bool:
        return self.channels == 0


@dataclass(frozen=True)
class Stage:
    """Blocks between two boundaries, and their caption: size and channels of their output."""

    blocks: tuple[Block, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class NetworkDiagram:
    """Name, figures in words, the images that go in, and stages from stem to classifier."""

    name: str
    figures: str
    source: str
    stages: tuple[Stage, ...]

    @property
    def blocks(self) -> list[Block]:
        return [block for stage in self.stages for block in stage.blocks]


def diagram_of_definition(
    name: str, definition: Mapping[str, Any], input_shape: Sequence[int], *, figures: str = "",
    places: Sequence[str] = (), outputs: str = "classes",
) -> NetworkDiagram:  # fmt: skip
    """The blocks of a definition.

    Parameters
    ----------
    definition
        As ``timm_definition`` of a space of this package gives it.
    input_shape
        Of one image, (channels, height, width).
    places
        Per stage, that of the first block included, ``'#'`` for a block and ``'-'`` for one that was left out, of which the
        definition knows nothing. Where they do not fit the definition, no skips are shown.
    outputs
        What the numbers are that the network answers.

    Raises
    ------
    UserError
        A type of block that has no picture.
    """
    if is_tree(definition):
        source = "×".join(str(n) for n in input_shape)
        return NetworkDiagram(name, figures, source, _stages_of_trees(definition, input_shape, outputs))
    from timm.models._efficientnet_builder import decode_arch_def

    network = {**TIMM_DEFAULTS, **definition}
    resolution = network.get("resolution")
    sides = input_shape[1:] if resolution is None else (resolution, resolution)
    height, width = (math.ceil(side / network["stem_stride"]) for side in sides)
    stages = [Stage((Block("Conv 3x3", network["stem_size"]),), (_size(height, width), f"{network['stem_size']} ch"))]
    decoded = decode_arch_def(network["blocks"])
    if is_timm_network(definition):
        stages_made = zip(definition["made_from"], definition["depths"], strict=True)
        places = ["".join("#" if i in made else "-" for i in range(depth)) for made, depth in stages_made]
    kept = [stage.count("#") for stage in places if "#" in stage]
    if kept != [len(stage) for stage in decoded]:  # nothing is known of what was left out
        places = ["#" * len(stage) for stage in decoded]
    rest = (_block(name, arguments) for stage in decoded for arguments in stage)
    for stage in places:
        blocks, channels = [], 0
        for place in stage:
            if place == "-":
                blocks.append(Block("skip", 0))
                continue
            block, stride = next(rest)
            height, width, channels = math.ceil(height / stride), math.ceil(width / stride), block.channels
            blocks.append(block)
        stages.append(Stage(tuple(blocks), (_size(height, width), f"{channels} ch") if channels else ()))
    if network.get("pools_first"):  # before the last convolution, as MobileNetV3 does
        height = width = 1
    if network["num_features"]:
        stages.append(
            Stage(
                (Block("Conv 1x1", network["num_features"]),), (_size(height, width), f"{network['num_features']} ch")
            )
        )
    stages.append(Stage((Block("Pool, linear", network["num_classes"]),), (f"{network['num_classes']}", outputs)))
    source = "×".join(str(n) for n in input_shape) + ("" if resolution is None else f"\nto {_size(*sides)}")
    return NetworkDiagram(name, figures, source, tuple(stages))


def diagram_of_architecture(path: Path) -> NetworkDiagram:
    """The blocks and figures of an ``architecture.json``; the figure of merit is that of the final training, where there is one.

    Raises
    ------
    UserError
        The file is missing or damaged, or its network has no block definition.
    """
    architecture = Architecture.read(path)
    if architecture.network is None:
        raise UserError(
            f"{path}: the space {architecture.space.get('name')!r} gives no timm block definition, so there are no blocks to "
            "draw; allowed: networks of spaces with a method timm_definition, such as mobilenetv2, and the published networks "
            f"{', '.join(NETWORKS)}"
        )
    name = in_letters(path.resolve().parent.name)
    result = path.parent / "final" / "result.json"
    final = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    return diagram_of_definition(
        name, architecture.network, architecture.input_shape, figures=_figures(architecture, final),
        places=places_of(architecture.choices), outputs=OUTPUTS.get(str(architecture.task.get("name")), "outputs"),
    )  # fmt: skip


def diagram_of_published(name: str) -> NetworkDiagram:
    """A published network, its multiply-adds and parameters counted."""
    import torch

    from ..latency.estimators.macs import count_macs
    from .timm_model import build_model

    shape = INPUT_SHAPES[name]
    with torch.device("meta"):  # counted without memory or arithmetic
        model = build_model(NETWORKS[name])
    figures = _counts(count_macs(model, shape), sum(p.numel() for p in model.parameters()))
    return diagram_of_definition(name, NETWORKS[name], shape, figures=figures, places=PLACES.get(name, ()))


def find_diagrams(names: Sequence[str]) -> list[NetworkDiagram]:
    """Find networks by path of a file, by folder, or by the name of a published one.

    Raises
    ------
    UserError
        One of them is none of these, or cannot be drawn.
    """
    diagrams = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            paths = [path / "architecture.json"]
            if not paths[0].exists():
                paths = sorted(path.rglob("architecture.json"))
            if not paths:
                raise UserError(f"draw: no architecture.json in or below '{path}'")
            diagrams += [diagram_of_architecture(p) for p in paths]
        elif path.exists():
            diagrams.append(diagram_of_architecture(path))
        elif name in NETWORKS:
            diagrams.append(diagram_of_published(name))
        else:
            raise UserError(
                f"draw: '{name}' is no file, no folder and no published network; allowed: the path of an architecture.json, a "
                f"folder with such files, {', '.join(NETWORKS)}.{did_you_mean(name, NETWORKS)}"
            )
    return diagrams


def _stages_of_trees(definition: Mapping[str, Any], input_shape: Sequence[int], outputs: str) -> tuple[Stage, ...]:
    depths, stem, classes = definition["depths"], definition["stem_width"], definition["num_classes"]
    height, width = input_shape[1:]
    rows = zip(definition["trees"], widths_of(depths, stem, definition["final_width"]), strict=True)
    stages = [Stage((Block("Conv 3x3", stem),), (_size(height, width), f"{stem} ch"))]
    for s, depth in enumerate(depths):
        if s:
            height, width = height // 2, width // 2
        blocks = tuple(
            Block("", BOTTLENECK * channels, operations=tuple(row.split()))
            for row, channels in itertools.islice(rows, depth)
        )
        stages.append(Stage(blocks, (_size(height, width), f"{blocks[-1].channels} ch")))
    stages.append(Stage((Block("Pool, linear", classes),), (f"{classes}", outputs)))
    return tuple(stages)


def _block(name: str, arguments: Mapping[str, Any]) -> tuple[Block, int]:
    """A block of timm's builder, and its stride."""
    kind = arguments["block_type"]
    kernels = {"er": "exp_kernel_size", "cn": "kernel_size", "uir": "dw_kernel_size_mid"}
    kernel = arguments.get(kernels.get(kind, "dw_kernel_size"))
    start = arguments.get("dw_kernel_size_start")  # of a uir, before its expansion
    if kind not in NAMES or not isinstance(kernel, int):
        what = f"block type {kind!r}" if kind not in NAMES else f"kernel {kernel!r}"
        raise UserError(
            f"{name}: {what} has no picture here; allowed: {', '.join(NAMES)}, each with one kernel, in timm's notation"
        )
    expansion = arguments.get("exp_ratio", 1.0)
    text = "" if kind == "cn" else f"{expansion:.3g}"
    activation = getattr(arguments["act_layer"], "__name__", None)
    more = (" SE" if arguments.get("se_ratio") else "") + (
        f" {ACTIVATIONS.get(activation, activation)}" if activation else ""
    )
    sides = [f"{side}x{side}" for side in (start, kernel) if side]
    label = " ".join([f"{NAMES[kind]}{text}", *sides]) + more
    return Block(label, arguments["out_chs"], kernel or start or 1, expansion), arguments["stride"]


def places_of(choices: Mapping[str, Any]) -> list[str]:
    """The skipped blocks, from labels such as ``stage2.1``; nothing for a space with other labels, but for those of shapes."""
    stages: dict[int, dict[int, str]] = {}
    for label, choice in choices.items():
        if re.fullmatch(r"resolution|stem\.(width|stride)|stage\d+\.width", label):
            continue
        match = re.fullmatch(r"stage(\d+)\.(\d+)", label)
        if match is None:
            return []
        stages.setdefault(int(match[1]), {})[int(match[2])] = "-" if choice == "skip" else "#"
    return ["#", *("".join(stages[s][i] for i in sorted(stages[s])) for s in sorted(stages))]


def _figures(architecture: Architecture, final: Mapping[str, Any] | None) -> str:
    latency, search = architecture.latency, architecture.search
    unit = unit_of(latency)
    limit = "budget" if "derived_from" in search else "target"
    words = []
    if unit != "million multiply-adds":  # those are counted anyway
        words += [
            f"{word} {in_words(latency[key], digits=2)} {unit}"
            for word, key in ((limit, "target_ms"), ("measured", "measured_ms"))
            if latency.get(key) is not None
        ]
        if (deviation := deviation_of(latency)) is not None:
            words.append(deviation.brief)
        if latency.get("measured_ms") is None and latency.get("table_ms") is not None:
            words.append(f"{in_words(latency['table_ms'], digits=2)} {unit} by its table")
    words.append(_counts(architecture.macs, architecture.n_params))
    if final is not None:
        merit = Merit.of(final)
        words.append(merit.shown(final[merit.name]))
    elif search.get("weights") != "fresh" and search.get(architecture.merit.name) is not None:
        words.append(f"{architecture.merit.shown(search[architecture.merit.name])} in the search")
    return ", ".join(words)


def _counts(macs: int, n_params: int) -> str:
    def short(n: int) -> str:
        return f"{n / 1e6:.1f} M" if n >= 99.5e6 else f"{n / 1e6:.2f} M" if n >= 1e6 else f"{n / 1e3:.1f} k"

    return f"{short(macs)} multiply-adds, {short(n_params)} parameters"


def _size(height: int, width: int) -> str:
    return f"{height}×{width}"
